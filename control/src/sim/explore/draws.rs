//! Random numbers of one life of one node: the n-th draw is the same on every way
//! on which it is the n-th.

use std::time::Duration;

use crate::sim::random::Seeded;
use crate::time::Random;

/// Draws of one life.
pub(super) struct Draws {
    seed: u64,
    taken: u64,
}

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, taken: 0 }
    }

    /// How many were taken: with it, the next one is determined.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// So many were taken, after all: nobody holds what the others gave.
    pub(super) fn put_back_to(&mut self, taken: u64) {
        self.taken = taken;
    }
}

impl Random for Draws {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.taken += 1;
        let mut one = Seeded::new(self.seed.rotate_left(32) ^ self.taken);
        one.fill(bytes);
    }

    /// Jitter is always half of what it may be, and takes no draw: else two ways
    /// that differ in a retransmission would never meet again.
    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + high.saturating_sub(low) / 2
    }
}
