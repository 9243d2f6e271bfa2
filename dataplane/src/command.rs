//! What the control thread and a worker say to each other.
//!
//! Commands go one way and events the other, each through a bounded lock-free
//! queue; an eventfd beside each wakes the side that sleeps in `poll`. The
//! worker drains commands between bursts, before it seals anything.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::event::{PollFd, Timespec};

use crate::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use crate::outer::OuterHeader;
use crate::payload::Probe;
use crate::phase::{Phase, PhaseBits};
use crate::sa::RxShared;
use crate::secret::LaneSecret;
use crate::sync::{AtomicBool, Bell, Ordering, Queue};

/// Commands that may wait for a worker.
pub const COMMAND_CAPACITY: usize = 4096;

/// Events that may wait for the control thread. Probes use at most half, so
/// that an answer to a command always finds room.
pub const EVENT_CAPACITY: usize = 2 * COMMAND_CAPACITY;

/// Numbers commands, so that their completion can be told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommandSeq(pub u64);

/// A lane to open frames of.
pub struct RxLaneSpec {
    /// Our name for it.
    pub spi: Spi,
    /// Whose frames it opens.
    pub peer: PeerIndex,
    /// The same, as the node's own id.
    pub node: NodeId,
    /// Generation of its keys.
    pub epoch: Epoch,
    /// Which of the sender's workers.
    pub lane: LaneIndex,
    /// Key and IV of the first phase.
    pub secret: LaneSecret,
    /// Of the second, staged from the start: a sender that was told of the
    /// first may enter it.
    pub next: Option<LaneSecret>,
    /// Where phases begin in its packet numbers.
    pub phase_bits: PhaseBits,
    /// Shared by every worker that may receive the lane's frames.
    pub shared: Arc<RxShared>,
}

