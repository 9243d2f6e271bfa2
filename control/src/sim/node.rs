//! One life of one node: a key machine, its workers, and between them what the
//! daemon's hub does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tipsec_dataplane::command::{Command, CommandSeq, Event, PhaseSpec, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::counters::{RxDrop, TxDrop};
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::outer::OuterHeader;
use tipsec_dataplane::sa::RxShared;

use super::address_of;
use super::mutants::Mutant;
use super::queue::Happening;
use super::random::Seeded;
use super::worker::{ETHERTYPE, Worker, spi};
use crate::address::{Address, Addresses, Network};
use crate::machine::{Machine, Settings, Token};
use crate::time::Instant;

/// Answers that are not waited for.
const NOBODY_WAITS: CommandSeq = CommandSeq(0);

/// Frames and the like that wait for a stopped process; beyond, frames are lost.
pub(super) const BACKLOG_MAX: usize = 256;

/// Frames that were not delivered, by reason.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Losses {
    /// Data for a peer that there is no key with, or none that may carry data.
    pub no_key: u64,
    /// For a peer that is not on the worker's network.
    pub no_path: u64,
    /// The lane's budget was spent.
    pub spent: u64,
    /// Sealed at a worker without NIC.
    pub lost: u64,
    /// Received under an SPI that is not known.
    pub unknown_spi: u64,
    /// Received in a phase that is over or has not begun.
    pub unknown_phase: u64,
    /// Received, and the tag does not match.
    pub not_open: u64,
    /// Received before, or too old.
    pub replayed: u64,
}

/// What a token waits for.
struct Waiting {
    answers: usize,
    /// SPIs to enter in the driver's map after the last answer.
    then_map: Vec<Spi>,
    installs: bool,
}

/// What is known of a receiving lane.
struct Receiving {
    peer: PeerIndex,
    node: NodeId,
    epoch: Epoch,
}

/// A running node.
pub struct Node {
    /// Its key machine.
    pub machine: Machine,
    /// Who it is.
    pub id: NodeId,
    /// Payloads that it was given.
    pub delivered: u64,
    place: usize,
    pub(super) random: Seeded,
    pub(super) workers: Vec<Worker>,
    waiting: BTreeMap<Token, Waiting>,
    receiving: BTreeMap<Spi, Receiving>,
    /// SPIs that the driver lets pass.
    map: BTreeSet<Spi>,
    /// Data frames that it dropped.
    pub(super) unmapped: u64,
    /// Nodes that it has data for: whoever it ever had a key with.
    pub(super) known: BTreeSet<NodeId>,
    /// Data for nodes that its workers do not know.
    pub(super) nobody_there: u64,
    /// What it has not noticed yet, while it is stopped.
    pub(super) stopped: Option<VecDeque<Happening>>,
    /// Timers of its machine so far.
    pub(super) timers: u32,
    /// When it last ran again after it was stopped.
    pub(super) resumed_at: Option<Instant>,
    /// When it was last made to give up a master key that a peer sealed under.
    pub(super) forced_at: Option<Instant>,
}

impl Node {
    /// A node at a place of the universe.
    pub(super) fn new(place: usize, machine: Machine, random: Seeded) -> Self {
        let settings: &Settings = machine.settings();
        let worker = |&network: &Network| {
            let Address::Ethernet(mac) = address_of(place, network) else {
                unreachable!("simulated networks are Ethernet");
            };
            Worker::new(mac, network, settings.max_peers, settings.spi_slots)
        };
        Self {
            id: settings.node,
            workers: settings.lanes.iter().map(worker).collect(),
            machine,
            delivered: 0,
            place,
            random,
            waiting: BTreeMap::new(),
            receiving: BTreeMap::new(),
            map: BTreeSet::new(),
            unmapped: 0,
            known: BTreeSet::new(),
            nobody_there: 0,
            stopped: None,
            timers: 0,
            resumed_at: None,
            forced_at: None,
        }
    }

