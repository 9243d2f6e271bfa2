//! Inner frames built and read by the letter of the RFCs, without a line of the
//! code under test.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use tipsec_dataplane::tap::vnet::{Gso, OpenChecksum, VnetHeader};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// What stands between the IP header and TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extra {
    Nothing,
    /// IPv4 options or IPv6 destination options: 8 bytes that do nothing.
    Options,
    /// IPv6 only: a routing header with one stop to go. The pseudo-header has
    /// the final destination. On IPv4 the same as options.
    Routing,
}

/// What is in a checksum field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Complete,
    /// The pseudo-header's sum.
    Partial,
    Zero,
    Wrong,
}

/// A TCP or UDP packet in an Ethernet frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inner {
    pub v6: bool,
    pub udp: bool,
    pub vlan_tags: usize,
    pub extra: Extra,
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub host: u8,
    pub ports: (u16, u16),
    pub sequence: u32,
    pub acknowledgement: u32,
    pub window: u16,
    pub flags: u8,
    /// A multiple of 4, at most 40.
    pub tcp_options: Vec<u8>,
    pub id: u16,
    pub dont_fragment: bool,
    pub ttl: u8,
    pub tos: u8,
    pub payload: Vec<u8>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            v6: false,
            udp: false,
            vlan_tags: 0,
            extra: Extra::Nothing,
            destination: [2, 0x54, 0, 0, 0, 2],
            source: [2, 0x54, 0, 0, 0, 1],
            host: 1,
            ports: (5000, 5001),
            sequence: 1000,
            acknowledgement: 77,
            window: 501,
            flags: ACK,
            tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            id: 5,
            dont_fragment: true,
            ttl: 64,
            tos: 0,
            payload: b"payload".to_vec(),
        }
    }
}

/// RFC 1071 as it is written.
pub fn ones_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) * 256 + u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

const FINAL_STOP: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9];

impl Inner {
    fn protocol(&self) -> u8 {
        if self.udp { 17 } else { 6 }
    }

    /// Where the IP header starts.
    pub fn ip_at(&self) -> usize {
        14 + 4 * self.vlan_tags
    }

    /// Where TCP or UDP starts.
    pub fn transport_at(&self) -> usize {
        let extra = match (self.extra, self.v6) {
            (Extra::Nothing, _) => 0,
            (Extra::Routing, true) => 24,
            _ => 8,
        };
        self.ip_at() + if self.v6 { 40 } else { 20 } + extra
    }

    pub fn payload_at(&self) -> usize {
        let header = if self.udp {
            8
        } else {
            20 + self.tcp_options.len()
        };
        self.transport_at() + header
    }

