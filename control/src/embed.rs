//! A node inside a program: what `tipsecd` is, without its worker threads.
//!
//! The program takes `tipsecd`'s place on the node's NIC queues, keys and all,
//! and gets one [`Endpoint`] for each queue to send and receive messages by, in
//! frame memory. A control thread runs beside it; the operator sees and keys
//! the node by `tipsec-keyctl`, as any other.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//! use tipsec_control::config::Config;
//! use tipsec_control::embed::{AwsLc, Node};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load(Path::new("/etc/tipsec/tipsec.toml"))?;
//! let (node, endpoints) = Node::start::<AwsLc>(&config)?;
//! std::thread::scope(|scope| {
//!     for mut endpoint in endpoints {
//!         // Answers every message with itself, until the node is stopped.
//!         scope.spawn(move || {
//!             while endpoint.wait(Duration::from_secs(1)).is_ok() {
//!                 endpoint.receive(|mut message| {
//!                     let length = message.payload_mut().len();
//!                     if let Ok(answer) = message.answer() {
//!                         let _ = answer.commit(length);
//!                     }
//!                 });
//!             }
//!         });
//!     }
//! });
//! node.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! * Every endpoint must be polled, or be waited in, the idle ones too: a key is
//!   installed when all of them have it. See
//!   [its documentation](tipsec_dataplane::endpoint).
//! * A lane sends by its own queue alone; what arrives, arrives where the NIC
//!   puts it. So an answer may come to another endpoint than asked.
//! * `[tap] enabled = false` in the configuration makes a node without tap
//!   device; with one, the endpoints carry its frames too.
//! * The process holds keys. `tipsecd` forbids core dumps and being read by
//!   others of its user (`PR_SET_DUMPABLE`); in a program that is its own to do.
//! * What happens to the node is logged by `tracing`.
//!
//! Imports the shell and the data plane's endpoint.

use std::io;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

pub use tipsec_dataplane::aead::Aead;
pub use tipsec_dataplane::aead::aws_lc::AwsLc;
pub use tipsec_dataplane::aead::ring::Ring;
use tipsec_dataplane::bearer::xdp::XdpBearer;
pub use tipsec_dataplane::endpoint::{SendError, Stopped};
pub use tipsec_dataplane::ids::NodeId;
use tipsec_dataplane::tap::device::TapQueue;

use crate::config::Config;
pub use crate::shell::daemon::DaemonError;
use crate::shell::hub::Runner;
pub use crate::shell::start::StartError;
use crate::shell::start::build;

/// One lane of the node: one queue of one of its NICs.
pub type Endpoint<A> = tipsec_dataplane::endpoint::Endpoint<A, XdpBearer, Option<TapQueue>>;

/// Why the node ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It had to.
    #[error(transparent)]
    Ended(#[from] DaemonError),
    /// Its control thread panicked: a bug.
    #[error("the control thread panicked")]
    Panicked,
}

/// A running node. Dropping it stops it: its XDP programs come off the NICs,
/// and every endpoint wipes its keys at its next poll, or when it is dropped.
pub struct Node {
    /// Closing it asks for the end.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<Result<(), DaemonError>>>,
    cores: Vec<Option<u32>>,
}

impl Node {
    /// Starts a node as `tipsecd` would, whose frames are sealed and opened by
    /// `A`, whatever the configuration says of a provider. Gives an endpoint for
    /// each queue, in the order of the configuration; no other thread works
    /// for them.
    ///
    /// # Errors
    /// [`StartError`], as of `tipsecd`; then nothing is left behind.
    pub fn start<A: Aead>(config: &Config) -> Result<(Self, Vec<Endpoint<A>>), StartError> {
        let kernel = |what| move |source: io::Error| StartError::Kernel { what, source };
        let (stop, stopped) = UnixStream::pair().map_err(kernel("make a pair of sockets"))?;
        let mut endpoints = Vec::new();
        let mut cores = Vec::new();
        let daemon = build(config, stopped, A::NAME, &mut |new| {
            let endpoint = Endpoint::<A>::new(new.config, new.channel, new.bearer, new.tap);
            let counters = endpoint.counters();
            endpoints.push(endpoint);
            cores.push(new.core);
            Ok(Runner::Program(counters))
        })?;
        let thread = std::thread::Builder::new()
            .name("tipsec-control".to_owned())
            .spawn(move || daemon.run())
            .map_err(kernel("start the control thread"))?;
        let node = Self {
            stop: Some(stop),
            thread: Some(thread),
            cores,
        };
        Ok((node, endpoints))
    }

    /// The core that is configured for each endpoint's queue, in their order:
    /// for the program to pin its threads.
    pub fn cores(&self) -> &[Option<u32>] {
        &self.cores
    }

    /// Whether it has not ended by itself: it does when an endpoint is dropped,
    /// since no key could be installed any more. [`Self::stop`] says why.
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the node and waits for its control thread.
    ///
    /// # Errors
    /// [`NodeError`] if it had ended before.
    pub fn stop(mut self) -> Result<(), NodeError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), NodeError> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(ended)) => Ok(ended?),
            Some(Err(_)) => Err(NodeError::Panicked),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.end();
    }
}
