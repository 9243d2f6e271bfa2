//! A captured frame, read from its first bytes; and the marker that payloads
//! carry. Pure. Imports nothing here.

use tipsec_xdp::wire::{
    DEFAULT_ETHERTYPE, ETH_HEADER_LEN, HEADER_LEN, Kind, OFFSET_PACKET_NUMBER, OFFSET_SPI, VERSION,
};

/// What `iperf3 --repeating-payload` and our own load fill datagrams with: any
/// 29 bytes of such a payload contain it.
pub const MARKER: &[u8] = b"01234567890123456789";

/// A payload of `len` bytes of the marker.
pub fn marker_payload(len: usize) -> Vec<u8> {
    b"0123456789".iter().copied().cycle().take(len).collect()
}

/// Whether the marker is anywhere in `bytes`.
pub fn has_marker(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, MARKER).is_some()
}

/// The outer header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Destination address.
    pub destination: [u8; 6],
    /// Source address.
    pub source: [u8; 6],
    /// EtherType.
    pub ethertype: u16,
    /// What it is.
    pub what: What,
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Sealed traffic.
    Data {
        /// The receiver's lane.
        spi: u32,
        /// Position in it.
        packet_number: u64,
    },
    /// A handshake or a beacon.
    Control,
    /// Not Tipsec's.
    Foreign,
}

fn field<const N: usize>(frame: &[u8], offset: usize) -> Option<[u8; N]> {
    frame.get(offset..offset + N)?.try_into().ok()
}

impl Seen {
    /// Reads a frame; `None` if it is shorter than an Ethernet header.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let ethertype = u16::from_be_bytes(field(frame, 12)?);
        let what = if ethertype == DEFAULT_ETHERTYPE {
            what(frame.get(ETH_HEADER_LEN..)?)
        } else {
            What::Foreign
        };
        Some(Self {
            destination: field(frame, 0)?,
            source: field(frame, 6)?,
            ethertype,
            what,
        })
    }
}

fn what(header: &[u8]) -> What {
    let Some(first) = header.first() else {
        return What::Foreign;
    };
    if first >> 4 != VERSION || header.len() < HEADER_LEN {
        return What::Foreign;
    }
    match Kind::from_byte(*first) {
        Some(Kind::Data) => match (
            field(header, OFFSET_SPI),
            field(header, OFFSET_PACKET_NUMBER),
        ) {
            (Some(spi), Some(number)) => What::Data {
                spi: u32::from_be_bytes(spi),
                packet_number: u64::from_be_bytes(number),
            },
            _ => What::Foreign,
        },
        Some(Kind::Handshake | Kind::Beacon) => What::Control,
        None => What::Foreign,
    }
}

/// An address as people write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_frame() -> Vec<u8> {
        let mut frame = vec![2, 0x54, 0, 0, 0, 1, 2, 0x54, 0, 0, 0, 2, 0x88, 0xb5];
        frame.extend([0x10, 0, 0, 17, 0, 0x10, 0, 7]);
        frame.extend(0x0102_0304_0506u64.to_be_bytes());
        frame.extend([0xa5; 17]);
        frame
    }

    #[test]
    fn reads_a_data_frame() {
        let seen = Seen::read(&data_frame()).unwrap();
        assert_eq!(seen.destination, [2, 0x54, 0, 0, 0, 1]);
        assert_eq!(seen.source, [2, 0x54, 0, 0, 0, 2]);
        assert_eq!(
            seen.what,
            What::Data {
                spi: 0x0010_0007,
                packet_number: 0x0102_0304_0506
            }
        );
    }

    #[test]
    fn names_what_is_not_ours() {
        let mut frame = data_frame();
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        assert_eq!(Seen::read(&frame).unwrap().what, What::Foreign);
        let mut frame = data_frame();
        frame[14] = 0x20;
        assert_eq!(Seen::read(&frame).unwrap().what, What::Foreign);
        frame[14] = 0x11;
        assert_eq!(Seen::read(&frame).unwrap().what, What::Control);
        frame[14] = 0x1f;
        assert_eq!(Seen::read(&frame).unwrap().what, What::Foreign);
    }

    #[test]
    fn short_frames_are_not_read_beyond_their_end() {
        let frame = data_frame();
        for len in 0..frame.len() {
            let seen = Seen::read(&frame[..len]);
            if len < ETH_HEADER_LEN {
                assert!(seen.is_none(), "{len}");
            } else if len < ETH_HEADER_LEN + HEADER_LEN {
                assert_eq!(seen.unwrap().what, What::Foreign, "{len}");
            }
        }
    }

    #[test]
    fn finds_the_marker_wherever_a_payload_starts() {
        for skip in 0..10 {
            assert!(has_marker(&marker_payload(40)[skip..skip + 29]));
        }
        assert!(!has_marker(&[0xa5; 1400]));
        assert!(!has_marker(b"0123456789-0123456789"));
    }
}
