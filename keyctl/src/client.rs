//! The connection to `tipsecd`: one line there, one line back. Imports
//! `error`.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tipsec_control::admin::{MAX_RESPONSE_LEN, Request};

use crate::error::Error;

/// How long an answer may take. Storing a key waits for a disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket)
            .and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                Ok(stream)
            })
            .map_err(|error| Error::Unreachable(explain(socket, &error)))?;
        Ok(Self {
            stream: BufReader::new(stream),
            socket: socket.to_owned(),
        })
    }

    /// Asks, and returns the line of the answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Vec<u8>, Error> {
        let line = request
            .to_line()
            .map_err(|error| Error::Usage(error.to_string()))?;
        match self.stream.get_mut().write_all(&line) {
            // It may have told us why before it hung up.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            other => other.map_err(|error| self.lost(&error))?,
        }
        self.read_line().map_err(|error| self.lost(&error))
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let limit = MAX_RESPONSE_LEN as u64 + 1;
        (&mut self.stream)
            .take(limit)
            .read_until(b'\n', &mut line)?;
        if line.last() == Some(&b'\n') {
            Ok(line)
        } else {
            Err(ErrorKind::UnexpectedEof.into())
        }
    }

    fn lost(&self, error: &io::Error) -> Error {
        let socket = self.socket.display();
        Error::Unreachable(match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!(
                    "tipsecd at {socket} did not answer within {ANSWER_TIMEOUT:?}; is it stuck?"
                )
            }
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                format!(
                    "tipsecd at {socket} hung up without an answer; was it stopped? See its log"
                )
            }
            _ => format!("the connection to tipsecd at {socket} failed: {error}"),
        })
    }
}

/// Why there is no connection, and what to do.
fn explain(socket: &Path, error: &io::Error) -> String {
    let path = socket.display();
    match error.kind() {
        ErrorKind::NotFound => format!(
            "tipsecd is not running: there is no socket {path}. Start it, or name its admin.socket \
             with --socket"
        ),
        ErrorKind::ConnectionRefused => format!(
            "tipsecd is not running: nobody listens at {path}. Start it, or name its admin.socket \
             with --socket"
        ),
        ErrorKind::PermissionDenied => {
            let who = match group_of(socket) {
                Some(group) => format!("root and members of the group {group} may"),
                None => "root may".to_owned(),
            };
            format!("no permission to use {path}: {who}. Use sudo, or ask to be let in")
        }
        _ => format!("cannot reach tipsecd at {path}: {error}"),
    }
}

/// Name or number of the group that may use a socket, unless that is root's.
fn group_of(socket: &Path) -> Option<String> {
    let gid = fs::metadata(socket).ok()?.gid();
    let table = fs::read_to_string("/etc/group").unwrap_or_default();
    let name = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    (gid != 0).then(|| name.unwrap_or_else(|| gid.to_string()))
}
