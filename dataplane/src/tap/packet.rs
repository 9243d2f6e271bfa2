//! The parsed view of an inner frame: where IP, TCP or UDP, and payload lie.
//!
//! Nothing that a frame claims is used to index before it was checked against
//! the frame's length. Imports `checksum`.

use super::checksum::Sum;

/// Bytes of an Ethernet header without tag.
pub const ETH_LEN: usize = 14;

const VLAN_TAG_LEN: usize = 4;
/// Tags that are looked behind: 802.1Q and 802.1ad, two deep as the kernel
/// stacks them.
const VLAN_TAGS_MAX: usize = 2;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
/// Extension headers that are looked behind.
const EXTENSIONS_MAX: usize = 8;

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// The TCP flag FIN, byte 13 of the header.
pub const TCP_FIN: u8 = 0x01;
/// The TCP flag PSH.
pub const TCP_PSH: u8 = 0x08;
/// The TCP flag ACK.
pub const TCP_ACK: u8 = 0x10;
/// The TCP flag CWR (RFC 3168).
pub const TCP_CWR: u8 = 0x80;

/// The version of IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The protocol above IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where the parts of a TCP or UDP packet lie in its Ethernet frame, in bytes.
/// The packet is whole, fills the frame to its end and is no IP fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Of IP.
    pub version: Version,
    /// TCP or UDP.
    pub transport: Transport,
    /// Start of the IP header; more than [`ETH_LEN`] behind VLAN tags.
    pub ip_at: usize,
    /// Start of the TCP or UDP header.
    pub transport_at: usize,
    /// Start of the payload.
    pub payload_at: usize,
    /// No IP options or extension headers: then the addresses in the IP header
    /// are those of the pseudo-header (a routing header or a source route would
    /// change the destination), and any receiver can tell its sum.
    pub is_plain: bool,
}

