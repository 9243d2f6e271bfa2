//! One life of one node: its key machine, which is the product's, and a model of
//! what surrounds it. Commands to workers are done at once, as workers drain them
//! before they seal; only the completion of an installation takes its time.
//!
//! [`duties`]: what the machine wants done; [`summary`]: the node from outside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tipsec_dataplane::ids::{Epoch, Incarnation, NodeId, PeerIndex, Spi};
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::secret::Suite;

use super::book::{Book, Content, Frame, Key, MessageId, Place};
use super::draws::Draws;
use super::property::Wrong;
use crate::address::{Address, Addresses, Network};
use crate::frame::MessageType;
use crate::machine::{Input, Machine, PeerView, Settings, Token};
use crate::masters::Masters;
use crate::sim::mutants::Mutant;
use crate::sim::{WHOLE_BUDGET, address_of, master, ms, node_id};
use crate::time::{Instant, Random};

mod duties;
mod summary;

pub(super) use summary::Summary;

/// When every life begins.
const BIRTH: Instant = Instant::since_boot(Duration::from_secs(1000));

/// What can happen at a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Stimulus {
    /// Its next timer.
    Timer,
    /// The oldest installation under way is complete.
    Installed,
    /// A control message arrives.
    Message(MessageId),
    /// A sealed frame arrives.
    Frame(Frame),
    /// There is data for the node at a place.
    Data(Place),
    /// The operator asks for fresh keys.
    Rekey,
}

/// What became of a frame that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Opened,
    Refused(&'static str),
}

/// What follows from a stimulus, outside of the node.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) messages: Vec<(Place, MessageId)>,
    pub(super) beacon: Option<MessageId>,
    pub(super) frames: Vec<(Place, Frame)>,
    pub(super) fate: Option<Fate>,
    pub(super) wrong: Option<Wrong>,
    /// For the state table.
    pub(super) installs_rx: bool,
    pub(super) installs_tx: bool,
    pub(super) removes_rx: bool,
}

/// A receiving lane at the workers.
struct Receiving {
    peer: PeerIndex,
    from: NodeId,
    epoch: Epoch,
    key: Key,
    is_installed: bool,
    has_opened: bool,
    /// Packet numbers that were taken.
    taken: BTreeSet<u64>,
}

/// A sending lane.
struct Sending {
    to: NodeId,
    spi: Spi,
    key: Key,
    epoch: Epoch,
    next: u64,
    /// Whether it may carry data.
    is_open: bool,
}

/// A life of a node.
pub(super) struct Node {
    place: Place,
    life: u8,
    now: Instant,
    machine: Machine,
    draws: Draws,
    receiving: BTreeMap<Spi, Receiving>,
    sending: BTreeMap<PeerIndex, Sending>,
    installing: VecDeque<(Token, Vec<Spi>)>,
    /// Keys that were ever opened with.
    opened_with: BTreeSet<Key>,
    /// Keys that were ever sealed with.
    sealed_with: BTreeSet<Key>,
    /// Handshake messages that were ever sent: type and exchange, and what it was.
    sealed: BTreeMap<(u8, u64), u64>,
    /// When the operator last asked for fresh keys.
    asked_at: Option<Instant>,
}

pub(super) fn place_of(node: NodeId) -> Place {
    u8::try_from(node.value().wrapping_sub(1001)).unwrap_or(u8::MAX)
}

fn place_of_address(address: Address) -> Option<Place> {
    (0..u8::MAX).find(|&n| address_of(n.into(), Network::DEFAULT) == address)
}

impl Node {
    /// A node that has just started, with its master key.
    pub(super) fn born(place: Place, life: u8, mutant: Option<Mutant>) -> Self {
        let drawn_as = match mutant {
            Some(Mutant::RandomRollback) => 0,
            _ => life,
        };
        let mut draws = Draws::new(u64::from(place) << 8 | u64::from(drawn_as));
        let here = (Network::DEFAULT, address_of(place.into(), Network::DEFAULT));
        let settings = Settings {
            node: node_id(place.into()),
            incarnation: Incarnation(draws.next_u64()),
            cluster: "test".parse().expect("a cluster's name"),
            addresses: Addresses::one(here.0, here.1),
            lanes: vec![Network::DEFAULT],
            suites: vec![Suite::Aes256Gcm],
            rekey_interval: None,
            link_tolerance: ms(1500),
            budget: WHOLE_BUDGET,
            phase_bits: PhaseBits::PROTOCOL,
            failed_opens_limit: 1 << 30,
            max_peers: 8,
            spi_slots: 64,
        };
        let mut machine = Machine::new(settings, BIRTH, &mut draws);
        if let Some(Mutant::Machine(defect)) = mutant {
            machine.plant(defect);
        }
        let masters = Masters::only(master(1));
        machine.handle(BIRTH, &mut draws, Input::SetMasters(masters));
        Self {
            place,
            life,
            now: BIRTH,
            machine,
            draws,
            receiving: BTreeMap::new(),
            sending: BTreeMap::new(),
            installing: VecDeque::new(),
            opened_with: BTreeSet::new(),
            sealed_with: BTreeSet::new(),
            sealed: BTreeMap::new(),
            asked_at: None,
        }
    }

    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Whether an installation is under way.
    pub(super) fn is_installing(&self) -> bool {
        !self.installing.is_empty()
    }

