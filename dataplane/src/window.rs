//! The replay window: one per lane, shared by whichever workers its frames
//! reach (outer headers are not authenticated, so a replayer chooses the
//! queue, and windows per queue would be a hole). Imports `sync` alone.
//!
//! There is no head pointer: packet number `n` lives in slot `(n >> 5) % 256`
//! at bit `n % 32`, and a slot remembers in its upper half which of the blocks
//! that map to it the lower half describes: the *generation* `n >> 13`. Slots
//! only move forward, each by its own compare-and-swap, so a number is
//! committed at most once whatever the threads do: two commits of one number
//! meet in one word, and a word that has moved on refuses whatever is older.
//!
//! A generation of 32 bits counts exactly 2^45 packet numbers. Numbers from
//! [`PACKET_NUMBERS`] on are refused outright by receivers and never given out
//! by senders: nothing is truncated, so no old number can come round again
//! (docs/adr, "Replay window without a head").

use crate::sync::{AtomicU64, Ordering};

/// Slots of a window.
const SLOTS: usize = 256;
/// log2 of the packet numbers that one slot describes at a time.
const BLOCK_BITS: u32 = 5;
/// log2 of the packet numbers that all slots describe at a time.
const LAP_BITS: u32 = BLOCK_BITS + SLOTS.trailing_zeros();

/// Packet numbers that share a slot of a window.
pub const BLOCK: u64 = 1 << BLOCK_BITS;

/// Packet numbers after which a window's slots come round again.
pub const LAP: u64 = 1 << LAP_BITS;

/// Packet numbers that an SA's lane may use: `0..PACKET_NUMBERS`.
pub const PACKET_NUMBERS: u64 = 1 << (LAP_BITS + 32);

/// Numbers up to this much older than the newest are told apart; what is older
/// than 31 more is always refused once its slot has moved on.
pub const WINDOW_DEPTH: u64 = ((SLOTS as u64) - 1) << BLOCK_BITS;

/// Which packet numbers of a lane have been seen: 2 KiB.
pub struct Window {
    slots: [AtomicU64; SLOTS],
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

/// Packet numbers that share a slot, 32 of them: what one compare-and-swap
/// marks. A burst in order needs two or three instead of 64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    slot: u8,
    /// In the upper half, as in a slot's value.
    generation: u64,
}

impl Block {
    /// The block of a packet number and the number's bit in its masks; `None`
    /// for a number that no lane may use.
    #[inline]
    pub fn of(packet_number: u64) -> Option<(Self, u32)> {
        if packet_number >= PACKET_NUMBERS {
            return None;
        }
        let block = Self {
            #[allow(clippy::cast_possible_truncation)] // 256 slots
            slot: (packet_number >> BLOCK_BITS) as u8,
            generation: packet_number >> LAP_BITS << 32,
        };
        Some((block, 1 << (packet_number % (1 << BLOCK_BITS))))
    }

    /// The first number of the block's lap, of [`LAP`] numbers. A phase begins
    /// and ends with a lap, so this number's phase is that of the block's.
    #[inline]
    pub fn lap_start(self) -> u64 {
        self.generation >> 32 << LAP_BITS
    }

    /// Those bits of `mask` that a slot of this value does not show as seen,
    /// nor as too old.
    #[inline]
    fn fresh(self, value: u64, mask: u32) -> u32 {
        let generation = value & !u64::from(u32::MAX);
        #[allow(clippy::cast_possible_truncation)] // the lower half
        let seen = value as u32;
        if generation == self.generation {
            mask & !seen
        } else if generation < self.generation {
            mask
        } else {
            0
        }
    }

    /// The slot's value with `mask` marked, given that some of it is fresh.
    #[inline]
    fn marked(self, value: u64, mask: u32) -> u64 {
        let generation = value & !u64::from(u32::MAX);
        let seen = if generation == self.generation {
            value
        } else {
            self.generation
        };
        seen | u64::from(mask)
    }
}

impl Window {
    /// A window in which nothing was seen.
    pub fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Whether `packet_number` could still be committed: read before the frame
    /// is opened, to save the work. Changes nothing.
    #[inline]
    pub fn check(&self, packet_number: u64) -> bool {
        // Relaxed here and in `commit_block`: every decision is about one word,
        // which has a total order of changes of its own; nothing else is
        // published.
        Block::of(packet_number).is_some_and(|(block, bit)| {
            let value = self.slots[usize::from(block.slot)].load(Ordering::Relaxed);
            block.fresh(value, bit) != 0
        })
    }

    /// Starts to load what [`Self::check`] looks at into the cache.
    #[inline]
    pub fn prefetch(&self, packet_number: u64) {
        if let Some((block, _)) = Block::of(packet_number) {
            crate::sys::prefetch(&self.slots[usize::from(block.slot)]);
        }
    }

