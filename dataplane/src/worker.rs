//! The worker: one thread, one core, one bearer, one tap, and its lanes.
//!
//! A pass drains key commands, then moves up to a burst each way:
//!
//! ```text
//! bearer ─ receive ─► rx pipeline ─► tap          (deliver)
//! tap ─ read into frame memory ─► tx pipeline ─► bearer   (ingest)
//! ```
//!
//! A worker runs in a thread of its own, or inside a program that drives it by
//! an [`crate::endpoint::Endpoint`] and has messages of its own to carry.
//!
//! A pass that found nothing to do ends in one `poll`. Nothing here allocates,
//! locks or logs per frame; a failure is a count. Imports everything of the
//! pipelines and the traits of bearer and tap, neither's kernel side.

use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::aead::Aead;
use crate::bearer::{Bearer, BearerError, FrameMemory};
use crate::burst::Burst;
use crate::command::{Event, WorkerEnd};
use crate::counters::{RxDrop, TxDrop, WorkerCounters};
use crate::fault::{Stage, point};
use crate::ids::NodeId;
use crate::outer::Encapsulation;
use crate::rx::{Opened, open_burst};
use crate::table::{RxTable, TxTable};
use crate::tap::TapPort;
use crate::tap::coalesce::Coalescer;
use crate::tap::segment::Segmenter;
use crate::tx::{Plain, Sealed, seal_burst};

mod commands;
mod deliver;
mod group;
mod ingest;
mod polling;
mod program;
mod sleep;
#[cfg(feature = "io")]
mod spawn;

use group::Group;
use polling::Idle;
pub use polling::Polling;
pub(crate) use sleep::LOOK_INTERVAL;
use sleep::TapRest;
#[cfg(feature = "io")]
pub use spawn::{SpawnError, WorkerHandle, spawn};

/// What one worker is told at its start.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// This node.
    pub node: NodeId,
    /// How frames are wrapped on its bearer.
    pub encapsulation: Encapsulation,
    /// Longest frame from the Tipsec header to the tag, in bytes: the MTU of
    /// the bearer's interface less [`Encapsulation::overhead`].
    pub mtu: usize,
    /// Peers are numbered below this.
    pub peers: usize,
    /// SPI indexes are below this.
    pub spis: usize,
    /// What to do when there is nothing to do.
    pub polling: Polling,
}

/// One (NIC, queue) and what passes through it.
pub struct Worker<A: Aead, B: Bearer, T> {
    config: WorkerConfig,
    channel: WorkerEnd,
    counters: Arc<WorkerCounters>,
    /// `None` once the device is gone. Lanes live on without it.
    bearer: Option<B>,
    /// Why the bearer was given up, for whoever holds the handle.
    fault: Arc<OnceLock<BearerError>>,
    tap: T,
    tap_rest: TapRest,
    /// A large frame of the tap that is being cut.
    segmenter: Segmenter,
    /// Received segments on their way to the tap.
    coalescer: Coalescer,
    rx: RxTable<A>,
    tx: TxTable<A>,
    group: Group,
    received: Burst<B::Frame>,
    opened: Burst<Opened<B::Frame>>,
    /// Whether there is a program that takes messages.
    takes_messages: bool,
    /// Messages for it, the latest first. Nothing is received while there are
    /// any, so what waits for the program waits in the kernel.
    messages: Burst<Opened<B::Frame>>,
    /// Probes and data to seal, in this order before anything newer.
    plain: Burst<Plain<B::Frame>>,
    /// Sealed, and not yet taken by the bearer.
    sealed: Burst<Sealed<B::Frame>>,
    /// Whether the control thread is to be woken at the end of the pass.
    tell: bool,
    /// For how long there has been nothing to do.
    idle: Idle,
    /// Sleeps in a row for want of room to send.
    stalled: u32,
}

/// How a pass ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// Something was done: look again before sleeping.
    Busy,
    /// There was nothing to do.
    Idle,
    /// The control thread said stop.
    Stopped,
}

