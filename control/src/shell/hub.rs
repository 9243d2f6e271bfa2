//! Carries the machine's key actions to workers and XDP maps, and counts their
//! acknowledgements.
//!
//! "Installed" means installed: every worker has answered and every map holds
//! the SPIs. Removal goes the other way round.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use tipsec_dataplane::attach::{Attachment, MapUpdateError};
use tipsec_dataplane::command::{
    Command, CommandSeq, ControlEnd, Event, PhaseSpec, RxLaneSpec, TxLaneSpec,
};
use tipsec_dataplane::counters::WorkerCounters;
use tipsec_dataplane::ids::{LaneIndex, PeerIndex, Spi};
use tipsec_dataplane::payload::Probe;
use tipsec_dataplane::phase::Phase;
use tipsec_dataplane::worker::WorkerHandle;

use super::paths::Path;
use crate::machine::Token;

/// Who makes a worker's passes.
pub enum Runner {
    /// A thread of its own.
    Thread(WorkerHandle),
    /// A program, by an endpoint with these counters.
    Program(Arc<WorkerCounters>),
}

/// One worker as the control thread sees it.
pub struct WorkerPort {
    /// Commands and events.
    pub channel: ControlEnd,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    /// Its thread; none if a program drives it.
    thread: Option<WorkerHandle>,
    /// The core that it is pinned to, as far as that is known.
    pub core: Option<u32>,
    /// Commands that found no room yet.
    backlog: VecDeque<Command>,
}

impl WorkerPort {
    /// A port to a worker that runs in a thread, or whose endpoint a program
    /// is about to get.
    pub fn new(channel: ControlEnd, runner: Runner, core: Option<u32>) -> Self {
        let (counters, thread) = match runner {
            Runner::Thread(handle) => (Arc::clone(handle.counters()), Some(handle)),
            Runner::Program(counters) => (counters, None),
        };
        Self {
            channel,
            counters,
            core: core.filter(|_| thread.is_some()),
            thread,
            backlog: VecDeque::new(),
        }
    }

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

/// What a token waits for.
struct Waiting {
    answers: usize,
    /// SPIs to enter in the maps after the last answer.
    then_map: Vec<Spi>,
    installs: bool,
}

/// What the hub reports.
pub enum Report {
    /// The lanes, or the phase, of this token are installed everywhere.
    Installed(Token),
    /// The lanes of this token are gone everywhere.
    Removed(Token),
    /// An event of the worker with this number.
    Worker(usize, Event),
}

/// All workers and all maps.
pub struct Hub {
    workers: Vec<WorkerPort>,
    attachments: Vec<Attachment>,
    next_seq: u64,
    waiting: BTreeMap<Token, Waiting>,
    tokens: BTreeMap<CommandSeq, Token>,
}

impl Hub {
    /// Joins workers and maps.
    pub fn new(workers: Vec<WorkerPort>, attachments: Vec<Attachment>) -> Self {
        Self {
            workers,
            attachments,
            next_seq: 0,
            waiting: BTreeMap::new(),
            tokens: BTreeMap::new(),
        }
    }

    /// The workers.
    pub fn workers(&self) -> &[WorkerPort] {
        &self.workers
    }

    /// The XDP programs' handles.
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// The XDP programs' handles, to change maps other than the SPIs'.
    pub fn attachments_mut(&mut self) -> &mut [Attachment] {
        &mut self.attachments
    }

    /// Readable when a worker has something to say.
    pub fn wake_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.workers.iter().map(|worker| worker.channel.wake_fd())
    }

    fn seq(&mut self) -> CommandSeq {
        self.next_seq += 1;
        CommandSeq(self.next_seq)
    }

    /// The number of a command whose answer counts for a token.
    fn seq_for(&mut self, token: Token) -> CommandSeq {
        let seq = self.seq();
        self.tokens.insert(seq, token);
        seq
    }

