//! The key machine: one exchange for join, rekey and recovery, without IO.
//!
//! Time, randomness and frames come in through [`Machine::handle`]; what is to
//! be done comes out as [`Action`]s. Nothing here knows a socket, a clock or a
//! thread, so a test runs a whole cluster on a virtual clock from one seed.
//!
//! Two slots per peer, independent (docs/protocol.md, "States"). `X` is the
//! exchange id. First length, master id held, HMAC, receiver = me, sender ≠ me
//! ([`Machine::on_frame`]); then the first row that matches:
//!
//! | slot, state | event                                | where                            |
//! |-------------|--------------------------------------|----------------------------------|
//! | I Idle      | timer, `now`, budget, join, link down | `initiator::start`, `chain`     |
//! | I1          | retransmit timer: same m1            | `initiator::initiator_timer`     |
//! | I1          | m2(X) valid / invalid                | `initiator::on_m2`               |
//! | I1, I2      | hello(X), hello(busy)                | `initiator::on_hello`            |
//! | I2          | own RX installed: m3                 | `initiator::initiator_installed` |
//! | I2          | m2(X) again, timer: same m3          | `initiator::on_m2`, as above     |
//! | I2          | opens under own offer or a higher    | `initiator::initiator_opened`    |
//! | I any       | the same, after it was given up      | `initiator::initiator_opened`    |
//! | I1, I2      | 5 s                                  | `initiator::initiator_timer`     |
//! | R any       | m1 = the current one: stored m2      | `responder::on_m1`               |
//! | R any       | m1 of what is completed: count       | `responder::on_m1`               |
//! | R any       | m1 stale: hello                      | `responder::on_m1`               |
//! | R any       | bare m1 without its cookie: hello    | `responder::on_m1`, `cookie`     |
//! | R any       | bare m1, SA alive                    | `suspicion`, `chain`             |
//! | any         | under a key that leads back: refused | `rotation`                       |
//! | any         | of an evicted node, or bare: refused | `eviction`                       |
//! | R any       | m1 fresh                             | `responder::on_m1`               |
//! | R1          | own RX installed: m2                 | `responder::responder_installed` |
//! | R1          | opens under the offer                | `rx::on_first_open`              |
//! | R1          | m3(X) valid                          | `responder::on_m3`               |
//! | R any       | m3 of the last completed X           | `responder::on_m3`               |
//! | R any       | m3, unknown X: hello                 | `responder::on_m3`               |
//! | R1          | 10 s                                 | `responder::responder_timer`     |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tipsec_dataplane::ids::{Epoch, LaneIndex, MasterId, NodeId, PeerIndex, Spi};
use tipsec_dataplane::phase::Phase;

use crate::address::{Address, Addresses, Network};
use crate::derive::MasterRing;
use crate::frame::{ControlFrame, MessageType};
use crate::masters::Masters;
use crate::time::{Instant, Random};

mod age;
mod beacon;
mod bucket;
mod chain;
mod cookie;
mod counts;
mod defect;
#[cfg(feature = "sim")]
mod digest;
mod eviction;
mod initiator;
mod interface;
mod journal;
mod lanes;
mod link;
mod offers;
mod peer;
mod phases;
mod responder;
mod rotation;
mod rx;
mod sa_keys;
mod schedule;
#[cfg(feature = "sim")]
mod sizes;
mod spi_pool;
mod stall;
#[cfg(feature = "sim")]
mod standing;
mod suspicion;
mod timers;
mod tx;
mod view;

pub use counts::{Count, Counts};
pub use interface::{Action, Destination, Input, Settings, Token};
pub use journal::{EventKind, EventRecord, Journal};
pub use link::LinkState;
pub use rotation::Dependent;
pub use view::PeerView;

#[cfg(feature = "sim")]
pub use defect::Defect;
#[cfg(not(feature = "sim"))]
use defect::Defect;
#[cfg(feature = "sim")]
pub use digest::{Digest, Digester};
#[cfg(feature = "sim")]
pub use sizes::Sizes;
#[cfg(feature = "sim")]
pub use standing::Standing;

