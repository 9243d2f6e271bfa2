//! A client of the admin socket that stays connected: readings of several
//! nodes lie a millisecond apart, not a process start. Imports
//! `tipsec_control::admin` and `error`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tipsec_control::admin::{
    EventsReport, MasterReport, PeersReport, RekeyIntervalReport, RekeyNowReport, Request,
    ResponseError, StatusReport, result_from_line,
};
use tipsec_control::master::MasterKey;

use crate::error::{Error, Result};

/// How long a daemon may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A daemon hangs up on a client that is silent for a minute.
const FRESH_FOR: Duration = Duration::from_secs(30);

/// A connection to one node's daemon, made anew when it has been idle for long.
#[derive(Debug)]
pub struct AdminClient {
    node: u32,
    path: PathBuf,
    stream: BufReader<UnixStream>,
    used: Instant,
}

impl AdminClient {
    /// Connects to the daemon of `node`.
    ///
    /// # Errors
    /// [`Error::Io`] if nobody listens at `socket`.
    pub fn connect(node: u32, socket: &Path) -> Result<Self> {
        let what = || format!("reach node {node} at {}", socket.display());
        let stream = UnixStream::connect(socket).map_err(Error::io(what()))?;
        stream
            .set_read_timeout(Some(ANSWER_WITHIN))
            .map_err(Error::io(what()))?;
        stream
            .set_write_timeout(Some(ANSWER_WITHIN))
            .map_err(Error::io(what()))?;
        Ok(Self {
            node,
            path: socket.to_owned(),
            stream: BufReader::new(stream),
            used: Instant::now(),
        })
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        if self.used.elapsed() > FRESH_FOR {
            *self = Self::connect(self.node, &self.path)?;
        }
        self.used = Instant::now();
        let unreadable = |detail: String| Error::Unreadable {
            what: format!("the answer of node {}", self.node),
            detail,
        };
        let line = request
            .to_line()
            .map_err(|error| unreadable(error.to_string()))?;
        let what = || format!("talk to node {}", self.node);
        self.stream
            .get_mut()
            .write_all(&line)
            .map_err(Error::io(what()))?;
        let mut answer = Vec::new();
        let read = self.stream.read_until(b'\n', &mut answer);
        if read.map_err(Error::io(what()))? == 0 {
            return Err(unreadable("it closed the connection".into()));
        }
        result_from_line(&answer).map_err(|error| match error {
            ResponseError::Refused(failure) => Error::Refused {
                node: self.node,
                message: failure.message,
            },
            ResponseError::Format(_) => unreadable(error.to_string()),
        })
    }

    /// State of the node.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Unreadable`], [`Error::Refused`].
    pub fn status(&mut self) -> Result<StatusReport> {
        self.ask(&Request::Status {})
    }

    /// Makes `key` its master key.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn set_master(&mut self, key: &MasterKey) -> Result<MasterReport> {
        let key = MasterKey::from_octets(key.octets()).map_err(|error| Error::Failed {
            what: format!("give node {} its master key", self.node),
            detail: error.to_string(),
        })?;
        self.ask(&Request::MasterSet { key, force: false })
    }

    /// State of its peers.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn peers(&mut self) -> Result<PeersReport> {
        self.ask(&Request::Peers {})
    }

    /// The latest events.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn events(&mut self, limit: u32) -> Result<EventsReport> {
        self.ask(&Request::Events { after: None, limit })
    }

    /// Starts an exchange with every peer that has keys.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn rekey_now(&mut self) -> Result<RekeyNowReport> {
        self.ask(&Request::RekeyNow {})
    }

    /// Sets the rekey interval, in seconds.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn set_rekey_interval(&mut self, interval_s: u32) -> Result<RekeyIntervalReport> {
        self.ask(&Request::RekeyInterval {
            interval_s: Some(interval_s),
        })
    }
}
