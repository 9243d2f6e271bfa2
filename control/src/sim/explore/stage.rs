//! Two nodes on a stage: brought into any state of their slots by a script, with
//! every kind of message at hand, forged ones too.

mod seen;

use std::time::Duration;

use tipsec_dataplane::ids::PeerIndex;

use super::book::{Book, Content, Frame, MessageId, Place};
use super::node::{Effects, Node, Stimulus};
use super::state::What;
use crate::frame::{ClearHeader, ControlFrame, MessageType, encode, encode_clear};
use crate::machine::{Input, Standing};
use crate::sim::{master, ms, node_id};

pub(super) use seen::Seen;

/// Who is looked at.
pub(super) const SUBJECT: Place = 0;
/// The other node.
pub(super) const PEER: Place = 1;

/// The two of them.
pub(super) struct Stage {
    book: Book,
    nodes: [Node; 2],
    since: [Duration; 2],
    now: Duration,
    /// What is on its way, oldest first.
    wire: Vec<(Place, What)>,
    /// Everything that was ever sent, oldest first.
    log: Vec<MessageId>,
    /// An m1 of the peer that the subject has never seen, older than others that
    /// it has.
    pub(super) withheld: Option<MessageId>,
    /// The last beacon of each.
    beacons: [Option<MessageId>; 2],
}

impl Stage {
    /// Two processes that have just started and have heard one another's beacon.
    pub(super) fn new() -> Self {
        let born = |place| Node::born(place, 0, None);
        let mut stage = Self {
            book: Book::default(),
            nodes: [born(SUBJECT), born(PEER)],
            since: [Duration::ZERO; 2],
            now: Duration::ZERO,
            wire: Vec::new(),
            log: Vec::new(),
            withheld: None,
            beacons: [None; 2],
        };
        stage.hear();
        stage
    }

    /// The same, a while after each has completed an exchange that it had begun;
    /// nothing is on its way.
    pub(super) fn up() -> Self {
        let mut stage = Self::new();
        stage.settle(Duration::from_secs(6));
        stage.start(PEER);
        stage.withheld = stage.take(SUBJECT, MessageType::M1);
        stage.peer_gives_up();
        stage.start(PEER);
        stage.settle(Duration::from_secs(6));
        stage.wire.clear();
        stage
    }

    /// The exchange that the peer has begun is not answered until it ends; probes
    /// are.
    pub(super) fn peer_gives_up(&mut self) {
        let us = node_id(SUBJECT.into());
        while self.node(PEER).machine().standing(us).initiator != "Idle" {
            let due = self.due(PEER).unwrap_or_default();
            self.pass_time(due.saturating_sub(self.now));
            self.step(PEER, Stimulus::Timer);
        }
        self.wire.clear();
    }

    /// The subject's slots.
    pub(super) fn slots(&self) -> Standing {
        let peer = node_id(PEER.into());
        self.node(SUBJECT).machine().standing(peer)
    }

    /// Whether an SA of the subject's own is being installed.
    pub(super) fn is_installing(&self) -> bool {
        self.node(SUBJECT).is_installing()
    }

    /// The last message of a kind that a node has sent.
    pub(super) fn last(&self, from: Place, kind: MessageType) -> Option<MessageId> {
        let is_such = |id: &&MessageId| {
            let message = self.book.message(**id);
            (message.from, message.kind) == (from, kind)
        };
        self.log.iter().rev().find(is_such).copied()
    }

    /// The last probe that is on its way to the subject.
    pub(super) fn newest_probe(&mut self) -> Option<Frame> {
        let frames = self.frames(SUBJECT).into_iter().rev();
        let mut frames = frames.filter(|frame| matches!(frame.content, Content::Request(_)));
        frames.next()
    }

    /// What the peer answers to a message of the subject's last exchange: another
    /// life of it, or the present one, to which it seems to build on what it does
    /// not hold.
    pub(super) fn hello(&mut self, other_life: Option<u8>) -> Option<MessageId> {
        let m1 = self.last(SUBJECT, MessageType::M1)?;
        if let Some(life) = other_life {
            let mut other = Node::born(PEER, life, None);
            let beacon = Stimulus::Message(self.beacons[usize::from(SUBJECT)]?);
            other.step(&mut self.book, Duration::ZERO, &beacon);
            let heard = other.step(&mut self.book, Duration::ZERO, &Stimulus::Message(m1));
            return heard.messages.first().map(|&(_, id)| id);
        }
        let unknown = self.forged(m1, |one| one.header.chain ^= 1);
        let heard = self.step(PEER, Stimulus::Message(unknown));
        heard.messages.first().map(|&(_, id)| id)
    }

    /// Each hears the beacon of the other.
    fn hear(&mut self) {
        for from in [SUBJECT, PEER] {
            self.step(from, Stimulus::Timer);
        }
        for to in [SUBJECT, PEER] {
            self.hears(to);
        }
    }

    /// A node hears the beacon of the other.
    fn hears(&mut self, to: Place) {
        if let Some(id) = self.beacons[usize::from(1 - to)] {
            self.step(to, Stimulus::Message(id));
        }
    }

    /// The peer dies, and its next life calls the subject; what was for it is lost.
    pub(super) fn replace_peer(&mut self) {
        self.nodes[usize::from(PEER)] = Node::born(PEER, 1, None);
        self.since[usize::from(PEER)] = self.now;
        self.wire.clear();
        self.start(PEER);
        self.now += ms(250);
        self.step(PEER, Stimulus::Timer);
    }