    pub fn checksum_offset(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    /// The bytes, with this in the checksum field.
    pub fn frame(&self, state: State) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination);
        frame.extend(self.source);
        for tag in 0..self.vlan_tags {
            let outer = tag + 1 < self.vlan_tags;
            frame.extend(if outer { [0x88, 0xa8] } else { [0x81, 0x00] });
            frame.extend([0, tag as u8 + 1]);
        }
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let len = self.payload_at() + self.payload.len() - self.ip_at();
        let (source, destination) = ([10, 0, 0, self.host], [10, 0, 0, 200]);
        let mut pseudo = Vec::new();
        if self.v6 {
            let next = match self.extra {
                Extra::Nothing => self.protocol(),
                Extra::Options => 60,
                Extra::Routing => 43,
            };
            let tos = self.tos;
            frame.extend([0x60 | tos >> 4, tos << 4, 0, 0]);
            frame.extend((len as u16 - 40).to_be_bytes());
            frame.extend([next, self.ttl]);
            let mut address = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.host];
            frame.extend(address);
            pseudo.extend(address);
            address[15] = 200;
            frame.extend(address);
            match self.extra {
                Extra::Nothing => pseudo.extend(address),
                Extra::Options => {
                    pseudo.extend(address);
                    frame.extend([self.protocol(), 0, 1, 4, 0, 0, 0, 0]);
                }
                Extra::Routing => {
                    pseudo.extend(FINAL_STOP);
                    frame.extend([self.protocol(), 2, 0, 1, 0, 0, 0, 0]);
                    frame.extend(FINAL_STOP);
                }
            }
        } else {
            let start = frame.len();
            let header_len = self.transport_at() - self.ip_at();
            frame.extend([0x40 | (header_len / 4) as u8, self.tos]);
            frame.extend((len as u16).to_be_bytes());
            frame.extend(self.id.to_be_bytes());
            frame.extend([if self.dont_fragment { 0x40 } else { 0 }, 0]);
            frame.extend([self.ttl, self.protocol(), 0, 0]);
            frame.extend(source);
            frame.extend(destination);
            frame.resize(start + header_len, 1);
            let checksum = !ones_sum(&frame[start..]);
            frame[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
            pseudo.extend(source);
            pseudo.extend(destination);
        }
        let at = frame.len();
        assert_eq!(at, self.transport_at());
        frame.extend(self.ports.0.to_be_bytes());
        frame.extend(self.ports.1.to_be_bytes());
        let transport_len = self.payload_at() - at + self.payload.len();
        if self.udp {
            frame.extend((transport_len as u16).to_be_bytes());
            frame.extend([0, 0]);
        } else {
            frame.extend(self.sequence.to_be_bytes());
            frame.extend(self.acknowledgement.to_be_bytes());
            frame.extend([((20 + self.tcp_options.len()) / 4 * 16) as u8, self.flags]);
            frame.extend(self.window.to_be_bytes());
            frame.extend([0, 0, 0, 0]);
            frame.extend(&self.tcp_options);
        }
        frame.extend(&self.payload);
        pseudo.extend((transport_len as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol()]);
        let partial = ones_sum(&pseudo);
        let place = at + self.checksum_offset();
        let value = match state {
            State::Zero => 0,
            State::Partial => partial,
            State::Complete | State::Wrong => {
                pseudo.extend(&frame[at..]);
                let right = match !ones_sum(&pseudo) {
                    0 => 0xffff,
                    right => right,
                };
                if state == State::Wrong {
                    right ^ 0x1234
                } else {
                    right
                }
            }
        };
        frame[place..place + 2].copy_from_slice(&value.to_be_bytes());
        frame
    }

    /// What the kernel says of it when it hands it over uncut.
    pub fn vnet(&self, gso_size: u16) -> VnetHeader {
        VnetHeader {
            checksum: Some(OpenChecksum {
                start: self.transport_at() as u16,
                offset: self.checksum_offset() as u16,
            }),
            gso: match (self.udp, self.v6) {
                (true, _) => Gso::Udp,
                (false, false) => Gso::TcpV4,
                (false, true) => Gso::TcpV6,
            },
            gso_size,
            header_len: self.payload_at() as u16,
        }
    }

    /// Reads a frame that must be whole and right but for its TCP or UDP
    /// checksum. Panics where it is not.
    pub fn read(frame: &[u8]) -> Self {
        let mut inner = Self {
            destination: frame[..6].try_into().unwrap(),
            source: frame[6..12].try_into().unwrap(),
            ..Self::default()
        };
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let mut ip = 14;
        while [0x8100, 0x88a8].contains(&word(ip - 2)) {
            ip += 4;
            inner.vlan_tags += 1;
        }
        let (mut at, protocol);
        match word(ip - 2) {
            0x0800 => {
                at = ip + usize::from(frame[ip] & 15) * 4;
                assert_eq!(frame[ip] >> 4, 4);
                assert_eq!(usize::from(word(ip + 2)), frame.len() - ip, "total length");
                assert_eq!(ones_sum(&frame[ip..at]), 0xffff, "IPv4 checksum");
                assert_eq!(word(ip + 6) & 0x3fff, 0, "a fragment");
                protocol = frame[ip + 9];
                inner.id = word(ip + 4);
                inner.dont_fragment = frame[ip + 6] & 0x40 != 0;
                inner.ttl = frame[ip + 8];
                inner.tos = frame[ip + 1];
                inner.host = frame[ip + 15];
                if at > ip + 20 {
                    inner.extra = Extra::Options;
                }
            }
            0x86dd => {
                inner.v6 = true;
                assert_eq!(frame[ip] >> 4, 6);
                assert_eq!(
                    usize::from(word(ip + 4)),
                    frame.len() - ip - 40,
                    "payload length"
                );
                at = ip + 40;
                inner.ttl = frame[ip + 7];
                inner.tos = frame[ip] << 4 | frame[ip + 1] >> 4;
                inner.host = frame[ip + 23];
                (inner.extra, protocol) = match frame[ip + 6] {
                    60 => (Extra::Options, frame[at]),
                    43 => (Extra::Routing, frame[at]),
                    next => (Extra::Nothing, next),
                };
                at = match inner.extra {
                    Extra::Nothing => at,
                    _ => at + 8 + 8 * usize::from(frame[at + 1]),
                };
            }
            other => panic!("no IP: {other:04x}"),
        }
        inner.udp = protocol == 17;
        assert!(inner.udp || protocol == 6, "protocol {protocol}");
        inner.ports = (word(at), word(at + 2));
        if inner.udp {
            assert_eq!(usize::from(word(at + 4)), frame.len() - at, "UDP length");
            inner.payload = frame[at + 8..].to_vec();
        } else {
            let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
            (inner.sequence, inner.acknowledgement) = (long(at + 4), long(at + 8));
            let payload = at + usize::from(frame[at + 12] >> 4) * 4;
            inner.flags = frame[at + 13];
            inner.window = word(at + 14);
            inner.tcp_options = frame[at + 20..payload].to_vec();
            inner.payload = frame[payload..].to_vec();
        }
        inner
    }

    /// Reads a frame as [`Self::read`] does, whose checksum must be open: the
    /// pseudo-header's sum.
    pub fn read_open(frame: &[u8]) -> Self {
        let inner = Self::read(frame);
        assert_eq!(inner.frame(State::Partial), frame, "open checksum");
        inner
    }

    /// The same of a frame whose checksum is right or wrong.
    pub fn read_closed(frame: &[u8]) -> (Self, State) {
        let inner = Self::read(frame);
        match inner.frame(State::Complete) == frame {
            true => (inner, State::Complete),
            false => (inner, State::Wrong),
        }
    }

    /// What a segmentation into `step` bytes must give.
    pub fn cut(&self, step: usize) -> Vec<Self> {
        let mut pieces: Vec<&[u8]> = self.payload.chunks(step).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let last = pieces.len() - 1;
        let mut segments = Vec::new();
        for (index, piece) in pieces.into_iter().enumerate() {
            let mut segment = Self {
                payload: piece.to_vec(),
                ..self.clone()
            };
            if !self.v6 {
                segment.id = self.id.wrapping_add(index as u16);
            }
            if !self.udp {
                let offset = (index * step) as u32;
                segment.sequence = self.sequence.wrapping_add(offset);
                segment.flags &= if index == 0 { 0xff } else { !CWR };
                segment.flags &= if index == last { 0xff } else { !(FIN | PSH) };
            }
            segments.push(segment);
        }
        segments
    }
}