    /// Waits for every worker's answer to each of so many commands.
    fn await_all(&mut self, token: Token, commands: usize, then_map: Vec<Spi>, installs: bool) {
        let waiting = Waiting {
            answers: commands * self.workers.len(),
            then_map,
            installs,
        };
        self.waiting.insert(token, waiting);
    }

    /// Installs lanes at every worker, then in every map.
    pub fn install_rx(&mut self, token: Token, lanes: Vec<RxLaneSpec>) {
        let spis: Vec<Spi> = lanes.iter().map(|lane| lane.spi).collect();
        self.await_all(token, lanes.len(), spis, true);
        for lane in lanes {
            for at in 0..self.workers.len() {
                let seq = self.seq_for(token);
                let lane = Box::new(lane.duplicate());
                self.workers[at].send(Command::InstallRx { seq, lane });
            }
        }
    }

    /// Gives every worker the key of a receiving lane's next phase.
    pub fn stage_rx(&mut self, token: Token, phase: &PhaseSpec) {
        self.await_all(token, 1, Vec::new(), true);
        for at in 0..self.workers.len() {
            let seq = self.seq_for(token);
            let phase = Box::new(phase.duplicate());
            self.workers[at].send(Command::StageRx { seq, phase });
        }
    }

    /// Withdraws lanes from every map, then at every worker.
    ///
    /// # Errors
    /// [`MapUpdateError`] if a map refuses; the workers forget the lanes all
    /// the same, which is what counts.
    pub fn remove_rx(&mut self, token: Token, spis: &[Spi]) -> Result<(), MapUpdateError> {
        // An installation that is still under way must not enter them again.
        for waiting in self.waiting.values_mut() {
            waiting.then_map.retain(|spi| !spis.contains(spi));
        }
        let mut result = Ok(());
        for attachment in &mut self.attachments {
            for &spi in spis {
                result = result.and(attachment.remove_spi(spi));
            }
        }
        self.await_all(token, spis.len(), Vec::new(), false);
        for &spi in spis {
            for at in 0..self.workers.len() {
                let seq = self.seq_for(token);
                self.workers[at].send(Command::RemoveRx { seq, spi });
            }
        }
        result
    }

    /// Has a worker send frames to a peer this way from now on.
    pub fn set_path(&mut self, path: Path) {
        if let Some(worker) = self.workers.get_mut(path.worker) {
            worker.send(Command::SetPath {
                peer: path.peer,
                path: path.header,
            });
        }
    }