impl<A: Aead, B: Bearer, T: TapPort> Worker<A, B, T> {
    /// A worker with all the memory that it will ever take, except for keys.
    pub fn new(config: WorkerConfig, channel: WorkerEnd, bearer: B, tap: T) -> Self {
        Self {
            counters: Arc::new(WorkerCounters::new(config.peers)),
            rx: RxTable::new(config.spis),
            tx: TxTable::new(config.peers),
            group: Group::new(config.peers, Instant::now()),
            bearer: Some(bearer),
            fault: Arc::default(),
            tap,
            tap_rest: TapRest::default(),
            segmenter: Segmenter::new(),
            coalescer: Coalescer::new(),
            config,
            channel,
            received: Burst::new(),
            opened: Burst::new(),
            takes_messages: false,
            messages: Burst::new(),
            plain: Burst::new(),
            sealed: Burst::new(),
            tell: false,
            idle: Idle::default(),
            stalled: 0,
        }
    }

    /// Its counters, for any thread.
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }

    /// Works until the control thread says stop.
    pub fn run(&mut self) {
        // The kernel may add 50 µs to a sleep unless told otherwise: nearly as
        // long as segments are held. Where it refuses, they wait that longer.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        loop {
            match self.pass() {
                Pass::Busy => {}
                Pass::Idle => self.wait(),
                Pass::Stopped => return,
            }
        }
    }

    /// Commands, then one burst each way.
    pub fn pass(&mut self) -> Pass {
        self.counters.passes.add(1);
        point(Stage::Commands);
        let commands = self.drain_commands();
        if commands == Pass::Stopped {
            self.flush_all();
            return commands;
        }
        let moved = self.move_frames();
        self.wake_control();
        if moved {
            self.stalled = 0;
            self.idle.on_frames();
            return Pass::Busy;
        }
        commands
    }

    /// Both directions; true if a frame moved.
    fn move_frames(&mut self) -> bool {
        match self.try_move_frames() {
            Ok(moved) => moved,
            Err(error) => {
                self.lose_bearer(error);
                true
            }
        }
    }

    fn try_move_frames(&mut self) -> Result<bool, BearerError> {
        let Some(bearer) = &mut self.bearer else {
            return Ok(false);
        };
        if self.messages.is_empty() {
            bearer.receive(&mut self.received)?;
        }
        let received = self.received.len();
        if received > 0 {
            self.counters.received_frames.add(received as u64);
            point(Stage::Open);
            self.open();
            point(Stage::Deliver);
            self.deliver();
        }
        self.flush_due();
        // Answers to probes, and what an earlier pass could not send.
        self.seal();
        self.transmit()?;
        let read = self.ingest();
        if read > 0 {
            point(Stage::Ingest);
            self.seal();
            self.transmit()?;
        }
        Ok(received > 0 || read > 0)
    }

    fn open(&mut self) {
        let Some(bearer) = &mut self.bearer else {
            return;
        };
        open_burst(
            &mut self.rx,
            &self.config.encapsulation,
            bearer,
            &mut self.received,
            &mut self.opened,
            &self.counters,
            |event| emit(&self.channel, &self.counters, &mut self.tell, event),
        );
    }

    fn seal(&mut self) {
        let Some(bearer) = &mut self.bearer else {
            return;
        };
        if self.plain.is_empty() {
            return;
        }
        point(Stage::Seal);
        seal_burst(
            &mut self.tx,
            bearer,
            &mut self.plain,
            &mut self.sealed,
            &self.counters,
            |event| emit(&self.channel, &self.counters, &mut self.tell, event),
        );
    }

    /// Offers what is sealed, and what the kernel has left queued, to the
    /// bearer; says how many frames that took.
    fn transmit(&mut self) -> Result<usize, BearerError> {
        let Some(bearer) = &mut self.bearer else {
            return Ok(0);
        };
        if self.sealed.is_empty() && bearer.unsent() == 0 {
            return Ok(0);
        }
        point(Stage::Transmit);
        let done = bearer.transmit(&mut self.sealed)?;
        self.counters.transmitted_frames.add(done.accepted as u64);
        if done.lost > 0 {
            let nobody = &self.counters.nobody;
            nobody.tx_drop(TxDrop::LinkLost, done.lost as u64);
        }
        Ok(done.accepted)
    }

    /// The device is gone: everything that was for it is lost and counted.
    /// Lanes stay, so that no packet number is ever used again.
    fn lose_bearer(&mut self, error: BearerError) {
        // The first reason stays.
        let _ = self.fault.set(error);
        for sealed in self.sealed.drain(..) {
            let peer = self.counters.peer(sealed.peer());
            peer.tx_drop(TxDrop::LinkLost, 1);
        }
        // The memory of all these goes with the bearer.
        for plain in self.plain.drain(..) {
            let peer = self.counters.peer(plain.peer());
            peer.tx_drop(TxDrop::LinkLost, 1);
        }
        for message in self.messages.drain(..) {
            let peer = self.counters.peer(message.peer());
            peer.rx_drop(RxDrop::NoReceiver);
        }
        self.opened.clear();
        self.received.clear();
        self.group.abandon();
        self.flush_all();
        // Elsewhere its frames find a way; here they would wait for ever.
        let waiting = self.tap.detach().unwrap_or(0);
        let uncut = self.segmenter.abandon() as u64;
        let nobody = &self.counters.nobody;
        nobody.tx_drop(TxDrop::LinkLost, waiting + uncut);
        if let Some(mut bearer) = self.bearer.take() {
            let nobody = &self.counters.nobody;
            nobody.tx_drop(TxDrop::LinkLost, bearer.unsent() as u64);
        }
        self.emit(Event::BearerLost);
    }

    /// Tells the control thread of what this pass has queued for it.
    fn wake_control(&mut self) {
        if std::mem::take(&mut self.tell) {
            self.channel.wake_control();
        }
    }

    fn emit(&mut self, event: Event) {
        emit(&self.channel, &self.counters, &mut self.tell, event);
    }
}

