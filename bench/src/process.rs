//! Commands that run to their end, and children that run beside us: their
//! output is kept, and they die with us. Imports `error`, `wait`.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::wait::{self, Look};

/// Lines of output kept of a child.
const LOG_LINES: usize = 2000;
/// Lines of it that go into an error.
const LAST_LINES: usize = 15;

/// The command line, for messages.
pub fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Runs a command to its end and gives back its standard output.
///
/// # Errors
/// [`Error::Command`] if it cannot be started or reports failure.
pub fn run(command: &mut Command) -> Result<String> {
    let failed = |detail: String, command: &Command| Error::Command {
        command: describe(command),
        detail,
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string(), command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(
            format!("{}: {}", output.status, said.trim()),
            command,
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `command`, arranged to be killed when the thread that spawns it ends, even
/// by SIGKILL: `setpriv` sets the parent death signal and turns into it, so
/// the process id stays the child's.
pub fn bound_to_us(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]);
    bound.arg(command.get_program()).args(command.get_args());
    bound
}

/// A child; killed, if it still runs, when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`; standard output and standard error are kept, the
    /// last 2000 lines of them. Call from a thread that outlives the child.
    ///
    /// # Errors
    /// [`Error::Command`] if it cannot be started.
    pub fn spawn(name: impl Into<String>, command: &Command) -> Result<Self> {
        let mut bound = bound_to_us(command);
        let mut child = bound
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::Command {
                command: describe(command),
                detail: error.to_string(),
            })?;
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let mut readers = Vec::new();
        if let Some(output) = child.stdout.take() {
            readers.push(keep(output, Arc::clone(&log)));
        }
        if let Some(output) = child.stderr.take() {
            readers.push(keep(output, Arc::clone(&log)));
        }
        Ok(Self {
            name: name.into(),
            child,
            log,
            readers,
        })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// [`Error::Ended`] if it does not run any more.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status)),
            Err(error) => Err(Error::io(format!("look after {}", self.name))(error)),
        }
    }

    fn ended(&self, status: ExitStatus) -> Error {
        Error::Ended {
            process: self.name.clone(),
            status: status.to_string(),
            log: self.last_lines(LAST_LINES),
        }
    }

    /// SIGKILL, and no word of farewell; returns once it is reaped.
    pub fn kill(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then SIGKILL if it has not ended after `grace`. True if it
    /// ended by itself with success.
    pub fn stop(&mut self, grace: Duration) -> bool {
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            // Fails only if it has ended already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = std::time::Instant::now() + grace;
        while std::time::Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        false
    }

    /// Waits for its end and gives back everything kept of its output.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Interrupted`]; an exit status is no error.
    pub fn finish(&mut self, deadline: Duration) -> Result<(ExitStatus, String)> {
        let what = format!("the end of {}", self.name);
        let status = wait::until(&what, deadline, Duration::from_millis(10), || {
            match self.child.try_wait() {
                Ok(Some(status)) => Ok(Look::Done(status)),
                Ok(None) => Ok(Look::NotYet(format!("it said {}", self.last_lines(1)))),
                Err(error) => Err(Error::io("wait for a child")(error)),
            }
        })?;
        for reader in self.readers.drain(..) {
            // A reader ends at the end of its pipe and does not panic.
            let _ = reader.join();
        }
        Ok((status, self.last_lines(LOG_LINES)))
    }

    /// The last `count` lines it wrote.
    pub fn last_lines(&self, count: usize) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = log.len().saturating_sub(count);
        let lines: Vec<&str> = log.iter().skip(skip).map(String::as_str).collect();
        lines.join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads lines to the end of the pipe, so that the child never blocks on it.
fn keep(output: impl Read + Send + 'static, log: Arc<Mutex<VecDeque<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { return };
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == LOG_LINES {
                log.pop_front();
            }
            log.push_back(String::from_utf8_lossy(&line).into_owned());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_of_a_command_names_it_and_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo alas >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("alas"), "{text}");
    }

    #[test]
    fn output_of_a_child_is_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 4"]);
        let mut child = Process::spawn("shell", &command).unwrap();
        let (status, log) = child.finish(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(4));
        assert!(log.contains("one") && log.contains("two"), "{log}");
    }

    #[test]
    fn a_dropped_child_is_dead() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let child = Process::spawn("sleeper", &command).unwrap();
        let proc_dir = format!("/proc/{}", child.pid());
        assert!(std::path::Path::new(&proc_dir).exists());
        drop(child);
        assert!(!std::path::Path::new(&proc_dir).exists());
    }
}
