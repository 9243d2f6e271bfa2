//! What is inside a sealed frame: one byte that says what, then it.
//!
//! docs/protocol.md, "Inside a data frame". Imports phases.

use crate::phase::Phase;

/// Low four bits of the first plaintext byte.
const KIND_MASK: u8 = 0x0f;
/// The frame goes to every node's tap, not to one.
const FLAG_GROUP: u8 = 0x10;
/// The inner TCP or UDP checksum is open, its field zero.
const FLAG_CHECKSUM: u8 = 0x20;

/// Bytes of a probe's plaintext.
pub const PROBE_LEN: usize = 16;

/// The first plaintext byte, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload {
    /// An Ethernet frame for the tap without its two addresses.
    Tap {
        /// For every node: the receiver's destination address is broadcast.
        group: bool,
        /// Nobody has computed the inner TCP or UDP checksum; the receiver's
        /// host is told so.
        checksum_pending: bool,
    },
    /// A [`Probe`].
    Probe,
    /// A message for a program ([`crate::endpoint`]).
    Message,
}

impl Payload {
    /// Reads the first plaintext byte; `None` if it has no meaning here.
    pub const fn decode(byte: u8) -> Option<Self> {
        match (byte & KIND_MASK, byte & !KIND_MASK) {
            (0, flags) if flags & !(FLAG_GROUP | FLAG_CHECKSUM) == 0 => Some(Self::Tap {
                group: flags & FLAG_GROUP != 0,
                checksum_pending: flags & FLAG_CHECKSUM != 0,
            }),
            (1, 0) => Some(Self::Probe),
            (2, 0) => Some(Self::Message),
            _ => None,
        }
    }

    /// The byte that travels.
    pub const fn encode(self) -> u8 {
        match self {
            Self::Tap {
                group,
                checksum_pending,
            } => {
                (if group { FLAG_GROUP } else { 0 })
                    | (if checksum_pending { FLAG_CHECKSUM } else { 0 })
            }
            Self::Probe => 1,
            Self::Message => 2,
        }
    }
}

/// Whether a probe asks or answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeOp {
    /// The receiver's worker answers at once.
    Request,
    /// Carries the request's `id` back.
    Reply,
}

/// Echo inside an SA: liveness, confirmation of a new SA, highest phase opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Question or answer.
    pub op: ProbeOp,
    /// Chosen by who asks.
    pub id: u64,
    /// Highest phase that the sender of this probe has opened on the lane it
    /// answers, and whose successor it is ready to open; 0 in a request.
    pub phase: Phase,
}

impl Probe {
    /// The plaintext, payload byte included:
    /// `1 ‖ op ‖ 0 0 ‖ phase (4, big endian) ‖ id (8, big endian)`.
    pub fn encode(&self) -> [u8; PROBE_LEN] {
        let mut bytes = [0; PROBE_LEN];
        bytes[0] = Payload::Probe.encode();
        bytes[1] = match self.op {
            ProbeOp::Request => 1,
            ProbeOp::Reply => 2,
        };
        bytes[4..8].copy_from_slice(&self.phase.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_be_bytes());
        bytes
    }

    /// Reads a plaintext that [`Payload::decode`] called a probe.
    pub fn decode(plaintext: &[u8]) -> Option<Self> {
        let bytes: &[u8; PROBE_LEN] = plaintext.try_into().ok()?;
        let &[1, op, 0, 0, p0, p1, p2, p3, i0, i1, i2, i3, i4, i5, i6, i7] = bytes else {
            return None;
        };
        Some(Self {
            op: match op {
                1 => ProbeOp::Request,
                2 => ProbeOp::Reply,
                _ => return None,
            },
            id: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            phase: Phase(u32::from_be_bytes([p0, p1, p2, p3])),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_byte_round_trips_and_rejects_the_rest() {
        let known = (0..=u8::MAX)
            .filter_map(|byte| Payload::decode(byte).map(|payload| (byte, payload)))
            .inspect(|&(byte, payload)| assert_eq!(payload.encode(), byte))
            .count();
        assert_eq!(known, 6);
    }

    #[test]
    fn probe_round_trips() {
        let probe = Probe {
            op: ProbeOp::Reply,
            id: 0x0102_0304_0506_0708,
            phase: Phase(9),
        };
        assert_eq!(Probe::decode(&probe.encode()), Some(probe));
        assert_eq!(Probe::decode(&probe.encode()[..15]), None);
        let mut reserved = probe.encode();
        reserved[2] = 1;
        assert_eq!(Probe::decode(&reserved), None);
    }
}
