//! Where a node receives: one address for each network that it is on.
//!
//! A *network* is what NICs that reach one another directly share; operators
//! number them. Addresses travel in m1, offers, hellos and beacons
//! (docs/protocol.md, "Messages"). Imports `mac` of the data plane.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tipsec_dataplane::mac::MacAddr;

use crate::wire::Reader;

/// Networks that a node may be on.
pub const MAX_NETWORKS: usize = Network::LAST.0 as usize + 1;

/// Bytes of an address: its family, then room for the widest, IPv6 and port.
pub const ADDRESS_LEN: usize = 1 + 18;
/// Bytes of the addresses of a node.
pub const ADDRESSES_LEN: usize = MAX_NETWORKS * ADDRESS_LEN;

/// Family bytes.
const NONE: u8 = 0;
const ETHERNET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 3;

/// The operator's number of a network, at most [`Network::LAST`]'s.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Network(u8);

impl Network {
    /// The network of bearers that name none.
    pub const DEFAULT: Self = Self(0);
    /// The one with the highest number.
    pub const LAST: Self = Self(3);

    /// The network with this number, if there may be one.
    pub const fn new(number: u8) -> Option<Self> {
        if number <= Self::LAST.0 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Every network that there may be.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map_while(Self::new)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a single host can have this address, and it says the same everywhere.
pub(crate) fn is_sound_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !ip.is_broadcast()
        }
        // A link-local one needs a zone, which does not travel; a mapped one is
        // another spelling of an IPv4 address.
        IpAddr::V6(ip) => {
            !ip.is_unspecified()
                && !ip.is_loopback()
                && !ip.is_multicast()
                && !ip.is_unicast_link_local()
                && ip.to_ipv4_mapped().is_none()
        }
    }
}

/// Where frames to one node go on one network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Address {
    /// Straight in Ethernet.
    Ethernet(MacAddr),
    /// In UDP, to this port.
    Udp(SocketAddr),
}

impl Address {
    /// Whether a single host can have it: no group, no unspecified address,
    /// none that means something else elsewhere.
    fn is_sound(&self) -> bool {
        match self {
            Self::Ethernet(mac) => !mac.is_group() && mac.0 != [0; 6],
            Self::Udp(address) => is_sound_host(address.ip()) && address.port() != 0,
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let end = out.len() + ADDRESS_LEN;
        match self {
            Self::Ethernet(mac) => {
                out.push(ETHERNET);
                out.extend_from_slice(&mac.0);
            }
            Self::Udp(address) => {
                match address.ip() {
                    IpAddr::V4(ip) => {
                        out.push(IPV4);
                        out.extend_from_slice(&ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        out.push(IPV6);
                        out.extend_from_slice(&ip.octets());
                    }
                }
                out.extend_from_slice(&address.port().to_be_bytes());
            }
        }
        out.resize(end, 0);
    }

    /// Reads an address; `Some(None)` for none, `None` for nonsense.
    #[allow(clippy::option_option)] // the two are not the same failure
    fn read_any(fields: &mut Reader<'_>) -> Option<Option<Self>> {
        let bytes: [u8; ADDRESS_LEN] = fields.array()?;
        let mut parts = Reader::new(&bytes);
        let address = match parts.u8()? {
            NONE => None,
            ETHERNET => Some(Self::Ethernet(MacAddr(parts.array()?))),
            IPV4 => {
                let ip = Ipv4Addr::from(parts.array::<4>()?);
                Some(Self::Udp(SocketAddr::from((ip, parts.u16()?))))
            }
            IPV6 => {
                let ip = Ipv6Addr::from(parts.array::<16>()?);
                Some(Self::Udp(SocketAddr::from((ip, parts.u16()?))))
            }
            _ => return None,
        };
        parts.zero_padding()?;
        address
            .is_none_or(|address| address.is_sound())
            .then_some(address)
    }

    pub(crate) fn read(fields: &mut Reader<'_>) -> Option<Self> {
        Self::read_any(fields)?
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ethernet(mac) => mac.fmt(f),
            Self::Udp(address) => address.fmt(f),
        }
    }
}

/// Where a node receives: at least one address, and one a network at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses([Option<Address>; MAX_NETWORKS]);

impl Addresses {
    /// One network, one address.
    pub const fn one(network: Network, address: Address) -> Self {
        let mut addresses = [None; MAX_NETWORKS];
        addresses[network.0 as usize] = Some(address);
        Self(addresses)
    }

    /// These; the first of a network counts. `None` if there are none.
    pub fn first_of_each(all: impl IntoIterator<Item = (Network, Address)>) -> Option<Self> {
        let mut addresses = [None; MAX_NETWORKS];
        for (network, address) in all {
            addresses[usize::from(network.0)].get_or_insert(address);
        }
        Self::checked(addresses)
    }

    fn checked(addresses: [Option<Address>; MAX_NETWORKS]) -> Option<Self> {
        addresses
            .iter()
            .any(Option::is_some)
            .then_some(Self(addresses))
    }

    /// These and another, which replaces what its network had.
    #[must_use]
    pub fn with(mut self, network: Network, address: Address) -> Self {
        self.0[usize::from(network.0)] = Some(address);
        self
    }

