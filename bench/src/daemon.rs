//! One `tipsecd`: its config file as an operator would write it, its process,
//! its admin socket. Imports `admin`, `process`, `topology`.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::admin::AdminClient;
use crate::error::{Error, Result};
use crate::process::Process;
use crate::topology::BEARER;
use crate::wait::{self, Look};

/// The device that applications use, in every node.
pub const TAP: &str = "tipsec0";
/// A daemon has to listen on its socket by then.
const START_WITHIN: Duration = Duration::from_secs(10);
/// A daemon has to leave by then.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// What differs between nodes and runs.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// Cluster and node.
    pub cluster: &'a str,
    /// Node id.
    pub node: u32,
    /// Of its tap, in a network of 24 bits.
    pub address: Ipv4Addr,
    /// An existing directory for its state.
    pub state: &'a Path,
    /// Where it listens for its operator.
    pub socket: &'a Path,
    /// The core of its worker.
    pub core: usize,
    /// The crate that seals; the daemon's default if none.
    pub provider: Option<&'a str>,
    /// The one suite that it allows; the daemon's default if none.
    pub suite: Option<&'a str>,
}

impl Settings<'_> {
    /// The config file, as in docs/operations.md.
    pub fn text(&self) -> String {
        let Self {
            cluster,
            node,
            address,
            core,
            ..
        } = self;
        let (state, socket) = (self.state.display(), self.socket.display());
        let mut crypto = String::new();
        if let Some(provider) = self.provider {
            crypto.push_str(&format!("provider = \"{provider}\"\n"));
        }
        if let Some(suite) = self.suite {
            crypto.push_str(&format!("suites = [\"{suite}\"]\n"));
        }
        format!(
            r#"cluster = "{cluster}"
node = {node}
state_dir = "{state}"

[admin]
socket = "{socket}"

[tap]
name = "{TAP}"
addresses = ["{address}/24"]

[[bearer]]
interface = "{BEARER}"
core = {core}
mode = "auto"
encapsulation = "ethernet"

[rekey]
interval = "10m"

[crypto]
{crypto}"#
        )
    }
}

/// A daemon that has answered; killed, if it still runs, when dropped.
pub struct Daemon {
    node: u32,
    process: Process,
    admin: AdminClient,
    /// When its process was started.
    pub started: Instant,
}

impl Daemon {
    /// Starts `command`, which runs the daemon of `node`, and waits until it
    /// answers at `socket`.
    ///
    /// # Errors
    /// [`Error::Ended`] with its last words, [`Error::Timeout`].
    pub fn start(node: u32, command: &Command, socket: &Path) -> Result<Self> {
        let started = Instant::now();
        let mut process = Process::spawn(format!("tipsecd of node {node}"), command)?;
        let what = format!("tipsecd of node {node} to answer");
        let result = wait::until(&what, START_WITHIN, Duration::from_millis(5), || {
            process.check_running()?;
            // A socket of an earlier life refuses, a new one answers.
            let answer = AdminClient::connect(node, socket).and_then(|mut client| {
                client.status()?;
                Ok(client)
            });
            Ok(match answer {
                Ok(client) => Look::Done(client),
                Err(error) => Look::NotYet(error.to_string()),
            })
        });
        let admin = result.map_err(|error| match error {
            Error::Timeout {
                what,
                waited_ms,
                state,
            } => Error::Timeout {
                what,
                waited_ms,
                state: format!("{state}; it said:\n{}", process.last_lines(10)),
            },
            other => other,
        })?;
        Ok(Self {
            node,
            process,
            admin,
            started,
        })
    }

    /// Its admin connection.
    ///
    /// # Errors
    /// [`Error::Ended`] if it has ended.
    pub fn admin(&mut self) -> Result<&mut AdminClient> {
        self.process.check_running()?;
        Ok(&mut self.admin)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for its end; gives its status and what it wrote.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it still runs, [`Error::Interrupted`].
    pub fn finish(&mut self, deadline: Duration) -> Result<(ExitStatus, String)> {
        self.process.finish(deadline)
    }

    /// SIGKILL; gone when this returns.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Asks it to leave.
    ///
    /// # Errors
    /// In words, that it did not do so by itself and with success.
    pub fn stop(mut self) -> std::result::Result<(), String> {
        if self.process.stop(STOP_WITHIN) {
            return Ok(());
        }
        Err(format!(
            "node {}; it said last: {}",
            self.node,
            self.process.last_lines(3)
        ))
    }

    /// The last lines that it wrote.
    pub fn last_lines(&self, count: usize) -> String {
        self.process.last_lines(count)
    }
}
