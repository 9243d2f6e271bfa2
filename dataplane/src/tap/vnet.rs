//! The virtio-net header that stands before each frame of a tap: which
//! checksum is open, and how a large frame is to be cut.
//!
//! `struct virtio_net_hdr` of linux/virtio_net.h, 10 bytes; a tap device uses
//! the machine's byte order unless told otherwise. Imports nothing from this
//! crate.

/// Bytes of the header.
pub const VNET_LEN: usize = 10;

/// The header as it is read and written.
pub type VnetBytes = [u8; VNET_LEN];

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_ECN`: the frame's CWR flag is for the first segment.
const GSO_ECN: u8 = 0x80;

/// What a large frame is to be cut into, or was joined from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Gso {
    /// It is one frame.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams over IPv4 or IPv6 (Linux 6.2).
    Udp,
    /// Nothing that this device offers; the kernel's number.
    Unknown(u8),
}

/// A checksum that is still to be computed. Positions are the kernel's word:
/// whoever uses them checks them against the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenChecksum {
    /// Where the summed bytes start, in bytes from the Ethernet header.
    pub start: u16,
    /// Where the checksum goes, in bytes from `start`. It holds the sum of the
    /// pseudo-header.
    pub offset: u16,
}

/// One header, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHeader {
    /// The checksum that is open, if one is.
    pub checksum: Option<OpenChecksum>,
    /// Whether and how it is a large frame.
    pub gso: Gso,
    /// Payload bytes of each segment of a large frame.
    pub gso_size: u16,
    /// Bytes of all headers of a large frame; a hint.
    pub header_len: u16,
}

impl VnetHeader {
    /// Reads what the kernel wrote. Every content is one.
    pub fn decode(bytes: &VnetBytes) -> Self {
        let &[flags, gso, h0, h1, g0, g1, s0, s1, o0, o1] = bytes;
        Self {
            checksum: (flags & NEEDS_CSUM != 0).then_some(OpenChecksum {
                start: u16::from_ne_bytes([s0, s1]),
                offset: u16::from_ne_bytes([o0, o1]),
            }),
            gso: match gso & !GSO_ECN {
                0 => Gso::None,
                1 => Gso::TcpV4,
                4 => Gso::TcpV6,
                5 => Gso::Udp,
                other => Gso::Unknown(other),
            },
            gso_size: u16::from_ne_bytes([g0, g1]),
            header_len: u16::from_ne_bytes([h0, h1]),
        }
    }

    /// The header for the kernel.
    pub fn encode(&self) -> VnetBytes {
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let gso = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => 1,
            Gso::TcpV6 => 4,
            Gso::Udp => 5,
            Gso::Unknown(other) => other,
        };
        let Some(open) = self.checksum else {
            return [0, gso, h0, h1, g0, g1, 0, 0, 0, 0];
        };
        let [s0, s1] = open.start.to_ne_bytes();
        let [o0, o1] = open.offset.to_ne_bytes();
        [NEEDS_CSUM, gso, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        for gso in [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp, Gso::Unknown(3)] {
            let header = VnetHeader {
                checksum: Some(OpenChecksum {
                    start: 34,
                    offset: 16,
                }),
                gso,
                gso_size: 1448,
                header_len: 66,
            };
            assert_eq!(VnetHeader::decode(&header.encode()), header);
        }
        assert_eq!(VnetHeader::default().encode(), [0; VNET_LEN]);
        let ecn = VnetHeader::decode(&[0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ecn.gso, Gso::TcpV4);
    }

    #[test]
    fn layout_is_the_kernels() {
        let header = VnetHeader {
            checksum: Some(OpenChecksum {
                start: 0x0102,
                offset: 0x0304,
            }),
            gso: Gso::TcpV6,
            gso_size: 0x0506,
            header_len: 0x0708,
        };
        let mut words = header.encode();
        if cfg!(target_endian = "little") {
            words[2..]
                .as_chunks_mut::<2>()
                .0
                .iter_mut()
                .for_each(|w| w.reverse());
        }
        assert_eq!(words, [1, 4, 7, 8, 5, 6, 1, 2, 3, 4]);
    }
}
