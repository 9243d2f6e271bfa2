//! The worker: one thread, one core, one bearer, one tap, and its lanes.
//!
//! A pass drains key commands, then moves up to a burst each way:
//!
//! ```text
//! bearer ─ receive ─► rx pipeline ─► tap          (deliver)
//! tap ─ read into frame memory ─► tx pipeline ─► bearer   (ingest)
//! ```
//!
//! A pass that found nothing to do ends in one `poll`. Nothing here allocates,
//! locks or logs per frame; a failure is a count. Imports everything of the
//! pipelines and the traits of bearer and tap, neither's kernel side.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::aead::Aead;
use crate::bearer::{Bearer, BearerError, FrameMemory};
use crate::burst::Burst;
use crate::command::{Event, WorkerEnd};
use crate::counters::{TxDrop, WorkerCounters};
use crate::ids::NodeId;
use crate::outer::Encapsulation;
use crate::rx::{Opened, open_burst};
use crate::table::{RxTable, TxTable};
use crate::tap::TapPort;
use crate::tx::{Plain, Sealed, seal_burst};

mod commands;
mod deliver;
mod group;
mod ingest;
mod sleep;
#[cfg(feature = "io")]
mod spawn;

use group::Group;
pub use sleep::Polling;
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
    rx: RxTable<A>,
    tx: TxTable<A>,
    group: Group,
    received: Burst<B::Frame>,
    opened: Burst<Opened<B::Frame>>,
    /// Probes and data to seal, in this order before anything newer.
    plain: Burst<Plain<B::Frame>>,
    /// Sealed, and not yet taken by the bearer.
    sealed: Burst<Sealed<B::Frame>>,
    /// Whether the control thread is to be woken at the end of the pass.
    tell: bool,
    /// Idle passes, counted by a worker that spins.
    spins: u32,
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
            config,
            channel,
            received: Burst::new(),
            opened: Burst::new(),
            plain: Burst::new(),
            sealed: Burst::new(),
            tell: false,
            spins: 0,
            stalled: 0,
        }
    }

    /// Its counters, for any thread.
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }

    /// Works until the control thread says stop.
    pub fn run(&mut self) {
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
        let commands = self.drain_commands();
        if commands == Pass::Stopped {
            return commands;
        }
        let moved = self.move_frames();
        if std::mem::take(&mut self.tell) {
            self.channel.wake_control();
        }
        if moved {
            self.stalled = 0;
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
        bearer.receive(&mut self.received)?;
        let received = self.received.len();
        if received > 0 {
            self.counters.received_frames.add(received as u64);
            self.open();
            self.deliver();
        }
        // Answers to probes, and what an earlier pass could not send.
        self.seal();
        self.transmit()?;
        let read = self.ingest();
        if read > 0 {
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
        seal_burst(
            &mut self.tx,
            bearer,
            &mut self.plain,
            &mut self.sealed,
            &self.counters,
            |event| emit(&self.channel, &self.counters, &mut self.tell, event),
        );
    }

    /// Offers what is sealed, and what the kernel has left queued, to the bearer.
    fn transmit(&mut self) -> Result<(), BearerError> {
        let Some(bearer) = &mut self.bearer else {
            return Ok(());
        };
        if self.sealed.is_empty() && bearer.unsent() == 0 {
            return Ok(());
        }
        let done = bearer.transmit(&mut self.sealed)?;
        self.counters.transmitted_frames.add(done.accepted as u64);
        if done.lost > 0 {
            let nobody = &self.counters.nobody;
            nobody.tx_drop(TxDrop::LinkLost, done.lost as u64);
        }
        Ok(())
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
        // These were not sealed; their memory goes with the bearer.
        self.plain.clear();
        self.opened.clear();
        self.received.clear();
        self.group.abandon();
        if let Some(mut bearer) = self.bearer.take() {
            let nobody = &self.counters.nobody;
            nobody.tx_drop(TxDrop::LinkLost, bearer.unsent() as u64);
        }
        self.emit(Event::BearerLost);
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
