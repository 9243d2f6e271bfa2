//! Packet numbers seen on the wire, a bit each: a number twice on one lane is a
//! nonce twice under one key. Pure. Imports nothing here.

use std::collections::HashMap;

/// Packet numbers to a page.
const PAGE_NUMBERS: u64 = 4096;
const PAGE_WORDS: usize = (PAGE_NUMBERS / 64) as usize;

/// A lane as the wire shows it, while the processes at its ends live.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LaneSeen {
    /// Who seals.
    pub source: [u8; 6],
    /// Who opens and has chosen the SPI.
    pub destination: [u8; 6],
    /// The SPI.
    pub spi: u32,
}

/// What [`Numbers::record`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A number not seen before.
    New,
    /// The lane has sent this number before.
    Repeated,
    /// Memory is full; the number is neither kept nor checked.
    NoRoom,
}

/// The set, of bounded size.
#[derive(Debug)]
pub struct Numbers {
    pages: HashMap<(LaneSeen, u64), Box<[u64; PAGE_WORDS]>>,
    pages_max: usize,
}

impl Numbers {
    /// Holds up to `pages_max` pages: 512 bytes and 4096 numbers each.
    pub fn new(pages_max: usize) -> Self {
        Self {
            pages: HashMap::new(),
            pages_max,
        }
    }

    /// Notes a number.
    pub fn record(&mut self, lane: LaneSeen, packet_number: u64) -> Found {
        let key = (lane, packet_number / PAGE_NUMBERS);
        let full = self.pages.len() >= self.pages_max;
        if full && !self.pages.contains_key(&key) {
            return Found::NoRoom;
        }
        let page = self
            .pages
            .entry(key)
            .or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let at = packet_number % PAGE_NUMBERS;
        let (word, bit) = ((at / 64) as usize, 1u64 << (at % 64));
        if page[word] & bit != 0 {
            return Found::Repeated;
        }
        page[word] |= bit;
        Found::New
    }

    /// Forgets the lanes of a node whose process has died: its successor, and
    /// its peers towards it, start new SAs and may choose the same SPIs.
    pub fn forget(&mut self, address: [u8; 6]) {
        self.pages
            .retain(|(lane, _), _| lane.source != address && lane.destination != address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneSeen = LaneSeen {
        source: [2, 0, 0, 0, 0, 1],
        destination: [2, 0, 0, 0, 0, 2],
        spi: 7,
    };

    #[test]
    fn a_number_twice_on_a_lane_is_found() {
        let mut numbers = Numbers::new(100);
        for number in (0..10_000).chain([u64::MAX, 1 << 32]) {
            assert_eq!(numbers.record(LANE, number), Found::New, "{number}");
        }
        for number in [0, 4095, 4096, 9999, u64::MAX, 1 << 32] {
            assert_eq!(numbers.record(LANE, number), Found::Repeated, "{number}");
        }
        let other = LaneSeen { spi: 8, ..LANE };
        assert_eq!(numbers.record(other, 0), Found::New);
    }

    #[test]
    fn memory_is_bounded() {
        let mut numbers = Numbers::new(2);
        assert_eq!(numbers.record(LANE, 0), Found::New);
        assert_eq!(numbers.record(LANE, 5000), Found::New);
        assert_eq!(numbers.record(LANE, 9000), Found::NoRoom);
        assert_eq!(numbers.record(LANE, 1), Found::New, "its page is there");
    }

    #[test]
    fn lanes_of_a_dead_process_are_forgotten() {
        let mut numbers = Numbers::new(10);
        numbers.record(LANE, 1);
        numbers.forget([2, 0, 0, 0, 0, 9]);
        assert_eq!(numbers.record(LANE, 1), Found::Repeated);
        numbers.forget(LANE.destination);
        assert_eq!(numbers.record(LANE, 1), Found::New);
    }
}
