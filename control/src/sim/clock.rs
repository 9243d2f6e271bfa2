//! Clocks of nodes: each runs at its own rate, and may be set.

use std::time::Duration;

use crate::time::Instant;

const MILLION: u128 = 1_000_000;

/// The boot-time clock of one place, as a function of the universe's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// When it was last set, on the universe's clock.
    set_at: Instant,
    /// And what to.
    zero: Instant,
    /// How much faster it runs, in parts per million; above -1,000,000.
    drift_ppm: i32,
}

impl Clock {
    pub(super) fn new(zero: Instant, drift_ppm: i32) -> Self {
        let set_at = zero;
        Self {
            set_at,
            zero,
            drift_ppm,
        }
    }

    /// From `now` on it goes on from `shown`.
    pub(super) fn set(&mut self, now: Instant, shown: Instant) {
        (self.set_at, self.zero) = (now, shown);
    }

    fn rate(&self) -> u128 {
        u128::try_from(1_000_000 + i64::from(self.drift_ppm)).unwrap_or(1)
    }

    /// What this clock shows.
    pub(super) fn local(&self, now: Instant) -> Instant {
        let real = now.since(self.set_at).as_nanos();
        self.zero + nanos(real * self.rate() / MILLION)
    }

    /// When this clock shows `local`, or a nanosecond later.
    pub(super) fn universal(&self, local: Instant) -> Instant {
        let shown = local.since(self.zero).as_nanos();
        self.set_at + nanos((shown * MILLION).div_ceil(self.rate()))
    }
}

fn nanos(n: u128) -> Duration {
    Duration::from_nanos(u64::try_from(n).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_come_when_it_is_said_to_have() {
        let zero = Instant::since_boot(Duration::from_secs(1000));
        for drift_ppm in [0, 1, -1, 333, 10_000, -10_000] {
            let clock = Clock::new(zero, drift_ppm);
            for ns in [0, 1, 2, 999, 1_000_000, 123_456_789_012] {
                let local = zero + Duration::from_nanos(ns);
                let due = clock.universal(local);
                assert!(clock.local(due) >= local, "{drift_ppm} {ns}");
                assert!(clock.local(due).since(local) <= Duration::from_nanos(2));
            }
        }
        let mut set = Clock::new(zero, 10_000);
        let (at, day) = (zero + Duration::from_secs(7), Duration::from_hours(24));
        set.set(at, zero + day);
        assert_eq!(set.local(at), zero + day);
        let local = zero + day + Duration::from_secs(101);
        assert_eq!(set.universal(local), at + Duration::from_secs(100));
        assert_eq!(set.universal(zero), at, "what is over is due now");
        let fast = Clock::new(zero, 10_000);
        let shown = fast.local(zero + Duration::from_secs(100));
        assert_eq!(shown.since(zero), Duration::from_secs(101));
    }
}
