//! Time and randomness as arguments: the machine owns neither a clock nor an
//! RNG, so a test can run it on a virtual clock from one seed.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A moment on the boot-time clock (`CLOCK_BOOTTIME`), never the wall clock:
/// an operator who sets the date must not end a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(Duration);

impl Instant {
    /// The moment this long after boot.
    pub const fn since_boot(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// Time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Time since boot.
    pub const fn elapsed(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.0.as_secs_f64())
    }
}

/// A source of random bytes: the operating system's in the daemon, a seeded
/// generator in tests.
pub trait Random {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);

    /// A random number.
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// A duration between `low` and `high`, for jitter.
    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = high.saturating_sub(low);
        // 53 bits are all that a float holds; jitter needs no more.
        #[allow(clippy::cast_precision_loss)]
        let part = (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        low + span.mul_f64(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);
    impl Random for Fixed {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn jitter_stays_in_its_range() {
        let (low, high) = (Duration::from_millis(900), Duration::from_millis(1000));
        assert_eq!(Fixed(0).between(low, high), low);
        let top = Fixed(0xff).between(low, high);
        assert!(top <= high && top > Duration::from_millis(999));
    }

    #[test]
    fn time_never_goes_below_zero() {
        let early = Instant::since_boot(Duration::from_secs(1));
        let late = early + Duration::from_secs(2);
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
