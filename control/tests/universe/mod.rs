//! A cluster of real key machines on a virtual clock, from one seed.
//!
//! Workers are modelled by what they promise: a receiving lane opens what was
//! sealed with its key, once, at whichever worker it arrives; commands take a
//! moment to be acknowledged. The networks lose, duplicate, delay and so
//! reorder. Time only moves to the
//! next thing that happens.

#![allow(dead_code, unreachable_pub)] // each test file uses a part

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tipsec_control::address::{Address, Addresses, Network};
use tipsec_control::derive::{ClusterKeys, MasterRing};
use tipsec_control::machine::{
    Action, Destination, EventKind, Input, LinkState, Machine, PeerView, Settings, Token,
};
use tipsec_control::masters::Masters;
use tipsec_control::time::{Instant, Random};
use tipsec_dataplane::command::{Budget, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::ids::{Incarnation, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::sa::RxShared;
use tipsec_dataplane::secret::{LaneSecret, Suite};

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// SplitMix64: small, seeded, and good enough to shuffle a network.
#[derive(Clone)]
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.next_u64() % 1000 < per_mille
    }
}

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_be_bytes()[..chunk.len()]);
        }
    }
}

/// Faults of the network, in parts per thousand.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub loss: u64,
    pub duplication: u64,
    /// Most extra delay: frames overtake one another.
    pub delay: Duration,
}

type LaneKey = (Vec<u8>, [u8; 12]);

fn key_of(secret: &LaneSecret) -> LaneKey {
    (secret.key().to_vec(), *secret.iv())
}

/// Budgets that no test spends.
pub const WHOLE_BUDGET: u64 = 1 << 32;
/// What each frame costs here: one for the packet, one for its only block.
pub const FRAME_COST: u64 = 2;
const BITS: PhaseBits = PhaseBits::PROTOCOL;

struct RxLane {
    peer: PeerIndex,
    node: NodeId,
    lane: LaneIndex,
    /// Of two phases at most.
    keys: BTreeMap<Phase, LaneKey>,
    shared: Arc<RxShared>,
    opened: HashSet<u64>,
    /// Workers that have opened a frame of it.
    opened_at: HashSet<usize>,
}

struct TxLane {
    spi: Spi,
    phase: Phase,
    /// Of the phase, and of the next.
    keys: BTreeMap<Phase, LaneKey>,
    allowed: Phase,
    budget: Budget,
    spent: u64,
    stopped: bool,
    /// The peer's address on the network of the lane.
    to: Option<Address>,
    next: u64,
    data_allowed: bool,
}

impl TxLane {
    fn next_ready(&self) -> bool {
        let next = self.phase.next().unwrap();
        next <= self.allowed && self.keys.contains_key(&next)
    }

    /// A number for one frame, if there is one, and what is to be told.
    fn number(&mut self, peer: PeerIndex, plain: &Plain) -> (Option<u64>, Vec<Input<'static>>) {
        let mut told = Vec::new();
        let over = match plain {
            Plain::Data(_) => self.stopped || self.spent + FRAME_COST > self.budget.data_limit(),
            Plain::Probe(_) => self.spent + FRAME_COST > self.budget.hard,
        };
        if over {
            if !self.next_ready() {
                if !std::mem::replace(&mut self.stopped, true) {
                    told.push(Input::BudgetSpent { peer });
                }
                return (None, told);
            }
            self.keys.remove(&self.phase);
            self.phase = self.phase.next().unwrap();
            self.next = BITS.entry(self.phase, self.next);
            (self.spent, self.stopped) = (0, false);
            told.push(Input::PhaseEntered {
                peer,
                spi: self.spi,
                phase: self.phase,
            });
        }
        let low = self.spent < self.budget.soft;
        self.spent += FRAME_COST;
        if low && self.spent >= self.budget.soft {
            let next_ready = self.next_ready();
            told.push(Input::BudgetLow { peer, next_ready });
        }
        self.next += 1;
        (Some(self.next - 1), told)
    }
}

