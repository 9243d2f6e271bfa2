//! What can go wrong in the harness. Imports nothing.

use std::io;

/// Result of the harness.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the harness gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ctrl-C, SIGTERM or SIGHUP.
    #[error("interrupted")]
    Interrupted,
    /// Not root.
    #[error("network namespaces, AF_XDP and captures need root: run it with sudo")]
    NotRoot,
    /// A program could not be started or reported failure.
    #[error("`{command}` failed: {detail}")]
    Command {
        /// The command line.
        command: String,
        /// Its status and what it said.
        detail: String,
    },
    /// The kernel refused something.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, as a verb.
        what: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// Something of ours, or of the data plane, did not work.
    #[error("cannot {what}: {detail}")]
    Failed {
        /// What was tried, as a verb.
        what: String,
        /// Why not, with all causes.
        detail: String,
    },
    /// Output of a program that does not read as expected.
    #[error("cannot make sense of {what}: {detail}")]
    Unreadable {
        /// Whose output.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Something did not come true in time.
    #[error("waited {waited_ms} ms for {what}; now: {state}")]
    Timeout {
        /// For what.
        what: String,
        /// How long, in ms.
        waited_ms: u128,
        /// How things stood at the end.
        state: String,
    },
    /// A program that is not here.
    #[error("cannot run {name}: {why}")]
    Unavailable {
        /// Its name.
        name: String,
        /// Why, and what to do about it.
        why: String,
    },
    /// What Tipsec is compared with did not do its part; the others can go on.
    #[error("{name} failed: {source}")]
    Peer {
        /// Its name.
        name: String,
        /// What went wrong.
        source: Box<Error>,
    },
    /// A process that should run ended.
    #[error("{process} ended ({status}); it said last:\n{log}")]
    Ended {
        /// Which.
        process: String,
        /// How.
        status: String,
        /// The end of its output.
        log: String,
    },
    /// A daemon answered a request with an error.
    #[error("node {node} refused: {message}")]
    Refused {
        /// Which node.
        node: u32,
        /// Its words.
        message: String,
    },
}

impl Error {
    /// All of it in one line, for a table.
    pub fn line(&self) -> String {
        let text = self.to_string();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let line = lines.collect::<Vec<_>>().join("; ");
        line.replace(":; ", ": ")
    }

    /// For `map_err` on a failed system call: `what` is a verb phrase.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The same for rustix' error numbers.
    pub fn errno(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let what = what.into();
        move |errno| Self::Io {
            what,
            source: errno.into(),
        }
    }
}