use beacon::Beaconing;
use cookie::Cookies;
use eviction::Evicted;
use peer::Peer;
use schedule::Schedule;
use spi_pool::SpiPool;

/// What every handler may use, besides its own peer.
struct Core {
    settings: Settings,
    masters: Option<MasterRing>,
    /// Grows with each change of the master keys in this incarnation.
    holdings_change: u32,
    actions: VecDeque<Action>,
    journal: Journal,
    counts: Counts,
    spis: SpiPool,
    /// Who waits for a completion.
    pending: BTreeMap<Token, Pending>,
    next_token: u64,
    /// Counter of m1: grows within this incarnation.
    m1_counter: u64,
    /// Number of the next probe, whoever it is for.
    next_probe: u64,
    cookies: Cookies,
    evicted: Evicted,
    /// Lanes whose NIC is gone.
    lost_lanes: BTreeSet<LaneIndex>,
    /// Where the epochs of a peer's offers start: above those of every peer
    /// that was forgotten, since it may come back with what it had.
    epoch_floor: Epoch,
    /// What a simulation has broken.
    #[cfg(feature = "sim")]
    defect: Option<Defect>,
}

/// What a completion is for.
enum Pending {
    /// The SA with this epoch of this peer is installed.
    Installed(PeerIndex, Epoch),
    /// Every worker has the key after this phase of this lane.
    Staged(PeerIndex, Spi, Phase),
    /// These SPIs may rest.
    Removed(Vec<Spi>),
}

/// The arguments of one step, bundled.
struct Context<'a> {
    now: Instant,
    random: &'a mut dyn Random,
    core: &'a mut Core,
    masters: MasterRing,
}

impl Context<'_> {
    /// Notes what happened with a peer.
    fn note(&mut self, kind: EventKind, node: NodeId, text: String) {
        self.core.journal.note(self.now, kind, Some(node), text);
    }

    /// The same, for what a stranger can cause: see [`Journal::note_rarely`].
    fn note_rarely(&mut self, kind: EventKind, node: NodeId, text: String) {
        let journal = &mut self.core.journal;
        journal.note_rarely(self.now, kind, Some(node), text);
    }
}

impl Core {
    fn token(&mut self, pending: Pending) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.pending.insert(token, pending);
        token
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn send(&mut self, network: Network, address: Address, frame: &[u8]) {
        self.act(Action::Send {
            to: Destination::Node(network, address),
            frame: frame.to_vec(),
        });
    }

    /// A question goes to a node over every network in common: one of them
    /// may be cut.
    fn ask(&mut self, to: &Addresses, frame: &[u8]) {
        let ours = self.settings.addresses;
        let mut asked = false;
        for (network, address) in to.shared_with(&ours) {
            self.send(network, address, frame);
            asked = true;
        }
        if !asked {
            self.counts.add(Count::NoNetwork);
        }
    }

    /// An answer goes over the network that the question came by, so that
    /// copies of a question do not multiply: that way just worked.
    fn answer(&mut self, to: &Addresses, by: Network, frame: &[u8]) {
        let ours = self.settings.addresses;
        let same = to.on(by).map(|address| (by, address));
        match same.or_else(|| to.shared_with(&ours).next()) {
            Some((network, address)) => self.send(network, address, frame),
            None => self.counts.add(Count::NoNetwork),
        }
    }
}

/// The key machine of one node.
pub struct Machine {
    core: Core,
    peers: Vec<Peer>,
    /// When each of them wants attention next; every step of a peer ends with
    /// [`Machine::reschedule`].
    schedule: Schedule,
    beaconing: Beaconing,
    claims: Claims,
    /// When the last input was taken.
    stepped: Instant,
}

/// Unverified claims of other master keys, for diagnosis: who, which, when.
type Claims = BTreeMap<NodeId, (MasterId, Instant)>;

/// Most unverified claims kept.
const MAX_CLAIMS: usize = 64;
/// A claim is forgotten after this silence.
const CLAIM_LIFE: Duration = Duration::from_secs(10);

