//! The data frame: header, layout in memory, encapsulation.
//!
//! docs/protocol.md, "The frame". Offsets and lengths come from
//! [`tipsec_xdp::wire`], which the XDP program reads as well.
//!
//! ```text
//! chunk  ┌──────────────┬──────────┬────────┬───────────┬─────┬────────┐
//!        │ room for     │ Ethernet │ header │ plaintext │ tag │ unused │
//!        │ other encaps │ 14       │ 16     │ 1 + …     │ 16  │        │
//!        └──────────────┴──────────┴────────┴───────────┴─────┴────────┘
//!                                           ▲ PAYLOAD_OFFSET
//! ```

use tipsec_xdp::wire::{ETH_HEADER_LEN, HEADER_LEN, Kind, TAG_LEN, VERSION};

use crate::ids::Spi;
use crate::mac::MacAddr;

/// Where the plaintext starts in a frame's memory, in bytes: room before it
/// for the widest outer headers (Ethernet, VLAN, IPv6, UDP) and ours.
pub const PAYLOAD_OFFSET: usize = 128;

/// Where an inner Ethernet frame starts in memory so that its addresses (12
/// bytes) end where the payload byte's successor, its EtherType, begins.
pub const TAP_OFFSET: usize = PAYLOAD_OFFSET + 1 - 12;

/// Bytes that a frame adds to a tap frame's Ethernet payload: our header, the
/// payload byte, the inner EtherType and the tag.
pub const TAP_OVERHEAD: usize = HEADER_LEN + 1 + 2 + TAG_LEN;

/// The header of a data frame; as encoded it is the AAD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataHeader {
    /// The lane at the receiver.
    pub spi: Spi,
    /// Position in the lane; grows by one a frame, never reset.
    pub packet_number: u64,
    /// Bytes that follow the header: ciphertext and tag.
    pub length: u16,
}

impl DataHeader {
    /// The header as it travels.
    #[inline]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = VERSION << 4 | Kind::Data as u8;
        bytes[2..4].copy_from_slice(&self.length.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.spi.value().to_be_bytes());
        bytes[8..16].copy_from_slice(&self.packet_number.to_be_bytes());
        bytes
    }

    /// Reads a header and checks it against the `available` bytes behind it
    /// (padding may follow the frame). `None` for whatever is not a data frame
    /// of this version with at least one byte of plaintext.
    #[inline]
    pub fn decode(bytes: &[u8; HEADER_LEN], available: usize) -> Option<Self> {
        // Two loads instead of sixteen: this runs for every frame.
        const DATA: u64 = ((VERSION << 4 | Kind::Data as u8) as u64) << 8;
        let first = u64::from_be_bytes(*bytes.first_chunk()?);
        let packet_number = u64::from_be_bytes(*bytes.last_chunk()?);
        if first >> 48 != DATA {
            return None;
        }
        let length = u16::from_be_bytes([bytes[2], bytes[3]]);
        if usize::from(length) > available || usize::from(length) <= TAG_LEN {
            return None;
        }
        Some(Self {
            spi: Spi::new(u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]))?,
            packet_number,
            length,
        })
    }
}

/// How frames are wrapped on one bearer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encapsulation {
    /// EtherType of Tipsec frames.
    pub ethertype: u16,
    /// This bearer's own address.
    pub source: MacAddr,
}

impl Encapsulation {
    /// Bytes before the Tipsec header.
    pub const HEADER_LEN: usize = ETH_HEADER_LEN;

    /// Writes the outer header for a frame to `destination`.
    pub fn write(&self, destination: MacAddr, outer: &mut [u8; ETH_HEADER_LEN]) {
        outer[0..6].copy_from_slice(&destination.0);
        outer[6..12].copy_from_slice(&self.source.0);
        outer[12..14].copy_from_slice(&self.ethertype.to_be_bytes());
    }

    /// Whether a frame with this outer header is a Tipsec frame that another
    /// station sent to this bearer's own address.
    #[inline]
    pub fn is_for_us(&self, outer: &[u8; ETH_HEADER_LEN]) -> bool {
        let [.., t0, t1] = *outer;
        let destination = outer.first_chunk::<6>();
        let source = outer[6..].first_chunk::<6>();
        u16::from_be_bytes([t0, t1]) == self.ethertype
            && destination == Some(&self.source.0)
            && source != Some(&self.source.0)
            && outer[6] & 1 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: DataHeader = DataHeader {
        spi: match Spi::new(0xa1b2_c3d4) {
            Some(spi) => spi,
            None => unreachable!(),
        },
        packet_number: 0x0102_0304_0506_0708,
        length: 40,
    };

    #[test]
    fn header_round_trips() {
        let bytes = HEADER.encode();
        assert_eq!(
            bytes,
            [
                0x10, 0, 0, 40, 0xa1, 0xb2, 0xc3, 0xd4, 1, 2, 3, 4, 5, 6, 7, 8
            ]
        );
        assert_eq!(DataHeader::decode(&bytes, 40), Some(HEADER));
        assert_eq!(DataHeader::decode(&bytes, 60), Some(HEADER), "padded");
    }

    #[test]
    fn only_what_another_station_sent_to_us_is_ours() {
        let own = MacAddr([2, 0, 0, 0, 0, 1]);
        let encapsulation = Encapsulation {
            ethertype: 0x88b5,
            source: own,
        };
        let frame = |destination: MacAddr, source: MacAddr, ethertype| {
            let mut outer = [0; ETH_HEADER_LEN];
            let sender = Encapsulation { ethertype, source };
            sender.write(destination, &mut outer);
            encapsulation.is_for_us(&outer)
        };
        let other = MacAddr([2, 0, 0, 0, 0, 2]);
        assert!(frame(own, other, 0x88b5));
        assert!(!frame(own, other, 0x0800), "another protocol");
        assert!(!frame(other, own, 0x88b5) && !frame(other, other, 0x88b5));
        assert!(!frame(own, own, 0x88b5), "reflected");
        assert!(!frame(MacAddr::BROADCAST, other, 0x88b5));
        assert!(!frame(own, MacAddr::BROADCAST, 0x88b5));
    }

    #[test]
    fn malformed_headers_are_refused() {
        let bytes = HEADER.encode();
        assert_eq!(DataHeader::decode(&bytes, 39), None, "cut short");
        let with = |at: usize, value: u8| {
            let mut changed = bytes;
            changed[at] = value;
            DataHeader::decode(&changed, 40)
        };
        assert_eq!(with(0, 0x20), None, "version");
        assert_eq!(with(0, 0x11), None, "kind");
        assert_eq!(with(1, 1), None, "flags");
        assert_eq!(with(3, 16), None, "no plaintext");
        let mut zero_spi = bytes;
        zero_spi[4..8].fill(0);
        assert_eq!(DataHeader::decode(&zero_spi, 40), None);
    }
}
