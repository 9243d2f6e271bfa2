//! A cluster of real key machines on a virtual clock, from one seed.
//!
//! Workers are modelled by what they promise: a receiving lane opens what was
//! sealed with its key, once; commands take a moment to be acknowledged. The
//! network loses, duplicates, delays and so reorders. Time only moves to the
//! next thing that happens.

#![allow(dead_code, unreachable_pub)] // each test file uses a part

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tipsec_control::derive::ClusterKeys;
use tipsec_control::machine::{
    Action, EventKind, Input, LinkState, Machine, PeerView, Settings, Token,
};
use tipsec_control::time::{Instant, Random};
use tipsec_dataplane::command::{RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::ids::{Incarnation, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::secret::Suite;

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

struct RxLane {
    peer: PeerIndex,
    node: NodeId,
    key: LaneKey,
    opened: HashSet<u64>,
}

struct TxLane {
    spi: Spi,
    key: LaneKey,
    to: MacAddr,
    next: u64,
    data_allowed: bool,
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
    address: MacAddr,
    random: Seeded,
    rx: BTreeMap<Spi, RxLane>,
    tx: BTreeMap<PeerIndex, TxLane>,
    names: BTreeMap<NodeId, PeerIndex>,
    pub delivered: u64,
    pub counts: Losses,
}

/// Frames that were not delivered, by reason.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Losses {
    pub no_key: u64,
    pub unknown_spi: u64,
    pub not_open: u64,
    pub replayed: u64,
}

enum Happening {
    Arrive {
        to: usize,
        life: u64,
        wire: Wire,
        source: MacAddr,
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
    /// Every (key, IV, packet number) ever sealed with.
    nonces: HashSet<(LaneKey, u64)>,
    payload: u64,
    pub lost_by_network: u64,
    delivered_payloads: HashSet<(usize, u64)>,
    pub control_frames: u64,
    pub max_peers: u16,
    pub activity: bool,
    pub captured: Vec<(MacAddr, Vec<u8>)>,
}

pub fn master(n: u8) -> Arc<ClusterKeys> {
    Arc::new(ClusterKeys::derive(&[n; 32], &"test".parse().unwrap()))
}

pub fn node_id(n: usize) -> NodeId {
    NodeId::new(1001 + u32::try_from(n).unwrap()).unwrap()
}

pub fn address_of(n: usize) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, 0, u8::try_from(n).unwrap()])
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
            nonces: HashSet::new(),
            payload: 0,
            lost_by_network: 0,
            delivered_payloads: HashSet::new(),
            control_frames: 0,
            max_peers: 64,
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
        let mut random = Seeded::new(self.random.next_u64());
        let settings = Settings {
            node: id,
            incarnation: Incarnation(random.next_u64()),
            cluster: "test".parse().unwrap(),
            address: address_of(n),
            lanes: 1,
            suites: vec![Suite::Aes256Gcm],
            rekey_interval: interval,
            link_tolerance: ms(1500),
            budget: 1 << 32,
            failed_opens_limit: 1 << 30,
            max_peers: self.max_peers,
            spi_slots: 4096,
        };
        let mut machine = Machine::new(settings, self.now, &mut random);
        machine.handle(self.now, &mut random, Input::SetMaster(Arc::clone(key)));
        self.lives[n] += 1;
        self.nodes[n] = Some(Node {
            machine,
            id,
            address: address_of(n),
            random,
            rx: BTreeMap::new(),
            tx: BTreeMap::new(),
            names: BTreeMap::new(),
            delivered: 0,
            counts: Losses::default(),
        });
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
                    self.transmit(n, to, &Wire::Control(frame));
                }
                Action::InstallRx { token, lanes } => {
                    let node = self.nodes[n].as_mut().unwrap();
                    for lane in lanes {
                        node.install_rx(lane);
                    }
                    let wait = self.random.between(ms(0), ms(3));
                    self.later(wait, Happening::Installed { at: n, life, token });
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
                        node.install_tx(to, lane);
                    }
                }
                Action::RemoveTx { peer } => {
                    self.nodes[n].as_mut().unwrap().tx.remove(&peer);
                }
                Action::AllowData { peer, allowed } => {
                    if let Some(lane) = self.nodes[n].as_mut().unwrap().tx.get_mut(&peer) {
                        lane.data_allowed = allowed;
                    }
                }
                Action::SendProbe { peer, probe, .. } => self.seal(n, peer, Plain::Probe(probe)),
                Action::ListPeer { .. } | Action::UnlistPeer { .. } => {}
            }
        }
    }

    /// One data frame from `n` to every other node.
    pub fn send_data(&mut self, n: usize) {
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        let peers: Vec<PeerIndex> = node.names.values().copied().collect();
        for peer in peers {
            let Some(node) = &mut self.nodes[n] else {
                return;
            };
            if node.tx.get(&peer).is_none_or(|lane| !lane.data_allowed) {
                node.counts.no_key += 1;
                continue;
            }
            self.payload += 1;
            self.seal(n, peer, Plain::Data(self.payload));
        }
    }

    fn seal(&mut self, n: usize, peer: PeerIndex, plain: Plain) {
        let node = self.nodes[n].as_mut().unwrap();
        let Some(lane) = node.tx.get_mut(&peer) else {
            return;
        };
        let number = lane.next;
        lane.next += 1;
        let wire = Wire::Sealed {
            spi: lane.spi,
            number,
            key: lane.key.clone(),
            plain,
        };
        let (key, to) = (lane.key.clone(), lane.to);
        assert!(
            self.nonces.insert((key, number)),
            "a (key, nonce) pair was used twice"
        );
        self.transmit(n, to, &wire);
    }

    fn transmit(&mut self, n: usize, to: MacAddr, wire: &Wire) {
        for target in 0..self.nodes.len() {
            if target == n || !(to.is_group() || to == address_of(target)) {
                continue;
            }
            if self.cut.contains(&(n, target)) || self.random.chance(self.faults.loss) {
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
                        source: address_of(n),
                    },
                );
            }
        }
    }

    /// Puts a captured control frame on the wire again.
    pub fn replay(&mut self, to: MacAddr, frame: Vec<u8>, from: usize) {
        self.transmit(from, to, &Wire::Control(frame));
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrive {
                to, wire, source, ..
            } => self.arrive(to, wire, source),
            Happening::Installed { at, life, token } if life == self.lives[at] => {
                self.input(at, Input::Installed(token));
            }
            Happening::Removed { at, life, token } if life == self.lives[at] => {
                self.input(at, Input::Removed(token));
            }
            _ => {}
        }
    }

    fn arrive(&mut self, n: usize, wire: Wire, source: MacAddr) {
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        match wire {
            Wire::Control(bytes) => self.input(
                n,
                Input::Frame {
                    bytes: &bytes,
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
                if lane.key != key {
                    node.counts.not_open += 1;
                    return;
                }
                let first = lane.opened.is_empty();
                if !lane.opened.insert(number) {
                    node.counts.replayed += 1;
                    return;
                }
                let peer = lane.peer;
                if first {
                    self.input(n, Input::FirstOpen { peer, spi });
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
                            peer,
                            Plain::Probe(Probe {
                                op: ProbeOp::Reply,
                                ..probe
                            }),
                        );
                    }
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
                unknown_spi: sum.unknown_spi + node.counts.unknown_spi,
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

impl Node {
    fn install_rx(&mut self, lane: RxLaneSpec) {
        self.names.insert(lane.node, lane.peer);
        let new = RxLane {
            peer: lane.peer,
            node: lane.node,
            key: (lane.secret.key().to_vec(), *lane.secret.iv()),
            opened: HashSet::new(),
        };
        assert!(
            self.rx.insert(lane.spi, new).is_none(),
            "an SA is installed once"
        );
    }

    fn install_tx(&mut self, to: MacAddr, lane: TxLaneSpec) {
        self.names.insert(lane.node, lane.peer);
        let new = TxLane {
            spi: lane.spi,
            key: (lane.secret.key().to_vec(), *lane.secret.iv()),
            to,
            next: 0,
            data_allowed: true,
        };
        if let Some(old) = self.tx.insert(lane.peer, new) {
            assert_ne!(old.spi, lane.spi, "an SA is installed once");
        }
    }
}
