//! Which numbered datagrams arrived, and the loss that follows. Pure. Imports
//! nothing.

use std::ops::Range;
use std::time::{Duration, Instant};

/// Numbers that a [`Seen`] holds at most: 64 MiB.
const NUMBERS_MAX: u64 = 1 << 29;

/// A set of the numbers from 0 on, a bit each.
#[derive(Default, Debug)]
pub(super) struct Seen {
    words: Vec<u64>,
    /// Different numbers in it.
    pub(super) arrived: u64,
    /// Numbers that came again.
    pub(super) doubled: u64,
    /// Numbers beyond the bound, or what was no number.
    pub(super) strange: u64,
}

impl Seen {
    /// Notes a number; true if it is new.
    pub(super) fn note(&mut self, number: u64) -> bool {
        let (true, Ok(word)) = (number < NUMBERS_MAX, usize::try_from(number / 64)) else {
            self.strange += 1;
            return false;
        };
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        if self.words[word] & bit != 0 {
            self.doubled += 1;
            return false;
        }
        self.words[word] |= bit;
        self.arrived += 1;
        true
    }

    fn has(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok();
        let word = word.and_then(|at| self.words.get(at)).copied();
        word.unwrap_or(0) >> (number % 64) & 1 == 1
    }

    /// The numbers below `sent` that are missing, in runs.
    pub(super) fn gaps(&self, sent: u64) -> Vec<Range<u64>> {
        let mut gaps: Vec<Range<u64>> = Vec::new();
        for number in (0..sent).filter(|&number| !self.has(number)) {
            match gaps.last_mut() {
                Some(gap) if gap.end == number => gap.end += 1,
                _ => gaps.push(number..number + 1),
            }
        }
        gaps
    }
}

/// What became of one stream.
#[derive(Default, Debug)]
pub(super) struct Tally {
    /// Node ids: who sent, who received.
    pub(super) from: u32,
    pub(super) to: u32,
    /// Datagrams that the sender's kernel took: numbers 0 to this.
    pub(super) sent: u64,
    /// Datagrams that it did not take, for its tap was not there; without number.
    pub(super) refused: u64,
    /// Different ones that arrived.
    pub(super) arrived: u64,
    /// Datagrams that arrived again.
    pub(super) doubled: u64,
    /// Datagrams for which the receiving socket had no room.
    pub(super) socket_drops: u64,
    /// Missing numbers, in runs.
    pub(super) gaps: Vec<Range<u64>>,
    /// From which number on the sender was at what time, rising.
    pub(super) sent_at: Vec<(u64, Instant)>,
}

impl Tally {
    /// Datagrams that did not arrive.
    pub(super) fn lost(&self) -> u64 {
        self.sent - self.arrived.min(self.sent)
    }

    /// When a number was sent, to about a millisecond; never later.
    fn sent_at(&self, number: u64) -> Option<Instant> {
        let behind = self.sent_at.partition_point(|(first, _)| *first <= number);
        Some(self.sent_at.get(behind.checked_sub(1)?)?.1)
    }

    /// Lost datagrams that were sent in this time.
    pub(super) fn lost_between(&self, from: Instant, until: Instant) -> u64 {
        let inside = |number: &u64| {
            self.sent_at(*number)
                .is_some_and(|at| at >= from && at <= until)
        };
        let numbers = self.gaps.iter().cloned().flatten();
        numbers.filter(inside).count() as u64
    }
}

/// A time in which loss is expected.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// What was done.
    pub(super) what: String,
    /// When it began and ended.
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// When the last of the streams had carried a datagram again.
    pub(super) recovered: Instant,
}

/// Frames under way when harm begins, and those just before the first that
/// arrived, count to it; so long before and after.
pub(super) const SLACK: Duration = Duration::from_millis(100);

impl Window {
    /// Lost datagrams of these streams that were sent in it.
    pub(super) fn lost(&self, tallies: &[Tally]) -> u64 {
        let from = self.began.checked_sub(SLACK).unwrap_or(self.began);
        let until = self.recovered + SLACK;
        tallies.iter().map(|t| t.lost_between(from, until)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(numbers: impl IntoIterator<Item = u64>) -> Seen {
        let mut seen = Seen::default();
        for number in numbers {
            seen.note(number);
        }
        seen
    }

    #[test]
    fn gaps_are_the_missing_numbers() {
        let seen = seen([0, 1, 2, 5, 6, 63, 64, 200]);
        assert_eq!(seen.gaps(70), [3..5, 7..63, 65..70]);
        assert_eq!(seen.gaps(3), []);
        assert_eq!(Seen::default().gaps(2), vec![0..2; 1]);
    }

    #[test]
    fn doubled_and_strange_numbers_are_counted_apart() {
        let seen = seen([4, 4, u64::MAX, 4, NUMBERS_MAX]);
        assert_eq!((seen.arrived, seen.doubled, seen.strange), (1, 2, 2));
    }

    #[test]
    fn loss_belongs_to_the_harm_in_which_it_was_sent() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let tally = Tally {
            sent: 1000,
            arrived: 985,
            gaps: vec![300..310, 700..705],
            sent_at: (0..1000).map(|number| (number, at(number))).collect(),
            ..Tally::default()
        };
        let window = |began, recovered| Window {
            what: String::new(),
            began: at(began),
            ended: at(began),
            recovered: at(recovered),
        };
        let tallies = [tally];
        assert_eq!(window(250, 320).lost(&tallies), 10);
        assert_eq!(window(250, 700).lost(&tallies), 15);
        assert_eq!(window(405, 602).lost(&tallies), 8, "from 305 to 702");
        assert_eq!(window(405, 590).lost(&tallies), 5);
        assert_eq!(window(850, 900).lost(&tallies), 0);
        assert_eq!(tallies[0].lost(), 15);
    }
}
