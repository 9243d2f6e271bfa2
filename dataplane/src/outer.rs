//! What stands before the Tipsec header: Ethernet, perhaps an 802.1Q tag, and
//! for the UDP encapsulation IPv4 or IPv6 and UDP.
//!
//! [`Encapsulation`] is the receiving side: what frames to one bearer look
//! like. [`OuterHeader`] is the sending side: all of one path but the lengths,
//! which are filled in frame by frame. The XDP program's `classify` decides the
//! same questions first; nothing here relies on it. Imports `ids` and `mac`.
//!
//! docs/protocol.md, "The frame". UDP without a checksum: RFC 768 for IPv4,
//! RFC 6935 and 6936 for IPv6; the AEAD covers what is inside.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tipsec_xdp::wire::{
    ETH_HEADER_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_UDP, VLAN_ID_MASK, VLAN_TAG_LEN,
    VLAN_TPID,
};
pub use tipsec_xdp::wire::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, UDP_HEADER_LEN};
use tipsec_xdp::{Carrier, Config};

use crate::ids::NodeId;
use crate::mac::MacAddr;

/// Bytes of the longest outer header.
pub const OUTER_LEN_MAX: usize = ETH_HEADER_LEN + VLAN_TAG_LEN + IPV6_HEADER_LEN + UDP_HEADER_LEN;

/// Hop limit of what we send: it may be routed.
const HOP_LIMIT: u8 = 64;
const IPV4_DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" and the offset: 0 in a packet that is whole.
const IPV4_FRAGMENT_MASK: u16 = 0x3fff;

/// An 802.1Q VLAN, 1 to 4094.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VlanId(u16);

impl VlanId {
    /// The VLAN with this number; `None` for what 802.1Q reserves (0, 4095).
    pub const fn new(id: u16) -> Option<Self> {
        match id {
            1..=4094 => Some(Self(id)),
            _ => None,
        }
    }

