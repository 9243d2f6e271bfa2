//! Two nodes and one cable: a veth pair between two namespaces, with no bridge
//! in between, and a core for each node. What a benchmark of tunnels runs on;
//! every contender gets one of its own, made in the same way. Imports `netns`,
//! `process`.
//!
//! What is set beyond what [`crate::topology`] says: one queue each way, the
//! same MTU, a `pfifo` at both ends, and the offloads that were asked for. What
//! the kernel made of them is read back, since not every device takes them all.

use std::net::Ipv4Addr;
use std::process::Command;

use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::topology::BEARER;

/// MTU of the wire in bytes, whatever goes over it.
pub const WIRE_MTU: u32 = 1500;
/// Packets that the queue before each end of the wire holds.
const QUEUE_PACKETS: u32 = 10_000;

/// Which of the kernel's offloads the wire has, as `ethtool -K` names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offloads {
    /// As the kernel makes a veth: segments of 64 KiB pass whole, which no real
    /// wire carries, and nobody computes a checksum.
    AsMade,
    /// No segment larger than the MTU passes. Checksums of kernel sockets stay
    /// free, which favours whoever uses them.
    NoSegmentation,
    /// Every frame as it would be on a NIC that can do nothing.
    Off,
}

impl Offloads {
    /// Arguments of `ethtool -K`.
    const fn switched_off(self) -> &'static [&'static str] {
        match self {
            Self::AsMade => &[],
            Self::NoSegmentation => &["tso", "gso", "gro"],
            Self::Off => &["tso", "gso", "gro", "tx", "rx", "sg"],
        }
    }

    /// For people: what is off.
    pub fn describe(self) -> String {
        match self.switched_off() {
            [] => "wire offloads as the kernel makes them".to_owned(),
            names => format!("wire offloads off: {}", names.join(" ")),
        }
    }
}

/// One node's place.
#[derive(Debug)]
pub struct End {
    /// Its namespace; the wire is [`BEARER`] in it.
    pub namespace: Namespace,
    /// Its address on the wire.
    pub wire: Ipv4Addr,
    /// Its address inside the tunnel.
    pub inner: Ipv4Addr,
    /// The core that all its processes run on.
    pub core: usize,
}

impl End {
    /// A command that will run in the namespace and on the core.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespace.command_on(self.core, program)
    }
}

/// The two ends. Dropping them removes the wire.
#[derive(Debug)]
pub struct Pair {
    /// The sender of all traffic, then its receiver.
    pub ends: [End; 2],
}

impl Pair {
    /// Two namespaces on `cores`, joined.
    ///
    /// # Errors
    /// Whatever `ip`, `tc`, `ethtool` or the kernel refuse. Nothing is left.
    pub fn create(cores: [usize; 2], offloads: Offloads) -> Result<Self> {
        let end = |number: u8| -> Result<End> {
            let namespace = Namespace::create(&format!("end{number}"))?;
            // Nothing but the contender's frames on the wire and in its tunnel.
            namespace.disable_ipv6(true)?;
            Ok(End {
                namespace,
                wire: Ipv4Addr::new(10, 78, 0, number),
                inner: Ipv4Addr::new(10, 77, 0, number),
                core: cores[usize::from(number - 1)],
            })
        };
        let pair = Self {
            ends: [end(1)?, end(2)?],
        };
        let [near, far] = &pair.ends;
        near.namespace.ip(&format!(
            "link add {BEARER} mtu {WIRE_MTU} numtxqueues 1 numrxqueues 1 type veth \
             peer name {BEARER} mtu {WIRE_MTU} numtxqueues 1 numrxqueues 1 netns {}",
            far.namespace.name()
        ))?;
        for end in &pair.ends {
            for feature in offloads.switched_off() {
                end.namespace
                    .exec(&format!("ethtool -K {BEARER} {feature} off"))?;
            }
            end.namespace.exec(&format!(
                "tc qdisc replace dev {BEARER} root pfifo limit {QUEUE_PACKETS}"
            ))?;
            end.namespace
                .ip(&format!("addr add {}/24 dev {BEARER}", end.wire))?;
            end.namespace.ip(&format!("link set {BEARER} up"))?;
        }
        Ok(pair)
    }

    /// The offloads that the near end of the wire has, as `ethtool -k` tells.
    ///
    /// # Errors
    /// [`Error::Command`], [`Error::Unreadable`].
    pub fn features(&self) -> Result<String> {
        let said = self.ends[0]
            .namespace
            .exec(&format!("ethtool -k {BEARER}"))?;
        parse_features(&said)
    }
}

/// `ethtool -k`'s names of what [`Offloads`] speaks of.
const FEATURES: [(&str, &str); 6] = [
    ("tx-checksumming", "tx"),
    ("rx-checksumming", "rx"),
    ("scatter-gather", "sg"),
    ("tcp-segmentation-offload", "tso"),
    ("generic-segmentation-offload", "gso"),
    ("generic-receive-offload", "gro"),
];

/// `tx on, rx off, …` out of what `ethtool -k` prints.
///
/// # Errors
/// [`Error::Unreadable`] if it does not print one of them.
fn parse_features(text: &str) -> Result<String> {
    let state = |(long, short): &(&str, &str)| {
        let line = text.lines().find_map(|line| line.strip_prefix(long));
        let word = line.and_then(|rest| rest.strip_prefix(':')?.split_whitespace().next());
        word.map(|word| format!("{short} {word}"))
            .ok_or_else(|| Error::Unreadable {
                what: "ethtool -k".into(),
                detail: format!("no line `{long}:`"),
            })
    };
    let states: Result<Vec<String>> = FEATURES.iter().map(state).collect();
    Ok(states?.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ethtool_prints() {
        let text = "Features for eth1:\nrx-checksumming: off\ntx-checksumming: on\n\
            \ttx-checksum-ipv4: off [fixed]\nscatter-gather: on\n\ttx-scatter-gather: on\n\
            tcp-segmentation-offload: off\n\ttx-tcp-segmentation: off [requested on]\n\
            generic-segmentation-offload: off [requested on]\ngeneric-receive-offload: off\n";
        let expected = "tx on, rx off, sg on, tso off, gso off, gro off";
        assert_eq!(parse_features(text).unwrap(), expected);
        assert!(parse_features("rx-checksumming: on\n").is_err());
        assert!(parse_features("").is_err());
    }
}