    /// Marks `packet_number` as seen; call only after its frame has opened, or
    /// one forged frame could move the window. False for a duplicate and for a
    /// number that is too old: then the frame must not be delivered.
    #[inline]
    #[must_use]
    pub fn commit(&self, packet_number: u64) -> bool {
        Block::of(packet_number).is_some_and(|(block, bit)| self.commit_block(block, bit) != 0)
    }

    /// [`Self::commit`] for several numbers of one block at once, a bit each;
    /// returns those that were neither seen before nor too old.
    #[inline]
    #[must_use]
    pub fn commit_block(&self, block: Block, mask: u32) -> u32 {
        let slot = &self.slots[usize::from(block.slot)];
        let mut value = slot.load(Ordering::Relaxed);
        loop {
            let fresh = block.fresh(value, mask);
            if fresh == 0 {
                return 0;
            }
            let marked = block.marked(value, mask);
            match slot.compare_exchange_weak(value, marked, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return fresh,
                Err(now) => value = now,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// The window's meaning without its encoding: a number is fresh if it was
    /// not seen and no later block of its slot was.
    #[derive(Default)]
    struct Model {
        seen: HashSet<u64>,
    }

    impl Model {
        fn check(&self, n: u64) -> bool {
            n < PACKET_NUMBERS
                && !self.seen.contains(&n)
                && !self
                    .seen
                    .iter()
                    .any(|&m| m >> 5 > n >> 5 && (m >> 5) % 256 == (n >> 5) % 256)
        }

        fn commit(&mut self, n: u64) -> bool {
            self.check(n) && self.seen.insert(n)
        }
    }

    /// Numbers near one another, near the ends of every field, and anywhere.
    fn numbers() -> impl Strategy<Value = u64> {
        let base = prop_oneof![
            Just(0),
            Just(1 << 13),
            Just(1 << 32),
            Just(1 << 37),
            Just(PACKET_NUMBERS - 20_000),
            Just(u64::MAX - 20_000),
        ];
        prop_oneof![
            4 => (base, 0u64..20_000).prop_map(|(base, n)| base + n),
            1 => any::<u64>(),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_model(numbers in prop::collection::vec(numbers(), 1..400)) {
            let window = Window::new();
            let mut model = Model::default();
            for n in numbers {
                prop_assert_eq!(window.check(n), model.check(n), "check {}", n);
                prop_assert_eq!(window.commit(n), model.commit(n), "commit {}", n);
            }
        }
    }

    proptest! {
        #[test]
        fn numbers_of_a_block_at_once_are_as_one_by_one(
            blocks in prop::collection::vec((0u64..1200, any::<u32>()), 1..200)
        ) {
            let (window, single) = (Window::new(), Window::new());
            for (number, mask) in blocks {
                let first = number << 5;
                let (block, _) = Block::of(first).unwrap();
                let one_by_one = (0..32)
                    .filter(|bit| mask >> bit & 1 != 0 && single.commit(first + bit))
                    .fold(0, |fresh, bit| fresh | 1 << bit);
                prop_assert_eq!(window.commit_block(block, mask), one_by_one);
            }
        }
    }

    #[test]
    fn depth_is_exact() {
        assert_eq!(WINDOW_DEPTH, 8160);
        for newest in [20_000u64, 20_000 / 32 * 32, 20_000 / 32 * 32 + 31] {
            let depth = 8160 + newest % 32;
            let window = Window::new();
            // Everything before, but for two numbers at the edge.
            let (inside, outside) = (newest - depth, newest - depth - 1);
            for n in (0..=newest).filter(|n| ![inside, outside].contains(n)) {
                assert!(window.commit(n));
            }
            assert!(window.check(inside) && window.commit(inside));
            assert!(!window.check(outside) && !window.commit(outside));
            assert!(!window.commit(inside), "twice");
        }
    }

    #[test]
    fn numbers_at_the_end_are_not_replayable() {
        let window = Window::new();
        for n in [PACKET_NUMBERS, PACKET_NUMBERS + 1, u64::MAX - 1, u64::MAX] {
            assert!(!window.check(n) && !window.commit(n), "{n:#x}");
        }
        let last = PACKET_NUMBERS - 1;
        assert!(window.commit(last));
        assert!(!window.commit(last));
        // One lap of the generation earlier, and numbers whose truncation
        // would look newer.
        for old in [last - (1 << 13), last - (1 << 37), 8191] {
            assert!(!window.commit(old), "{old:#x}");
        }
    }

    #[test]
    fn two_threads_commit_each_number_once() {
        const NUMBERS: u64 = if cfg!(miri) { 2_000 } else { 1_000_000 };
        let window = Window::new();
        let start = std::sync::Barrier::new(2);
        let run = || {
            start.wait();
            (0..NUMBERS)
                .map(|n| u64::from(window.commit(n)))
                .sum::<u64>()
        };
        let won = std::thread::scope(|scope| {
            let other = scope.spawn(run);
            run() + other.join().unwrap()
        });
        // A thread more than a window behind loses numbers that the other has
        // committed already, so every number is won exactly once.
        assert_eq!(won, NUMBERS);
    }
}