    /// The number.
    pub const fn value(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How frames to one bearer are wrapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encapsulation {
    carrier: Carrier,
    vlan: Option<VlanId>,
    /// The bearer's address, as a number.
    own: u64,
}

/// The group bit of the source, where source and EtherType are one number.
const GROUP_SOURCE: u64 = 1 << 56;

const fn number(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

impl Encapsulation {
    /// Straight in Ethernet, under an EtherType.
    pub const fn ethernet(own: MacAddr, ethertype: u16, vlan: Option<VlanId>) -> Self {
        Self {
            carrier: Carrier::Ethernet { ethertype },
            vlan,
            own: number(own),
        }
    }

    /// In UDP to `address`, which is this bearer's own.
    pub const fn udp(own: MacAddr, address: SocketAddr, vlan: Option<VlanId>) -> Self {
        let port = address.port();
        let carrier = match address.ip() {
            IpAddr::V4(address) => Carrier::Udp4 { address, port },
            IpAddr::V6(address) => Carrier::Udp6 { address, port },
        };
        Self {
            carrier,
            vlan,
            own: number(own),
        }
    }

    /// The same for the XDP program, at node `node`.
    pub const fn config(&self, node: NodeId) -> Config {
        let vlan = match self.vlan {
            None => 0,
            Some(vlan) => vlan.value(),
        };
        let [_, _, own @ ..] = self.own.to_be_bytes();
        Config::new(own, self.carrier, vlan, node.value())
    }

    /// Bytes before the Tipsec header.
    #[inline]
    pub const fn outer_len(&self) -> usize {
        ETH_HEADER_LEN + self.tag_len() + self.overhead()
    }

    /// Bytes of the 802.1Q tag in it: 4, or 0 without a VLAN.
    #[inline]
    pub const fn tag_len(&self) -> usize {
        match self.vlan {
            None => 0,
            Some(_) => VLAN_TAG_LEN,
        }
    }

    /// Bytes that the encapsulation takes of an interface's MTU, before the
    /// Tipsec header: neither the Ethernet header nor a tag counts.
    pub const fn overhead(&self) -> usize {
        match self.carrier {
            Carrier::Ethernet { .. } => 0,
            Carrier::Udp4 { .. } => IPV4_HEADER_LEN + UDP_HEADER_LEN,
            Carrier::Udp6 { .. } => IPV6_HEADER_LEN + UDP_HEADER_LEN,
        }
    }

    /// Name in configuration and reports.
    pub const fn name(&self) -> &'static str {
        match self.carrier {
            Carrier::Ethernet { .. } => "ethernet",
            Carrier::Udp4 { .. } | Carrier::Udp6 { .. } => "udp",
        }
    }

    /// What follows the outer header, if the frame is a Tipsec frame that
    /// another station sent to this bearer's own address.
    #[inline]
    pub fn inner<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let (link, rest) = frame.split_first_chunk::<ETH_HEADER_LEN>()?;
        // Two loads that overlap instead of fourteen: this runs for every frame.
        let destination = u64::from_be_bytes(*link.first_chunk()?) >> 16;
        let source_and_type = u64::from_be_bytes(*link.last_chunk()?);
        let addressed = destination == self.own
            && source_and_type >> 16 != self.own
            && source_and_type & GROUP_SOURCE == 0;
        if !addressed {
            return None;
        }
        #[allow(clippy::cast_possible_truncation)] // the last two bytes
        let ethertype = source_and_type as u16;
        match (self.carrier, self.vlan) {
            (Carrier::Ethernet { ethertype: ours }, None) => (ethertype == ours).then_some(rest),
            _ => self.carried(ethertype, rest),
        }
    }

    /// The part of [`Self::inner`] behind the Ethernet header, for all but plain
    /// Ethernet; by itself, or it would keep the short part from being inlined.
    #[inline(never)]
    fn carried<'a>(&self, ethertype: u16, rest: &'a [u8]) -> Option<&'a [u8]> {
        let (ethertype, rest) = match self.vlan {
            None => (ethertype, rest),
            Some(vlan) => {
                let (&[i0, i1, t0, t1], rest) = rest.split_first_chunk()?;
                let id = u16::from_be_bytes([i0, i1]) & VLAN_ID_MASK;
                if ethertype != VLAN_TPID || id != vlan.value() {
                    return None;
                }
                (u16::from_be_bytes([t0, t1]), rest)
            }
        };
        let ours = match self.carrier {
            Carrier::Ethernet { ethertype: ours } => ethertype == ours,
            Carrier::Udp4 { address, port } => {
                ethertype == ETHERTYPE_IPV4 && is_udp4(rest, address, port)
            }
            Carrier::Udp6 { address, port } => {
                ethertype == ETHERTYPE_IPV6 && is_udp6(rest, address, port)
            }
        };
        rest.get(self.overhead()..).filter(|_| ours)
    }
}

/// Whether these are an IPv4 header without options of a whole packet and the
/// UDP header behind it, both to us.
fn is_udp4(bytes: &[u8], address: Ipv4Addr, port: u16) -> bool {
    let Some((ip, udp)) = bytes.split_first_chunk::<IPV4_HEADER_LEN>() else {
        return false;
    };
    ip[0] == 0x45
        && u16::from_be_bytes([ip[6], ip[7]]) & IPV4_FRAGMENT_MASK == 0
        && ip[9] == PROTOCOL_UDP
        && ip[16..20] == address.octets()
        && udp.get(2..4) == Some(&port.to_be_bytes())
}

/// The same for IPv6 without extension headers.
fn is_udp6(bytes: &[u8], address: Ipv6Addr, port: u16) -> bool {
    let Some((ip, udp)) = bytes.split_first_chunk::<IPV6_HEADER_LEN>() else {
        return false;
    };
    ip[0] >> 4 == 6
        && ip[6] == PROTOCOL_UDP
        && ip[24..40] == address.octets()
        && udp.get(2..4) == Some(&port.to_be_bytes())
}

