//! Which SPIs are free: an index with a generation, rested before reuse.

use std::collections::VecDeque;
use std::time::Duration;

use tipsec_dataplane::ids::Spi;
use tipsec_xdp::wire::SPI_GENERATION_MAX;

use crate::time::{Instant, Random};

/// A removed SPI's index is not issued again for this long, so that no frame
/// under way can meet a successor.
const REST: Duration = Duration::from_secs(60);

/// Free SPIs, in the order in which they will be issued.
pub(super) struct SpiPool {
    free: VecDeque<Spi>,
    resting: VecDeque<(Instant, Spi)>,
}

impl SpiPool {
    /// `slots` indexes, all free. The generation and the first index are
    /// random: a process that starts again does not issue its predecessor's
    /// SPIs, but once in 2^28 times.
    pub(super) fn new(slots: u32, random: &mut dyn Random) -> Self {
        #[allow(clippy::cast_possible_truncation)]
        let generation = random.next_u64() as u32 & SPI_GENERATION_MAX;
        // Index 0 stays unused, so that no generation can make an SPI of 0.
        let mut free: VecDeque<Spi> = (1..slots)
            .filter_map(|index| Spi::from_parts(index, generation))
            .collect();
        if !free.is_empty() {
            let first = random.next_u64() % free.len() as u64;
            #[allow(clippy::cast_possible_truncation)] // less than a length
            free.rotate_left(first as usize);
        }
        Self {
            free,
            resting: VecDeque::new(),
        }
    }

    /// Takes `count` SPIs, or none if there are fewer.
    pub(super) fn allocate(&mut self, count: usize, now: Instant) -> Option<Vec<Spi>> {
        while let Some(&(since, spi)) = self.resting.front()
            && now.since(since) >= REST
        {
            self.resting.pop_front();
            self.free.extend(next_generation(spi));
        }
        (self.free.len() >= count).then(|| self.free.drain(..count).collect())
    }

    /// Takes back SPIs that no worker and no map knows any more.
    pub(super) fn rest(&mut self, spis: Vec<Spi>, now: Instant) {
        self.resting.extend(spis.into_iter().map(|spi| (now, spi)));
    }

    /// Takes back SPIs that were never installed.
    pub(super) fn unused(&mut self, spis: Vec<Spi>) {
        self.free.extend(spis);
    }
}

fn next_generation(spi: Spi) -> Option<Spi> {
    let index = tipsec_xdp::wire::spi_index(spi.value());
    let generation = tipsec_xdp::wire::spi_generation(spi.value()).wrapping_add(1);
    Spi::from_parts(index, generation & SPI_GENERATION_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ones;
    impl Random for Ones {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(0xff);
        }
    }

    #[test]
    fn indexes_rest_and_return_with_another_generation() {
        let mut pool = SpiPool::new(4, &mut Ones);
        let start = Instant::default();
        let first = pool.allocate(3, start).unwrap();
        assert!(pool.allocate(1, start).is_none());
        pool.rest(first.clone(), start);
        assert!(pool.allocate(1, start + REST / 2).is_none());
        let second = pool.allocate(3, start + REST).unwrap();
        for (old, new) in first.iter().zip(&second) {
            assert_eq!(old.index(), new.index());
            assert_ne!(old, new);
        }
    }
}
