//! Target `member`: whoever holds the master key runs whole exchanges with the
//! victim, in several names, and changes what is inside of them. It may cost the
//! pairs that it pretends to be; it must not make the victim install an SA twice,
//! or without a cookie of the victim's, keep more than its bounds, or stop.
//!
//! Here is what the member does; `effects` has what comes of it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tipsec_control::address::Addresses;
use tipsec_control::cluster::ClusterName;
use tipsec_control::derive::Sek;
use tipsec_control::frame::{ClearHeader, ControlFrame, MessageType, encode, encode_clear};
use tipsec_control::machine::{Action, Input as Step, Token};
use tipsec_control::masters::Masters;
use tipsec_control::message::{COOKIE_LEN, Hello, Holdings, Offer, Start};
use tipsec_control::noise::{HANDSHAKE_OVERHEAD, Initiator, Responder, Session};
use tipsec_control::sim::{Seeded, address_of, network, node_id};
use tipsec_dataplane::ids::{Epoch, Incarnation, NodeId, PeerIndex, Spi};
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::phase::Phase;
use tipsec_dataplane::secret::Suite;

use super::{Once, VICTIM, Victim, sent};
use crate::input::Input;

mod effects;
mod seeds;

pub(super) use seeds::seeds;

/// Steps of one input.
const STEPS_MAX: usize = 48;
/// Names that the member uses: places around the victim's.
const NAMES: [usize; 3] = [0, 1, 3];
/// In an m1 without one.
const NO_COOKIE: [u8; COOKIE_LEN] = [0; COOKIE_LEN];
/// Sending lanes of the victim.
const LANES: usize = 2;

/// An exchange whose m1 is out.
struct Asked {
    name: NodeId,
    exchange: u64,
    /// What the victim reads in it, if it can be read.
    start: Option<Start>,
    noise: Initiator,
}

/// What a hello of the victim had for somebody who says that he is there.
struct Given {
    cookie: [u8; COOKIE_LEN],
    addresses: Addresses,
}

/// An exchange that the member began, between m2 and m3.
struct Begun {
    name: NodeId,
    exchange: u64,
    session: Session,
}

/// The member, and what it has made the victim do.
struct Attack {
    victim: Victim,
    random: Seeded,
    counter: u64,
    asked: Vec<Asked>,
    /// The latest for each name and incarnation.
    cookies: HashMap<(NodeId, Incarnation), Given>,
    begun: Vec<Begun>,
    /// The victim's own m1, the latest last.
    victims_m1: VecDeque<Vec<u8>>,
    /// Completions that the victim waits for.
    installs: VecDeque<Token>,
    removals: VecDeque<Token>,
    /// Receiving lanes: whose.
    lanes: HashMap<Spi, (PeerIndex, Epoch)>,
    receiving: Once,
    sending: Once,
    probes: VecDeque<(PeerIndex, Probe)>,
}

pub(super) fn run(data: &[u8]) {
    let mut attack = Attack::new();
    let mut input = Input::new(data);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            return;
        }
        attack.step(&mut input);
    }
}

