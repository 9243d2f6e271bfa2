//! The control thread: one loop around a [`Node`].
//!
//! It sleeps in one `poll` on the packet sockets, the workers' eventfds, the
//! admin socket and the signals, and never longer than to the next deadline.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::admin_server::AdminServer;
use super::clock;
use super::node::Node;
use crate::time::Instant;

/// Why the daemon ends other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A bug: better to start anew than to go on with half of the workers.
    #[error("a worker thread panicked: {0}")]
    WorkerPanicked(String),
    /// The program gave one of its endpoints up; without it no key could be
    /// installed any more.
    #[error("the program has dropped endpoint {0}")]
    EndpointDropped(usize),
    /// Waiting for events failed.
    #[error("cannot wait for events: {0}")]
    Poll(io::Error),
}

/// From now on SIGTERM and SIGINT don't end the process but make the result
/// readable. Call it before there is anything to take down.
///
/// # Errors
/// The kernel's.
pub fn watch_signals() -> io::Result<UnixStream> {
    let (signals, sender) = UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(signals)
}

/// A running node.
pub struct Daemon {
    node: Node,
    admin: AdminServer,
    signals: UnixStream,
    /// The last event that was logged.
    logged: u64,
}

impl Daemon {
    /// A daemon that ends when `signals` is readable or closed at its other end
    /// (as from [`watch_signals`]).
    pub fn new(node: Node, admin: AdminServer, signals: UnixStream) -> Self {
        Self {
            node,
            admin,
            signals,
            logged: 0,
        }
    }

    /// Works until a signal asks for the end; then stops the workers and
    /// takes the XDP program off.
    ///
    /// # Errors
    /// [`DaemonError`].
    pub fn run(mut self) -> Result<(), DaemonError> {
        let result = loop {
            self.log_events();
            match self.wait() {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(DaemonError::Poll(error)),
            }
            self.node.pass();
            let Self { node, admin, .. } = &mut self;
            admin.process(clock::now().elapsed(), &mut |request| node.answer(request));
            if let Some(text) = self.node.hub.panicked() {
                break Err(DaemonError::WorkerPanicked(text.to_owned()));
            }
            if let Some(number) = self.node.hub.dropped() {
                break Err(DaemonError::EndpointDropped(number));
            }
        };
        tracing::info!("stopping");
        self.node.stop();
        result
    }

    /// Sleeps until something happens or is due; true if a signal came.
    fn wait(&self) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let sockets = self.node.nics.iter().flat_map(|nic| nic.port.sockets());
        let network = std::iter::once(self.node.paths.as_fd());
        for fd in sockets.chain(network).chain(self.node.hub.wake_fds()) {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        self.admin.poll_fds(&mut fds);
        let admin = self.admin.next_deadline().map(Instant::since_boot);
        let deadline = self.node.next_deadline().into_iter().chain(admin).min();
        let wait = deadline.map(|at| at.since(clock::now()));
        let timeout = wait.and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(fds[0].revents().contains(PollFlags::IN)),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What the operator sees in `events` also goes to the log.
    fn log_events(&mut self) {
        for event in self.node.events_after(self.logged) {
            tracing::info!(kind = event.kind.name(), "{}", event.text);
            self.logged = event.seq;
        }
    }
}
