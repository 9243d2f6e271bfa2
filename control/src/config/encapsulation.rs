//! `[[bearer]]`: what carries frames on a NIC. Imports `source` and `values`.

use std::net::{IpAddr, SocketAddr};

use tipsec_dataplane::outer::VlanId;
use tipsec_xdp::wire::{DEFAULT_ETHERTYPE, DEFAULT_PORT};

use super::or;
use super::source::{ConfigError, Field, Table};
use super::values::{ethertype, host_address};

/// Keys that belong to one encapsulation each: first those of `ethernet`.
pub(super) const KEYS: [&str; 6] = ["ethertype", "vlan", "address", "port", "peers", "multicast"];
/// How many of them are `ethernet`'s.
const ETHERNET_KEYS: usize = 2;

/// Most peers that can be listed for one bearer: as many as a node keeps.
pub const MAX_STATIC_PEERS: usize = 1024;

/// What carries frames on a bearer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EncapsulationChoice {
    /// Nothing else.
    Ethernet {
        /// EtherType of our frames.
        ethertype: u16,
        /// The 802.1Q VLAN whose tag they carry; `None`: untagged.
        vlan: Option<VlanId>,
    },
    /// UDP over IPv4 or IPv6.
    Udp(UdpConfig),
}

impl EncapsulationChoice {
    /// The VLAN of frames, if they are tagged.
    pub fn vlan(&self) -> Option<VlanId> {
        match self {
            Self::Ethernet { vlan, .. } => *vlan,
            Self::Udp(_) => None,
        }
    }
}

/// A bearer with `encapsulation = "udp"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UdpConfig {
    /// The interface's address to use; `None`: the only one that it has.
    pub address: Option<IpAddr>,
    /// The port that frames go to, here and at peers.
    pub port: u16,
    /// Peers that beacons are sent to one by one; at most [`MAX_STATIC_PEERS`].
    pub peers: Vec<SocketAddr>,
    /// Whether beacons go to the group as well.
    pub multicast: bool,
}

pub(super) fn read_encapsulation(table: &Table<'_>) -> Result<EncapsulationChoice, ConfigError> {
    let udp = or(table.field("encapsulation"), false, |field| {
        field.choice(&[("ethernet", false), ("udp", true)])
    })?;
    let (foreign, other) = if udp {
        (&KEYS[..ETHERNET_KEYS], "ethernet")
    } else {
        (&KEYS[ETHERNET_KEYS..], "udp")
    };
    for key in foreign {
        if let Some(field) = table.field(key) {
            return Err(field.error(format!("is for encapsulation = \"{other}\" alone")));
        }
    }
    if udp {
        return read_udp(table).map(EncapsulationChoice::Udp);
    }
    let ethertype = or(table.field("ethertype"), DEFAULT_ETHERTYPE, |field| {
        ethertype(field.integer(0x0600..=0xFFFF)?).map_err(|error| field.error(error))
    })?;
    let vlan = or(table.field("vlan"), None, |field| {
        // What 802.1Q reserves, 0 and 4095, is no VLAN.
        field.integer(1..=4094).map(VlanId::new)
    })?;
    Ok(EncapsulationChoice::Ethernet { ethertype, vlan })
}

fn read_udp(table: &Table<'_>) -> Result<UdpConfig, ConfigError> {
    let port = or(table.field("port"), DEFAULT_PORT, |field| {
        field.integer(1..=u16::MAX)
    })?;
    let address = or(table.field("address"), None, |field| {
        let expected = "an IP address, such as \"10.0.0.1\" or \"[fd00::1]\"";
        field.parsed(expected, host_address).map(Some)
    })?;
    let mut peers = Vec::new();
    if let Some(field) = table.field("peers") {
        let entries = field.array("an array of addresses, such as [\"10.0.0.2\"]")?;
        if entries.len() > MAX_STATIC_PEERS {
            let (listed, most) = (entries.len(), MAX_STATIC_PEERS);
            return Err(field.error(format!("{listed} peers; expected {most} at most")));
        }
        for entry in &entries {
            peers.push(read_peer(entry, port, address)?);
        }
    }
    Ok(UdpConfig {
        address,
        port,
        peers,
        multicast: or(table.field("multicast"), true, |field| field.boolean())?,
    })
}

/// Reads `10.0.0.2`, `10.0.0.2:6119` or `[fd00::2]:6119`.
fn read_peer(entry: &Field<'_>, port: u16, own: Option<IpAddr>) -> Result<SocketAddr, ConfigError> {
    let expected = "the address of a peer, such as \"10.0.0.2:6119\" or \"[fd00::2]:6119\"";
    let peer = entry.parsed(expected, |text| match text.parse::<SocketAddr>() {
        Ok(peer) if peer.port() == 0 => Err(format!("{text:?} has port 0; expected {expected}")),
        Ok(peer) => host_address(&peer.ip().to_string()).map(|_| peer),
        Err(_) => host_address(text).map(|address| SocketAddr::new(address, port)),
    })?;
    match own {
        Some(own) if own.is_ipv4() != peer.is_ipv4() => Err(entry.error(format!(
            "{peer} cannot be reached from {own}; expected an address of the same family"
        ))),
        _ => Ok(peer),
    }
}