#[derive(Clone)]
enum Plain {
    Data(u64),
    Probe(Probe),
}

#[derive(Clone)]
enum Wire {
    Control(Vec<u8>),
    Sealed {
        spi: Spi,
        number: u64,
        key: LaneKey,
        plain: Plain,
    },
}

pub struct Node {
    pub machine: Machine,
    pub id: NodeId,
    /// The network of each worker.
    lanes: Vec<Network>,
    /// Workers whose NIC is gone.
    pub lost: HashSet<usize>,
    random: Seeded,
    rx: BTreeMap<Spi, RxLane>,
    tx: BTreeMap<(PeerIndex, usize), TxLane>,
    names: BTreeMap<NodeId, PeerIndex>,
    pub delivered: u64,
    pub counts: Losses,
}

/// Frames that were not delivered, by reason.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Losses {
    pub no_key: u64,
    pub no_path: u64,
    /// The budget was spent.
    pub spent: u64,
    /// Sealed at a worker without NIC.
    pub lost: u64,
    pub unknown_spi: u64,
    pub unknown_phase: u64,
    pub not_open: u64,
    pub replayed: u64,
}

enum Happening {
    Arrive {
        to: usize,
        life: u64,
        wire: Wire,
        network: Network,
        source: Address,
    },
    Installed {
        at: usize,
        life: u64,
        token: Token,
    },
    Removed {
        at: usize,
        life: u64,
        token: Token,
    },
    /// Only then is the key there.
    Staged {
        at: usize,
        life: u64,
        token: Token,
        staged: (Spi, Phase, LaneKey),
    },
}

struct Due {
    at: Instant,
    order: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub struct Universe {
    pub now: Instant,
    pub nodes: Vec<Option<Node>>,
    /// Grows when a node starts again: what was on its way to a former life's
    /// workers is gone, what was on the wire still arrives.
    lives: Vec<u64>,
    random: Seeded,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
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
    /// Every (key, IV, packet number) ever sealed with.
    nonces: HashSet<(LaneKey, u64)>,
    payload: u64,
    pub lost_by_network: u64,
    delivered_payloads: HashSet<(usize, u64)>,
    pub control_frames: u64,
    pub max_peers: u16,
    /// Budget of lanes of nodes that start from now on.
    pub budget: u64,
    /// Longest time until every worker has the key of a phase.
    pub staging: Duration,
    /// Answers to probes are lost.
    pub lose_replies: bool,
    /// Control frames are lost.
    pub lose_control: bool,
    /// Highest phase that any frame opened in.
    pub highest_phase: Phase,
    pub activity: bool,
    pub captured: Vec<(Destination, Vec<u8>)>,
}

pub fn master(n: u8) -> Arc<ClusterKeys> {
    Arc::new(ClusterKeys::derive(&[n; 32], &"test".parse().unwrap()))
}

pub fn node_id(n: usize) -> NodeId {
    NodeId::new(1001 + u32::try_from(n).unwrap()).unwrap()
}

pub fn network(number: u8) -> Network {
    Network::new(number).unwrap()
}

fn mac_of(n: usize, network: Network) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, network.number(), u8::try_from(n).unwrap()])
}

pub fn address_of(n: usize, network: Network) -> Address {
    Address::Ethernet(mac_of(n, network))
}

/// To a node, on the network that all are on.
pub fn to_node(n: usize) -> Destination {
    Destination::Node(Network::DEFAULT, address_of(n, Network::DEFAULT))
}

pub fn is_group(to: Destination) -> bool {
    matches!(to, Destination::Group(_))
}

