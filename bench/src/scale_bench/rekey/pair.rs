//! Two workers joined by memory, and what a control thread does to rekey all
//! their peers: the commands, their order and their acknowledgements are those
//! of the daemon's hub and key machine
//! (docs/protocol.md, "Install and retire"). Imports `keys`, `schedule`, `wait`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tipsec_dataplane::aead::Aead;
use tipsec_dataplane::bearer::memory::{Faults, MemoryBearer, MemorySizes};
use tipsec_dataplane::command::{Command, CommandSeq, ControlEnd, Event, channel};
use tipsec_dataplane::counters::WorkerCounters;
use tipsec_dataplane::ids::{NodeId, PeerIndex};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OuterHeader};
use tipsec_dataplane::worker::{Polling, Worker, WorkerConfig, WorkerHandle, spawn};
use tipsec_xdp::wire::DEFAULT_ETHERTYPE;

use super::keys::{self, Way};
use super::schedule::{Recorder, Scheduled, Shared};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::wait::{self, Look};

const LEFT: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const RIGHT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Frame memory of either worker, and frames that may be between them.
const SIZES: MemorySizes = MemorySizes {
    frames: 2048,
    max_frame_len: 2048,
    wire_frames: 1024,
};
/// Longest frame from the Tipsec header to the tag.
const MTU: usize = 1500;
/// All commands of a step are acknowledged by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// What was sealed on the old lanes has arrived by then.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// The control thread sleeps at most so long between two looks.
const NAP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};

fn failed(what: &str, detail: impl Into<String>) -> Error {
    Error::Failed {
        what: what.into(),
        detail: detail.into(),
    }
}

/// A worker as the control thread sees it; commands that find no room wait in
/// order, as at the hub.
struct Port {
    channel: ControlEnd,
    handle: WorkerHandle,
    backlog: VecDeque<Command>,
}

impl Port {
    fn send(&mut self, command: Command) {
        self.backlog.push_back(command);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(command) = self.backlog.pop_front() {
            if let Err(command) = self.channel.send(command) {
                self.backlog.push_front(command);
                return;
            }
        }
    }
}

impl Port {
    /// The way to a peer and the lane to it, as the hub installs them.
    fn seal_with(&mut self, peer: u16, generation: u32, way: Way) -> Result<()> {
        let (from, to, seq) = match way {
            Way::In => (LEFT, RIGHT, seq(peer)),
            Way::Out => (RIGHT, LEFT, UNHEEDED),
        };
        let lane = Box::new(keys::tx_lane(peer, generation, way)?);
        let path = Some(OuterHeader::ethernet(from, to, DEFAULT_ETHERTYPE, None));
        let peer = PeerIndex(peer);
        self.send(Command::SetPath { peer, path });
        self.send(Command::InstallTx { seq, lane });
        Ok(())
    }
}

/// One of the workers.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// See the module.
pub(super) struct Pair {
    left: Port,
    right: Port,
    peers: u16,
    /// Rekeys of all peers so far: which keys are the newest.
    generation: u32,
}

/// What a command is numbered by: the peer whose lane it installs or removes.
fn seq(peer: u16) -> CommandSeq {
    CommandSeq(peer.into())
}

/// Commands that nobody waits for.
const UNHEEDED: CommandSeq = CommandSeq(u64::MAX);

impl Pair {
    /// Starts both workers on their cores: the left one seals what is due, the
    /// right one opens it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Failed`].
    pub(super) fn start<A: Aead>(
        peers: u16,
        cores: (usize, usize),
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let bearers = MemoryBearer::pair(SIZES, Faults::default(), 0)
            .map_err(Error::io("join two workers by memory"))?;
        let config = |node, own| {
            Ok(WorkerConfig {
                node: NodeId::new(node).ok_or_else(|| failed("name a node", "0"))?,
                encapsulation: Encapsulation::ethernet(own, DEFAULT_ETHERTYPE, None),
                mtu: MTU,
                peers: peers.into(),
                spis: 2 * usize::from(peers),
                polling: Polling::Sleep,
            })
        };
        let source = Scheduled {
            shared: Arc::clone(shared),
            peers,
            made: 0,
        };
        let sink = Recorder {
            shared: Arc::clone(shared),
        };
        let channels = || channel().map_err(Error::io("make a command queue"));
        let not_started = |error| failed("start a worker", format!("{error}"));
        let (control, end) = channels()?;
        let worker = Worker::<A, _, _>::new(config(1, LEFT)?, end, bearers.0, source);
        let left = Port {
            handle: spawn(worker, Some(cores.0), "bench-left").map_err(not_started)?,
            channel: control,
            backlog: VecDeque::new(),
        };
        let (control, end) = channels()?;
        let worker = Worker::<A, _, _>::new(config(2, RIGHT)?, end, bearers.1, sink);
        let right = spawn(worker, Some(cores.1), "bench-right").map_err(not_started);
        let mut left = left;
        let right = match right {
            Ok(handle) => Port {
                handle,
                channel: control,
                backlog: VecDeque::new(),
            },
            Err(error) => {
                left.send(Command::Stop);
                let _ = left.handle.join();
                return Err(error);
            }
        };
        Ok(Self {
            left,
            right,
            peers,
            generation: 0,
        })
    }

