//! The library's own way in: a program sends and receives messages in frame
//! memory, on its own thread, without a tap device or a socket between.
//!
//! An [`Endpoint`] is one lane of the node: a [`Worker`] with its bearer, driven
//! by the program instead of by a thread of `tipsecd`. A message is written
//! where it is sealed and sent from, and read where it arrived and was opened.
//! Nothing allocates, locks or calls the kernel for a message; a burst costs one
//! call. Messages are datagrams: whole, sealed, at most once, and like packets
//! they may be lost or overtake one another.
//!
//! ```no_run
//! use std::time::Duration;
//! use tipsec_dataplane::aead::Aead;
//! use tipsec_dataplane::bearer::Bearer;
//! use tipsec_dataplane::endpoint::{Endpoint, Stopped};
//! use tipsec_dataplane::ids::NodeId;
//!
//! /// Sends `count` numbers to a node, and prints what it says.
//! fn talk<A: Aead, B: Bearer>(
//!     endpoint: &mut Endpoint<A, B>,
//!     to: NodeId,
//!     count: u64,
//! ) -> Result<(), Stopped> {
//!     let mut number = 0;
//!     while number < count {
//!         if let Ok(mut frame) = endpoint.reserve(to) {
//!             frame.payload_mut()[..8].copy_from_slice(&number.to_be_bytes());
//!             if frame.commit(8).is_ok() {
//!                 number += 1;
//!             }
//!         } else {
//!             // A burst waits to be sent, or the keys are not there yet.
//!             endpoint.wait(Duration::from_millis(100))?;
//!         }
//!         endpoint.receive(|mut message| {
//!             println!("{}: {:?}", message.from(), message.payload_mut());
//!         });
//!     }
//!     endpoint.flush();
//!     Ok(())
//! }
//! ```
//!
//! # What the program owes
//!
//! The node lives in this thread: keys are installed, probes answered, frames
//! sent and received in [`Endpoint::poll`] and [`Endpoint::wait`] and nowhere
//! else. Call one of them at least some times in the link tolerance (1.5 s
//! unless configured). While the program does neither, peers see the link go
//! down, and while messages wait that it has not taken, nothing is received at
//! all: the NIC's ring fills, and the kernel counts what no longer fits
//! (`rx_ring_full`). So take messages even if only to drop them.
//!
//! Imports `worker` and what messages are made of.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::aead::Aead;
use crate::bearer::{Bearer, BearerError};
use crate::burst::BURST;
use crate::command::WorkerEnd;
use crate::counters::WorkerCounters;
use crate::ids::{NodeId, PeerIndex};
use crate::rx::Opened;
use crate::tap::{NoTap, TapPort};
use crate::worker::{LOOK_INTERVAL, Pass, Worker, WorkerConfig};

/// Why a message cannot be sent. Nothing has been lost or counted: the message
/// was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// There never was an SA with the node on this lane.
    #[error("node {0} is not known: it was never heard, or has no SA with this node yet")]
    UnknownNode(NodeId),
    /// There is no SA that the node has confirmed, now.
    #[error("there is no key for node {0} now: it has gone, or its SA is not confirmed yet")]
    NoKey(NodeId),
    /// The node is not on the network of this endpoint's NIC.
    #[error("node {0} cannot be reached by this endpoint's NIC")]
    NoPath(NodeId),
    /// A burst waits to be sent: [`Endpoint::flush`] or [`Endpoint::wait`].
    #[error("{BURST} messages wait to be sent: flush, or wait for room")]
    Full,
    /// All frame memory is in use; [`Endpoint::poll`] takes sent frames back.
    #[error("no frame memory is free: poll, which takes back what was sent")]
    NoMemory,
    /// The message is longer than a frame carries.
    #[error("a message of {len} bytes is too long: this endpoint carries at most {max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// [`Endpoint::max_message`], or for an answer what its frame holds.
        max: usize,
    },
    /// The device is gone ([`Endpoint::fault`]), or the node was stopped.
    #[error("this endpoint carries nothing any more: its device is gone or its node was stopped")]
    Gone,
}

impl SendError {
    /// Whether the same message may go later: false if it never will.
    pub const fn is_transient(self) -> bool {
        !matches!(self, Self::TooLong { .. } | Self::Gone)
    }
}

/// The node was stopped, or dropped: the endpoint has wiped its keys and closed its bearer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the node was stopped: its keys are wiped")]
pub struct Stopped;

/// One lane of this node, in the hands of a program; see the [module](self).
///
/// It may be sent to another thread, but belongs to one at a time. Dropping it
/// wipes its keys and ends the node: what is left could not install keys.
pub struct Endpoint<A: Aead, B: Bearer, T = NoTap> {
    worker: Worker<A, B, T>,
    /// The program was refused room since it was last told of some.
    starved: bool,
    stopped: bool,
    looked: Instant,
    /// Counters have one writer, so there is no use of it by two threads.
    one_thread: PhantomData<Cell<()>>,
}

