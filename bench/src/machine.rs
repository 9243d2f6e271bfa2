//! The machine that a benchmark runs on, and when. Imports `results`.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{Error, Result};
use crate::results::Machine;

/// Looks at the machine.
///
/// # Errors
/// [`Error::Io`] if /proc is not there.
pub fn look() -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).map_err(Error::io(format!("read {path}")));
    let cpuinfo = read("/proc/cpuinfo")?;
    let flags = value(&cpuinfo, "flags").unwrap_or_default();
    let memory = read("/proc/meminfo")?;
    let memory_kib = value(&memory, "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    Ok(Machine {
        cpu: value(&cpuinfo, "model name")
            .unwrap_or("unknown")
            .to_owned(),
        cores: cores()?.len(),
        kernel: rustix::system::uname().release().to_string_lossy().into(),
        virtualised: flags.split_whitespace().any(|flag| flag == "hypervisor"),
        memory_bytes: memory_kib * 1024,
    })
}

/// Cores that this process may run on, by their numbers.
///
/// # Errors
/// [`Error::Io`].
pub fn cores() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).map_err(Error::errno("ask for the allowed cores"))?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&core| allowed.is_set(core))
        .collect())
}

/// Does `work` on a thread of its own that stays on one core: pinning is for
/// good, and the caller's thread is to stay free.
///
/// # Errors
/// [`Error::Io`] if the core is not to be had, and those of `work`.
pub fn on_core<T: Send>(core: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut set = CpuSet::new();
            set.set(core);
            let what = format!("run on core {core}");
            sched_setaffinity(None, &set).map_err(Error::errno(what))?;
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The value of the first line `key : value`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then(|| value.trim())
    })
}

/// Now, as RFC 3339 in UTC to the second.
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    rfc_3339(since.map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970 as RFC 3339, by the proleptic Gregorian calendar.
fn rfc_3339(seconds: u64) -> String {
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let day = days + 1;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        // Values from `date -u -d @…`.
        assert_eq!(rfc_3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc_3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc_3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc_3339(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(rfc_3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn this_machine_is_seen() {
        let machine = look().unwrap();
        assert!(machine.cores > 0 && machine.memory_bytes > 0, "{machine:?}");
        assert!(!machine.kernel.is_empty());
    }

    #[test]
    fn values_are_found_by_their_whole_key() {
        let text = "model\t: 7\nmodel name\t: A: B\n";
        assert_eq!(value(text, "model name"), Some("A: B"));
        assert_eq!(value(text, "name"), None);
    }
}
