//! Holds single threads of a process still, from outside: threaded control
//! groups of version 2 (Linux, `Documentation/admin-guide/cgroup-v2.rst`,
//! "Threads" and `cgroup.freeze`). SIGKILL ends a frozen thread all the same.
//! Imports `error`, `wait`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::wait::{self, Look};

/// Group of a run: this, then its process id.
const PREFIX: &str = "tsec-";
/// The threaded group below it whose threads stand still.
const FROZEN: &str = "frozen";
/// A thread has to stand still by then: at its next return from the kernel.
const WITHIN: Duration = Duration::from_secs(5);

/// A group for one process, and one in it for its frozen threads. Thawed and
/// removed when dropped, once the process is gone or moved back.
pub(super) struct Freezer {
    /// Where the process came from.
    home: PathBuf,
    group: PathBuf,
    pid: u32,
}

fn write(path: &Path, text: &str) -> Result<()> {
    let what = format!("write {text:?} to {}", path.display());
    fs::write(path, text).map_err(Error::io(what))
}

/// The root of version 2, in whatever place it is mounted.
fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").map_err(Error::io("read /proc/mounts"))?;
    parse_root(&mounts).ok_or_else(|| Error::Unavailable {
        name: "a freezer of threads".into(),
        why: "no control groups of version 2 are mounted: mount -t cgroup2 none /sys/fs/cgroup"
            .into(),
    })
}

fn parse_root(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let place = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(place))
    })
}

/// The group of version 2 in a process' `/proc/…/cgroup`.
fn parse_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

impl Freezer {
    /// Moves a process into a group of its own.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without version 2; [`Error::Io`].
    pub(super) fn of(pid: u32) -> Result<Self> {
        let root = root()?;
        sweep(&root);
        let path = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&path).map_err(Error::io(format!("read {path}")))?;
        let home = root.join(parse_group(&text).unwrap_or_default());
        let group = root.join(format!("{PREFIX}{}", std::process::id()));
        let frozen = group.join(FROZEN);
        for path in [&group, &frozen] {
            let made = fs::create_dir(path);
            made.map_err(Error::io(format!("make {}", path.display())))?;
        }
        // From here on dropping it undoes what was done.
        let freezer = Self { home, group, pid };
        write(&frozen.join("cgroup.type"), "threaded")?;
        write(&freezer.group.join("cgroup.procs"), &pid.to_string())?;
        Ok(freezer)
    }

    /// Holds a thread of the process still, and waits until it is.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Timeout`].
    pub(super) fn freeze(&self, thread: u32) -> Result<()> {
        let frozen = self.group.join(FROZEN);
        write(&frozen.join("cgroup.threads"), &thread.to_string())?;
        write(&frozen.join("cgroup.freeze"), "1")?;
        let events = frozen.join("cgroup.events");
        let what = format!("thread {thread} to stand still");
        wait::until(&what, WITHIN, Duration::from_millis(1), || {
            let text = fs::read_to_string(&events)
                .map_err(Error::io(format!("read {}", events.display())))?;
            Ok(if text.lines().any(|line| line == "frozen 1") {
                Look::Done(())
            } else {
                Look::NotYet(text)
            })
        })
    }

    /// Lets a frozen thread go on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn thaw(&self, thread: u32) -> Result<()> {
        write(&self.group.join(FROZEN).join("cgroup.freeze"), "0")?;
        write(&self.group.join("cgroup.threads"), &thread.to_string())
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = write(&self.group.join(FROZEN).join("cgroup.freeze"), "0");
        // Fails if it is gone, which is as good.
        let _ = write(&self.home.join("cgroup.procs"), &self.pid.to_string());
        remove(&self.group);
    }
}

/// A group with a dying process in it can be removed a moment later; what stays
/// is swept by the next run.
fn remove(group: &Path) {
    for path in [group.join(FROZEN), group.to_owned()] {
        for _ in 0..100 {
            match fs::remove_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => break,
            }
        }
    }
}

/// Removes groups of runs that are dead.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let dead = pid.is_some_and(|pid| {
            pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
        });
        if dead {
            let _ = write(&entry.path().join(FROZEN).join("cgroup.freeze"), "0");
            remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_version_2_wherever_it_is() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let found = parse_root(hybrid);
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(
            parse_root("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"),
            None
        );
        let text = "4:cpu:/x\n0::/system.slice/y.service\n";
        assert_eq!(parse_group(text), Some("system.slice/y.service"));
        assert_eq!(parse_group("0::/\n"), Some(""));
    }
}