impl RxLaneSpec {
    /// The same lane, window included, for another worker.
    pub fn duplicate(&self) -> Self {
        Self {
            spi: self.spi,
            peer: self.peer,
            node: self.node,
            epoch: self.epoch,
            lane: self.lane,
            secret: self.secret.duplicate(),
            next: self.next.as_ref().map(LaneSecret::duplicate),
            phase_bits: self.phase_bits,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl RxLaneSpec {
    /// Its secrets, phase by phase.
    pub fn secrets(&self) -> impl Iterator<Item = &LaneSecret> {
        std::iter::once(&self.secret).chain(&self.next)
    }
}

/// A lane to seal frames on.
pub struct TxLaneSpec {
    /// The receiver's name for it.
    pub spi: Spi,
    /// To whom.
    pub peer: PeerIndex,
    /// The same, as the node's own id.
    pub node: NodeId,
    /// Generation of its keys.
    pub epoch: Epoch,
    /// Which of our workers.
    pub lane: LaneIndex,
    /// Key and IV of the first phase.
    pub secret: LaneSecret,
    /// Of the second.
    pub next: Option<LaneSecret>,
    /// Where phases begin in its packet numbers.
    pub phase_bits: PhaseBits,
    /// What may be sealed with it in each phase.
    pub budget: Budget,
}

impl TxLaneSpec {
    /// Its secrets, phase by phase.
    pub fn secrets(&self) -> impl Iterator<Item = &LaneSecret> {
        std::iter::once(&self.secret).chain(&self.next)
    }
}

/// The key of a lane in one more phase.
pub struct PhaseSpec {
    /// The lane.
    pub spi: Spi,
    /// The phase: the one after those that the lane has.
    pub phase: Phase,
    /// Key and IV.
    pub secret: LaneSecret,
}

impl PhaseSpec {
    /// One more, for another worker: each keeps a key of its own.
    pub fn duplicate(&self) -> Self {
        Self {
            spi: self.spi,
            phase: self.phase,
            secret: self.secret.duplicate(),
        }
    }
}

/// How much one lane may seal in one phase, in packets plus AES blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// From here on [`Event::BudgetLow`] asks for a rekey.
    pub soft: u64,
    /// Here the lane enters its next phase, or stops.
    pub hard: u64,
}

impl Budget {
    /// Where data enters the next phase, or stops: the last eighth is for
    /// probes. Without it a lane that has stopped could not ask whether it may
    /// go on, nor answer its peer.
    pub const fn data_limit(self) -> u64 {
        self.hard - self.hard / 8
    }
}

/// From the control thread to a worker.
pub enum Command {
    /// Open this lane's frames from now on. Answered by [`Event::Done`].
    InstallRx {
        /// Number of the answer.
        seq: CommandSeq,
        /// The lane.
        lane: Box<RxLaneSpec>,
    },
    /// Forget and wipe a receiving lane. Answered.
    RemoveRx {
        /// Number of the answer.
        seq: CommandSeq,
        /// The lane.
        spi: Spi,
    },
    /// Open frames of this lane's next phase too, and forget the phase before
    /// the present one. Answered; refused if the lane does not have the phase
    /// before, or has this one.
    StageRx {
        /// Number of the answer.
        seq: CommandSeq,
        /// Lane, phase and key.
        phase: Box<PhaseSpec>,
    },
    /// Seal on this lane from now on, data included; its predecessor is wiped.
    /// Refused, and answered all the same, if this very SA (SPI, epoch and IV)
    /// was the last that was installed for the peer: an SA is installed once,
    /// so no counter is ever reset. Which epoch succeeds which is the sender of
    /// the command's to decide, since a new incarnation starts over.
    InstallTx {
        /// Number of the answer.
        seq: CommandSeq,
        /// The lane.
        lane: Box<TxLaneSpec>,
    },
    /// Forget and wipe the sending lane to a peer. Answered.
    RemoveTx {
        /// Number of the answer.
        seq: CommandSeq,
        /// To whom.
        peer: PeerIndex,
    },
    /// Keep the key of a sending lane's next phase. Answered; refused like
    /// [`Self::StageRx`], or if the peer's lane is another by now.
    StageTx {
        /// Number of the answer.
        seq: CommandSeq,
        /// To whom.
        peer: PeerIndex,
        /// Lane, phase and key.
        phase: Box<PhaseSpec>,
    },
    /// Let a sending lane go on in phases up to this one: a probe's answer said
    /// that the receiver holds their keys. Nothing if the peer's lane is
    /// another by now.
    AllowPhase {
        /// To whom.
        peer: PeerIndex,
        /// The lane.
        spi: Spi,
        /// The highest of them.
        phase: Phase,
    },
    /// Send what is sealed for a peer this way from now on, or, without a
    /// header, nowhere: then nothing is sealed for it either. Lanes come and go
    /// without it.
    SetPath {
        /// To whom.
        peer: PeerIndex,
        /// Of this worker's bearer.
        path: Option<OuterHeader>,
    },
    /// The bearer carries frames of another length now. Longer ones from the
    /// tap are dropped and counted.
    SetMtu {
        /// As in [`crate::worker::WorkerConfig::mtu`].
        mtu: usize,
    },
    /// Seal data on the lane to a peer, or only probes (an SA that nobody
    /// confirms carries no data; docs/protocol.md, "Install and retire").
    AllowData {
        /// To whom.
        peer: PeerIndex,
        /// Whether data may be sealed.
        allowed: bool,
    },
    /// Seal and send a probe.
    SendProbe {
        /// To whom.
        peer: PeerIndex,
        /// What.
        probe: Probe,
    },
    /// Leave the loop and drop everything.
    Stop,
}

/// From a worker to the control thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The command with this number has taken effect.
    Done {
        /// Number of the command.
        seq: CommandSeq,
    },
    /// The command with this number cannot be carried out, and never will be:
    /// the table has no such place, the SA was installed before, or the phase
    /// is not the lane's next.
    Refused {
        /// Number of the command.
        seq: CommandSeq,
    },
    /// A receiving lane opened its first frame at this worker.
    FirstOpen {
        /// Whose.
        peer: PeerIndex,
        /// Which.
        spi: Spi,
    },
    /// A probe's answer arrived (requests are answered by the worker).
    ProbeReply {
        /// Whose.
        peer: PeerIndex,
        /// The lane that opened it.
        spi: Spi,
        /// What it says.
        probe: Probe,
    },
    /// A sending lane passed the soft budget of a phase; said once a phase.
    BudgetLow {
        /// To whom.
        peer: PeerIndex,
        /// Of which generation.
        epoch: Epoch,
        /// Whether it may enter its next phase when the rest is spent.
        next_ready: bool,
    },
    /// A sending lane went on in this phase.
    PhaseEntered {
        /// To whom.
        peer: PeerIndex,
        /// Which.
        spi: Spi,
        /// The phase.
        phase: Phase,
    },
    /// A receiving lane opened the first frame of a phase above the first, at
    /// this worker.
    PhaseOpened {
        /// Whose.
        peer: PeerIndex,
        /// Which.
        spi: Spi,
        /// The phase.
        phase: Phase,
    },
    /// A sending lane has spent its budget for data, may not enter its next
    /// phase, and seals only probes until it may; said once a phase.
    BudgetSpent {
        /// To whom.
        peer: PeerIndex,
        /// Of which generation.
        epoch: Epoch,
    },
    /// A receiving lane reached its SA's limit of failed opens; said once a
    /// worker.
    OpenLimit {
        /// Whose.
        peer: PeerIndex,
        /// Which.
        spi: Spi,
    },
    /// The worker's device is gone. Its lanes live on, it serves commands, and
    /// carries nothing.
    BearerLost,
}

/// What both ends hold.
struct Shared {
    commands: Queue<Command>,
    events: Queue<Event>,
    wake_worker: Bell,
    wake_control: Bell,
    worker_gone: AtomicBool,
    control_gone: AtomicBool,
}

/// The control thread's end.
pub struct ControlEnd(Arc<Shared>);

/// The worker's end.
pub struct WorkerEnd(Arc<Shared>);

/// Makes the two ends.
///
/// # Errors
/// The kernel's, if no eventfd is to be had (file descriptor limit).
pub fn channel() -> std::io::Result<(ControlEnd, WorkerEnd)> {
    let shared = Arc::new(Shared {
        commands: Queue::new(COMMAND_CAPACITY),
        events: Queue::new(EVENT_CAPACITY),
        wake_worker: Bell::new()?,
        wake_control: Bell::new()?,
        worker_gone: AtomicBool::new(false),
        control_gone: AtomicBool::new(false),
    });
    Ok((ControlEnd(Arc::clone(&shared)), WorkerEnd(shared)))
}

impl ControlEnd {
    /// Queues a command and wakes the worker; gives it back if the queue is
    /// full, for the caller to try again after the next events.
    #[allow(clippy::result_large_err)]
    pub fn send(&self, command: Command) -> Result<(), Command> {
        self.0.commands.push(command)?;
        self.0.wake_worker.ring();
        Ok(())
    }