/// Where a path leads, behind the Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lengths {
    /// None to fill in.
    None,
    /// Total length, header checksum and UDP length; `sum` is the header's
    /// one's complement sum without the first two.
    Udp4 { sum: u32 },
    /// Payload length and UDP length.
    Udp6,
}

/// The outer header of frames on one path: from one bearer to one peer.
#[derive(Clone, PartialEq, Eq)]
pub struct OuterHeader {
    /// The header lies at the end, so that it ends where ours begins.
    bytes: [u8; OUTER_LEN_MAX],
    len: u8,
    lengths: Lengths,
}

/// A path leads between two families of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{from} and {to} are not of one family")]
pub struct MixedFamilies {
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
}

impl OuterHeader {
    /// Straight in Ethernet.
    pub fn ethernet(from: MacAddr, to: MacAddr, ethertype: u16, vlan: Option<VlanId>) -> Self {
        Self::build(from, to, ethertype, vlan, &[], Lengths::None)
    }

    /// In UDP: `from` and `to` are the ends, `hop` the station that the frame
    /// goes to next (the end itself, or a router).
    ///
    /// # Errors
    /// [`MixedFamilies`].
    pub fn udp(
        own: MacAddr,
        hop: MacAddr,
        vlan: Option<VlanId>,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<Self, MixedFamilies> {
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        // Length to be filled in, checksum 0: none.
        let udp = [&ports[..], &[0; 4]].concat();
        match (from.ip(), to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let ip = ipv4_header(source, destination);
                let lengths = Lengths::Udp4 { sum: ones_sum(&ip) };
                let rest = [&ip[..], &udp].concat();
                Ok(Self::build(own, hop, ETHERTYPE_IPV4, vlan, &rest, lengths))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip = ipv6_header(source, destination);
                let rest = [&ip[..], &udp].concat();
                Ok(Self::build(
                    own,
                    hop,
                    ETHERTYPE_IPV6,
                    vlan,
                    &rest,
                    Lengths::Udp6,
                ))
            }
            _ => Err(MixedFamilies { from, to }),
        }
    }

    /// `rest` is an IP and a UDP header, or nothing.
    fn build(
        from: MacAddr,
        to: MacAddr,
        ethertype: u16,
        vlan: Option<VlanId>,
        rest: &[u8],
        lengths: Lengths,
    ) -> Self {
        let mut header = Vec::with_capacity(OUTER_LEN_MAX);
        header.extend_from_slice(&to.0);
        header.extend_from_slice(&from.0);
        if let Some(vlan) = vlan {
            header.extend_from_slice(&VLAN_TPID.to_be_bytes());
            header.extend_from_slice(&vlan.value().to_be_bytes());
        }
        header.extend_from_slice(&ethertype.to_be_bytes());
        header.extend_from_slice(rest);
        let mut bytes = [0; OUTER_LEN_MAX];
        bytes[OUTER_LEN_MAX - header.len()..].copy_from_slice(&header);
        Self {
            bytes,
            #[allow(clippy::cast_possible_truncation)] // at most 66
            len: header.len() as u8,
            lengths,
        }
    }

