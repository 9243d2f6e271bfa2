//! Network namespaces with names that nobody else uses, removed when dropped;
//! what a killed run left is swept at the next start. Imports `process`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::process;

/// All names start so; a process id and a number follow.
const PREFIX: &str = "tsec-";
/// Where iproute2 keeps named namespaces.
const DIRECTORY: &str = "/run/netns";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A named network namespace of our own.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace `tsec-<pid>-<n>-<label>` with its loopback up.
    ///
    /// # Errors
    /// [`Error::Command`] if `ip` refuses (not root).
    pub fn create(label: &str) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        process::run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// A command that will run inside, with the namespace's own `/sys`.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// The same on one core. The program's threads and children stay there
    /// unless they pin themselves elsewhere.
    pub fn command_on(&self, core: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &core.to_string(), "ip", "netns", "exec"]);
        command.arg(&self.name).arg(program);
        command
    }

    /// `ip -n <name> <arguments>`, separated by blanks.
    ///
    /// # Errors
    /// [`Error::Command`].
    pub fn ip(&self, arguments: &str) -> Result<String> {
        process::run(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(arguments.split_whitespace()),
        )
    }

    /// Any other program inside, arguments separated by blanks.
    ///
    /// # Errors
    /// [`Error::Command`].
    pub fn exec(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().unwrap_or_default());
        process::run(command.args(words))
    }

    /// Moves the calling thread, and no other, into the namespace for good:
    /// sockets that it opens belong there wherever they are used later.
    ///
    /// # Errors
    /// [`Error::Io`] if the namespace is gone or we are not root.
    pub fn enter(&self) -> Result<()> {
        let what = || format!("enter the namespace {}", self.name);
        let file = File::open(self.path()).map_err(Error::io(what()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(Error::errno(what()))
    }

    /// Runs `inside` on a thread of its own in the namespace and waits for it.
    ///
    /// # Errors
    /// Those of [`Self::enter`] and of `inside`. A panic inside goes on here.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                inside()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Writes a network setting, `/proc/sys/net/<key>`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| fs::write(&path, value).map_err(Error::io(format!("write {path}"))))
    }

    /// IPv6 off for devices that appear from now on; nothing to do on a
    /// kernel without IPv6.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn disable_ipv6(&self, disabled: bool) -> Result<()> {
        if !Path::new("/proc/sys/net/ipv6").exists() {
            return Ok(());
        }
        let value = if disabled { "1" } else { "0" };
        self.set_sysctl("ipv6/conf/default/disable_ipv6", value)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes a namespace; its devices go with it once no process holds it.
fn remove(name: &str) {
    // A failure leaves the name to the next run's sweep.
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

/// The process id in a name of ours.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

/// Names of existing namespaces that `pid` made.
pub fn made_by(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| owner(name) == Some(pid))
        .collect()
}

/// Removes namespaces whose maker is dead, and says how many.
pub fn sweep() -> usize {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return 0;
    };
    let mut removed = 0;
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let dead = owner(&name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if dead {
            remove(&name);
            removed += 1;
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_maker() {
        assert_eq!(owner("tsec-4711-3-node1"), Some(4711));
        assert_eq!(owner("tsec-x-3-node1"), None);
        assert_eq!(owner("tsec-4711"), None);
        assert_eq!(owner("other-4711-3"), None);
    }
}