impl<A: Aead, B: Bearer, T: TapPort> Endpoint<A, B, T> {
    /// An endpoint with all the memory that it will ever take, except for keys,
    /// which come by `channel`. Besides messages it carries the frames of
    /// `tap`, if that is one.
    pub fn new(config: WorkerConfig, channel: WorkerEnd, bearer: B, tap: T) -> Self {
        let mut worker = Worker::new(config, channel, bearer, tap);
        worker.take_messages();
        Self {
            worker,
            starved: false,
            stopped: false,
            looked: Instant::now(),
            one_thread: PhantomData,
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.worker.node()
    }

    /// Longest message in bytes: the MTU of the bearer's interface less what
    /// follows its link header: outer IP and UDP if there are any, our header,
    /// payload byte and tag. It follows that MTU, so it may change in a poll.
    pub fn max_message(&self) -> usize {
        self.worker.message_max()
    }

    /// Counts of everything that this endpoint sent, received or dropped, with
    /// reasons; from any thread.
    pub fn counters(&self) -> Arc<WorkerCounters> {
        self.worker.counters()
    }

    /// Why the device was given up, if it was.
    pub fn fault(&self) -> Option<&BearerError> {
        self.worker.fault()
    }

    /// The bearer, while it is there; for reports.
    pub fn bearer(&self) -> Option<&B> {
        self.worker.bearer()
    }

    /// Takes a frame of the bearer's memory for a message to `node`.
    ///
    /// # Errors
    /// [`SendError`]; all but `TooLong`.
    pub fn reserve(&mut self, node: NodeId) -> Result<Outgoing<'_, A, B, T>, SendError> {
        let reserved = self.worker.reserve(node);
        if let Err(SendError::Full | SendError::NoMemory) = reserved {
            self.starved = true;
        }
        let (frame, to) = reserved?;
        Ok(Outgoing {
            held: Some((&mut self.worker, frame)),
            to,
        })
    }

    /// Copies `message` into a frame for `node` and commits it: for programs
    /// that have the bytes elsewhere already.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, node: NodeId, message: &[u8]) -> Result<(), SendError> {
        let mut frame = self.reserve(node)?;
        if let Some(room) = frame.payload_mut().get_mut(..message.len()) {
            room.copy_from_slice(message);
        }
        frame.commit(message.len())
    }

    /// Seals what is committed and hands it to the bearer with one call to the
    /// kernel; says how many frames that took. What it did not take goes first
    /// next time. [`Self::poll`] and [`Self::wait`] flush as well.
    ///
    /// A message that cannot be sealed any more is counted, with its reason, at
    /// its peer: the key went after [`Self::reserve`], or spent its budget.
    pub fn flush(&mut self) -> usize {
        self.worker.flush()
    }

    /// Works once, without waiting: flushes, does what the control thread
    /// asked, receives up to a burst if the last one was taken, answers probes.
    /// Says whether there was anything to do.
    ///
    /// # Errors
    /// [`Stopped`], now and for ever.
    pub fn poll(&mut self) -> Result<bool, Stopped> {
        let busy = self.turn()? == Pass::Busy;
        if !busy {
            self.worker.idle();
        }
        Ok(busy)
    }

    /// Works until the program has something to do (messages have come, or
    /// there is room again after it was refused some), or for `timeout`; says
    /// which. Sleeps in between, unless configured to spin.
    ///
    /// # Errors
    /// [`Stopped`], now and for ever.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, Stopped> {
        // None: later than any clock will show.
        let mut deadline = None;
        loop {
            let pass = self.turn()?;
            if self.is_wanted() {
                self.starved = false;
                return Ok(true);
            }
            let now = Instant::now();
            let deadline = *deadline.get_or_insert_with(|| now.checked_add(timeout));
            let left = deadline.map_or(LOOK_INTERVAL, |at| at.saturating_duration_since(now));
            if left.is_zero() {
                return Ok(false);
            }
            if pass == Pass::Idle {
                self.worker.rest(left);
                self.look_sometimes(now);
            }
        }
    }

    fn turn(&mut self) -> Result<Pass, Stopped> {
        if self.stopped {
            return Err(Stopped);
        }
        // Before the pass, so that probes find room in its burst.
        let sent = self.worker.flush();
        let pass = self.worker.pass();
        // Keys that nobody renews or takes back are not used.
        if pass == Pass::Stopped || self.worker.is_orphaned() {
            self.stopped = true;
            self.worker.retire();
            return Err(Stopped);
        }
        match pass {
            Pass::Idle if sent > 0 => Ok(Pass::Busy),
            pass => Ok(pass),
        }
    }

    fn is_wanted(&self) -> bool {
        self.worker.messages_waiting() > 0 || self.starved && self.worker.has_room()
    }

    /// A deleted device makes no sound, and a program's timeouts may all be too
    /// short for the worker to look of itself.
    fn look_sometimes(&mut self, now: Instant) {
        if now.saturating_duration_since(self.looked) >= LOOK_INTERVAL {
            self.looked = now;
            self.worker.look();
        }
    }

    /// The next message that has come, in order of arrival; `None` when the
    /// burst is used up and [`Self::poll`] is to get the next one.
    pub fn next_message(&mut self) -> Option<Message<'_, A, B, T>> {
        let message = self.worker.next_message()?;
        Some(Message {
            from: message.node(),
            held: Some((&mut self.worker, message)),
        })
    }

    /// Hands over all messages that have come, a burst at most; says how many.
    /// Does not look for more: that is [`Self::poll`]'s.
    pub fn receive(&mut self, mut take: impl FnMut(Message<'_, A, B, T>)) -> usize {
        let mut count = 0;
        while let Some(message) = self.next_message() {
            take(message);
            count += 1;
        }
        count
    }
}