    /// Both workers' counters.
    pub(super) fn counters(&self) -> (Arc<WorkerCounters>, Arc<WorkerCounters>) {
        let of = |port: &Port| Arc::clone(port.handle.counters());
        (of(&self.left), of(&self.right))
    }

    /// Gives every peer new keys; the first time, its first ones.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Failed`] if a worker refuses or ended,
    /// [`Error::Interrupted`].
    pub(super) fn rekey_all(&mut self) -> Result<()> {
        self.generation += 1;
        let generation = self.generation;
        for peer in 0..self.peers {
            let lane = Box::new(keys::rx_lane(peer, generation)?);
            let seq = seq(peer);
            self.right.send(Command::InstallRx { seq, lane });
        }
        // A peer's offer leaves when its lane is acknowledged; the peer then
        // seals with it, and we with what the peer has offered.
        self.until_answered(Side::Right, "receiving lanes", |pair, peer| {
            let (from_peer, to_peer) = (Way::In, Way::Out);
            pair.left.seal_with(peer, generation, from_peer)?;
            pair.right.seal_with(peer, generation, to_peer)
        })?;
        self.until_answered(Side::Left, "sending lanes", |_, _| Ok(()))?;
        self.drain()?;
        if generation == 1 {
            return Ok(());
        }
        for peer in 0..self.peers {
            let spi = keys::spi(peer, generation - 1)?;
            let seq = seq(peer);
            self.right.send(Command::RemoveRx { seq, spi });
        }
        self.until_answered(Side::Right, "removals", |_, _| Ok(()))
    }

    fn port(&mut self, side: Side) -> &mut Port {
        match side {
            Side::Left => &mut self.left,
            Side::Right => &mut self.right,
        }
    }

    /// Takes a worker's answers, one for each peer, and tells `on_done` which.
    /// What comes of earlier commands that nobody waits for is let pass.
    fn until_answered(
        &mut self,
        side: Side,
        what: &str,
        mut on_done: impl FnMut(&mut Self, u16) -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut answered = 0;
        while answered < self.peers {
            interrupt::check()?;
            if Instant::now() > deadline {
                let state = format!("{answered} of {} {what} acknowledged", self.peers);
                return Err(failed("rekey in time", state));
            }
            self.nap(side)?;
            self.port(side).channel.clear_wake();
            while let Some(event) = self.port(side).channel.receive() {
                self.port(side).flush();
                match event {
                    Event::Done { seq } if seq != UNHEEDED => {
                        answered += 1;
                        on_done(self, u16::try_from(seq.0).unwrap_or(u16::MAX))?;
                    }
                    other => heed(other)?,
                }
            }
        }
        Ok(())
    }

    /// Waits for what was sealed so far to arrive: the grace of the old lanes,
    /// which in a cluster is a time.
    fn drain(&mut self) -> Result<()> {
        let (left, right) = self.counters();
        let sent = left.transmitted_frames.value();
        wait::until("frames of old lanes", DRAIN_WITHIN, LOOK_INTERVAL, || {
            let received = right.received_frames.value();
            Ok(match received >= sent {
                true => Look::Done(()),
                false => Look::NotYet(format!("{received} of {sent} received")),
            })
        })
    }

    /// Does nothing for a while but take events.
    ///
    /// # Errors
    /// [`Error::Interrupted`], [`Error::Failed`] if a worker ended.
    pub(super) fn rest(&mut self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            interrupt::check()?;
            self.nap(Side::Right)?;
            for port in [&mut self.left, &mut self.right] {
                port.channel.clear_wake();
                while let Some(event) = port.channel.receive() {
                    port.flush();
                    heed(event)?;
                }
            }
        }
        Ok(())
    }

    /// Sleeps until a worker has something to say.
    fn nap(&mut self, side: Side) -> Result<()> {
        for port in [&mut self.left, &mut self.right] {
            port.flush();
            if let Some(text) = port.handle.panicked() {
                return Err(failed("go on: a worker panicked", text));
            }
        }
        let fd = self.port(side).channel.wake_fd();
        // Interrupted or timed out: look again either way.
        let _ = poll(
            &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
            Some(&NAP),
        );
        Ok(())
    }

    /// Ends both workers.
    ///
    /// # Errors
    /// [`Error::Failed`] if one panicked, refused a lane or lost an event.
    pub(super) fn stop(mut self) -> Result<()> {
        for port in [&mut self.left, &mut self.right] {
            // Whatever waits is void now, and Stop must find room.
            port.backlog.clear();
            while port.channel.send(Command::Stop).is_err() {
                std::thread::yield_now();
            }
        }
        for port in [self.left, self.right] {
            let counters = Arc::clone(port.handle.counters());
            let ended = port.handle.join();
            ended.map_err(|panic| failed("end a worker", panic.to_string()))?;
            let (refused, lost) = (
                counters.installs_refused.value(),
                counters.events_lost.value(),
            );
            if (refused, lost) != (0, 0) {
                let counts = format!("{refused} lanes refused, {lost} events lost");
                return Err(failed("rekey", counts));
            }
        }
        Ok(())
    }
}

/// Events that answer nothing.
fn heed(event: Event) -> Result<()> {
    match event {
        Event::Done { .. } | Event::FirstOpen { .. } => Ok(()),
        other => Err(failed("rekey", format!("a worker said {other:?}"))),
    }
}
