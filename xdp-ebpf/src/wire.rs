//! The frame on the wire: lengths, offsets and numbers, in one place for the
//! XDP program and userspace alike. Constants and pure bit arithmetic only;
//! imports only `core`.
//!
//! All offsets below are counted from the start of the Tipsec header, which
//! follows the Ethernet header ([`ETH_HEADER_LEN`]) or, where a VLAN is
//! configured, the 802.1Q tag behind it; with the UDP encapsulation, the IP and
//! UDP headers behind these. All numbers are big endian.

use core::net::{Ipv4Addr, Ipv6Addr};

/// Length in bytes of an Ethernet header without a tag (IEEE 802.3).
pub const ETH_HEADER_LEN: usize = 14;
/// Length in bytes that an 802.1Q tag adds to the Ethernet header.
pub const VLAN_TAG_LEN: usize = 4;
/// The tag protocol identifier of an 802.1Q tag.
pub const VLAN_TPID: u16 = 0x8100;
/// The bits of a tag's control field that hold the VLAN id; the others
/// (priority, drop eligible) are rewritten by bridges and are not matched.
pub const VLAN_ID_MASK: u16 = 0x0FFF;
/// The EtherType unless configured: IEEE 802 local experimental 1.
pub const DEFAULT_ETHERTYPE: u16 = 0x88B5;
/// Smallest number that is an EtherType and not an 802.3 length.
pub const MIN_ETHERTYPE: u16 = 0x0600;
/// The group address beacons are sent to, locally administered.
pub const GROUP_MAC: [u8; 6] = [0x03, 0x54, 0x53, 0x45, 0x43, 0x00];

/// The EtherType of IPv4 (RFC 894).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// The EtherType of IPv6 (RFC 2464).
pub const ETHERTYPE_IPV6: u16 = 0x86DD;
/// Length in bytes of an IPv4 header without options (RFC 791).
pub const IPV4_HEADER_LEN: usize = 20;
/// Length in bytes of an IPv6 header without extensions (RFC 8200).
pub const IPV6_HEADER_LEN: usize = 40;
/// Length in bytes of an IPv6 fragment header (RFC 8200, 4.5).
pub const IPV6_FRAGMENT_LEN: usize = 8;
/// Length in bytes of a UDP header (RFC 768).
pub const UDP_HEADER_LEN: usize = 8;
/// UDP's number as an IPv4 protocol and an IPv6 next header.
pub const PROTOCOL_UDP: u8 = 17;
/// The IPv6 next header that says: a fragment.
pub const PROTOCOL_IPV6_FRAGMENT: u8 = 44;
/// The UDP port that frames go to unless configured.
pub const DEFAULT_PORT: u16 = 6119;
/// The group that beacons are sent to over IPv4: of the IPv4 local scope, which
/// no router forwards beyond the site (RFC 2365, 6.1). Sent with a TTL of 1.
pub const GROUP_IPV4: Ipv4Addr = Ipv4Addr::new(239, 255, 84, 83);
/// The group that beacons are sent to over IPv6: of link-local scope and not
/// assigned by IANA (RFC 4291, 2.7), its group id from the range for such
/// (RFC 3307, 4.3).
pub const GROUP_IPV6: Ipv6Addr = Ipv6Addr::new(0xFF12, 0, 0, 0, 0, 0, 0x8054, 0x5345);
/// The MAC that [`GROUP_IPV4`] maps to (RFC 1112, 6.4).
pub const GROUP_IPV4_MAC: [u8; 6] = ipv4_group_mac(GROUP_IPV4);
/// The MAC that [`GROUP_IPV6`] maps to (RFC 2464, 7).
pub const GROUP_IPV6_MAC: [u8; 6] = ipv6_group_mac(GROUP_IPV6);

const fn ipv4_group_mac(group: Ipv4Addr) -> [u8; 6] {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5E, b & 0x7F, c, d]
}

const fn ipv6_group_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The frame version this code speaks (high 4 bits of byte 0).
pub const VERSION: u8 = 1;
/// Length in bytes of the header every frame starts with; a data frame's AAD.
pub const HEADER_LEN: usize = 16;
/// Length in bytes of the AEAD tag at the end of a data frame.
pub const TAG_LEN: usize = 16;
/// Length in bytes of a control frame's clear header: [`HEADER_LEN`] + 40.
pub const CLEAR_HEADER_LEN: usize = 56;
/// Length in bytes of the HMAC-SHA-256/128 that ends a control frame.
pub const CONTROL_MAC_LEN: usize = 16;

/// Version and kind, 1 byte.
pub const OFFSET_VERSION_KIND: usize = 0;
/// Flags, 1 byte, zero.
pub const OFFSET_FLAGS: usize = 1;
/// Length in bytes of what follows the 16-byte header, u16.
pub const OFFSET_LENGTH: usize = 2;
/// Data: SPI, u32, never zero.
pub const OFFSET_SPI: usize = 4;
/// Data: packet number, u64.
pub const OFFSET_PACKET_NUMBER: usize = 8;
/// Control: message type, u8, never zero; three zero bytes follow.
pub const OFFSET_MESSAGE_TYPE: usize = 4;
/// Control: XDP gate, u64: [`crate::gate::gate`] of the rest of the clear header.
pub const OFFSET_GATE: usize = 8;
/// Control: node id of the initiator (handshake) or sender (beacon), u32, never zero.
pub const OFFSET_SENDER: usize = 16;
/// Control: node id of the responder, u32; zero in a beacon.
pub const OFFSET_RECEIVER: usize = 20;
/// Control: exchange id (handshake) or incarnation (beacon), 8 bytes.
pub const OFFSET_EXCHANGE_ID: usize = 24;
/// Control: epoch, u32.
pub const OFFSET_EPOCH: usize = 32;
/// Control: master id, 8 bytes.
pub const OFFSET_MASTER_ID: usize = 36;
/// Control: chain id, 8 bytes; zero for a bare exchange.
pub const OFFSET_CHAIN_ID: usize = 44;
/// Control: cipher suite or suites, u16; two zero bytes follow.
pub const OFFSET_SUITE: usize = 52;
/// Control: two zero bytes that end the clear header.
pub const OFFSET_RESERVED: usize = 54;