    /// Workers with a NIC on a network.
    pub(super) fn living(&self, network: Network) -> impl Iterator<Item = usize> + '_ {
        let workers = self.workers.iter().enumerate();
        workers
            .filter(move |(_, worker)| worker.alive && worker.network == network)
            .map(|(at, _)| at)
    }

    pub(super) fn serves(&self, network: Network) -> bool {
        self.living(network).next().is_some()
    }

    /// Has every worker install lanes; their answers are then awaited. False
    /// if one of them is installed already.
    pub(super) fn install_rx(
        &mut self,
        token: Token,
        lanes: Vec<RxLaneSpec>,
        mutant: Option<Mutant>,
    ) -> bool {
        let waiting = Waiting {
            answers: lanes.len() * self.workers.len(),
            then_map: lanes.iter().map(|lane| lane.spi).collect(),
            installs: true,
        };
        self.waiting.insert(token, waiting);
        let mut new = true;
        for lane in lanes {
            self.known.insert(lane.node);
            let receiving = Receiving {
                peer: lane.peer,
                node: lane.node,
                epoch: lane.epoch,
            };
            new &= self.receiving.insert(lane.spi, receiving).is_none();
            for worker in &mut self.workers {
                let seq = CommandSeq(token.0);
                let mut lane = Box::new(lane.duplicate());
                if mutant == Some(Mutant::WindowPerWorker) {
                    lane.shared = RxShared::of_single_lane(u64::MAX);
                }
                worker.commands.push_back(Command::InstallRx { seq, lane });
            }
        }
        new
    }

    /// The answers of every worker to the key of a receiving lane's next phase
    /// are awaited from now on.
    pub(super) fn await_stage(&mut self, token: Token) {
        let waiting = Waiting {
            answers: self.workers.len(),
            then_map: Vec::new(),
            installs: true,
        };
        self.waiting.insert(token, waiting);
    }

    /// Has one worker take the key; false if the lane is gone.
    pub(super) fn stage_rx(&mut self, worker: usize, seq: CommandSeq, phase: &PhaseSpec) -> bool {
        let worker = self.workers.get_mut(worker);
        let Some(worker) = worker.filter(|_| self.receiving.contains_key(&phase.spi)) else {
            return false;
        };
        let phase = Box::new(phase.duplicate());
        worker.commands.push_back(Command::StageRx { seq, phase });
        true
    }

    /// Has a worker take the key of its sending lane's next phase.
    pub(super) fn stage_tx(&mut self, peer: PeerIndex, lane: LaneIndex, phase: PhaseSpec) {
        if let Some(worker) = self.workers.get_mut(usize::from(lane.0)) {
            worker.commands.push_back(Command::StageTx {
                seq: NOBODY_WAITS,
                peer,
                phase: Box::new(phase),
            });
        }
    }

    /// The other end of a lane that is installed here.
    pub(super) fn sender_on(&self, spi: Spi) -> Option<NodeId> {
        self.receiving.get(&spi).map(|lane| lane.node)
    }

    /// Has every worker forget lanes. False if one of them is not installed.
    pub(super) fn remove_rx(&mut self, token: Token, spis: &[Spi]) -> bool {
        // An installation that is still under way must not enter them again.
        for waiting in self.waiting.values_mut() {
            waiting.then_map.retain(|spi| !spis.contains(spi));
        }
        let waiting = Waiting {
            answers: spis.len() * self.workers.len(),
            then_map: Vec::new(),
            installs: false,
        };
        self.waiting.insert(token, waiting);
        let mut known = true;
        for &spi in spis {
            known &= self.receiving.remove(&spi).is_some();
            self.map.remove(&spi);
            for worker in &mut self.workers {
                let seq = CommandSeq(token.0);
                worker.commands.push_back(Command::RemoveRx { seq, spi });
            }
        }
        known
    }

    /// Sets each worker's way to a peer.
    pub(super) fn set_paths(&mut self, peer: PeerIndex, to: &Addresses) {
        for worker in &mut self.workers {
            let from = address_of(self.place, worker.network);
            let path = match (from, to.on(worker.network)) {
                (Address::Ethernet(from), Some(Address::Ethernet(to))) => {
                    Some(OuterHeader::ethernet(from, to, ETHERTYPE, None))
                }
                _ => None,
            };
            worker.commands.push_back(Command::SetPath { peer, path });
        }
    }

    /// Has each worker install the lane with its number.
    pub(super) fn install_tx(&mut self, lanes: Vec<TxLaneSpec>) {
        for lane in lanes {
            self.known.insert(lane.node);
            if let Some(worker) = self.workers.get_mut(usize::from(lane.lane.0)) {
                worker.commands.push_back(Command::InstallTx {
                    seq: NOBODY_WAITS,
                    lane: Box::new(lane),
                });
            }
        }
    }

    /// Has every worker do something that is not answered, or whose answer
    /// nobody waits for.
    pub(super) fn remove_tx(&mut self, peer: PeerIndex) {
        for worker in &mut self.workers {
            worker.commands.push_back(Command::RemoveTx {
                seq: NOBODY_WAITS,
                peer,
            });
        }
    }

    /// A worker has answered; the token that this completes, and whether it
    /// was an installation.
    pub(super) fn answered(
        &mut self,
        seq: CommandSeq,
        mutant: Option<Mutant>,
    ) -> Option<(Token, bool)> {
        let token = Token(seq.0);
        let waiting = self.waiting.get_mut(&token)?;
        waiting.answers = match mutant {
            Some(Mutant::FirstAnswer) => 0,
            _ => waiting.answers.saturating_sub(1),
        };
        if waiting.answers > 0 {
            return None;
        }
        let done = self.waiting.remove(&token)?;
        self.map.extend(done.then_map);
        Some((token, done.installs))
    }

    /// Whether the driver lets a data frame pass to a worker; what it drops is
    /// counted.
    pub(super) fn admits(&mut self, frame: &[u8]) -> bool {
        let admitted = spi(frame).is_some_and(|spi| self.map.contains(&spi));
        self.unmapped += u64::from(!admitted);
        admitted
    }

    /// Most receiving SAs that a peer has here.
    pub(super) fn most_rx_sas(&self) -> usize {
        let mut sas: BTreeMap<PeerIndex, BTreeSet<Epoch>> = BTreeMap::new();
        for lane in self.receiving.values() {
            sas.entry(lane.peer).or_default().insert(lane.epoch);
        }
        sas.values().map(BTreeSet::len).max().unwrap_or(0)
    }

    /// Receiving lanes installed, or about to be.
    pub(super) fn rx_lanes(&self) -> usize {
        self.receiving.len()
    }

    /// Completions that are waited for.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What its workers did not deliver or send.
    pub(super) fn losses(&self) -> Losses {
        let mut losses = Losses {
            no_key: self.nobody_there,
            unknown_spi: self.unmapped,
            ..Losses::default()
        };
        for worker in &self.workers {
            let peers = (0..self.machine.settings().max_peers).map(PeerIndex);
            let all = peers.map(|peer| worker.counters.peer(peer));
            for counters in all.chain([&worker.counters.nobody]) {
                losses.no_key += counters.tx_drops(TxDrop::NoKey);
                losses.no_path += counters.tx_drops(TxDrop::NoPath);
                losses.spent += counters.tx_drops(TxDrop::BudgetSpent);
                losses.lost += counters.tx_drops(TxDrop::LinkLost);
                losses.unknown_spi += counters.rx_drops(RxDrop::UnknownSpi);
                losses.unknown_phase += counters.rx_drops(RxDrop::UnknownPhase);
                losses.not_open += counters.rx_drops(RxDrop::OpenFailed);
                losses.replayed += counters.rx_drops(RxDrop::Replayed);
            }
        }
        losses
    }
}

/// Whether the control thread hears of it: answers are counted by the hub.
pub(super) fn is_answer(event: &Event) -> bool {
    matches!(event, Event::Done { .. } | Event::Refused { .. })
}
