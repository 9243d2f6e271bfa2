//! Where every submitted frame went: the arithmetic. Pure; imports nothing.
//!
//! Who loses a frame counts it, and sometimes the next layer counts it again:
//! a frame that finds no place at the other end of a veth pair is lost for the
//! socket (EBUSY) and dropped for the device. A book therefore names the first
//! that knows the reason, and takes from a device only what exceeds that.

use std::collections::BTreeMap;

/// One reading of everything that counts frames between sender and receiver,
/// since the sample began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Book {
    /// Frames that the sender started with.
    pub(super) submitted: u64,
    /// Frames that reached the receiver's end.
    pub(super) delivered: u64,
    /// Frames lost, by reason.
    pub(super) losses: BTreeMap<String, u64>,
}

impl Book {
    /// Enters a loss; none is no entry.
    pub(super) fn lose(&mut self, reason: impl Into<String>, frames: u64) {
        if frames > 0 {
            *self.losses.entry(reason.into()).or_default() += frames;
        }
    }

    /// Enters what a device dropped beyond the frames whose loss is entered
    /// already under the `known` reasons.
    pub(super) fn lose_beyond(&mut self, reason: &str, dropped: u64, known: &[&str]) {
        let entered: u64 = known.iter().filter_map(|&k| self.losses.get(k)).sum();
        self.lose(reason, dropped.saturating_sub(entered));
    }

    /// Enters all of another reading.
    pub(super) fn add(&mut self, other: Self) {
        self.submitted += other.submitted;
        self.delivered += other.delivered;
        for (reason, frames) in other.losses {
            self.lose(reason, frames);
        }
    }

    /// Frames that nothing explains: submitted − delivered − lost.
    pub(super) fn unaccounted(&self) -> i64 {
        let explained = self.delivered + self.losses.values().sum::<u64>();
        let difference = i128::from(self.submitted) - i128::from(explained);
        i64::try_from(difference).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_are_one_in_which_nothing_got_lost() {
        let mut all = book(10, 6);
        all.lose("late", 3);
        let mut other = book(5, 1);
        other.lose("late", 2);
        other.lose("full", 2);
        all.add(other);
        assert_eq!((all.submitted, all.delivered), (15, 7));
        assert_eq!((all.losses["late"], all.losses["full"]), (5, 2));
        assert_eq!(all.unaccounted(), 1);
    }

    fn book(submitted: u64, delivered: u64) -> Book {
        Book {
            submitted,
            delivered,
            ..Book::default()
        }
    }

    #[test]
    fn what_is_not_delivered_must_be_lost() {
        let mut book = book(100, 90);
        assert_eq!(book.unaccounted(), 10);
        book.lose("rx ring full", 7);
        book.lose("nothing", 0);
        book.lose("rx ring full", 2);
        assert_eq!((book.unaccounted(), book.losses.len()), (1, 1));
        book.lose("rx ring full", 2);
        assert_eq!(
            book.unaccounted(),
            -1,
            "too many explanations are wrong too"
        );
    }

    #[test]
    fn a_device_adds_only_what_nobody_entered_before() {
        let mut book = book(100, 80);
        book.lose("socket", 15);
        book.lose_beyond("device", 15, &["socket", "absent"]);
        assert!(!book.losses.contains_key("device"));
        book.lose_beyond("device", 20, &["socket"]);
        assert_eq!((book.losses["device"], book.unaccounted()), (5, 0));
        book.lose_beyond("late", 3, &["socket", "device"]);
        assert!(!book.losses.contains_key("late"), "fewer than are known");
    }
}
