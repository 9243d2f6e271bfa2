//! The token bucket that control frames pass: GCRA (ITU-T I.371) on one u64,
//! the theoretical arrival time in nanoseconds. Pure; imports nothing.

/// A rate and how far a burst may run ahead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    interval_ns: u64,
    tolerance_ns: u64,
}

impl Bucket {
    /// A bucket that admits `rate_per_s` frames a second in the long run and
    /// `burst` at once. Both must be at least 1 (checked when compiled).
    pub const fn new(rate_per_s: u64, burst: u64) -> Bucket {
        assert!(rate_per_s > 0 && burst > 0);
        let interval_ns = 1_000_000_000 / rate_per_s;
        Bucket {
            interval_ns,
            tolerance_ns: interval_ns * (burst - 1),
        }
    }

    /// Whether a frame at `now_ns` conforms; if so, the arrival time to store.
    /// A stored time of 0 is a full bucket.
    #[inline(always)]
    pub const fn admit(self, arrival_ns: u64, now_ns: u64) -> Option<u64> {
        if arrival_ns > now_ns.saturating_add(self.tolerance_ns) {
            return None;
        }
        let from = if arrival_ns > now_ns {
            arrival_ns
        } else {
            now_ns
        };
        Some(from.saturating_add(self.interval_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(bucket: Bucket, times_ns: impl Iterator<Item = u64>) -> usize {
        let mut arrival_ns = 0;
        let mut count = 0;
        for now_ns in times_ns {
            if let Some(next) = bucket.admit(arrival_ns, now_ns) {
                arrival_ns = next;
                count += 1;
            }
        }
        count
    }

    const START: u64 = 5_000_000_000;

    #[test]
    fn a_burst_and_not_one_more() {
        let bucket = Bucket::new(100, 100);
        assert_eq!(admitted(bucket, core::iter::repeat_n(START, 1000)), 100);
        assert_eq!(
            admitted(Bucket::new(10, 1), core::iter::repeat_n(START, 9)),
            1
        );
    }

    #[test]
    fn the_rate_in_the_long_run() {
        // 10,000 frames a second for ten seconds at 10/s: the burst of 10,
        // then one each 0.1 s, of which the hundredth would be at 10.0 s.
        let times = (0..100_000).map(|i| START + i * 100_000);
        assert_eq!(admitted(Bucket::new(10, 10), times), 109);
    }

    #[test]
    fn frames_at_the_rate_all_pass() {
        let times = (0..5000).map(|i| START + i * 2_000_000);
        assert_eq!(admitted(Bucket::new(500, 1), times), 5000);
    }

    #[test]
    fn refills_after_idling() {
        let times = core::iter::repeat_n(START, 200).chain(core::iter::repeat_n(2 * START, 200));
        assert_eq!(admitted(Bucket::new(100, 100), times), 200);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let bucket = Bucket::new(1, 10);
        assert!(bucket.admit(u64::MAX, 0).is_none());
        assert_eq!(bucket.admit(0, u64::MAX), Some(u64::MAX));
    }
}
