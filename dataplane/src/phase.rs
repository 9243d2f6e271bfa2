//! Phases: a lane's life in stretches of packet numbers, each with a key and a
//! budget of its own. Imports ids, the AEAD seam and the window's size.
//!
//! The phase is the upper part of the packet number, so nothing on the wire
//! says it twice, and no bit of it can be misread.

use std::fmt;

use crate::aead::Aead;
use crate::ids::Spi;
use crate::secret::LaneSecret;
use crate::window::{BLOCK, LAP, PACKET_NUMBERS};

/// One stretch of a lane's packet numbers, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Phase(pub u32);

impl Phase {
    /// A lane begins with it.
    pub const FIRST: Self = Self(0);

    /// The one after; `None` after the last that can be written.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(next) => Some(Self(next)),
            None => None,
        }
    }

    /// Whether `self` comes right after `other`.
    pub fn follows(self, other: Self) -> bool {
        other.next() == Some(self)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where in a packet number the phase begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhaseBits(u8);

impl PhaseBits {
    /// Of version 1 of the protocol.
    pub const PROTOCOL: Self = Self(32);

    /// Fewest: a phase is longer than the window, which has to tell its
    /// beginning from the end of the one before.
    #[allow(clippy::cast_possible_truncation)] // at most 64
    pub const MIN: u8 = LAP.trailing_zeros() as u8 + 1;

    /// Phases of 2^`bits` numbers, from 2^[`Self::MIN`] to the protocol's 2^32:
    /// for tests and simulations. `None` outside.
    pub const fn new(bits: u8) -> Option<Self> {
        match bits >= Self::MIN && bits <= Self::PROTOCOL.0 {
            true => Some(Self(bits)),
            false => None,
        }
    }

    /// Packet numbers of a phase.
    pub const fn numbers(self) -> u64 {
        1 << self.0
    }

    /// Whether a packet number belongs to `phase`.
    #[inline]
    pub fn holds(self, phase: Phase, packet_number: u64) -> bool {
        packet_number >> self.0 == u64::from(phase.0)
    }

    /// The phase of a packet number.
    #[inline]
    pub fn phase_of(self, packet_number: u64) -> Phase {
        // Exact below the window's end (2^45); above, no lane has the phase.
        Phase(u32::try_from(packet_number >> self.0).unwrap_or(u32::MAX))
    }

    /// The number after the last one of a phase; `None` for a phase that does
    /// not fit the window whole.
    pub fn end_of(self, phase: Phase) -> Option<u64> {
        let end = (u64::from(phase.0) + 1) * self.numbers();
        (end <= PACKET_NUMBERS).then_some(end)
    }

    /// The number that a sender goes on with in `phase` when `next` would have
    /// been its next in the one before: the block after, at the same place of
    /// the window's lap. So what is late of the old phase still finds its
    /// slots in the window, as it would have without the jump.
    pub fn entry(self, phase: Phase, next: u64) -> u64 {
        u64::from(phase.0) << self.0 | next.next_multiple_of(BLOCK) & (LAP - 1)
    }
}

/// The key of one lane in one phase, its schedule built.
pub(crate) struct PhaseKey<A: Aead> {
    pub(crate) key: A::Key,
    pub(crate) iv: [u8; 12],
    pub(crate) phase: Phase,
}

impl<A: Aead> PhaseKey<A> {
    /// Builds the key schedule.
    pub(crate) fn new(phase: Phase, secret: &LaneSecret) -> Self {
        Self {
            key: A::key(secret),
            iv: *secret.iv(),
            phase,
        }
    }

    /// The key of the second phase, boxed, if a specification has one.
    pub(crate) fn second(secret: Option<&LaneSecret>) -> Option<Box<Self>> {
        secret.map(|secret| Box::new(Self::new(Phase(1), secret)))
    }
}

/// Why a lane did not take a phase's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StageRefused {
    /// There is no lane with this SPI any more.
    #[error("no lane with SPI {0}")]
    NoLane(Spi),
    /// It is not the next one, or it was staged before.
    #[error("phase {0} is not the one to stage next")]
    OutOfTurn(Phase),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_belong_to_one_phase() {
        for bits in [PhaseBits::new(PhaseBits::MIN).unwrap(), PhaseBits::PROTOCOL] {
            for phase in [0, 1, 2, 7].map(Phase) {
                let end = bits.end_of(phase).unwrap();
                let first = bits.entry(phase, 0);
                for number in [first, end - 1] {
                    assert_eq!(bits.phase_of(number), phase);
                    assert!(bits.holds(phase, number));
                    assert!(!bits.holds(Phase(phase.0 + 1), number));
                }
                assert!(!bits.holds(phase, end));
            }
            assert_ne!(bits.phase_of(u64::MAX), Phase::FIRST);
        }
        assert!(PhaseBits::new(PhaseBits::MIN - 1).is_none());
        assert!(PhaseBits::new(33).is_none());
    }

    #[test]
    fn a_phase_is_entered_at_the_next_block_of_the_lap() {
        let bits = PhaseBits::PROTOCOL;
        assert_eq!(bits.entry(Phase(1), 5), (1 << 32) + 32);
        assert_eq!(bits.entry(Phase(3), 3 * LAP + 64), (3 << 32) + 64);
        assert_eq!(bits.entry(Phase(1), LAP - 1), 1 << 32, "the lap is over");
        assert_eq!(bits.entry(Phase(1), 1 << 32), 1 << 32, "spent to the end");
        let small = PhaseBits::new(PhaseBits::MIN).unwrap();
        assert_eq!(small.phase_of(small.entry(Phase(1), LAP - 1)), Phase(1));
    }

    #[test]
    fn the_last_phase_ends_with_the_window() {
        let last = u32::try_from(PACKET_NUMBERS >> 32).unwrap() - 1;
        assert_eq!(
            PhaseBits::PROTOCOL.end_of(Phase(last)),
            Some(PACKET_NUMBERS)
        );
        assert_eq!(PhaseBits::PROTOCOL.end_of(Phase(last + 1)), None);
    }
}