    /// The next event, if any.
    pub fn receive(&self) -> Option<Event> {
        self.0.events.pop()
    }

    /// Whether the worker's end was dropped: nobody will carry out a command.
    /// [`Self::wake_fd`] becomes readable when that happens.
    pub fn is_abandoned(&self) -> bool {
        self.0.worker_gone.load(Ordering::Acquire)
    }

    /// Readable when events wait.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.0.wake_control.as_fd()
    }

    /// Makes [`Self::wake_fd`] wait again; call before draining.
    pub fn clear_wake(&self) {
        self.0.wake_control.clear();
    }

    /// Sleeps until events wait, in a model, whose descriptors never do.
    #[cfg(loom)]
    pub fn wait(&self) {
        self.0.wake_control.wait();
    }
}

impl Drop for ControlEnd {
    fn drop(&mut self) {
        self.0.control_gone.store(true, Ordering::Release);
        self.0.wake_worker.ring();
    }
}

impl Drop for WorkerEnd {
    fn drop(&mut self) {
        self.0.worker_gone.store(true, Ordering::Release);
        self.0.wake_control.ring();
    }
}

impl WorkerEnd {
    /// The next command, if any.
    pub fn receive(&self) -> Option<Command> {
        self.0.commands.pop()
    }

    /// Whether a command waits; cheap enough for every pass.
    pub fn has_commands(&self) -> bool {
        !self.0.commands.is_empty()
    }