/// Handshake message type: hello.
pub const MESSAGE_HELLO: u8 = 1;
/// Handshake message type: m1, initiator to responder.
pub const MESSAGE_M1: u8 = 2;
/// Handshake message type: m2, responder to initiator.
pub const MESSAGE_M2: u8 = 3;
/// Handshake message type: m3, initiator to responder.
pub const MESSAGE_M3: u8 = 4;
/// The only beacon message type.
pub const MESSAGE_BEACON: u8 = 1;

/// Smallest length field of a data frame: one byte of plaintext and the tag.
pub const MIN_DATA_LENGTH: u16 = 17;
/// Smallest length field of a control frame: rest of the clear header and the MAC.
pub const MIN_CONTROL_LENGTH: u16 = 56;
/// Largest length field of a control frame: it fits an MTU of 1500 unsegmented.
pub const MAX_CONTROL_LENGTH: u16 = 1484;
/// Largest length field of a data frame.
pub const MAX_DATA_LENGTH: u16 = u16::MAX;
/// Largest frame in bytes that a length field can describe straight in Ethernet,
/// VLAN tag included.
pub const MAX_FRAME_LEN: usize =
    ETH_HEADER_LEN + VLAN_TAG_LEN + HEADER_LEN + MAX_DATA_LENGTH as usize;
/// Largest control frame in bytes straight in Ethernet, VLAN tag included.
pub const MAX_CONTROL_FRAME_LEN: usize =
    ETH_HEADER_LEN + VLAN_TAG_LEN + HEADER_LEN + MAX_CONTROL_LENGTH as usize;

/// How many low bits of an SPI are the receiver's index; the rest, above,
/// is a generation that tells a reused index from its predecessor.
pub const SPI_INDEX_BITS: u32 = 20;
/// The mask of an SPI's index bits.
pub const SPI_INDEX_MASK: u32 = (1 << SPI_INDEX_BITS) - 1;
/// The largest generation: 12 bits.
pub const SPI_GENERATION_MAX: u32 = u32::MAX >> SPI_INDEX_BITS;

/// The table index that an SPI carries (low 20 bits).
#[inline(always)]
pub const fn spi_index(spi: u32) -> u32 {
    spi & SPI_INDEX_MASK
}

/// The generation that an SPI carries (high 12 bits).
#[inline(always)]
pub const fn spi_generation(spi: u32) -> u32 {
    spi >> SPI_INDEX_BITS
}

/// An SPI from its parts; bits that don't fit are cut off. The pair (0, 0)
/// makes 0, which is not a valid SPI.
#[inline(always)]
pub const fn spi(generation: u32, index: u32) -> u32 {
    (generation << SPI_INDEX_BITS) | (index & SPI_INDEX_MASK)
}

/// What a frame is (low 4 bits of byte 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Sealed traffic: goes to a worker.
    Data = 0,
    /// A message of the key exchange: goes to the control thread.
    Handshake = 1,
    /// "I am here": goes to the control thread.
    Beacon = 2,
}

impl Kind {
    /// The kind that the low 4 bits of byte 0 name, if it is a known one.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Option<Kind> {
        match byte & 0x0F {
            0 => Some(Kind::Data),
            1 => Some(Kind::Handshake),
            2 => Some(Kind::Beacon),
            _ => None,
        }
    }

    /// Byte 0 of a frame of this kind.
    #[inline(always)]
    pub const fn version_byte(self) -> u8 {
        (VERSION << 4) | self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_first_byte() {
        for kind in [Kind::Data, Kind::Handshake, Kind::Beacon] {
            assert_eq!(Kind::from_byte(kind.version_byte()), Some(kind));
            assert_eq!(kind.version_byte() >> 4, VERSION);
        }
        assert_eq!(Kind::from_byte(0x13), None);
    }

    #[test]
    fn spi_parts_add_up() {
        let value = spi(0xABC, 0x12345);
        assert_eq!(value, 0xABC1_2345);
        assert_eq!(spi_index(value), 0x12345);
        assert_eq!(spi_generation(value), 0xABC);
        assert_eq!(SPI_GENERATION_MAX, 0xFFF);
    }

    #[test]
    fn groups_have_the_scope_and_the_mac_that_is_said() {
        assert!(GROUP_IPV4.is_multicast() && GROUP_IPV6.is_multicast());
        assert_eq!(GROUP_IPV4.octets()[..2], [239, 255]);
        assert_eq!(GROUP_IPV6.octets()[1], 0x12, "transient, link-local");
        assert_eq!(GROUP_IPV4_MAC, [0x01, 0x00, 0x5E, 0x7F, 0x54, 0x53]);
        assert_eq!(GROUP_IPV6_MAC, [0x33, 0x33, 0x80, 0x54, 0x53, 0x45]);
    }

    #[test]
    fn clear_header_is_the_sum_of_its_fields() {
        assert_eq!(OFFSET_RESERVED + 2, CLEAR_HEADER_LEN);
        assert_eq!(
            MIN_CONTROL_LENGTH as usize,
            CLEAR_HEADER_LEN - HEADER_LEN + CONTROL_MAC_LEN
        );
        assert_eq!(MIN_DATA_LENGTH as usize, TAG_LEN + 1);
    }
}