    /// Tells a worker that its bearer carries frames of another length now, in
    /// bytes from the Tipsec header to the tag.
    pub fn set_mtu(&mut self, worker: usize, mtu: usize) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.send(Command::SetMtu { mtu });
        }
    }

    /// Installs sending lanes, each at its own worker.
    pub fn install_tx(&mut self, lanes: Vec<TxLaneSpec>) {
        for lane in lanes {
            let seq = self.seq();
            if let Some(worker) = self.workers.get_mut(usize::from(lane.lane.0)) {
                worker.send(Command::InstallTx {
                    seq,
                    lane: Box::new(lane),
                });
            }
        }
    }

    /// Gives a worker the key of its sending lane's next phase.
    pub fn stage_tx(&mut self, peer: PeerIndex, lane: LaneIndex, phase: PhaseSpec) {
        let seq = self.seq();
        if let Some(worker) = self.workers.get_mut(usize::from(lane.0)) {
            let phase = Box::new(phase);
            worker.send(Command::StageTx { seq, peer, phase });
        }
    }

    /// Lets a sending lane go on in phases up to this one.
    pub fn allow_phase(&mut self, peer: PeerIndex, lane: LaneIndex, spi: Spi, phase: Phase) {
        if let Some(worker) = self.workers.get_mut(usize::from(lane.0)) {
            worker.send(Command::AllowPhase { peer, spi, phase });
        }
    }

    /// Wipes the sending lanes to a peer.
    pub fn remove_tx(&mut self, peer: PeerIndex) {
        for at in 0..self.workers.len() {
            let seq = self.seq();
            self.workers[at].send(Command::RemoveTx { seq, peer });
        }
    }

    /// Lets data on a lane through to a peer, or holds it.
    pub fn allow_data(&mut self, peer: PeerIndex, lane: LaneIndex, allowed: bool) {
        if let Some(worker) = self.workers.get_mut(usize::from(lane.0)) {
            worker.send(Command::AllowData { peer, allowed });
        }
    }

    /// Sends a probe on a lane.
    pub fn send_probe(&mut self, peer: PeerIndex, lane: LaneIndex, probe: Probe) {
        if let Some(worker) = self.workers.get_mut(usize::from(lane.0)) {
            worker.send(Command::SendProbe { peer, probe });
        }
    }

    /// The next thing that workers report, or that has come together from
    /// their answers.
    ///
    /// # Errors
    /// [`MapUpdateError`] if a map refuses the SPIs of an installed SA: its
    /// offer must not leave.
    pub fn next_report(&mut self) -> Result<Option<Report>, MapUpdateError> {
        for at in 0..self.workers.len() {
            self.workers[at].channel.clear_wake();
            while let Some(event) = self.workers[at].channel.receive() {
                self.workers[at].flush();
                match event {
                    Event::Done { seq } => {
                        if let Some(report) = self.on_done(seq)? {
                            return Ok(Some(report));
                        }
                    }
                    Event::Refused { seq } => self.on_refused(seq),
                    other => return Ok(Some(Report::Worker(at, other))),
                }
            }
        }
        Ok(None)
    }

    /// A worker will not install a lane or a phase: what waits for it is never told
    /// "installed", so an offer never leaves and the machine lets the SA expire,
    /// and a phase is never reported.
    fn on_refused(&mut self, seq: CommandSeq) {
        tracing::error!(
            "a worker refused command {}: a bug; please report it",
            seq.0
        );
        if let Some(token) = self.tokens.remove(&seq) {
            self.waiting.remove(&token);
        }
    }

    fn on_done(&mut self, seq: CommandSeq) -> Result<Option<Report>, MapUpdateError> {
        // Sending lanes are answered too, and nobody waits for those.
        let Some(token) = self.tokens.remove(&seq) else {
            return Ok(None);
        };
        let Some(waiting) = self.waiting.get_mut(&token) else {
            return Ok(None);
        };
        waiting.answers -= 1;
        if waiting.answers > 0 {
            return Ok(None);
        }
        let Some(done) = self.waiting.remove(&token) else {
            return Ok(None);
        };
        for attachment in &mut self.attachments {
            for &spi in &done.then_map {
                attachment.add_spi(spi)?;
            }
        }
        Ok(Some(if done.installs {
            Report::Installed(token)
        } else {
            Report::Removed(token)
        }))
    }

    /// Why a worker ended, if one panicked.
    pub fn panicked(&self) -> Option<&str> {
        self.workers
            .iter()
            .find_map(|worker| worker.thread.as_ref()?.panicked())
    }

    /// An endpoint that its program has dropped, by number.
    pub fn dropped(&self) -> Option<usize> {
        self.workers
            .iter()
            .position(|worker| worker.thread.is_none() && worker.channel.is_abandoned())
    }

    /// Stops the workers and waits for their threads; the XDP programs come off
    /// the NICs with the hub. A program's endpoint ends when it is polled next.
    pub fn stop(mut self) {
        for worker in &mut self.workers {
            // Whatever waits in the backlog is void now.
            worker.backlog.clear();
            worker.send(Command::Stop);
        }
        for thread in self.workers.into_iter().filter_map(|worker| worker.thread) {
            if let Err(panic) = thread.join() {
                tracing::error!("{panic}");
            }
        }
    }
}