    /// Whether the control thread's end was dropped: no command will come any
    /// more, not even [`Command::Stop`].
    pub fn is_orphaned(&self) -> bool {
        self.0.control_gone.load(Ordering::Acquire)
    }

    /// Queues an event without waking anybody: a pass wakes once, by
    /// [`Self::wake_control`]. False if it found no room and is lost.
    #[must_use]
    pub fn send(&self, event: Event) -> bool {
        let droppable = matches!(event, Event::ProbeReply { .. });
        if droppable && self.0.events.len() >= EVENT_CAPACITY / 2 {
            return false;
        }
        self.0.events.push(event).is_ok()
    }

    /// Wakes the control thread.
    pub fn wake_control(&self) {
        self.0.wake_control.ring();
    }

    /// Readable when commands wait.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.0.wake_worker.as_fd()
    }

    /// Makes [`Self::wake_fd`] wait again; call before draining.
    pub fn clear_wake(&self) {
        self.0.wake_worker.clear();
    }

    /// Sleeps until one of `fds`, the first of which is [`Self::wake_fd`], is
    /// readable or the time is over.
    pub(crate) fn poll(
        &self,
        fds: &mut [PollFd<'_>],
        timeout: &Timespec,
    ) -> rustix::io::Result<usize> {
        self.0.wake_worker.poll(fds, timeout)
    }

    /// Sleeps until commands wait, in a model, whose descriptors never do.
    #[cfg(loom)]
    pub fn wait(&self) {
        self.0.wake_worker.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: u64) -> Event {
        Event::ProbeReply {
            peer: PeerIndex(0),
            spi: Spi::new(1).unwrap(),
            probe: Probe {
                op: crate::payload::ProbeOp::Reply,
                id,
                phase: Phase::FIRST,
            },
        }
    }

    #[test]
    fn answers_find_room_when_probes_flood() {
        let (control, worker) = channel().unwrap();
        let queued = (0..EVENT_CAPACITY as u64)
            .filter(|&id| worker.send(reply(id)))
            .count();
        assert_eq!(queued, EVENT_CAPACITY / 2);
        assert!(worker.send(Event::Done { seq: CommandSeq(1) }));
        assert_eq!(control.receive(), Some(reply(0)));
    }

    #[test]
    fn dropped_worker_is_noticed() {
        let (control, worker) = channel().unwrap();
        assert!(!control.is_abandoned());
        assert!(worker.send(Event::BearerLost));
        drop(worker);
        assert!(control.is_abandoned());
        assert_eq!(control.receive(), Some(Event::BearerLost), "is still heard");
        let woken = rustix::io::read(control.wake_fd(), &mut [0u8; 8]);
        assert_eq!(woken, Ok(8));
    }

    #[test]
    fn dropped_control_thread_is_noticed() {
        let (control, worker) = channel().unwrap();
        assert!(!worker.is_orphaned());
        drop(control);
        assert!(worker.is_orphaned());
        let woken = rustix::io::read(worker.wake_fd(), &mut [0u8; 8]);
        assert_eq!(woken, Ok(8));
    }

    #[test]
    fn full_command_queue_gives_the_command_back() {
        let (control, worker) = channel().unwrap();
        for _ in 0..COMMAND_CAPACITY {
            assert!(control.send(Command::Stop).is_ok());
        }
        assert!(matches!(control.send(Command::Stop), Err(Command::Stop)));
        assert!(worker.has_commands());
        assert!(worker.receive().is_some());
        assert!(control.send(Command::Stop).is_ok());
    }
}