    /// The address on a network.
    pub fn on(&self, network: Network) -> Option<Address> {
        self.0[usize::from(network.0)]
    }

    /// All of them, by network.
    pub fn iter(&self) -> impl Iterator<Item = (Network, Address)> + '_ {
        Network::all().filter_map(|network| Some((network, self.on(network)?)))
    }

    /// Those on networks that `other` is on too.
    pub fn shared_with<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (Network, Address)> + 'a {
        self.iter()
            .filter(|(network, _)| other.on(*network).is_some())
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        for address in &self.0 {
            match address {
                Some(address) => address.put(out),
                None => out.resize(out.len() + ADDRESS_LEN, 0),
            }
        }
    }

    pub(crate) fn read(fields: &mut Reader<'_>) -> Option<Self> {
        let mut addresses = [None; MAX_NETWORKS];
        for address in &mut addresses {
            *address = Address::read_any(fields)?;
        }
        Self::checked(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethernet(last: u8) -> Address {
        Address::Ethernet(MacAddr([2, 0, 0, 0, 0, last]))
    }

    fn udp(text: &str) -> Address {
        Address::Udp(text.parse().unwrap())
    }

    fn network(number: u8) -> Network {
        Network::new(number).unwrap()
    }

    fn bytes(address: &Address) -> Vec<u8> {
        let mut out = Vec::new();
        address.put(&mut out);
        out
    }

    fn read(bytes: &[u8]) -> Option<Address> {
        let mut fields = Reader::new(bytes);
        let address = Address::read(&mut fields)?;
        fields.end()?;
        Some(address)
    }

    #[test]
    fn every_family_is_as_the_protocol_says() {
        for (address, beginning) in [
            (ethernet(9), &[1, 2, 0, 0, 0, 0, 9][..]),
            (udp("192.0.2.1:6119"), &[2, 192, 0, 2, 1, 0x17, 0xe7]),
            (
                udp("[2001:db8::1]:258"),
                &[
                    3, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2,
                ],
            ),
        ] {
            let bytes = bytes(&address);
            assert_eq!(bytes.len(), ADDRESS_LEN);
            let (start, rest) = bytes.split_at(beginning.len());
            assert_eq!(start, beginning);
            assert!(rest.iter().all(|&byte| byte == 0));
            assert_eq!(read(&bytes), Some(address));
            assert_eq!(read(&bytes[1..]), None);
            // What an address does not fill is zero.
            for at in beginning.len()..ADDRESS_LEN {
                let mut changed = bytes.clone();
                changed[at] = 1;
                assert_eq!(read(&changed), None, "{address} {at}");
            }
        }
    }

    #[test]
    fn what_no_single_host_has_is_refused() {
        for address in [
            Address::Ethernet(MacAddr([0; 6])),
            Address::Ethernet(MacAddr::BROADCAST),
            Address::Ethernet(MacAddr([3, 0, 0, 0, 0, 1])),
            udp("0.0.0.0:1"),
            udp("127.0.0.1:1"),
            udp("224.0.0.1:1"),
            udp("255.255.255.255:1"),
            udp("192.0.2.1:0"),
            udp("[::]:1"),
            udp("[::1]:1"),
            udp("[ff02::1]:1"),
            udp("[fe80::1]:1"),
            udp("[::ffff:192.0.2.1]:1"),
            udp("[2001:db8::1]:0"),
        ] {
            assert_eq!(read(&bytes(&address)), None, "{address}");
        }
        let mut unknown = bytes(&ethernet(1));
        unknown[0] = 4;
        assert_eq!(read(&unknown), None);
    }

    #[test]
    fn addresses_travel_by_network_and_are_never_none() {
        let addresses = Addresses::one(network(1), ethernet(1)).with(network(3), udp("10.0.0.1:7"));
        let mut out = Vec::new();
        addresses.put(&mut out);
        assert_eq!(out.len(), ADDRESSES_LEN);
        assert_eq!(out[..ADDRESS_LEN], [0; ADDRESS_LEN]);
        assert_eq!(Addresses::read(&mut Reader::new(&out)), Some(addresses));
        assert_eq!(addresses.on(network(0)), None);
        assert_eq!(
            addresses.iter().collect::<Vec<_>>(),
            [(network(1), ethernet(1)), (network(3), udp("10.0.0.1:7"))]
        );
        let none = [0; ADDRESSES_LEN];
        assert_eq!(Addresses::read(&mut Reader::new(&none)), None);
        assert_eq!(Network::new(4), None);
    }

    #[test]
    fn only_networks_of_both_are_shared() {
        let ours = Addresses::one(network(0), ethernet(1)).with(network(1), ethernet(2));
        let theirs = Addresses::one(network(1), ethernet(3)).with(network(2), ethernet(4));
        let shared: Vec<_> = theirs.shared_with(&ours).collect();
        assert_eq!(shared, [(network(1), ethernet(3))]);
        let doubled = [(network(2), ethernet(1)), (network(2), ethernet(2))];
        let first = Addresses::first_of_each(doubled).unwrap();
        assert_eq!(first.on(network(2)), Some(ethernet(1)), "the first counts");
        assert_eq!(Addresses::first_of_each([]), None);
    }
}
