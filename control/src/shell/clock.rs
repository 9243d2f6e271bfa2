//! The machine's time and randomness, from the kernel.

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

use crate::time::{Instant, Random};

/// Now, on the boot-time clock: it goes on during suspend and nobody sets it.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Instant::since_boot(Duration::new(seconds, nanoseconds))
}

/// The kernel's random number generator.
#[derive(Clone, Copy, Default, Debug)]
pub struct OsRandom;

impl Random for OsRandom {
    /// # Panics
    /// If the kernel gives no random bytes. It has given some before this is
    /// first called (`check`), and going on without would reuse secrets.
    fn fill(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            match getrandom(&mut *bytes, GetRandomFlags::empty()) {
                Ok(filled) => bytes = &mut bytes[filled..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("the kernel gives no random bytes: {error}"),
            }
        }
    }
}

impl OsRandom {
    /// Whether there is randomness at all (getrandom may be filtered).
    ///
    /// # Errors
    /// The kernel's.
    pub fn check() -> std::io::Result<()> {
        getrandom(&mut [0u8; 8], GetRandomFlags::empty())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_bytes_differ() {
        let first = now();
        assert!(now() >= first);
        let (mut a, mut b) = ([0; 300], [0; 300]);
        OsRandom.fill(&mut a);
        OsRandom.fill(&mut b);
        assert_ne!(a, b);
    }
}