/// A frame, and the worker that takes it back.
type Held<'e, A, B, T, F> = Option<(&'e mut Worker<A, B, T>, F)>;

/// A frame of the bearer's memory for one message. Dropped without
/// [`Self::commit`], it is free again and nothing is sent.
pub struct Outgoing<'e, A: Aead, B: Bearer, T: TapPort> {
    /// `None` once it is committed.
    held: Held<'e, A, B, T, B::Frame>,
    to: PeerIndex,
}

impl<A: Aead, B: Bearer, T: TapPort> Outgoing<'_, A, B, T> {
    /// Where the message is written: [`Endpoint::max_message`] bytes; for an
    /// answer no more than the message's frame holds ([`Message::answer`]).
    /// They are what the frame held before, maybe another node's message: write
    /// all that you commit.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        match &mut self.held {
            Some((worker, frame)) => worker.message_room(frame),
            None => &mut [],
        }
    }

    /// Lines the first `len` bytes up to be sealed and sent with the next
    /// flush; 0 is a message too.
    ///
    /// # Errors
    /// [`SendError::TooLong`]; then the frame is free again.
    pub fn commit(mut self, len: usize) -> Result<(), SendError> {
        let max = self.payload_mut().len();
        if len > max {
            return Err(SendError::TooLong { len, max });
        }
        if let Some((worker, frame)) = self.held.take() {
            worker.commit(frame, self.to, len);
        }
        Ok(())
    }
}

impl<A: Aead, B: Bearer, T: TapPort> Drop for Outgoing<'_, A, B, T> {
    fn drop(&mut self) {
        if let Some((worker, frame)) = self.held.take() {
            worker.release(frame);
        }
    }
}

/// A message that has come, where it lies. Its frame is free again when it is
/// dropped.
pub struct Message<'e, A: Aead, B: Bearer, T: TapPort> {
    /// `None` once it is answered.
    held: Held<'e, A, B, T, Opened<B::Frame>>,
    from: NodeId,
}

impl<'e, A: Aead, B: Bearer, T: TapPort> Message<'e, A, B, T> {
    /// Who sealed it. The SA says so, not the message: nobody can claim it.
    pub fn from(&self) -> NodeId {
        self.from
    }

    /// The message, in place.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        match &mut self.held {
            Some((worker, frame)) => worker.message_mut(frame),
            None => &mut [],
        }
    }

    /// Makes its frame that of the answer, which begins as the message: to
    /// change some of it and commit, without a copy and without a second frame.
    ///
    /// Where the MTU lets a frame take several buffers, a message that came in
    /// one of them has that one for its answer: room for as much as came, but
    /// maybe not for [`Endpoint::max_message`]. A longer answer is for
    /// [`Endpoint::reserve`].
    ///
    /// # Errors
    /// [`SendError`], but `UnknownNode`, `NoMemory` and `TooLong`; then the
    /// message is gone.
    pub fn answer(mut self) -> Result<Outgoing<'e, A, B, T>, SendError> {
        let (worker, message) = self.held.take().ok_or(SendError::Gone)?;
        let (frame, to) = worker.reserve_answer(message)?;
        Ok(Outgoing {
            held: Some((worker, frame)),
            to,
        })
    }
}

impl<A: Aead, B: Bearer, T: TapPort> Drop for Message<'_, A, B, T> {
    fn drop(&mut self) {
        if let Some((worker, message)) = self.held.take() {
            worker.release(message.into_frame());
        }
    }
}
