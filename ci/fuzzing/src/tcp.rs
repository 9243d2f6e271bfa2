//! Makes inner frames, TCP or UDP, as a host would, and looks at them. Imports
//! nothing of the crate.

use tipsec_dataplane::tap::checksum::Sum;
use tipsec_dataplane::tap::packet::{ETH_LEN, Packet, TCP_ACK, Transport, Version};

/// What a frame is to be.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    /// An 802.1Q tag before the EtherType.
    pub(crate) tagged: bool,
    /// Four bytes of IPv4 options, or an IPv6 header of destination options.
    pub(crate) ip_options: bool,
    /// Four-byte words of TCP options.
    pub(crate) tcp_words: u8,
    pub(crate) connection: u8,
    pub(crate) id: u16,
    pub(crate) sequence: u32,
    /// TCP's.
    pub(crate) flags: u8,
    pub(crate) payload_len: usize,
}

impl Made {
    pub(crate) const TCP: Self = Self {
        v6: false,
        udp: false,
        tagged: false,
        ip_options: false,
        tcp_words: 3,
        connection: 0,
        id: 0,
        sequence: 0,
        flags: TCP_ACK,
        payload_len: 100,
    };

    /// The Ethernet frame; its checksum field holds the sum of the
    /// pseudo-header, as the kernel leaves it.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if self.tagged {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [8, 0] });
        let ip_at = frame.len();
        let protocol = if self.udp { 17 } else { 6 };
        if self.v6 {
            let extension: &[u8] = match self.ip_options {
                true => &[protocol, 0, 1, 4, 0, 0, 0, 0],
                false => &[],
            };
            let next = if self.ip_options { 60 } else { protocol };
            let len = word(extension.len() + transport.len());
            frame.extend([0x60, 0, 0, 0, len[0], len[1], next, 64]);
            for end in [1, 2] {
                frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                frame.extend([end, self.connection]);
            }
            frame.extend_from_slice(extension);
        } else {
            let words = if self.ip_options { 6 } else { 5 };
            let len = word(4 * words + transport.len());
            let id = self.id.to_be_bytes();
            let first = 0x40 | u8::try_from(words).unwrap();
            frame.extend([first, 0, len[0], len[1], id[0], id[1], 0x40, 0]);
            frame.extend([64, protocol, 0, 0]);
            frame.extend([10, 0, 1, self.connection, 10, 0, 2, self.connection]);
            // No operation, three times, and the end.
            frame.extend(&[1, 1, 1, 0][..4 * (words - 5)]);
            let sum = Sum::default().with(&frame[ip_at..]).checksum();
            frame[ip_at + 10..ip_at + 12].copy_from_slice(&sum.to_be_bytes());
        }
        frame.extend_from_slice(&transport);
        if let Some(packet) = Packet::parse(&frame) {
            let pseudo = pseudo_sum(&packet, &frame);
            let at = packet.checksum_at();
            frame[at..at + 2].copy_from_slice(&pseudo.fold().to_be_bytes());
        }
        frame
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = vec![0x1f, 0x90, 0x20, self.connection];
        if self.udp {
            bytes.extend(word(8 + self.payload_len));
            bytes.extend([0, 0]);
        } else {
            let words = 5 + self.tcp_words % 11;
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend([0, 0, 0, 9, words << 4, self.flags, 0x10, 0, 0, 0, 0, 0]);
            bytes.resize(4 * usize::from(words), 1);
        }
        // No two stretches alike.
        let payload = (0..self.payload_len).map(|at| (at * 31 + at / 251) % 256);
        bytes.extend(payload.map(|byte| u8::try_from(byte).unwrap()));
        bytes
    }
}

fn word(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

/// Of a frame as long as it is.
pub(crate) fn pseudo_sum(packet: &Packet, frame: &[u8]) -> Sum {
    packet.pseudo_sum(frame, frame.len() - packet.transport_at)
}

/// Puts the right checksum in, where [`Made::frame`] left it open.
pub(crate) fn complete(frame: &mut [u8]) {
    let Some(packet) = Packet::parse(frame) else {
        return;
    };
    let at = packet.checksum_at();
    frame[at..at + 2].fill(0);
    let sum = pseudo_sum(&packet, frame).with(&frame[packet.transport_at..]);
    let checksum = match sum.checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// TCP's sequence number.
pub(crate) fn sequence(packet: &Packet, frame: &[u8]) -> u32 {
    let at = packet.transport_at + 4;
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

/// Panics if the IPv4 header's checksum is wrong.
pub(crate) fn check_ip(packet: &Packet, frame: &[u8]) {
    if packet.version == Version::V4 {
        let header = &frame[packet.ip_at..packet.transport_at];
        assert_eq!(Sum::default().with(header).checksum(), 0, "IPv4 checksum");
    }
}

/// The same frame without what may differ between a segment and what was cut
/// to it: checksums, IPv4 identification, PSH.
pub(crate) fn comparable(frame: &[u8]) -> Vec<u8> {
    let mut same = frame.to_vec();
    let Some(packet) = Packet::parse(frame) else {
        return same;
    };
    let at = packet.checksum_at();
    same[at..at + 2].fill(0);
    if packet.version == Version::V4 {
        same[packet.ip_at + 4..packet.ip_at + 6].fill(0);
        same[packet.ip_at + 10..packet.ip_at + 12].fill(0);
    }
    if packet.transport == Transport::Tcp {
        same[packet.transport_at + 13] &= !tipsec_dataplane::tap::packet::TCP_PSH;
    }
    same
}

/// Longest payload of a frame that [`Made`] can make: lengths have 16 bits.
pub(crate) const PAYLOAD_MAX: usize = 65_535 - 60 - 60 - ETH_LEN;
