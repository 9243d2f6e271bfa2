//! The one clock of sender and receiver: CLOCK_MONOTONIC, which is the same on
//! all cores of a machine (clock_gettime(2); read in user space). Imports
//! nothing.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds in a second.
pub(super) const SECOND: u64 = 1_000_000_000;

/// Now, in ns since some time in the past.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative on this clock.
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * SECOND + part(now.tv_nsec)
}