    /// Everything arrives, timers fire, for a while.
    fn settle(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.deliver_all();
            let due = |place: Place| Some((self.due(place)?, place));
            let next = [SUBJECT, PEER].into_iter().filter_map(due).min();
            let Some((at, place)) = next.filter(|&(at, _)| at <= end) else {
                break;
            };
            self.now = at.max(self.now);
            self.step(place, Stimulus::Timer);
        }
        self.now = end;
    }

    fn due(&self, place: Place) -> Option<Duration> {
        let node = &self.nodes[usize::from(place)];
        let deadline = node.machine().next_deadline()?;
        Some(self.since[usize::from(place)] + deadline.since(node.now()))
    }

    fn deliver_all(&mut self) {
        loop {
            if self.wire.is_empty() {
                let installing = [SUBJECT, PEER].into_iter();
                let mut installing = installing.filter(|&at| self.node(at).is_installing());
                match installing.next() {
                    Some(place) => self.step(place, Stimulus::Installed),
                    None => return,
                };
                continue;
            }
            let (to, what) = self.wire.remove(0);
            self.step(to, stimulus(what));
        }
    }

    fn node(&self, place: Place) -> &Node {
        &self.nodes[usize::from(place)]
    }

    /// Something happens at a node.
    pub(super) fn step(&mut self, place: Place, what: Stimulus) -> Effects {
        let at = usize::from(place);
        let wait = self.now - self.since[at];
        self.since[at] = self.now;
        let effects = self.nodes[at].step(&mut self.book, wait, &what);
        self.launch(place, &effects);
        effects
    }

    fn launch(&mut self, from: Place, effects: &Effects) {
        if effects.beacon.is_some() {
            self.beacons[usize::from(from)] = effects.beacon;
        }
        for &(to, id) in &effects.messages {
            self.wire.push((to, What::Message(id)));
            self.log.push(id);
        }
        let frames = effects.frames.iter();
        self.wire
            .extend(frames.map(|&(to, frame)| (to, What::Frame(frame))));
    }

    /// A node that has just heard of the other starts an exchange at once, as when
    /// a lane's budget is spent.
    pub(super) fn start(&mut self, place: Place) -> Effects {
        self.hears(place);
        let at = usize::from(place);
        let wait = self.now - self.since[at];
        self.since[at] = self.now;
        let peer = PeerIndex(0);
        let input = Input::BudgetSpent { peer };
        self.nodes[at].tell(&mut self.book, wait, input);
        self.step(place, Stimulus::Timer)
    }

    /// Takes the oldest message of a kind for a node off the wire.
    pub(super) fn take(&mut self, to: Place, kind: MessageType) -> Option<MessageId> {
        let id = |what: What| match what {
            What::Message(id) if self.book.message(id).kind == kind => Some(id),
            _ => None,
        };
        let at = self
            .wire
            .iter()
            .position(|&(for_, what)| for_ == to && id(what).is_some());
        let (_, what) = self.wire.remove(at?);
        match what {
            What::Message(id) => Some(id),
            What::Frame(_) => None,
        }
    }

    /// Takes a message off the wire and gives it to whom it is for.
    pub(super) fn pass(&mut self, to: Place, kind: MessageType) {
        if let Some(id) = self.take(to, kind) {
            self.step(to, Stimulus::Message(id));
        }
    }

    /// Takes all frames for a node off the wire.
    fn frames(&mut self, to: Place) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.wire.retain(|&(for_, what)| match what {
            What::Frame(frame) if for_ == to => {
                frames.push(frame);
                false
            }
            _ => true,
        });
        frames
    }

    /// A message with another body, or under another chain, and a proper MAC: what
    /// any member can make.
    pub(super) fn forged(&mut self, id: MessageId, change: impl Fn(&mut Forgery)) -> MessageId {
        let keys = master(1);
        let message = self.book.message(id);
        let (from, bytes) = (message.from, message.bytes.clone());
        let frame = ControlFrame::decode(&bytes).expect("a message of a machine");
        let mut forgery = Forgery {
            header: *frame.header(),
            body: frame.body().to_vec(),
        };
        change(&mut forgery);
        let Forgery { header, body } = forgery;
        let clear = encode_clear(&header, body.len(), &keys);
        let bytes = encode(header.message, &clear, &body, &keys);
        self.book.enter(from, bytes).expect("a message")
    }

    /// So much time passes, in which the subject's probes are answered and nothing
    /// else arrives; what the last of its timers did.
    pub(super) fn pass_time(&mut self, time: Duration) -> Effects {
        let end = self.now + time;
        while let Some(at) = self.due(SUBJECT).filter(|&at| at < end) {
            self.now = at.max(self.now);
            self.step(SUBJECT, Stimulus::Timer);
            for to in [PEER, SUBJECT] {
                for frame in self.frames(to) {
                    self.step(to, Stimulus::Frame(frame));
                }
            }
        }
        self.now = end;
        self.pass_silently(ms(1))
    }

    /// So much time passes, in which nothing arrives.
    pub(super) fn pass_silently(&mut self, time: Duration) -> Effects {
        self.now += time;
        self.step(SUBJECT, Stimulus::Timer)
    }
}

/// A message that is taken apart.
pub(super) struct Forgery {
    pub(super) header: ClearHeader,
    pub(super) body: Vec<u8>,
}

fn stimulus(what: What) -> Stimulus {
    match what {
        What::Message(id) => Stimulus::Message(id),
        What::Frame(frame) => Stimulus::Frame(frame),
    }
}
