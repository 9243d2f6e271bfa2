//! A hub with a bridge, and nodes on its ports by veth pairs. Imports `netns`.
//!
//! What is set, and what would happen without it:
//!
//! * IPv6 off on bearers, ports and bridge: router solicitations and MLD would
//!   be on the wire beside our frames.
//! * `pfifo` at both ends of each pair: a veth whose ring is full would throw
//!   frames away unseen; with a queue it makes the sender wait (`EAGAIN`) or
//!   the queue counts the loss.
//! * Transmit checksum offload off: frames of kernel sockets would travel with
//!   unfinished checksums.
//! * Spanning tree and multicast snooping off: the bridge says nothing itself
//!   and floods groups to every port.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::wait::{self, Look};

/// The device of every node, as its operator sees it.
pub const BEARER: &str = "eth1";
/// The bridge in the hub.
pub const BRIDGE: &str = "br0";
/// Ports have to forward by then.
const PORTS_WITHIN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct PortLink {
    #[serde(default)]
    operstate: String,
    linkinfo: LinkInfo,
}

#[derive(Deserialize)]
struct LinkInfo {
    info_slave_data: SlaveData,
}

#[derive(Deserialize)]
struct SlaveData {
    state: String,
}

/// How many ports of `ip -j -d link show master …` are up and forward.
fn parse_forwarding(json: &str) -> Result<usize> {
    let ports: Vec<PortLink> = serde_json::from_str(json).map_err(|error| Error::Unreadable {
        what: "ip -j -d link show master".into(),
        detail: error.to_string(),
    })?;
    let forwards = |port: &&PortLink| {
        port.operstate == "UP" && port.linkinfo.info_slave_data.state == "forwarding"
    };
    Ok(ports.iter().filter(forwards).count())
}

/// One node's place on the bridge.
#[derive(Debug)]
pub struct Port {
    /// The node's namespace.
    pub namespace: Namespace,
    /// Address of its [`BEARER`].
    pub mac: [u8; 6],
    /// The hub's end of the pair.
    pub device: String,
}

/// Hub and ports. Dropping it removes all of it.
#[derive(Debug)]
pub struct Topology {
    /// The nodes' places, in order of creation.
    pub ports: Vec<Port>,
    /// The namespace of the bridge; after the ports, so dropped last.
    pub hub: Namespace,
}

impl Topology {
    /// A bridge with `nodes` ports.
    ///
    /// # Errors
    /// Whatever `ip`, `tc`, `ethtool` or the kernel refuse. Nothing is left.
    pub fn create(nodes: usize) -> Result<Self> {
        let hub = Namespace::create("hub")?;
        hub.disable_ipv6(true)?;
        hub.ip(&format!(
            "link add {BRIDGE} type bridge stp_state 0 mcast_snooping 0"
        ))?;
        hub.ip(&format!("link set {BRIDGE} up"))?;
        let mut topology = Self {
            ports: Vec::new(),
            hub,
        };
        for index in 0..nodes {
            let port = topology.plug(index)?;
            topology.ports.push(port);
        }
        topology.wait_until_forwarding()?;
        Ok(topology)
    }

    /// A port that has just come up does not forward yet.
    fn wait_until_forwarding(&self) -> Result<()> {
        let interval = Duration::from_millis(5);
        wait::until("every port to forward", PORTS_WITHIN, interval, || {
            let json = self.hub.ip(&format!("-j -d link show master {BRIDGE}"))?;
            let forwarding = parse_forwarding(&json)?;
            Ok(if forwarding == self.ports.len() {
                Look::Done(())
            } else {
                Look::NotYet(format!("{forwarding} of {} do", self.ports.len()))
            })
        })
    }

    fn plug(&self, index: usize) -> Result<Port> {
        let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
        let port = Port {
            namespace: Namespace::create(&format!("node{number}"))?,
            mac: [0x02, 0x00, 0x5e, 0x00, 0x00, number],
            device: format!("port{number}"),
        };
        self.cable(&port)?;
        Ok(port)
    }

    /// Deletes the cable of a node with both ends, as if a NIC were pulled out.
    ///
    /// # Errors
    /// [`Error::Command`].
    pub fn pull(&self, index: usize) -> Result<()> {
        let device = &self.ports[index].device;
        self.hub.ip(&format!("link del {device}"))?;
        Ok(())
    }

    /// Makes the cable of a node again, with the same names and address.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn replug(&self, index: usize) -> Result<()> {
        self.cable(&self.ports[index])?;
        self.wait_until_forwarding()
    }

    fn cable(&self, port: &Port) -> Result<()> {
        let Port {
            namespace,
            mac,
            device,
        } = port;
        namespace.disable_ipv6(true)?;
        let address = crate::wire::mac_text(*mac);
        self.hub.ip(&format!(
            "link add {device} numtxqueues 1 numrxqueues 1 type veth peer name {BEARER} \
             address {address} numtxqueues 1 numrxqueues 1 netns {}",
            namespace.name()
        ))?;
        for (side, device) in [(&self.hub, device.as_str()), (namespace, BEARER)] {
            side.exec(&format!("ethtool -K {device} tx off"))?;
            side.exec(&format!(
                "tc qdisc replace dev {device} root pfifo limit 10000"
            ))?;
        }
        self.hub
            .ip(&format!("link set {device} master {BRIDGE} up"))?;
        namespace.ip(&format!("link set {BEARER} up"))?;
        // The daemon's tap is an ordinary device, IPv6 and all.
        namespace.disable_ipv6(false)
    }

    /// Whether no device here speaks IPv6 by itself.
    pub fn is_silent(&self) -> bool {
        let quiet = |namespace: &Namespace, device: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
            namespace
                .run(|| {
                    Ok(!Path::new(&path).exists()
                        || std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1"))
                })
                .unwrap_or(false)
        };
        quiet(&self.hub, BRIDGE)
            && self
                .ports
                .iter()
                .all(|port| quiet(&self.hub, &port.device) && quiet(&port.namespace, BEARER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_ports_that_forward() {
        let port = |up: &str, state: &str| {
            format!(
                r#"{{"ifname":"port1","operstate":"{up}","linkinfo":{{"info_kind":"veth",
                "info_slave_kind":"bridge","info_slave_data":{{"state":"{state}"}}}}}}"#
            )
        };
        let json = format!(
            "[{},{},{}]",
            port("UP", "forwarding"),
            port("UP", "disabled"),
            port("LOWERLAYERDOWN", "forwarding")
        );
        assert_eq!(parse_forwarding(&json).unwrap(), 1);
        assert!(parse_forwarding("").is_err());
    }
}