    /// Its length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Never: there is an Ethernet header at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes the header for a frame of which `inner_len` bytes follow (Tipsec
    /// header to tag): the last [`Self::len`] bytes of `place` become it, those
    /// before may be overwritten too. A length that IP cannot say is cut: the
    /// frame is dropped where it arrives.
    #[inline]
    pub fn write(&self, place: &mut [u8; OUTER_LEN_MAX], inner_len: usize) {
        // Of constant length: a few moves, whatever the header. The shortest
        // one by itself, so as not to touch a cache line that only frames with
        // longer ones have.
        if self.len() == ETH_HEADER_LEN
            && let (Some(place), Some(bytes)) = (
                place.last_chunk_mut::<ETH_HEADER_LEN>(),
                self.bytes.last_chunk(),
            )
        {
            *place = *bytes;
            return;
        }
        *place = self.bytes;
        #[allow(clippy::cast_possible_truncation)]
        let udp_len = (inner_len + UDP_HEADER_LEN) as u16;
        match self.lengths {
            Lengths::None => {}
            Lengths::Udp4 { sum } => {
                const IP: usize = OUTER_LEN_MAX - UDP_HEADER_LEN - IPV4_HEADER_LEN;
                #[allow(clippy::cast_possible_truncation)]
                let total = udp_len.wrapping_add(IPV4_HEADER_LEN as u16);
                let checksum = fold(sum + u32::from(total));
                place[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
                place[IP + 10..IP + 12].copy_from_slice(&checksum.to_be_bytes());
                place[UDP + 4..UDP + 6].copy_from_slice(&udp_len.to_be_bytes());
            }
            Lengths::Udp6 => {
                const IP: usize = OUTER_LEN_MAX - UDP_HEADER_LEN - IPV6_HEADER_LEN;
                place[IP + 4..IP + 6].copy_from_slice(&udp_len.to_be_bytes());
                place[UDP + 4..UDP + 6].copy_from_slice(&udp_len.to_be_bytes());
            }
        }
    }
}

/// Where the UDP header lies in [`OuterHeader::bytes`].
const UDP: usize = OUTER_LEN_MAX - UDP_HEADER_LEN;

impl fmt::Debug for OuterHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OuterHeader(")?;
        for byte in &self.bytes[OUTER_LEN_MAX - self.len()..] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

/// Without length and checksum. The identification stays 0: a packet that may
/// not be fragmented needs none (RFC 6864, 4.1).
fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr) -> [u8; IPV4_HEADER_LEN] {
    let mut ip = [0; IPV4_HEADER_LEN];
    ip[0] = 0x45;
    ip[6..8].copy_from_slice(&IPV4_DONT_FRAGMENT.to_be_bytes());
    ip[8] = HOP_LIMIT;
    ip[9] = PROTOCOL_UDP;
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&destination.octets());
    ip
}

/// Without length.
fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr) -> [u8; IPV6_HEADER_LEN] {
    let mut ip = [0; IPV6_HEADER_LEN];
    ip[0] = 0x60;
    ip[6] = PROTOCOL_UDP;
    ip[7] = HOP_LIMIT;
    ip[8..24].copy_from_slice(&source.octets());
    ip[24..40].copy_from_slice(&destination.octets());
    ip
}

/// One's complement sum of 16-bit words, not folded (RFC 1071).
fn ones_sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2);
    words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum()
}