impl Machine {
    /// A machine without a master key: it waits for [`Input::SetMasters`].
    pub fn new(settings: Settings, now: Instant, random: &mut dyn Random) -> Self {
        let spis = SpiPool::new(settings.spi_slots, random);
        Self {
            core: Core {
                settings,
                masters: None,
                holdings_change: 0,
                actions: VecDeque::new(),
                journal: Journal::default(),
                counts: Counts::default(),
                spis,
                pending: BTreeMap::new(),
                next_token: 0,
                m1_counter: 0,
                next_probe: 1,
                cookies: Cookies::default(),
                evicted: Evicted::default(),
                lost_lanes: BTreeSet::new(),
                epoch_floor: Epoch(1),
                #[cfg(feature = "sim")]
                defect: None,
            },
            peers: Vec::new(),
            schedule: Schedule::default(),
            beaconing: Beaconing::starting(now),
            claims: Claims::new(),
            stepped: now,
        }
    }

    /// Takes one input. What is to be done is then in [`Self::next_action`].
    ///
    /// Timers that are due come first: what waited while the process stood still is
    /// judged by the time that it is now, and may be of an exchange that is over.
    pub fn handle(&mut self, now: Instant, random: &mut dyn Random, input: Input<'_>) {
        if let Some(due) = self.next_deadline().filter(|&at| at <= now) {
            self.allow_for_standstill(now, due);
            if !matches!(input, Input::Timer) {
                self.on_timer(now, random);
            }
        }
        self.stepped = now;
        match input {
            Input::Timer => self.on_timer(now, random),
            Input::Frame {
                bytes,
                network,
                source,
            } => self.on_frame(now, random, bytes, (network, source)),
            Input::Installed(token) => match self.core.pending.remove(&token) {
                Some(Pending::Installed(peer, epoch)) => {
                    self.with_peer(now, random, peer, |peer, cx| peer.on_installed(cx, epoch));
                }
                Some(Pending::Staged(peer, spi, opened)) => {
                    self.with_peer(now, random, peer, |peer, _| peer.on_staged(spi, opened));
                }
                Some(Pending::Removed(_)) | None => {}
            },
            Input::Removed(token) => {
                if let Some(Pending::Removed(spis)) = self.core.pending.remove(&token) {
                    self.core.spis.rest(spis, now);
                }
            }
            Input::FirstOpen { peer, spi } => {
                self.with_peer(now, random, peer, |peer, cx| peer.on_first_open(cx, spi));
            }
            Input::ProbeReply { peer, probe } => {
                self.with_peer(now, random, peer, |peer, cx| peer.on_probe_reply(cx, probe));
            }
            Input::Activity { peer } => {
                self.with_peer(now, random, peer, |peer, cx| peer.link.heard(cx.now));
            }
            Input::BudgetLow { peer, next_ready } => {
                self.with_peer(now, random, peer, |peer, cx| {
                    peer.on_budget_low(cx, next_ready);
                });
            }
            Input::PhaseEntered { peer, spi, phase } => {
                self.with_peer(now, random, peer, |peer, cx| {
                    peer.on_phase_entered(cx, spi, phase);
                });
            }
            Input::PhaseOpened { peer, spi, phase } => {
                self.with_peer(now, random, peer, |peer, cx| {
                    peer.on_phase_opened(cx, spi, phase);
                });
            }
            Input::BudgetSpent { peer } => {
                self.with_peer(now, random, peer, |peer, cx| peer.on_budget_spent(cx));
            }
            Input::OpenLimit { peer, spi } => {
                self.with_peer(now, random, peer, |peer, cx| peer.on_open_limit(cx, spi));
            }
            Input::LaneLost(lane) => {
                self.core.lost_lanes.insert(lane);
                self.each_peer(now, random, |peer, cx| peer.on_lane_lost(cx, lane));
            }
            Input::SetAddresses(addresses) => self.on_addresses(now, random, addresses),
            Input::SetMasters(masters) => self.on_masters(now, random, masters),
            Input::SetEvictions(evictions) => self.on_evictions(now, random, evictions),
            Input::SetRekeyInterval(interval) => self.on_interval(now, random, interval),
            Input::RekeyNow => self.on_rekey_now(now, random),
        }
    }