    pub(super) fn asked_at(&self) -> Option<Instant> {
        self.asked_at
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        self.machine.settings().incarnation
    }

    /// What it thinks of the node at a place.
    pub(super) fn view(&self, of: Place) -> Option<PeerView> {
        let views = self.machine.peers(self.now).into_iter();
        views.into_iter().find(|view| place_of(view.node) == of)
    }

    /// Time passes, and something happens.
    pub(super) fn step(&mut self, book: &mut Book, wait: Duration, what: &Stimulus) -> Effects {
        self.now = self.now + wait;
        let mut effects = Effects::default();
        match *what {
            Stimulus::Timer => self.input(Input::Timer),
            Stimulus::Rekey => {
                self.asked_at = Some(self.now);
                self.input(Input::RekeyNow);
            }
            Stimulus::Installed => self.on_installed(),
            Stimulus::Message(id) => return self.on_message(book, id),
            Stimulus::Frame(frame) => {
                let fate = self.on_frame(&frame, &mut effects);
                effects.fate = Some(fate);
            }
            Stimulus::Data(to) => {
                let mut lanes = self.sending.values_mut();
                let open = |lane: &&mut Sending| lane.is_open && place_of(lane.to) == to;
                if let Some(lane) = lanes.find(open) {
                    let frame = lane.seal(self.place, Content::Payload);
                    effects.frames.push((to, frame));
                }
            }
        }
        self.carry_out(book, &mut effects);
        effects
    }

    /// A control message arrives.
    ///
    /// Reading an m1 takes a draw, also of one that is answered by a hello alone.
    /// What was drawn is put back if nobody holds it: not the machine, whose state
    /// is the same but for moments, and nobody outside. Else two ways that differ
    /// in such an m1 would never meet again.
    fn on_message(&mut self, book: &mut Book, id: MessageId) -> Effects {
        let (taken, before) = (self.draws.taken(), self.digest());
        let message = book.message(id);
        let source = address_of(message.from.into(), Network::DEFAULT);
        let input = Input::Frame {
            bytes: &message.bytes,
            network: Network::DEFAULT,
            source,
        };
        self.machine.handle(self.now, &mut self.draws, input);
        let mut effects = Effects::default();
        self.carry_out(book, &mut effects);
        let with_all = self.draws.taken();
        self.draws.put_back_to(taken);
        let mut messages = effects.messages.iter();
        let tells_nothing = messages.all(|&(_, id)| book.message(id).kind == MessageType::Hello);
        if !tells_nothing || !self.digest().differs_by_moments_only(&before) {
            self.draws.put_back_to(with_all);
        }
        effects
    }

    /// Time passes, and its machine is told something that no stimulus stands for.
    pub(super) fn tell(&mut self, book: &mut Book, wait: Duration, input: Input<'_>) -> Effects {
        self.now = self.now + wait;
        self.input(input);
        let mut effects = Effects::default();
        self.carry_out(book, &mut effects);
        effects
    }

    /// What the machine wants done is done, up to the first thing that is wrong.
    fn carry_out(&mut self, book: &mut Book, effects: &mut Effects) {
        while let Some(action) = self.machine.next_action() {
            if effects.wrong.is_none()
                && let Err(wrong) = self.act(book, action, effects)
            {
                effects.wrong = Some(wrong);
            }
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.machine.handle(self.now, &mut self.draws, input);
    }

    fn on_installed(&mut self) {
        let Some((token, spis)) = self.installing.pop_front() else {
            return;
        };
        for spi in spis {
            if let Some(lane) = self.receiving.get_mut(&spi) {
                lane.is_installed = true;
            }
        }
        self.input(Input::Installed(token));
    }

    /// A worker opens a frame, or does not.
    fn on_frame(&mut self, frame: &Frame, effects: &mut Effects) -> Fate {
        let lane = self.receiving.get_mut(&frame.spi);
        let Some(lane) = lane.filter(|lane| lane.is_installed) else {
            return Fate::Refused("unknown SPI");
        };
        if lane.key != frame.key {
            return Fate::Refused("does not open");
        }
        if !lane.taken.insert(frame.number) {
            return Fate::Refused("replayed");
        }
        let (peer, spi) = (lane.peer, frame.spi);
        if !std::mem::replace(&mut lane.has_opened, true) {
            self.input(Input::FirstOpen { peer, spi });
        }
        match frame.content {
            Content::Reply(id) => {
                let probe = probe(ProbeOp::Reply, id);
                self.input(Input::ProbeReply { peer, probe });
                return Fate::Opened;
            }
            // The worker answers at once, if it has a lane to do so.
            Content::Request(id) => {
                if let Some(lane) = self.sending.get_mut(&peer) {
                    let to = place_of(lane.to);
                    let answer = lane.seal(self.place, Content::Reply(id));
                    effects.frames.push((to, answer));
                }
            }
            Content::Payload => {}
        }
        self.input(Input::Activity { peer });
        Fate::Opened
    }
}

impl Sending {
    fn seal(&mut self, from: Place, content: Content) -> Frame {
        let number = self.next;
        self.next += 1;
        Frame {
            from,
            spi: self.spi,
            key: self.key,
            number,
            content,
        }
    }
}

fn probe(op: ProbeOp, id: u64) -> Probe {
    Probe {
        op,
        id,
        phase: Phase::FIRST,
    }
}