/// The Internet checksum of a sum.
#[inline]
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    #[allow(clippy::cast_possible_truncation)] // folded twice, it fits
    !(twice as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn written(outer: &OuterHeader, inner_len: usize) -> Vec<u8> {
        let mut place = [0xee; OUTER_LEN_MAX];
        outer.write(&mut place, inner_len);
        place[OUTER_LEN_MAX - outer.len()..].to_vec()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Every encapsulation at the receiver, with its header as the peer
    /// writes it for 40 bytes.
    fn all() -> Vec<(Encapsulation, Vec<u8>)> {
        let mut all = Vec::new();
        for vlan in [None, VlanId::new(7)] {
            let outer = OuterHeader::ethernet(PEER, OWN, 0x88b5, vlan);
            all.push((
                Encapsulation::ethernet(OWN, 0x88b5, vlan),
                written(&outer, 40),
            ));
            for (from, to) in [
                ("10.0.0.2:40000", "10.0.0.1:6119"),
                ("[fd00::2]:40000", "[fd00::1]:6119"),
            ] {
                let (from, to) = (address(from), address(to));
                let outer = OuterHeader::udp(PEER, OWN, vlan, from, to).unwrap();
                all.push((Encapsulation::udp(OWN, to, vlan), written(&outer, 40)));
            }
        }
        all
    }

    #[test]
    fn what_one_writes_the_other_takes() {
        for (at, (encapsulation, outer)) in all().iter().enumerate() {
            assert_eq!(outer.len(), encapsulation.outer_len());
            for (other, (wrong, _)) in all().iter().enumerate() {
                let Some(bytes) = outer.get(..wrong.outer_len()) else {
                    assert!(wrong.inner(outer).is_none());
                    continue;
                };
                assert_eq!(wrong.inner(bytes).is_some(), at == other, "{at} {other}");
            }
        }
    }

    #[test]
    fn every_byte_that_says_whose_it_is_counts() {
        for (encapsulation, outer) in all() {
            let ethernet = encapsulation.overhead() == 0;
            let link = encapsulation.outer_len() - encapsulation.overhead();
            for at in 0..outer.len() {
                let mut changed = outer.clone();
                changed[at] ^= 0x20;
                // The source, and what IP says about the way, prove nothing.
                let udp6 = encapsulation.overhead() == 48;
                let free = match at {
                    6..12 => true,
                    // Priority of the tag.
                    14 if link == 18 => true,
                    _ if ethernet || at < link => false,
                    _ if udp6 => {
                        // Neither version, next header, address nor port.
                        !matches!(at - link, 0 | 6 | 24..=39 | 42 | 43)
                    }
                    // Neither version, fragment, protocol, address nor port.
                    _ => !matches!(at - link, 0 | 6 | 7 | 9 | 16..=19 | 22 | 23),
                };
                assert_eq!(
                    encapsulation.inner(&changed).is_some(),
                    free,
                    "{encapsulation:?} {at}"
                );
            }
        }
    }

    #[test]
    fn reflected_and_group_sources_are_refused() {
        for (encapsulation, outer) in all() {
            let mut reflected = outer.clone();
            reflected[6..12].copy_from_slice(&OWN.0);
            assert!(encapsulation.inner(&reflected).is_none());
            let mut group = outer.clone();
            group[6] |= 1;
            assert!(encapsulation.inner(&group).is_none());
            assert!(encapsulation.inner(&outer[..outer.len() - 5]).is_none());
        }
    }

    #[test]
    fn ipv4_lengths_and_checksum_are_right() {
        let outer = OuterHeader::udp(
            PEER,
            OWN,
            None,
            address("192.0.2.9:40001"),
            address("198.51.100.200:6119"),
        )
        .unwrap();
        for inner in [33, 40, 1400, 9000, 65_000] {
            let bytes = written(&outer, inner);
            let ip = &bytes[14..34];
            assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), inner + 28);
            // A header with a right checksum sums up to all ones.
            assert_eq!(fold(ones_sum(ip)), 0, "{inner}");
            let udp = &bytes[34..];
            assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), inner + 8);
            assert_eq!(udp[6..8], [0, 0], "no checksum");
            assert_eq!(ip[6..8], [0x40, 0], "not to be fragmented");
        }
    }

    #[test]
    fn ipv6_lengths_are_right() {
        let outer = OuterHeader::udp(
            PEER,
            OWN,
            VlanId::new(4094),
            address("[fd00::2]:1"),
            address("[fd00::1]:6119"),
        )
        .unwrap();
        let bytes = written(&outer, 100);
        assert_eq!(bytes[12..18], [0x81, 0, 0x0f, 0xfe, 0x86, 0xdd]);
        assert_eq!(bytes[18 + 4..18 + 6], [0, 108]);
        assert_eq!(bytes[18 + 40 + 4..], [0, 108, 0, 0]);
    }

    #[test]
    fn families_do_not_mix_and_vlans_have_a_range() {
        let (four, six) = (address("10.0.0.1:1"), address("[fd00::1]:1"));
        assert!(OuterHeader::udp(OWN, PEER, None, four, six).is_err());
        assert!(OuterHeader::udp(OWN, PEER, None, six, four).is_err());
        for reserved in [0, 4095, u16::MAX] {
            assert_eq!(VlanId::new(reserved), None);
        }
    }
}