impl Packet {
    /// Finds the parts; `None` for whatever is not TCP or UDP, is a fragment,
    /// is cut short, or is followed by other bytes.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (ethertype, ip_at) = ethertype(frame)?;
        let ip = frame.get(ip_at..)?;
        match ethertype {
            0x0800 => Self::parse_v4(ip, ip_at),
            0x86dd => Self::parse_v6(ip, ip_at),
            _ => None,
        }
    }

    fn parse_v4(ip: &[u8], ip_at: usize) -> Option<Self> {
        let header: &[u8; IPV4_LEN] = ip.first_chunk()?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(word(header, 2));
        // MF, or an offset.
        let is_fragment = word(header, 6) & 0x3fff != 0;
        if header[0] >> 4 != 4 || header_len < IPV4_LEN || total_len != ip.len() || is_fragment {
            return None;
        }
        let options = header_len > IPV4_LEN;
        Self::parse_transport(ip, ip_at, Version::V4, header[9], header_len, !options)
    }

    fn parse_v6(ip: &[u8], ip_at: usize) -> Option<Self> {
        let header: &[u8; IPV6_LEN] = ip.first_chunk()?;
        let payload_len = usize::from(word(header, 4));
        if header[0] >> 4 != 6 || IPV6_LEN + payload_len != ip.len() {
            return None;
        }
        let (mut protocol, mut at) = (header[6], IPV6_LEN);
        for _ in 0..EXTENSIONS_MAX {
            if !is_extension(protocol) {
                break;
            }
            let &[next, units] = ip.get(at..)?.first_chunk()?;
            protocol = next;
            at += 8 + 8 * usize::from(units);
        }
        Self::parse_transport(ip, ip_at, Version::V6, protocol, at, at == IPV6_LEN)
    }

    fn parse_transport(
        ip: &[u8],
        ip_at: usize,
        version: Version,
        protocol: u8,
        at: usize,
        is_plain: bool,
    ) -> Option<Self> {
        let rest = ip.get(at..)?;
        let (transport, header_len) = match protocol {
            PROTOCOL_TCP => {
                let header: &[u8; TCP_LEN] = rest.first_chunk()?;
                let header_len = usize::from(header[12] >> 4) * 4;
                let right = (TCP_LEN..=rest.len()).contains(&header_len);
                (Transport::Tcp, right.then_some(header_len)?)
            }
            PROTOCOL_UDP => {
                let header: &[u8; UDP_LEN] = rest.first_chunk()?;
                let right = usize::from(word(header, 4)) == rest.len();
                (Transport::Udp, right.then_some(UDP_LEN)?)
            }
            _ => return None,
        };
        Some(Self {
            version,
            transport,
            ip_at,
            transport_at: ip_at + at,
            payload_at: ip_at + at + header_len,
            is_plain,
        })
    }

    /// Where the TCP or UDP checksum lies, in bytes from [`Self::transport_at`].
    pub fn checksum_offset(&self) -> usize {
        match self.transport {
            Transport::Tcp => 16,
            Transport::Udp => 6,
        }
    }

    /// The same, in bytes from the start of the frame.
    pub fn checksum_at(&self) -> usize {
        self.transport_at + self.checksum_offset()
    }

    /// Source and destination address, one behind the other.
    pub fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let range = match self.version {
            Version::V4 => self.ip_at + 12..self.ip_at + IPV4_LEN,
            Version::V6 => self.ip_at + 8..self.ip_at + IPV6_LEN,
        };
        frame.get(range).unwrap_or_default()
    }

    /// The sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section
    /// 8.1) of a plain packet with `transport_len` bytes after the IP header.
    pub fn pseudo_sum(&self, frame: &[u8], transport_len: usize) -> Sum {
        let protocol = match self.transport {
            Transport::Tcp => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
        };
        Sum::default()
            .with(self.addresses(frame))
            .with_word(u16::from(protocol))
            .with_word(length_word(transport_len))
    }

    /// Makes the IP header's length, and the IPv4 header's checksum, right for
    /// a frame of this length.
    pub fn write_ip_length(&self, frame: &mut [u8]) {
        let len = frame.len() - self.ip_at;
        let Some(ip) = frame.get_mut(self.ip_at..self.transport_at) else {
            return;
        };
        match self.version {
            Version::V4 => {
                put_word(ip, 2, length_word(len));
                put_word(ip, 10, 0);
                put_word(ip, 10, Sum::default().with(ip).checksum());
            }
            Version::V6 => put_word(ip, 4, length_word(len.saturating_sub(IPV6_LEN))),
        }
    }
}

/// The EtherType behind VLAN tags, and where its payload starts.
fn ethertype(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = ETH_LEN;
    for _ in 0..VLAN_TAGS_MAX {
        match frame.get(at - 2..at)? {
            [0x81, 0x00] | [0x88, 0xa8] => at += VLAN_TAG_LEN,
            _ => break,
        }
    }
    let &[a, b] = frame.get(at - 2..at)?.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), at))
}

/// Hop-by-hop options, routing, destination options. What stands behind a
/// fragment header or encryption is not a whole packet.
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 60)
}

/// Whether a frame that [`Packet::parse`] does not take could still be a part
/// of a TCP connection, a fragment for example.
pub fn may_carry_tcp(frame: &[u8]) -> bool {
    let Some((ethertype, ip_at)) = ethertype(frame) else {
        return false;
    };
    let protocol = |at: usize| frame.get(ip_at + at).copied();
    match ethertype {
        0x0800 => protocol(9) == Some(PROTOCOL_TCP),
        0x86dd => match protocol(6) {
            // A fragment header names what it is a fragment of.
            Some(44) => protocol(IPV6_LEN) != Some(PROTOCOL_UDP),
            Some(PROTOCOL_TCP | 51) => true,
            Some(next) => is_extension(next),
            None => false,
        },
        _ => false,
    }
}

/// The big-endian word at `at`, which must lie inside.
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes a big-endian word at `at`, which must lie inside.
pub(super) fn put_word(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A length for a header; frames are bounded far below what it cannot hold
/// ([`super::FRAME_MAX`]).
pub(super) fn length_word(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}