impl Attack {
    fn new() -> Self {
        Self {
            victim: Victim::new(),
            random: Seeded::new(99),
            counter: 0,
            asked: Vec::new(),
            cookies: HashMap::new(),
            begun: Vec::new(),
            victims_m1: VecDeque::new(),
            installs: VecDeque::new(),
            removals: VecDeque::new(),
            lanes: HashMap::new(),
            receiving: Once::default(),
            sending: Once::default(),
            probes: VecDeque::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let actions = match input.u8() % 12 {
            0 | 1 => self.ask(input),
            2 => match self.installs.pop_front() {
                Some(token) => self.victim.step(Step::Installed(token)),
                None => Vec::new(),
            },
            3 | 4 => self.conclude(input),
            5 => self.answer(input),
            6 => self.hello(input),
            7 => match self.removals.pop_front() {
                Some(token) => self.victim.step(Step::Removed(token)),
                None => Vec::new(),
            },
            8 => self.open(input),
            9 => match self.probes.pop_front() {
                Some((peer, probe)) => self.reply(peer, probe, input),
                None => self.victim.step(Step::RekeyNow),
            },
            10 => {
                let time = Duration::from_millis(u64::from(input.u8()));
                self.victim.pass(time)
            }
            _ => {
                let time = Duration::from_millis(u64::from(input.u16() % 6000));
                self.victim.pass(time)
            }
        };
        self.on_actions(actions);
    }

    /// Sends m1, and again with the cookie that it is asked for, unless it has
    /// none to show.
    fn ask(&mut self, input: &mut Input<'_>) -> Vec<Action> {
        let name = name(input);
        let how = input.u8();
        if how & 0x40 != 0 {
            return self.send_m1(name, how, NO_COOKIE, Some(input));
        }
        let given = self.cookies.get(&(name, incarnation(how)));
        let known = given.map(|given| given.cookie);
        let actions = self.send_m1(name, how, known.unwrap_or(NO_COOKIE), Some(input));
        let asked_for = self.cookie_asked_for(&actions);
        if asked_for.is_none() || asked_for == known {
            return actions;
        }
        self.on_actions(actions);
        self.send_m1(name, how, asked_for.unwrap_or(NO_COOKIE), None)
    }

    /// The cookie in a hello that answers the last m1.
    fn cookie_asked_for(&self, actions: &[Action]) -> Option<[u8; COOKIE_LEN]> {
        let mut hellos = sent(actions, MessageType::Hello).filter_map(ControlFrame::decode);
        let hello = hellos.find(|read| read.header().exchange == self.counter)?;
        Some(Hello::decode(hello.body())?.cookie)
    }

    fn send_m1(
        &mut self,
        name: NodeId,
        how: u8,
        cookie: [u8; COOKIE_LEN],
        edits: Option<&mut Input<'_>>,
    ) -> Vec<Action> {
        self.counter += 1;
        let start = Start {
            initiator: incarnation(how),
            responder: Some(self.victim.machine.settings().incarnation),
            counter: self.counter,
            lanes: 1 + how % 4,
            addresses: addresses(),
            holdings: self.holdings(),
            cookie,
        };
        let mut payload = start.encode();
        let len = payload.len();
        if how & 0x80 != 0
            && let Some(edits) = edits
        {
            edits.edit(&mut payload);
            payload.resize(len, 0);
        }
        let exchange = self.counter;
        let header = self.header(MessageType::M1, name, exchange, 7, Epoch(0));
        let keys = &self.victim.keys;
        let clear = encode_clear(&header, len + HANDSHAKE_OVERHEAD, keys);
        let (noise, body) =
            Initiator::start(keys.psk(), &prologue(&clear), &mut self.random, &payload).unwrap();
        let frame = encode(MessageType::M1, &clear, &body, keys);
        let start = Start::decode(&payload);
        let actions = self.victim.frame(&frame);
        self.check_cookie(name, start.as_ref(), &actions);
        self.asked.push(Asked {
            name,
            exchange,
            start,
            noise,
        });
        actions
    }

    /// Sends m3 of an exchange whose m2 came.
    fn conclude(&mut self, input: &mut Input<'_>) -> Vec<Action> {
        let Some(mut begun) = self.begun.pop() else {
            return Vec::new();
        };
        let (payload, header_epoch) = self.offer(input);
        let suite = Suite::Aes256Gcm.code();
        let header = self.header(
            MessageType::M3,
            begun.name,
            begun.exchange,
            suite,
            header_epoch,
        );
        let body = begun.session.seal(&payload).unwrap();
        let frame = self.written(&header, &body);
        let mut actions = self.victim.frame(&frame);
        actions.extend(self.victim.frame(&frame));
        actions
    }

    /// Answers the victim's own m1 with m2.
    fn answer(&mut self, input: &mut Input<'_>) -> Vec<Action> {
        let Some(m1) = self.victims_m1.pop_back() else {
            return Vec::new();
        };
        let read = ControlFrame::decode(&m1).unwrap();
        let asked = *read.header();
        let Some(name) = asked.receiver else {
            return Vec::new();
        };
        let psk = self.victim.keys.psk();
        let noise = Responder::read(psk, &prologue(read.clear()), &mut self.random, read.body());
        // Under a chain that the member never had.
        let Ok((noise, _)) = noise else {
            return Vec::new();
        };
        let (payload, epoch) = self.offer(input);
        let (_, body) = noise.answer(&payload).unwrap();
        let mut header = self.header(
            MessageType::M2,
            name,
            asked.exchange,
            Suite::Aes256Gcm.code(),
            epoch,
        );
        header.chain = asked.chain;
        let frame = self.written(&header, &body);
        let mut actions = self.victim.frame(&frame);
        actions.extend(self.victim.frame(&frame));
        actions
    }

    fn hello(&mut self, input: &mut Input<'_>) -> Vec<Action> {
        let how = input.u8();
        let hello = Hello {
            incarnation: incarnation(how),
            busy: how & 8 != 0,
            cookie: [how; COOKIE_LEN],
            addresses: addresses(),
        };
        let mut body = hello.encode();
        input.edit(&mut body);
        body.truncate(1400);
        let asked = self.victims_m1.back().map(|m1| {
            let read = ControlFrame::decode(m1).unwrap();
            *read.header()
        });
        let (name, exchange) = match asked {
            Some(asked) => (asked.receiver.unwrap(), asked.exchange),
            None => (node_id(1), 1),
        };
        let mut header = self.header(MessageType::Hello, name, exchange, 0, Epoch(0));
        if how & 4 != 0 {
            header.chain = asked.map_or(0, |asked| asked.chain);
        }
        let frame = self.written(&header, &body);
        self.victim.frame(&frame)
    }

    /// A worker says what arrived: of a lane that there is, mostly.
    fn open(&mut self, input: &mut Input<'_>) -> Vec<Action> {
        let pick = usize::from(input.u8());
        let mut spis: Vec<_> = self.lanes.iter().collect();
        spis.sort_unstable_by_key(|(spi, _)| **spi);
        let Some(&(&spi, &(peer, _))) = spis.get(pick % spis.len().max(1)) else {
            return Vec::new();
        };
        let phase = Phase(u32::from(input.u8() % 4));
        self.victim.step(match pick / 64 {
            0 | 1 => Step::FirstOpen { peer, spi },
            2 => Step::PhaseOpened { peer, spi, phase },
            _ => Step::OpenLimit { peer, spi },
        })
    }

    fn reply(&mut self, peer: PeerIndex, asked: Probe, input: &mut Input<'_>) -> Vec<Action> {
        let probe = Probe {
            op: ProbeOp::Reply,
            id: asked.id.wrapping_add(u64::from(input.u8() % 3)),
            phase: Phase(u32::from(input.u8() % 8)),
        };
        self.victim.step(Step::ProbeReply { peer, probe })
    }

    /// An offer with edits, and the epoch for the clear header.
    fn offer(&mut self, input: &mut Input<'_>) -> (Vec<u8>, Epoch) {
        let how = input.u8();
        self.counter += 1;
        let epoch = Epoch(match how & 3 {
            3 => u32::MAX,
            _ => u32::try_from(self.counter).unwrap(),
        });
        let first = u32::from(how % 8) + 1;
        let offer = Offer {
            epoch,
            suite: Suite::Aes256Gcm,
            suites: 7,
            lanes: 1 + how % 4,
            rekey_interval: (how & 0x10 != 0).then_some(Duration::from_secs(1)),
            budget: if how & 0x20 != 0 { 0 } else { 1 << 20 },
            addresses: addresses(),
            holdings: self.holdings(),
            // The same ever again: the victim's own part must make it fresh.
            sek: Sek::new([7; 32]),
            spis: (first..first + u32::try_from(LANES).unwrap())
                .map(|n| Spi::new(n).unwrap())
                .collect(),
        };
        let mut payload = offer.encode().to_vec();
        if how & 0x80 != 0 {
            input.edit(&mut payload);
            payload.truncate(1400);
        }
        (payload, epoch)
    }

    fn header(
        &self,
        message: MessageType,
        name: NodeId,
        exchange: u64,
        suites: u16,
        epoch: Epoch,
    ) -> ClearHeader {
        ClearHeader {
            message,
            sender: name,
            receiver: Some(node_id(VICTIM)),
            exchange,
            epoch,
            master: self.victim.keys.id(),
            chain: 0,
            suites,
        }
    }

    fn written(&self, header: &ClearHeader, body: &[u8]) -> Vec<u8> {
        let keys = &self.victim.keys;
        let clear = encode_clear(header, body.len(), keys);
        encode(header.message, &clear, body, keys)
    }

    fn holdings(&self) -> Holdings {
        Holdings {
            change: u32::try_from(self.counter).unwrap(),
            masters: Masters::only(self.victim.keys.id()),
        }
    }
}

fn name(input: &mut Input<'_>) -> NodeId {
    node_id(NAMES[input.below(NAMES.len())])
}

/// Two lives of each name.
fn incarnation(how: u8) -> Incarnation {
    Incarnation(0x4711 + u64::from(how >> 4 & 1))
}

fn addresses() -> Addresses {
    let on = network(0);
    Addresses::one(on, address_of(1, on))
}

fn prologue(clear: &[u8]) -> Vec<u8> {
    let cluster: ClusterName = "test".parse().unwrap();
    [clear, &cluster.length_prefixed()].concat()
}