/// Queues an event; the pass wakes the control thread once, at its end.
fn emit(channel: &WorkerEnd, counters: &WorkerCounters, tell: &mut bool, event: Event) {
    if channel.send(event) {
        *tell = true;
    } else {
        counters.events_lost.add(1);
    }
}

/// Releases a frame and counts why it was not sent.
fn drop_unsealed<M: FrameMemory>(
    memory: &mut M,
    frame: M::Frame,
    counters: &crate::counters::PeerCounters,
    reason: TxDrop,
) {
    memory.release(frame);
    counters.tx_drop(reason, 1);
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::BorrowedFd;

    use super::*;
    use crate::bearer::memory::{Faults, MemoryBearer, MemorySizes};
    use crate::command::channel;
    use crate::mac::MacAddr;
    use crate::tap::vnet::{Gso, OpenChecksum, VnetBytes, VnetHeader};

    #[cfg(feature = "crypto-aws-lc")]
    type Cipher = crate::aead::aws_lc::AwsLc;
    #[cfg(not(feature = "crypto-aws-lc"))]
    type Cipher = crate::aead::ring::Ring;

    /// A queue in which frames wait.
    struct QueuedTap(u64);

    impl TapPort for QueuedTap {
        fn read(
            &mut self,
            _: &mut VnetBytes,
            _: &mut [u8],
            _: &mut [u8],
        ) -> io::Result<Option<usize>> {
            Ok(None)
        }

        fn write(&mut self, _: &VnetBytes, _: &[u8]) -> io::Result<bool> {
            Ok(true)
        }

        fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn detach(&mut self) -> io::Result<u64> {
            Ok(std::mem::take(&mut self.0))
        }
    }

    #[test]
    fn lost_bearer_takes_what_was_for_it() {
        let (_control, channel) = channel().unwrap();
        let (bearer, _other) =
            MemoryBearer::pair(MemorySizes::default(), Faults::default(), 1).unwrap();
        let config = WorkerConfig {
            node: NodeId::new(1).unwrap(),
            encapsulation: Encapsulation::ethernet(MacAddr([2, 0, 0, 0, 0, 1]), 0x88b5, None),
            mtu: 1500,
            peers: 1,
            spis: 1,
            polling: Polling::Sleep,
        };
        let mut worker = Worker::<Cipher, _, _>::new(config, channel, bearer, QueuedTap(5));
        // IPv4 and TCP without options, 3,000 bytes of payload.
        let mut frame = vec![0; 54 + 3000];
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0x0b, 0xe0, 0, 0, 0, 0, 64, 6]);
        frame[46] = 0x50;
        let header = VnetHeader {
            checksum: Some(OpenChecksum {
                start: 34,
                offset: 16,
            }),
            gso: Gso::TcpV4,
            gso_size: 1000,
            header_len: 54,
        };
        let started = worker
            .segmenter
            .start(&header, &frame, frame.len(), frame.len());
        assert_eq!(started, Ok(()));
        worker.lose_bearer(BearerError::DeviceGone);
        let lost = worker.counters.nobody.tx_drops(TxDrop::LinkLost);
        assert_eq!(lost, 3 + 5, "uncut, and in the tap's queue");
        assert!(!worker.segmenter.is_pending());
    }
}