impl Universe {
    pub fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self {
            now: Instant::since_boot(Duration::from_secs(1000)),
            nodes: Vec::new(),
            lives: Vec::new(),
            random: Seeded::new(seed),
            due: BinaryHeap::new(),
            order: 0,
            faults: Faults::default(),
            cut: HashSet::new(),
            cut_control: HashSet::new(),
            cut_networks: HashSet::new(),
            lanes: vec![Network::DEFAULT],
            opened: BTreeMap::new(),
            nonces: HashSet::new(),
            payload: 0,
            lost_by_network: 0,
            delivered_payloads: HashSet::new(),
            control_frames: 0,
            max_peers: 64,
            budget: WHOLE_BUDGET,
            staging: ms(3),
            lose_replies: false,
            lose_control: false,
            highest_phase: Phase::FIRST,
            activity: false,
            captured: Vec::new(),
        }
    }

    /// A node that has its master key.
    pub fn add(&mut self, key: &Arc<ClusterKeys>, interval: Option<Duration>) -> usize {
        let n = self.nodes.len();
        self.nodes.push(None);
        self.lives.push(0);
        self.start(n, node_id(n), key, interval);
        n
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
        let mut random = Seeded::new(self.random.next_u64());
        let settings = Settings {
            node: id,
            incarnation: Incarnation(random.next_u64()),
            cluster: "test".parse().unwrap(),
            addresses: Self::addresses(n, &self.lanes),
            lanes: self.lanes.clone(),
            suites: vec![Suite::Aes256Gcm],
            rekey_interval: interval,
            link_tolerance: ms(1500),
            budget: self.budget,
            phase_bits: BITS,
            failed_opens_limit: 1 << 30,
            max_peers: self.max_peers,
            spi_slots: 4096,
        };
        let mut machine = Machine::new(settings, self.now, &mut random);
        machine.handle(self.now, &mut random, Input::SetMasters(masters));
        self.lives[n] += 1;
        self.nodes[n] = Some(Node {
            machine,
            id,
            lanes: self.lanes.clone(),
            lost: HashSet::new(),
            random,
            rx: BTreeMap::new(),
            tx: BTreeMap::new(),
            names: BTreeMap::new(),
            delivered: 0,
            counts: Losses::default(),
        });
    }

    fn addresses(n: usize, lanes: &[Network]) -> Addresses {
        let all = lanes.iter().map(|&on| (on, address_of(n, on)));
        Addresses::first_of_each(all).unwrap()
    }

    /// The NIC of one worker goes for good, as the shell tells it.
    pub fn lose_lane(&mut self, n: usize, lane: usize) {
        let node = self.nodes[n].as_mut().unwrap();
        node.lost.insert(lane);
        let left = (0..node.lanes.len()).filter(|lane| !node.lost.contains(lane));
        let left: Vec<_> = left.map(|lane| node.lanes[lane]).collect();
        let lane = LaneIndex(u8::try_from(lane).unwrap());
        self.input(n, Input::LaneLost(lane));
        if !left.is_empty() {
            self.input(n, Input::SetAddresses(Self::addresses(n, &left)));
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, n: usize) {
        self.nodes[n] = None;
    }

    pub fn node(&self, n: usize) -> &Node {
        self.nodes[n].as_ref().expect("the node runs")
    }

    pub fn input(&mut self, n: usize, input: Input<'_>) {
        let now = self.now;
        if let Some(node) = &mut self.nodes[n] {
            node.machine.handle(now, &mut node.random, input);
        }
        self.carry_out(n);
    }

    pub fn view(&self, n: usize, of: usize) -> Option<PeerView> {
        let id = node_id(of);
        self.node(n)
            .machine
            .peers(self.now)
            .into_iter()
            .find(|view| view.node == id)
    }

    pub fn is_up(&self, n: usize, of: usize) -> bool {
        self.view(n, of)
            .is_some_and(|view| view.link == LinkState::Up)
    }

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

    pub fn events(&self, n: usize, kind: EventKind) -> usize {
        self.node(n)
            .machine
            .journal()
            .after(0)
            .filter(|event| event.kind == kind)
            .count()
    }

    /// Runs until `done`, or panics after `limit`; says how long it took.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.now.since(start) <= limit, "not done after {limit:?}");
            self.step(start + limit + ms(1));
        }
        self.now.since(start)
    }

    /// Runs for a while; every `pace`, each node sends one data frame to each
    /// peer it knows.
    pub fn run_with_traffic(&mut self, length: Duration, pace: Duration) {
        let end = self.now + length;
        let mut next = self.now;
        while self.now < end {
            if self.now >= next {
                next = next + pace;
                for n in 0..self.nodes.len() {
                    self.send_data(n);
                }
            }
            self.step(next.min(end));
        }
    }

    pub fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.step(end);
        }
    }

    /// Moves to the next thing that happens, at most to `horizon`.
    fn step(&mut self, horizon: Instant) {
        let timers = self
            .nodes
            .iter()
            .flatten()
            .filter_map(|node| node.machine.next_deadline())
            .min()
            .unwrap_or(horizon);
        let due = self.due.peek().map_or(horizon, |Reverse(due)| due.at);
        self.now = self.now.max(timers.min(due).min(horizon));
        while self
            .due
            .peek()
            .is_some_and(|Reverse(due)| due.at <= self.now)
        {
            let Some(Reverse(due)) = self.due.pop() else {
                break;
            };
            self.happen(due.what);
        }
        for n in 0..self.nodes.len() {
            let is_due = self.nodes[n].as_ref().is_some_and(|node| {
                node.machine
                    .next_deadline()
                    .is_some_and(|at| at <= self.now)
            });
            if is_due {
                self.input(n, Input::Timer);
            }
        }
    }

    fn later(&mut self, wait: Duration, what: Happening) {
        self.order += 1;
        self.due.push(Reverse(Due {
            at: self.now + wait,
            order: self.order,
            what,
        }));
    }

    fn carry_out(&mut self, n: usize) {
        while let Some(action) = self.nodes[n]
            .as_mut()
            .and_then(|node| node.machine.next_action())
        {
            let life = self.lives[n];
            match action {
                Action::Send { to, frame } => {
                    self.control_frames += 1;
                    self.captured.push((to, frame.clone()));
                    let (network, to) = match to {
                        Destination::Group(network) => (network, None),
                        Destination::Node(network, address) => (network, Some(address)),
                    };
                    if self.node(n).serves(network) {
                        self.transmit(n, network, to, &Wire::Control(frame));
                    }
                }
                Action::InstallRx { token, lanes } => {
                    let node = self.nodes[n].as_mut().unwrap();
                    for lane in lanes {
                        node.install_rx(lane);
                    }
                    let wait = self.random.between(ms(0), ms(3));
                    self.later(wait, Happening::Installed { at: n, life, token });
                }
                Action::StageRx { token, phase } => {
                    let wait = self.random.between(ms(0), self.staging);
                    let staged = (phase.spi, phase.phase, key_of(&phase.secret));
                    let what = Happening::Staged {
                        at: n,
                        life,
                        token,
                        staged,
                    };
                    self.later(wait, what);
                }
                Action::StageTx { peer, lane, phase } => {
                    let node = self.nodes[n].as_mut().unwrap();
                    let lane = node.tx.get_mut(&(peer, usize::from(lane.0))).unwrap();
                    assert!(phase.spi == lane.spi && phase.phase.follows(lane.phase));
                    let old = lane.keys.insert(phase.phase, key_of(&phase.secret));
                    assert!(old.is_none(), "a phase is staged once");
                }
                Action::AllowPhase {
                    peer,
                    lane,
                    spi,
                    phase,
                } => {
                    let node = self.nodes[n].as_mut().unwrap();
                    let lane = node.tx.get_mut(&(peer, usize::from(lane.0))).unwrap();
                    assert!(lane.spi == spi && phase > lane.allowed);
                    lane.allowed = phase;
                }
                Action::RemoveRx { token, spis } => {
                    let node = self.nodes[n].as_mut().unwrap();
                    for spi in spis {
                        assert!(node.rx.remove(&spi).is_some(), "removed what was not there");
                    }
                    let wait = self.random.between(ms(0), ms(3));
                    self.later(wait, Happening::Removed { at: n, life, token });
                }
                Action::InstallTx { to, lanes, .. } => {
                    let node = self.nodes[n].as_mut().unwrap();
                    for lane in lanes {
                        node.install_tx(&to, lane);
                    }
                }
                Action::RemoveTx { peer } => {
                    let node = self.nodes[n].as_mut().unwrap();
                    node.tx.retain(|(of, _), _| *of != peer);
                }
                Action::AllowData {
                    peer,
                    lane,
                    allowed,
                } => {
                    let worker = usize::from(lane.0);
                    let node = self.nodes[n].as_mut().unwrap();
                    if let Some(lane) = node.tx.get_mut(&(peer, worker)) {
                        lane.data_allowed = allowed;
                    }
                }
                Action::SendProbe { peer, lane, probe } => {
                    self.seal(n, usize::from(lane.0), peer, Plain::Probe(probe));
                }
                Action::ListPeer { .. } | Action::UnlistPeer { .. } => {}
            }
        }
    }

    /// One data frame from each worker of `n` that has a NIC to every other
    /// node: the tap's queues of the others are detached.
    pub fn send_data(&mut self, n: usize) {
        let Some(node) = &self.nodes[n] else {
            return;
        };
        let peers: Vec<PeerIndex> = node.names.values().copied().collect();
        let workers = (0..node.lanes.len()).filter(|worker| !node.lost.contains(worker));
        for worker in workers.collect::<Vec<_>>() {
            for &peer in &peers {
                let Some(node) = &mut self.nodes[n] else {
                    return;
                };
                match node.tx.get(&(peer, worker)) {
                    Some(lane) if !lane.data_allowed => node.counts.no_key += 1,
                    None => node.counts.no_key += 1,
                    Some(lane) if lane.to.is_none() => node.counts.no_path += 1,
                    Some(_) => self.seal(n, worker, peer, Plain::Data(self.payload + 1)),
                }
            }
        }
    }

    fn seal(&mut self, n: usize, worker: usize, peer: PeerIndex, plain: Plain) {
        let node = self.nodes[n].as_mut().unwrap();
        if node.lost.contains(&worker) {
            node.counts.lost += 1;
            return;
        }
        let network = node.lanes[worker];
        let Some(lane) = node.tx.get_mut(&(peer, worker)) else {
            return;
        };
        let Some(to) = lane.to else {
            return;
        };
        let (number, told) = lane.number(peer, &plain);
        let Some(number) = number else {
            node.counts.spent += u64::from(matches!(plain, Plain::Data(_)));
            return self.tell(n, told);
        };
        if let Plain::Data(payload) = plain {
            self.payload = payload;
        }
        let key = lane.keys[&lane.phase].clone();
        let wire = Wire::Sealed {
            spi: lane.spi,
            number,
            key: key.clone(),
            plain,
        };
        assert!(
            self.nonces.insert((key, number)),
            "a (key, nonce) pair was used twice"
        );
        self.transmit(n, network, Some(to), &wire);
        self.tell(n, told);
    }

    fn tell(&mut self, n: usize, inputs: Vec<Input<'_>>) {
        for input in inputs {
            self.input(n, input);
        }
    }

    /// To one station, or without an address to all.
    fn transmit(&mut self, n: usize, network: Network, to: Option<Address>, wire: &Wire) {
        for target in 0..self.nodes.len() {
            if target == n || to.is_some_and(|to| to != address_of(target, network)) {
                continue;
            }
            let is_control = matches!(wire, Wire::Control(_));
            let cut = self.cut.contains(&(n, target))
                || self.cut_networks.contains(&(n, target, network))
                || is_control && (self.lose_control || self.cut_control.contains(&(n, target)));
            if cut || self.random.chance(self.faults.loss) {
                self.lost_by_network += u64::from(matches!(
                    wire,
                    Wire::Sealed {
                        plain: Plain::Data(_),
                        ..
                    }
                ));
                continue;
            }
            let copies = 1 + u32::from(self.random.chance(self.faults.duplication));
            for _ in 0..copies {
                let wait =
                    self.random.between(ms(0), self.faults.delay) + Duration::from_micros(20);
                self.later(
                    wait,
                    Happening::Arrive {
                        to: target,
                        life: self.lives[target],
                        wire: wire.clone(),
                        network,
                        source: Address::Ethernet(mac_of(n, network)),
                    },
                );
            }
        }
    }

    /// Puts a captured control frame on the wire again.
    pub fn replay(&mut self, to: Destination, frame: Vec<u8>, from: usize) {
        let (network, to) = match to {
            Destination::Group(network) => (network, None),
            Destination::Node(network, address) => (network, Some(address)),
        };
        self.transmit(from, network, to, &Wire::Control(frame));
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrive {
                to,
                wire,
                network,
                source,
                ..
            } => self.arrive(to, wire, network, source),
            Happening::Installed { at, life, token } if life == self.lives[at] => {
                self.input(at, Input::Installed(token));
            }
            Happening::Removed { at, life, token } if life == self.lives[at] => {
                self.input(at, Input::Removed(token));
            }
            Happening::Staged {
                at,
                life,
                token,
                staged,
            } if life == self.lives[at] => {
                if let Some(node) = &mut self.nodes[at] {
                    node.stage_rx(staged);
                    self.input(at, Input::Installed(token));
                }
            }
            _ => {}
        }
    }

    fn arrive(&mut self, n: usize, wire: Wire, network: Network, source: Address) {
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        // Which queue of the network's NICs: not the sender's to say.
        let queues: Vec<usize> = node.living(network).collect();
        if queues.is_empty() {
            return;
        }
        let pick = self.random.next_u64() % queues.len() as u64;
        let worker = queues[usize::try_from(pick).unwrap()];
        match wire {
            Wire::Control(bytes) => self.input(
                n,
                Input::Frame {
                    bytes: &bytes,
                    network,
                    source,
                },
            ),
            Wire::Sealed {
                spi,
                number,
                key,
                plain,
            } => {
                let Some(lane) = node.rx.get_mut(&spi) else {
                    node.counts.unknown_spi += 1;
                    return;
                };
                let phase = BITS.phase_of(number);
                match lane.keys.get(&phase) {
                    None => {
                        node.counts.unknown_phase += 1;
                        return;
                    }
                    Some(own) if *own != key => {
                        node.counts.not_open += 1;
                        return;
                    }
                    Some(_) => {}
                }
                if !lane.opened.insert(number) {
                    node.counts.replayed += 1;
                    return;
                }
                let peer = lane.peer;
                let reported = lane.shared.reported_phase();
                *self.opened.entry((n, worker, lane.lane.0)).or_default() += 1;
                if lane.opened_at.insert(worker) {
                    self.input(n, Input::FirstOpen { peer, spi });
                }
                if phase > Phase::FIRST {
                    self.highest_phase = self.highest_phase.max(phase);
                    self.input(n, Input::PhaseOpened { peer, spi, phase });
                }
                if self.activity {
                    self.input(n, Input::Activity { peer });
                }
                match plain {
                    Plain::Data(payload) => {
                        self.nodes[n].as_mut().unwrap().delivered += 1;
                        assert!(
                            self.delivered_payloads.insert((n, payload)),
                            "payload {payload} was delivered twice"
                        );
                    }
                    Plain::Probe(probe) if probe.op == ProbeOp::Request => {
                        self.seal(
                            n,
                            worker,
                            peer,
                            Plain::Probe(Probe {
                                op: ProbeOp::Reply,
                                phase: reported,
                                ..probe
                            }),
                        );
                    }
                    Plain::Probe(_) if self.lose_replies => {}
                    Plain::Probe(probe) => self.input(n, Input::ProbeReply { peer, probe }),
                }
            }
        }
    }

    /// Payloads sealed so far, and how many arrived.
    pub fn data(&self) -> (u64, u64) {
        (self.payload, self.delivered_payloads.len() as u64)
    }

    /// Losses of every node that runs, added up.
    pub fn losses(&self) -> Losses {
        self.nodes
            .iter()
            .flatten()
            .fold(Losses::default(), |sum, node| Losses {
                no_key: sum.no_key + node.counts.no_key,
                no_path: sum.no_path + node.counts.no_path,
                spent: sum.spent + node.counts.spent,
                lost: sum.lost + node.counts.lost,
                unknown_spi: sum.unknown_spi + node.counts.unknown_spi,
                unknown_phase: sum.unknown_phase + node.counts.unknown_phase,
                not_open: sum.not_open + node.counts.not_open,
                replayed: sum.replayed + node.counts.replayed,
            })
    }

    /// Most receiving lanes that a node holds.
    pub fn most_rx_lanes(&self) -> usize {
        self.nodes
            .iter()
            .flatten()
            .map(|node| node.rx.len())
            .max()
            .unwrap_or(0)
    }
}

