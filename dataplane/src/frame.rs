//! The data frame: header and layout in memory. What stands before it is
//! `outer`'s.
//!
//! docs/protocol.md, "The frame". Offsets and lengths come from
//! [`tipsec_xdp::wire`], which the XDP program reads as well.
//!
//! ```text
//! room   ┌────────┬──────────┬────────┬───────────┬─────┬────────┐
//!        │ unused │ outer    │ header │ plaintext │ tag │ unused │
//!        │        │ 14 to 66 │ 16     │ 1 + …     │ 16  │        │
//!        └────────┴──────────┴────────┴───────────┴─────┴────────┘
//!                 ▲ frame_start       ▲ PAYLOAD_OFFSET
//! ```

use tipsec_xdp::wire::{HEADER_LEN, Kind, TAG_LEN, VERSION};

use crate::ids::Spi;

/// Where the plaintext starts in a frame's memory, in bytes: room before it
/// for the widest outer headers (Ethernet, VLAN, IPv6, UDP) and ours.
pub const PAYLOAD_OFFSET: usize = 128;

/// Where a frame starts in its memory, received or to send, if its outer
/// header has `outer_len` bytes: whatever the encapsulation, the plaintext lies
/// at [`PAYLOAD_OFFSET`].
pub const fn frame_start(outer_len: usize) -> usize {
    PAYLOAD_OFFSET - HEADER_LEN - outer_len
}

/// Where an inner Ethernet frame starts in memory so that its addresses (12
/// bytes) end where the payload byte's successor, its EtherType, begins.
pub const TAP_OFFSET: usize = PAYLOAD_OFFSET + 1 - 12;

/// Bytes that a frame adds to a tap frame's Ethernet payload: our header, the
/// payload byte, the inner EtherType and the tag.
pub const TAP_OVERHEAD: usize = HEADER_LEN + 1 + 2 + TAG_LEN;

/// Where a message lies in a frame's memory: behind the payload byte.
pub const MESSAGE_OFFSET: usize = PAYLOAD_OFFSET + 1;

/// Bytes that a frame adds to a message: our header, the payload byte and the
/// tag.
pub const MESSAGE_OVERHEAD: usize = HEADER_LEN + 1 + TAG_LEN;

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
        #[allow(clippy::cast_possible_truncation)] // bytes 2 and 3
        let length = (first >> 32) as u16;
        if usize::from(length) > available || usize::from(length) <= TAG_LEN {
            return None;
        }
        Some(Self {
            #[allow(clippy::cast_possible_truncation)] // bytes 4 to 7
            spi: Spi::new(first as u32)?,
            packet_number,
            length,
        })
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
