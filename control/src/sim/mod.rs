//! The simulator: a cluster of real key machines and real data plane lanes on
//! a virtual clock, everything from one seed.
//!
//! A place of the [`Universe`] is a machine with NICs; on it lives a node, which
//! may be killed and started again. Workers are the data plane's own tables,
//! lanes, windows and pipelines with a real AEAD, without threads and sockets.
//! The networks lose, duplicate, delay and so reorder, corrupt, and repeat what
//! an attacker has recorded. Time only moves to the next thing that happens, and
//! each step holds what happened against the [`Invariant`]s.
//!
//! [`scenario`] draws a whole history from a seed; [`mutants`] lists deliberate
//! defects, and what shows each of them; [`scale`] counts what many nodes cost.
//! docs/simulator.md says what is simulated and what is not.
//!
//! In no product: this is behind the feature `sim`.

// A defect of the simulator itself may panic.
#![allow(clippy::expect_used, clippy::missing_panics_doc)]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tipsec_dataplane::ids::{Incarnation, LaneIndex, MasterId, NodeId};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::secret::Suite;

use crate::address::{Address, Addresses, Network};
use crate::derive::{ClusterKeys, MasterRing};
use crate::machine::{Destination, EventKind, Input, LinkState, Machine, PeerView, Settings};
use crate::masters::Masters;
use crate::time::{Instant, Random};

mod actions;
mod arrival;
mod clock;
mod drive;
pub mod explore;
mod invariant;
mod judge;
pub mod kills;
mod ledger;
pub mod mutants;
mod network;
mod node;
mod queue;
mod random;
mod room;
mod rotation;
pub mod scale;
pub mod scenario;
mod trace;
mod worker;

pub use invariant::{Invariant, Violation};
pub use network::Faults;
pub use node::{Losses, Node};
pub use random::Seeded;

pub use mutants::Mutant;

use clock::Clock;
use ledger::{Keys, Messages, Payloads};
use mutants::Kept;
use network::Attacker;
use queue::{Happening, Queue};
use scale::Meter;
use trace::Trace;

/// Budgets that no history spends.
pub const WHOLE_BUDGET: u64 = 1 << 32;
/// What a data frame costs on average: one for the packet, and its blocks.
pub const FRAME_COST: u64 = 4;

/// Milliseconds.
pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How long a node's own parts take to hear of one another.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// Until a worker wakes up for a command, at most.
    pub commands: Duration,
    /// Until the control thread hears of a worker's event, at most.
    pub events: Duration,
    /// Until a worker is given the key of a lane's next phase, at most.
    pub staging: Duration,
}

/// A cluster, its networks and its clock.
pub struct Universe {
    /// The time.
    pub now: Instant,
    /// Who lives at each place.
    pub nodes: Vec<Option<Node>>,
    /// Grows when a node starts again: what was on its way to a former life's
    /// workers is gone, what was on the wire still arrives.
    lives: Vec<u64>,
    clocks: Vec<Clock>,
    /// When each node's machine wants to be called.
    wake: Vec<Option<Instant>>,
    seed: u64,
    random: Seeded,
    queue: Queue,
    /// No network carries control frames.
    pub lose_control: bool,
    /// No answer to a probe is heard of.
    pub lose_replies: bool,
    /// What the networks do to frames.
    pub faults: Faults,
    /// Links that carry nothing: (from, to).
    pub cut: HashSet<(usize, usize)>,
    /// Links that carry no control frames: (from, to).
    pub cut_control: HashSet<(usize, usize)>,
    /// Links of one network that carry nothing: (from, to, network).
    pub cut_networks: HashSet<(usize, usize, Network)>,
    /// Networks of the lanes of nodes that start from now on.
    pub lanes: Vec<Network>,
    /// Receives of each worker: (node, worker, lane of the sender).
    pub opened: BTreeMap<(usize, usize, u8), u64>,
    /// The highest phase in which a frame was opened.
    pub highest_phase: Phase,
    /// What a lane may seal in a phase, in packets plus AES blocks, of nodes
    /// that start from now on.
    pub budget: u64,
    /// Where phases begin in packet numbers. All nodes that meet have the same.
    pub phase_bits: PhaseBits,
    /// Most peers of nodes that start from now on.
    pub max_peers: u16,
    /// Receiving lanes of nodes that start from now on.
    pub spi_slots: u32,
    /// Silence after which nodes that start from now on take a link down.
    pub link_tolerance: Duration,
    /// Whether machines hear that frames arrive.
    pub activity: bool,
    /// How fast a node's own parts are.
    pub delays: Delays,
    /// Control frames that left, if they are to be kept.
    pub captured: Vec<(Destination, Vec<u8>)>,
    /// Whether they are.
    pub capture: bool,
    /// If there is one, only links with this place exist.
    hub: Option<usize>,
    meter: Option<Meter>,
    /// The defect that all nodes have that start from now on.
    pub mutant: Option<Mutant>,
    kept: Kept,
    attacker: Attacker,
    keys: Keys,
    messages: Messages,
    payloads: Payloads,
    trace: Trace,
    broken: Option<Violation>,
    /// Steps since the time last moved.
    idle_steps: u32,
}

