//! Token bucket: how often something may happen.

use std::time::Duration;

use crate::time::Instant;

/// Allows `burst` at once and one per `interval` in the long run (GCRA).
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    interval: Duration,
    burst: u32,
    /// When the bucket would be full again, had nothing more been taken.
    full_at: Instant,
}

// One that has been full for a while is as good as one that is full just now.
#[cfg(feature = "sim")]
impl super::digest::Part for Bucket {
    fn put(&self, into: &mut super::digest::Digester) {
        let Self {
            interval: _,
            burst: _,
            full_at,
        } = self;
        into.moment_within(*full_at, Duration::ZERO);
    }
}

impl Bucket {
    pub(super) const fn new(interval: Duration, burst: u32) -> Self {
        Self {
            interval,
            burst,
            full_at: Instant::since_boot(Duration::ZERO),
        }
    }

    /// Takes one token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let allowed = full_at.since(now) <= self.interval * self.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut bucket = Bucket::new(Duration::from_millis(100), 10);
        let mut now = Instant::since_boot(Duration::from_secs(5));
        assert_eq!((0..20).filter(|_| bucket.take(now)).count(), 10);
        now = now + Duration::from_millis(100);
        assert!(bucket.take(now));
        assert!(!bucket.take(now));
        now = now + Duration::from_secs(60);
        assert_eq!(
            (0..20).filter(|_| bucket.take(now)).count(),
            10,
            "no more than the burst"
        );
    }
}
