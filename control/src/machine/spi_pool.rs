//! Which SPIs are free: an index with a generation, rested before reuse.

use std::collections::VecDeque;
use std::time::Duration;

use tipsec_dataplane::ids::Spi;
use tipsec_xdp::wire::SPI_GENERATION_MAX;

use crate::time::{Instant, Random};

/// A removed SPI's index is not issued again for this long, so that no frame
/// under way can meet a successor.
const REST: Duration = Duration::from_secs(60);

/// This part of all SPIs is for those whom the node knows.
const RESERVED_PART: usize = 4;

/// For whom SPIs are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rank {
    /// An exchange that builds on an earlier one with the same peer.
    Known,
    /// Another: any member can start as many as it likes, in names that it invents.
    Stranger,
}

/// Free SPIs, in the order in which they will be issued.
pub(super) struct SpiPool {
    /// What strangers leave.
    reserved: usize,
    free: VecDeque<Spi>,
    resting: VecDeque<(Instant, Spi)>,
}

#[cfg(feature = "sim")]
super::digest::parts!(SpiPool: free, resting; not reserved);

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
            reserved: free.len() / RESERVED_PART,
            free,
            resting: VecDeque::new(),
        }
    }

    /// Takes `count` SPIs, or none if there are fewer for such a peer.
    pub(super) fn allocate(&mut self, count: usize, rank: Rank, now: Instant) -> Option<Vec<Spi>> {
        while let Some(&(since, spi)) = self.resting.front()
            && now.since(since) >= REST
        {
            self.resting.pop_front();
            self.free.extend(next_generation(spi));
        }
        let left = match rank {
            Rank::Known => 0,
            Rank::Stranger => self.reserved,
        };
        let is_enough = self.free.len() >= count.saturating_add(left);
        is_enough.then(|| self.free.drain(..count).collect())
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
        let first = pool.allocate(3, Rank::Known, start).unwrap();
        assert!(pool.allocate(1, Rank::Known, start).is_none());
        pool.rest(first.clone(), start);
        assert!(pool.allocate(1, Rank::Known, start + REST / 2).is_none());
        let second = pool.allocate(3, Rank::Known, start + REST).unwrap();
        for (old, new) in first.iter().zip(&second) {
            assert_eq!(old.index(), new.index());
            assert_ne!(old, new);
        }
    }

    #[test]
    fn strangers_leave_a_quarter() {
        let mut pool = SpiPool::new(101, &mut Ones);
        let now = Instant::default();
        assert!(pool.allocate(76, Rank::Stranger, now).is_none());
        assert!(pool.allocate(75, Rank::Stranger, now).is_some());
        assert!(pool.allocate(1, Rank::Stranger, now).is_none());
        assert!(pool.allocate(25, Rank::Known, now).is_some());
        assert!(pool.allocate(1, Rank::Known, now).is_none());
    }
}
