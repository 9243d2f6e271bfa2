//! CPU time of cores and of threads. Imports `error`, `proc_stat`.
//!
//! Cores: wall time less what /proc/stat counts as idle or waiting for IO, so
//! that system calls, softirqs and kernel threads are in it, whoever they are
//! charged to. /proc/stat ticks every 10 ms. A core's time holds everything
//! that ran there, also what has nothing to do with the benchmark.
//!
//! Threads: what the scheduler charged to them, in ns, with the softirqs that
//! ran on top of them; not what ran on top of others.

use std::fs;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::proc_stat::{self, TICK};

/// Time that cores did nothing since boot.
///
/// # Errors
/// [`Error::Io`], [`Error::Unreadable`] if a core is not there.
pub(super) fn idle(cores: &[usize]) -> Result<Duration> {
    let text = proc_stat::read()?;
    let ticks = cores.iter().map(|&core| {
        idle_ticks(&text, core).ok_or_else(|| Error::Unreadable {
            what: "/proc/stat".into(),
            detail: format!("no idle time of core {core}"),
        })
    });
    let ticks: u64 = ticks.sum::<Result<u64>>()?;
    Ok(TICK * u32::try_from(ticks).unwrap_or(u32::MAX))
}

/// Fields four and five of the core's line: idle and iowait.
fn idle_ticks(stat: &str, core: usize) -> Option<u64> {
    match proc_stat::ticks(stat, &format!("cpu{core}"))?[..] {
        [_, _, _, idle, iowait, ..] => Some(idle + iowait),
        _ => None,
    }
}

/// Time that a thread, ours or the kernel's, ran since it started.
///
/// # Errors
/// [`Error::Io`] if it has ended, [`Error::Unreadable`].
pub(super) fn of_thread(thread: i32) -> Result<Duration> {
    let path = format!("/proc/{thread}/schedstat");
    let text = fs::read_to_string(&path).map_err(Error::io(format!("read {path}")))?;
    let ns = text
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok());
    ns.map(Duration::from_nanos).ok_or(Error::Unreadable {
        what: path,
        detail: text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_field_four_and_five_of_the_right_core() {
        let stat = "cpu  1 2 3 99 99 6 7 8 9 10\n\
                    cpu1 1 2 3 40 5 6 7 8 9 10\n\
                    cpu11 1 2 3 70 7 6 7 8 9 10\nintr 1 2\n";
        assert_eq!(idle_ticks(stat, 1), Some(45));
        assert_eq!(idle_ticks(stat, 11), Some(77));
        assert_eq!(idle_ticks(stat, 0), None);
        assert_eq!(idle_ticks("cpu0 1 2 3\n", 0), None);
    }

    #[test]
    fn time_of_a_thread_that_works_grows() {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let before = of_thread(thread).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // The scheduler writes it down at its ticks.
        while of_thread(thread).unwrap() == before {
            assert!(std::time::Instant::now() < deadline);
        }
        assert!(of_thread(-1).is_err());
    }
}
