//! When which frame is due. Pure. Imports `clock` for the length of a second.
//!
//! Times are computed from the frame's number and never added up, so that no
//! rounding error grows. Frames a second times ns stay below 2^64 for ten
//! minutes at 16 million frames a second.

use std::time::Duration;

use super::clock::SECOND;

/// Frames in equal intervals from a start on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Schedule {
    start: u64,
    load: u64,
    frames: u64,
}

impl Schedule {
    /// `load` frames a second, at least 1, for `duration` from `start` (ns) on.
    pub(super) fn new(start: u64, load: u64, duration: Duration) -> Self {
        let load = load.max(1);
        let length = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            start,
            load,
            frames: length.saturating_mul(load) / SECOND,
        }
    }

    /// Frames in all.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    /// When frame `number`, from 0, is due: the first ns at which
    /// [`Self::due`] counts it.
    pub(super) fn at(&self, number: u64) -> u64 {
        self.start + number.saturating_mul(SECOND).div_ceil(self.load)
    }

    /// When the frame after the last would be due.
    pub(super) fn end(&self) -> u64 {
        self.at(self.frames)
    }

    /// How many frames are due by `now`.
    pub(super) fn due(&self, now: u64) -> u64 {
        match now.checked_sub(self.start) {
            None => 0,
            Some(elapsed) => {
                let passed = elapsed.saturating_mul(self.load) / SECOND + 1;
                passed.min(self.frames)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_due_at_its_time_and_not_before() {
        for load in [1, 3, 7, 1_000, 612_345, 999_999_937, 16_000_000] {
            let schedule = Schedule::new(5_000, load, Duration::from_secs(600));
            let last = schedule.frames() - 1;
            for number in [0, 1, 2, 3, 1_000, last / 3, last] {
                if number <= last {
                    let at = schedule.at(number);
                    assert!(schedule.due(at) > number, "{load}: {number}");
                    assert!(schedule.due(at - 1) <= number, "{load}: {number}");
                }
            }
        }
    }

    #[test]
    fn intervals_do_not_drift_and_the_end_ends_it() {
        let schedule = Schedule::new(0, 3, Duration::from_secs(10));
        assert_eq!(schedule.frames(), 30);
        assert_eq!((schedule.at(3), schedule.at(30)), (SECOND, 10 * SECOND));
        assert_eq!(schedule.at(1), 333_333_334, "not before a third");
        assert_eq!((schedule.end(), schedule.due(u64::MAX)), (10 * SECOND, 30));
        let later = Schedule::new(9, 3, Duration::ZERO);
        assert_eq!((later.frames(), later.due(8), later.due(9)), (0, 0, 0));
    }
}
