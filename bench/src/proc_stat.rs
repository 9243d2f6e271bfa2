//! What cores did with their time, from /proc/stat (proc_stat(5)). Imports
//! `error`.

use std::fs;
use std::time::Duration;

use crate::error::{Error, Result};

/// Unit of /proc/stat: `USER_HZ`, 100 on every architecture that Linux offers
/// AF_XDP on.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// The file as it is now.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn read() -> Result<String> {
    fs::read_to_string("/proc/stat").map_err(Error::io("read /proc/stat"))
}

/// Ticks of the line of this name (`cpu`: all cores together; `cpu1`: one), in
/// the order user, nice, system, idle, iowait, irq, softirq, steal …, up to
/// what is no number; `None` if there is no such line.
pub(crate) fn ticks(stat: &str, line: &str) -> Option<Vec<u64>> {
    let mut lines = stat.lines().map(str::split_whitespace);
    let words = lines.find_map(|mut words| (words.next() == Some(line)).then_some(words))?;
    Some(words.map_while(|word| word.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let stat = "cpu  1 2\ncpu1 3 4 x 5\ncpu11 6\nintr 7\n";
        assert_eq!(ticks(stat, "cpu"), Some(vec![1, 2]));
        assert_eq!(ticks(stat, "cpu1"), Some(vec![3, 4]));
        assert_eq!(ticks(stat, "cpu11"), Some(vec![6]));
        assert_eq!(ticks(stat, "cpu2"), None);
        assert!(ticks(&read().unwrap(), "cpu").is_some_and(|all| all.len() >= 8));
    }
}
