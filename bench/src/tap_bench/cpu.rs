//! How busy cores are, from /proc/stat. Imports `error`, `proc_stat`.

use std::time::Instant;

use crate::error::{Error, Result};
use crate::proc_stat::{self, TICK};

/// A reading of two cores, or of one if they are the same.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    at: Instant,
    busy_ticks: u64,
}

impl Reading {
    /// Reads now.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Unreadable`].
    pub(super) fn take(cores: [usize; 2]) -> Result<Self> {
        let text = proc_stat::read()?;
        let [near, far] = cores;
        let mut busy_ticks = busy_ticks(&text, near)?;
        if near != far {
            busy_ticks += self::busy_ticks(&text, far)?;
        }
        Ok(Self {
            at: Instant::now(),
            busy_ticks,
        })
    }

    /// Core-seconds of work a second since `earlier`: 2 if both never rested.
    pub(super) fn busy_cores_since(&self, earlier: &Self) -> f64 {
        let seconds = (self.at - earlier.at).as_secs_f64();
        let ticks = self.busy_ticks.saturating_sub(earlier.busy_ticks);
        ticks as f64 * TICK.as_secs_f64() / seconds.max(TICK.as_secs_f64())
    }
}

/// Ticks that a core has spent on anything: user, nice, system, irq, softirq.
/// Not idle, waiting for disks, or taken by the hypervisor; guests are in user.
fn busy_ticks(text: &str, core: usize) -> Result<u64> {
    let name = format!("cpu{core}");
    let unreadable = || Error::Unreadable {
        what: "/proc/stat".into(),
        detail: format!("no line {name} with seven numbers"),
    };
    let numbers = proc_stat::ticks(text, &name).ok_or_else(unreadable)?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = numbers[..] else {
        return Err(unreadable());
    };
    Ok(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const STAT: &str = "cpu  9 9 9 9 9 9 9 9 9 9\n\
        cpu0 100 20 30 4000 500 6 7 80 0 0\n\
        cpu1 1 2 3 4 5 6 7 8 9 10\n\
        cpu10 7 7 7 7 7 7 7 7 0 0\nintr 1 2 3\n";

    #[test]
    fn idle_and_stolen_time_is_not_work() {
        assert_eq!(busy_ticks(STAT, 0).unwrap(), 100 + 20 + 30 + 6 + 7);
        assert_eq!(busy_ticks(STAT, 1).unwrap(), 1 + 2 + 3 + 6 + 7);
        assert_eq!(busy_ticks(STAT, 10).unwrap(), 35);
        assert!(busy_ticks(STAT, 2).is_err());
        assert!(busy_ticks("cpu0 1 2 3 x 5 6 7", 0).is_err());
    }

    #[test]
    fn work_is_counted_by_the_second() {
        let start = Instant::now();
        let reading = |seconds, busy_ticks| Reading {
            at: start + Duration::from_secs(seconds),
            busy_ticks,
        };
        let (before, after) = (reading(1, 1000), reading(3, 1300));
        assert!((after.busy_cores_since(&before) - 1.5).abs() < 1e-9);
        assert_eq!(before.busy_cores_since(&before), 0.0);
    }

    #[test]
    fn this_machine_is_read() {
        let core = crate::machine::cores().unwrap()[0];
        let first = Reading::take([core, core]).unwrap();
        assert!(first.busy_ticks > 0);
    }
}