fn first_keys(first: &LaneSecret, second: Option<&LaneSecret>) -> BTreeMap<Phase, LaneKey> {
    let secrets = [Some(first), second].into_iter().flatten();
    (0..).map(Phase).zip(secrets.map(key_of)).collect()
}

impl Node {
    /// Workers with a NIC on a network.
    fn living(&self, network: Network) -> impl Iterator<Item = usize> + '_ {
        (0..self.lanes.len())
            .filter(move |at| self.lanes[*at] == network && !self.lost.contains(at))
    }

    fn serves(&self, network: Network) -> bool {
        self.living(network).next().is_some()
    }

    fn install_rx(&mut self, lane: RxLaneSpec) {
        self.names.insert(lane.node, lane.peer);
        let new = RxLane {
            peer: lane.peer,
            node: lane.node,
            lane: lane.lane,
            keys: first_keys(&lane.secret, lane.next.as_ref()),
            shared: lane.shared,
            opened: HashSet::new(),
            opened_at: HashSet::new(),
        };
        assert!(
            self.rx.insert(lane.spi, new).is_none(),
            "an SA is installed once"
        );
    }

    fn stage_rx(&mut self, (spi, phase, key): (Spi, Phase, LaneKey)) {
        // The SA may have been removed meanwhile.
        if let Some(lane) = self.rx.get_mut(&spi) {
            let (&newest, _) = lane.keys.last_key_value().unwrap();
            assert!(phase.follows(newest), "phases are staged in turn");
            lane.keys.insert(phase, key);
            lane.keys.pop_first();
        }
    }

    fn install_tx(&mut self, to: &Addresses, lane: TxLaneSpec) {
        let worker = usize::from(lane.lane.0);
        self.names.insert(lane.node, lane.peer);
        let new = TxLane {
            spi: lane.spi,
            phase: Phase::FIRST,
            keys: first_keys(&lane.secret, lane.next.as_ref()),
            allowed: Phase::FIRST,
            budget: lane.budget,
            spent: 0,
            stopped: false,
            to: to.on(self.lanes[worker]),
            next: 0,
            data_allowed: true,
        };
        if let Some(old) = self.tx.insert((lane.peer, worker), new) {
            assert_ne!(old.spi, lane.spi, "an SA is installed once");
        }
    }
}
