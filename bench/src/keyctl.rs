//! The real `tipsec-keyctl`, as an operator would call it. Imports `process`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::process::{self, Process};

/// The command line, bound to one node's socket.
#[derive(Clone, Debug)]
pub struct Keyctl {
    binary: PathBuf,
    socket: PathBuf,
}

impl Keyctl {
    /// `binary` speaking to the daemon at `socket`.
    pub fn new(binary: &Path, socket: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            socket: socket.to_owned(),
        }
    }

    /// Runs `tipsec-keyctl --socket … <arguments>`, as people see it.
    ///
    /// # Errors
    /// [`Error::Command`] with what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(&self.socket).args(arguments);
        process::run(&mut command)
    }

    /// Starts the same and does not wait for its end.
    ///
    /// # Errors
    /// [`Error::Command`] if it cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Result<Process> {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(&self.socket).args(arguments);
        Process::spawn("tipsec-keyctl", &command)
    }

    /// The same with `--json`, read.
    ///
    /// # Errors
    /// [`Error::Command`], [`Error::Unreadable`].
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let text = self.run(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text).map_err(|error| Error::Unreadable {
            what: format!("tipsec-keyctl --json {}", arguments.join(" ")),
            detail: error.to_string(),
        })
    }
}

/// `tipsec-keyctl master generate --output FILE`: needs no daemon.
///
/// # Errors
/// [`Error::Command`].
pub fn generate_master(binary: &Path, file: &Path) -> Result<()> {
    let mut command = Command::new(binary);
    command.args(["master", "generate", "--output"]).arg(file);
    process::run(&mut command)?;
    Ok(())
}