/// The cluster's keys under the n-th master key.
pub fn master(n: u8) -> Arc<ClusterKeys> {
    let name = "test".parse().expect("a cluster's name");
    Arc::new(ClusterKeys::derive(&[n; 32], &name))
}

/// The node that belongs to a place.
pub fn node_id(n: usize) -> NodeId {
    let id = u32::try_from(n).ok().and_then(|n| NodeId::new(1001 + n));
    id.expect("a place within bounds")
}

/// The network with a number, 0 to 3.
pub fn network(number: u8) -> Network {
    Network::new(number).expect("a network's number")
}

/// Where a place receives on a network.
pub fn address_of(n: usize, network: Network) -> Address {
    let [high, low] = u16::try_from(n)
        .expect("a place within bounds")
        .to_be_bytes();
    Address::Ethernet(MacAddr([0x02, 0, 0, network.number(), high, low]))
}

/// To a node, on the network that all are on.
pub fn to_node(n: usize) -> Destination {
    Destination::Node(Network::DEFAULT, address_of(n, Network::DEFAULT))
}

/// Whether it goes to everybody.
pub fn is_group(to: Destination) -> bool {
    matches!(to, Destination::Group(_))
}

impl Universe {
    /// An empty one, in which everything that is left to chance follows from
    /// `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::since_boot(Duration::from_secs(1000)),
            nodes: Vec::new(),
            lives: Vec::new(),
            clocks: Vec::new(),
            wake: Vec::new(),
            seed,
            random: Seeded::new(seed),
            queue: Queue::default(),
            lose_control: false,
            lose_replies: false,
            faults: Faults::default(),
            cut: HashSet::new(),
            cut_control: HashSet::new(),
            cut_networks: HashSet::new(),
            lanes: vec![Network::DEFAULT],
            opened: BTreeMap::new(),
            highest_phase: Phase::FIRST,
            budget: WHOLE_BUDGET,
            phase_bits: PhaseBits::PROTOCOL,
            max_peers: 64,
            spi_slots: 4096,
            link_tolerance: ms(1500),
            activity: false,
            delays: Delays {
                commands: ms(3),
                events: ms(0),
                staging: ms(0),
            },
            captured: Vec::new(),
            capture: true,
            hub: None,
            meter: None,
            mutant: None,
            kept: Kept::default(),
            attacker: Attacker::default(),
            keys: Keys::default(),
            messages: Messages::default(),
            payloads: Payloads::default(),
            trace: Trace::default(),
            broken: None,
            idle_steps: 0,
        }
    }

    /// A node at a new place, with its master key.
    pub fn add(&mut self, key: &Arc<ClusterKeys>, interval: Option<Duration>) -> usize {
        let n = self.add_place(0);
        self.start(n, node_id(n), key, interval);
        n
    }

    /// A place without a node, whose clock runs faster by so many millionths.
    pub fn add_place(&mut self, drift_ppm: i32) -> usize {
        self.nodes.push(None);
        self.lives.push(0);
        self.clocks.push(Clock::new(self.now, drift_ppm));
        self.wake.push(None);
        self.nodes.len() - 1
    }

    /// (Re)starts place `n` as node `id`, as a new process would.
    pub fn start(
        &mut self,
        n: usize,
        id: NodeId,
        key: &Arc<ClusterKeys>,
        interval: Option<Duration>,
    ) {
        self.start_with(n, id, Masters::only(Arc::clone(key)), interval);
    }

    /// The same with a keyring as a rotation leaves it.
    pub fn start_with(
        &mut self,
        n: usize,
        id: NodeId,
        masters: MasterRing,
        interval: Option<Duration>,
    ) {
        let seed = match self.mutant {
            Some(Mutant::RandomRollback) => self.seed + n as u64,
            _ => self.random.next_u64(),
        };
        self.start_from(n, id, masters, interval, Seeded::new(seed));
    }

    /// The same, with the random numbers of this life.
    fn start_from(
        &mut self,
        n: usize,
        id: NodeId,
        masters: MasterRing,
        interval: Option<Duration>,
        mut random: Seeded,
    ) {
        let settings = Settings {
            node: id,
            incarnation: Incarnation(random.next_u64()),
            cluster: "test".parse().expect("a cluster's name"),
            addresses: Self::addresses(n, &self.lanes),
            lanes: self.lanes.clone(),
            suites: vec![Suite::Aes256Gcm],
            rekey_interval: interval,
            link_tolerance: self.link_tolerance,
            budget: self.budget,
            phase_bits: self.phase_bits,
            failed_opens_limit: 1 << 30,
            max_peers: self.max_peers,
            spi_slots: self.spi_slots,
        };
        let local = self.local(n);
        self.trace.note(
            self.now,
            n,
            "starts as incarnation",
            [settings.incarnation.0, 0],
        );
        let mut machine = Machine::new(settings, local, &mut random);
        if let Some(Mutant::Machine(defect)) = self.mutant {
            machine.plant(defect);
        }
        self.lives[n] += 1;
        self.nodes[n] = Some(Node::new(n, machine, random));
        self.restore(n);
        self.input(n, Input::SetMasters(masters));
    }

    fn addresses(n: usize, lanes: &[Network]) -> Addresses {
        let all = lanes.iter().map(|&on| (on, address_of(n, on)));
        Addresses::first_of_each(all).expect("at least one lane")
    }

    /// The NIC of one worker goes for good, as the shell tells it.
    pub fn lose_lane(&mut self, n: usize, lane: usize) {
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        node.workers[lane].alive = false;
        let workers = node.workers.iter().filter(|worker| worker.alive);
        let left: Vec<Network> = workers.map(|worker| worker.network).collect();
        let lane = LaneIndex(u8::try_from(lane).expect("a lane's number"));
        self.input(n, Input::LaneLost(lane));
        if !left.is_empty() {
            self.input(n, Input::SetAddresses(Self::addresses(n, &left)));
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, n: usize) {
        self.trace.note(self.now, n, "is killed", [0; 2]);
        self.nodes[n] = None;
        self.wake[n] = None;
    }

    /// SIGSTOP: time passes, and what comes waits, as far as there is room.
    pub fn stop(&mut self, n: usize) {
        if let Some(node) = &mut self.nodes[n]
            && node.stopped.is_none()
        {
            self.trace.note(self.now, n, "is stopped", [0; 2]);
            node.stopped = Some(Default::default());
            self.wake[n] = None;
        }
    }

    /// SIGCONT: workers and the control thread find what waited, in an order
    /// that is the scheduler's.
    pub fn resume(&mut self, n: usize) {
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        let Some(backlog) = node.stopped.take() else {
            return;
        };
        node.resumed_at = Some(self.now);
        self.trace.note(self.now, n, "goes on", [0; 2]);
        // A worker does what it was told before it seals or opens anything.
        for worker in 0..self.worker_count(n) {
            self.drain(n, worker);
        }
        if self.random.chance(500) {
            self.input(n, Input::Timer);
        }
        for happening in backlog {
            self.happen(n, happening);
        }
        self.rearm(n);
    }

    /// The node at a place, which runs.
    pub fn node(&self, n: usize) -> &Node {
        self.nodes[n].as_ref().expect("the node runs")
    }

    fn worker_count(&self, n: usize) -> usize {
        self.nodes[n].as_ref().map_or(0, |node| node.workers.len())
    }

    /// What a place's clock shows.
    pub fn local(&self, n: usize) -> Instant {
        self.clocks[n].local(self.now)
    }

    /// A place's clock jumps, as the boot-time clock does over a suspend, or stays
    /// where it was while the place was paused: timers that are due fire now.
    pub fn set_clock(&mut self, n: usize, shown: Instant) {
        self.clocks[n].set(self.now, shown);
        self.rearm(n);
    }

    /// Something for a node's machine; what it wants done is done.
    pub fn input(&mut self, n: usize, input: Input<'_>) {
        let now = self.local(n);
        let metered = self.meter.as_ref().is_some_and(|meter| meter.is_of(n));
        let before = metered.then(scale::cpu_time);
        if let Some(node) = &mut self.nodes[n] {
            node.machine.handle(now, &mut node.random, input);
        }
        self.rearm(n);
        if let (Some(before), Some(meter)) = (before, &mut self.meter) {
            meter.cpu += scale::cpu_time().saturating_sub(before);
        }
        self.carry_out(n);
    }

    fn rearm(&mut self, n: usize) {
        let node = self.nodes[n].as_ref();
        let running = node.filter(|node| node.stopped.is_none());
        let deadline = running.and_then(|node| node.machine.next_deadline());
        self.wake[n] = deadline.map(|at| self.clocks[n].universal(at));
    }

    /// What a node thinks of the node at another place.
    pub fn view(&self, n: usize, of: usize) -> Option<PeerView> {
        self.view_of(n, node_id(of))
    }

    fn view_of(&self, n: usize, id: NodeId) -> Option<PeerView> {
        let node = self.nodes[n].as_ref()?;
        let views = node.machine.peers(self.local(n)).into_iter();
        views.into_iter().find(|view| view.node == id)
    }

    /// Whether a node's link to another is up.
    pub fn is_up(&self, n: usize, of: usize) -> bool {
        self.view(n, of)
            .is_some_and(|view| view.link == LinkState::Up)
    }

    /// Whether every link of every node that runs is up, at both ends.
    pub fn all_up(&self) -> bool {
        self.all_up_but(usize::MAX)
    }

    /// Like [`Self::all_up`], without one place.
    pub fn all_up_but(&self, but: usize) -> bool {
        let live: Vec<usize> = (0..self.nodes.len())
            .filter(|&n| n != but && self.nodes[n].is_some())
            .collect();
        live.iter()
            .all(|&a| live.iter().all(|&b| a == b || self.is_up(a, b)))
    }

    /// How often something is in a node's journal.
    pub fn events(&self, n: usize, kind: EventKind) -> usize {
        self.node(n)
            .machine
            .journal()
            .after(0)
            .filter(|event| event.kind == kind)
            .count()
    }

    /// Payloads sealed so far, and how many arrived.
    pub fn data(&self) -> (u64, u64) {
        let (sealed, delivered, _) = self.payloads.totals();
        (sealed, delivered)
    }

    /// Payloads of which the network lost every copy.
    pub fn lost_by_network(&self) -> u64 {
        self.payloads.totals().2
    }

    /// Losses of every node that runs, added up.
    pub fn losses(&self) -> Losses {
        let nodes = self.nodes.iter().flatten();
        nodes.fold(Losses::default(), |sum, node| {
            let one = node.losses();
            Losses {
                no_key: sum.no_key + one.no_key,
                no_path: sum.no_path + one.no_path,
                spent: sum.spent + one.spent,
                lost: sum.lost + one.lost,
                unknown_spi: sum.unknown_spi + one.unknown_spi,
                unknown_phase: sum.unknown_phase + one.unknown_phase,
                not_open: sum.not_open + one.not_open,
                replayed: sum.replayed + one.replayed,
            }
        })
    }

    /// Most receiving lanes that a node holds.
    pub fn most_rx_lanes(&self) -> usize {
        let nodes = self.nodes.iter().flatten();
        nodes.map(Node::rx_lanes).max().unwrap_or(0)
    }

    /// The invariant that broke first, if one did: from then on nothing happens
    /// any more.
    pub fn broken(&self) -> Option<&Violation> {
        self.broken.as_ref()
    }

    /// A number that two runs of one history share.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// Keeps what happens from now on, to read.
    pub fn keep_trace(&mut self) {
        self.trace.lines.get_or_insert_default();
    }

    /// What was kept.
    pub fn trace(&self) -> &[String] {
        self.trace.lines.as_deref().unwrap_or_default()
    }

    /// Puts a line into the trace, if it is kept.
    fn say(&mut self, line: String) {
        if let Some(lines) = &mut self.trace.lines {
            let at = self.now.elapsed().as_secs_f64();
            lines.push(format!("{at:14.6} s  {line}"));
        }
    }

    /// An operator's request; false if nobody hears it.
    fn operate(&mut self, n: usize, input: Input<'_>) -> bool {
        let node = self.nodes[n].as_ref();
        let hears = node.is_some_and(|node| node.stopped.is_none());
        if hears {
            self.input(n, input);
        }
        hears
    }

    /// An operator's step with master keys: by force, if a peer that is up seals
    /// under one that goes.
    fn hand_masters(&mut self, n: usize, ring: MasterRing) {
        let now = self.now;
        if let Some(node) = &mut self.nodes[n]
            && let Some(held) = node.machine.masters()
        {
            let is_gone = |id: &MasterId| ring.role_of(*id).is_none();
            let gone = held.iter().map(|(_, id)| *id).filter(is_gone);
            let mut dependents = gone.flat_map(|id| node.machine.dependents(id));
            if dependents.any(|dependent| dependent.is_up) {
                node.forced_at = Some(now);
            }
        }
        self.operate(n, Input::SetMasters(ring));
    }

    fn later(&mut self, wait: Duration, place: usize, what: Happening) {
        self.queue.push(self.now + wait, place, what);
    }
}
