//! Serves the admin protocol over a unix socket: no thread of its own, never
//! waits. Its owner polls the descriptors, then calls
//! [`AdminServer::process`]. Imports `admin`.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags};

use crate::admin::{ErrorCode, Failure, Request, Response, response_to_line};

mod access;
mod connection;
mod socket;

use access::Access;
use connection::Connection;
use socket::SocketFile;

/// Most clients at a time.
pub const MAX_CLIENTS: usize = 16;

/// Within it a request must come to its end.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Within it some byte of a waiting answer must be taken.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Within it a client must ask something, or it loses its place.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long not to accept after the system refused (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Answers a request.
pub type Handler<'a> = &'a mut dyn FnMut(Request) -> Response;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminServerError {
    /// Another daemon serves it.
    #[error("another tipsecd{} is serving {}: stop it, or give this one its own admin.socket",
            pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display())]
    AlreadyServed {
        /// The socket.
        path: PathBuf,
        /// Process that listens, if it can be seen.
        pid: Option<i32>,
    },
    /// Something else is in its place.
    #[error("{} is not a socket: remove it, or give another admin.socket", .0.display())]
    NotASocket(PathBuf),
    /// The configured group does not exist.
    #[error(
        "the group {0:?} (admin.group) is not in /etc/group: `groupadd --system` makes it, or give its number"
    )]
    NoSuchGroup(String),
    /// The system refused.
    #[error("cannot {what} the admin socket {}: {source}", path.display())]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The admin socket and its clients. Removes the socket's file when dropped.
pub struct AdminServer {
    listener: OwnedFd,
    access: Access,
    connections: Vec<Connection>,
    accept_after: Option<Duration>,
    _file: SocketFile,
}

impl AdminServer {
    /// Listens at `path`, for root and the members of `group` (name or
    /// number). A socket that a dead daemon left behind is replaced.
    ///
    /// # Errors
    /// [`AdminServerError`]; a live daemon's socket is left alone.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, AdminServerError> {
        let access = Access::new(group)?;
        let (listener, file) = socket::listen(path, access.gid())?;
        Ok(Self {
            listener,
            access,
            connections: Vec::with_capacity(MAX_CLIENTS),
            accept_after: None,
            _file: file,
        })
    }

    /// Adds what to poll; when one of these is ready, call [`Self::process`].
    pub fn poll_fds<'a>(&'a self, out: &mut Vec<PollFd<'a>>) {
        if self.accept_after.is_none() {
            out.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for connection in &self.connections {
            out.push(PollFd::new(connection.socket(), connection.interest()));
        }
    }

    /// When to call [`Self::process`] although nothing is ready; time since
    /// boot. Zero: at once.
    pub fn next_deadline(&self) -> Option<Duration> {
        let connections = self.connections.iter().map(Connection::deadline);
        connections.chain(self.accept_after).min()
    }

    /// Clients that are connected.
    pub fn clients(&self) -> usize {
        self.connections.len()
    }

    /// Accepts, reads, answers and sends what it can without waiting. `now` is
    /// the time since boot.
    pub fn process(&mut self, now: Duration, handler: Handler<'_>) {
        if self.accept_after.is_some_and(|after| now >= after) {
            self.accept_after = None;
        }
        // First, so that a client that has left makes room.
        self.connections
            .retain_mut(|connection| connection.process(now, handler) == ControlFlow::Continue(()));
        let known = self.connections.len();
        if self.accept_after.is_none() {
            self.accept(now);
        }
        let mut at = known;
        while at < self.connections.len() {
            match self.connections[at].process(now, handler) {
                ControlFlow::Continue(()) => at += 1,
                ControlFlow::Break(()) => drop(self.connections.remove(at)),
            }
        }
    }

    fn accept(&mut self, now: Duration) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Bounded: refusals are cheap, but not to be had without end.
        for _ in 0..2 * MAX_CLIENTS {
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => self.admit(socket, now),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.accept_after = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd, now: Duration) {
        let allowed = rustix::net::sockopt::socket_peercred(&socket)
            .is_ok_and(|peer| self.access.allows(&peer));
        let failure = if !allowed {
            Failure::new(ErrorCode::Forbidden, self.access.refusal())
        } else if self.connections.len() >= MAX_CLIENTS {
            Failure::new(
                ErrorCode::Busy,
                format!("{MAX_CLIENTS} clients are connected; close one or try again"),
            )
        } else {
            self.connections.push(Connection::new(socket, now));
            return;
        };
        // A fresh socket has room for a line; if not, the client just sees the end.
        let line = response_to_line(&Err(failure));
        let _ = rustix::net::send(&socket, &line, SendFlags::NOSIGNAL);
    }
}