    /// The next thing to do, oldest first.
    pub fn next_action(&mut self) -> Option<Action> {
        self.core.actions.pop_front()
    }

    /// What happened, newest last.
    pub fn journal(&self) -> &Journal {
        &self.core.journal
    }

    /// Notes something that the shell saw.
    pub fn note(&mut self, now: Instant, kind: EventKind, node: Option<NodeId>, text: String) {
        self.core.journal.note(now, kind, node, text);
    }

    /// Control frames by fate.
    pub fn counts(&self) -> &Counts {
        &self.core.counts
    }

    /// The settings, with the interval as it is now.
    pub fn settings(&self) -> &Settings {
        &self.core.settings
    }

    /// The master keys' public names, if there are any.
    pub fn masters(&self) -> Option<Masters<MasterId>> {
        self.core.masters.as_ref().map(MasterRing::ids)
    }

    /// The active master key's public name, if there is one.
    pub fn master(&self) -> Option<MasterId> {
        self.masters().map(|masters| *masters.active())
    }

    fn with_peer(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
        index: PeerIndex,
        step: impl FnOnce(&mut Peer, &mut Context<'_>),
    ) {
        let Some(masters) = self.core.masters.clone() else {
            return;
        };
        let Some(peer) = self.peers.get_mut(usize::from(index.0)) else {
            return;
        };
        step(
            peer,
            &mut Context {
                now,
                random,
                core: &mut self.core,
                masters,
            },
        );
        self.reschedule(usize::from(index.0));
    }

    /// The checks before the state table, cheapest first.
    fn on_frame(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
        bytes: &[u8],
        (network, source): (Network, Address),
    ) {
        let Some(frame) = ControlFrame::decode(bytes) else {
            return self.core.counts.add(Count::Malformed);
        };
        let header = *frame.header();
        let masters = self.core.masters.as_ref();
        let Some(keys) = masters.and_then(|all| all.named(header.master)) else {
            return self.on_foreign_master(now, header.sender, header.master);
        };
        if !frame.verify(keys) {
            return self.core.counts.add(Count::BadMac);
        }
        if header.sender == self.core.settings.node {
            return self.on_own_name(now, &frame, source);
        }
        if header
            .receiver
            .is_some_and(|receiver| receiver != self.core.settings.node)
        {
            return self.core.counts.add(Count::NotForUs);
        }
        if self.is_of_evicted(now, &header) {
            return;
        }
        self.claims.remove(&header.sender);
        let Some(index) = self.peer_named(header.sender, now, random) else {
            return self.core.counts.add(Count::NoRoom);
        };
        self.with_peer(now, random, index, |peer, cx| match header.message {
            MessageType::Beacon => peer.on_beacon(cx, &frame, network),
            MessageType::Hello => peer.on_hello(cx, &frame),
            MessageType::M1 => peer.on_m1(cx, &frame, bytes, network),
            MessageType::M2 => peer.on_m2(cx, &frame, network),
            MessageType::M3 => peer.on_m3(cx, &frame, network),
        });
    }

    /// Finds a peer, or makes one; a full table gives up the peer that has
    /// been down longest.
    fn peer_named(
        &mut self,
        node: NodeId,
        now: Instant,
        random: &mut dyn Random,
    ) -> Option<PeerIndex> {
        if let Some(peer) = self.peers.iter().find(|peer| peer.node == node) {
            return Some(peer.index);
        }
        if self.peers.len() < usize::from(self.core.settings.max_peers) {
            let index = PeerIndex(u16::try_from(self.peers.len()).ok()?);
            let mut peer = Peer::new(index, node, now);
            peer.next_epoch = self.core.epoch_floor;
            self.peers.push(peer);
            return Some(index);
        }
        let masters = self.core.masters.clone()?;
        let old = self
            .peers
            .iter_mut()
            .filter(|peer| peer.is_forgettable())
            .min_by_key(|peer| peer.link.since())?;
        self.core.act(Action::UnlistPeer { node: old.node });
        old.wipe(&mut Context {
            now,
            random,
            core: &mut self.core,
            masters,
        });
        let floor = self.core.epoch_floor.max(old.next_epoch);
        *old = Peer::new(old.index, node, now);
        self.core.epoch_floor = floor;
        old.next_epoch = floor;
        Some(old.index)
    }

    /// A frame under a key that this node does not hold: no state but a claim
    /// to show to the operator.
    fn on_foreign_master(&mut self, now: Instant, sender: NodeId, master: MasterId) {
        self.core.counts.add(Count::ForeignMaster);
        let is_known = |peer: &Peer| peer.node == sender && peer.is_up_and_holds(master);
        if sender == self.core.settings.node || self.peers.iter().any(is_known) {
            return;
        }
        self.claims
            .retain(|_, (_, seen)| now.since(*seen) < CLAIM_LIFE);
        let known = self
            .claims
            .get(&sender)
            .is_some_and(|(claimed, _)| *claimed == master);
        if !known && self.claims.len() >= MAX_CLAIMS {
            return;
        }
        self.claims.insert(sender, (master, now));
        if !known {
            let ours = match self.master() {
                Some(id) => format!("this node holds {id}"),
                None => "this node holds none yet".to_owned(),
            };
            let text = format!(
                "node {sender} claims master id {master} (unverified); {ours}; compare 'tipsec-keyctl \
                 master status' on both, and 'master stage' or 'master set' the missing key"
            );
            self.core
                .journal
                .note_rarely(now, EventKind::OtherMaster, Some(sender), text);
        }
    }

    /// A proven frame in this node's own name: an echo, or a second node that
    /// was given the same id.
    fn on_own_name(&mut self, now: Instant, frame: &ControlFrame<'_>, source: Address) {
        let header = frame.header();
        let own = self.core.settings.incarnation.0;
        if header.message != MessageType::Beacon || header.exchange == own {
            return self.core.counts.add(Count::Reflected);
        }
        self.core.counts.add(Count::DuplicateNode);
        let node = self.core.settings.node;
        let text = format!(
            "another node (seen from {source}) also runs as node {node}, or somebody repeats \
             an old beacon of this one; if there are two, give one of them another 'node' in its \
             configuration"
        );
        self.core
            .journal
            .note_rarely(now, EventKind::DuplicateNode, Some(node), text);
    }

    fn on_interval(&mut self, now: Instant, random: &mut dyn Random, interval: Option<Duration>) {
        self.core.settings.rekey_interval = interval;
        let text = match interval {
            Some(interval) => format!("rekey interval set to {} s", interval.as_secs_f64()),
            None => "rekeying by time switched off".to_owned(),
        };
        self.core
            .journal
            .note(now, EventKind::IntervalSet, None, text);
        self.each_peer(now, random, |peer, cx| {
            // A retry that waits for a silent peer stays.
            if peer.link.is_up() {
                peer.schedule_rekey(cx);
            }
            peer.watch_age(cx);
        });
    }

    /// A rekey tells each peer: its offers say where this node receives.
    fn on_addresses(&mut self, now: Instant, random: &mut dyn Random, addresses: Addresses) {
        if self.core.settings.addresses != addresses {
            self.core.settings.addresses = addresses;
            self.on_rekey_now(now, random);
        }
    }

    fn on_rekey_now(&mut self, now: Instant, random: &mut dyn Random) {
        self.each_peer(now, random, |peer, cx| {
            if peer.incarnation.is_some() {
                peer.rekey_asked = true;
                peer.start_soon(cx);
            }
        });
    }

    fn each_peer(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
        mut step: impl FnMut(&mut Peer, &mut Context<'_>),
    ) {
        for index in (0..=u16::MAX).take(self.peers.len()) {
            self.with_peer(now, random, PeerIndex(index), &mut step);
        }
    }
}
