//! The exchange's vectors: whole machines, and Noise alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tipsec_control::address::{Address, Addresses, Network};
use tipsec_control::frame::ControlFrame;
use tipsec_control::machine::{Action, Destination, Input, Machine, Settings, Token};
use tipsec_control::masters::Masters;
use tipsec_control::message::{Offer, Start};
use tipsec_control::noise::{Initiator, Responder};
use tipsec_control::time::{Instant, Random};
use tipsec_dataplane::command::{RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::ids::Incarnation;
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::secret::Suite;

use super::file::Vector;
use crate::{keys, node};

fn suites(codes: &[u8]) -> Vec<Suite> {
    let code = |c: &[u8]| Suite::from_code(u16::from_be_bytes([c[0], c[1]]));
    codes.chunks(2).map(|c| code(c).expect("a suite")).collect()
}

/// Reads addresses as the document writes them.
fn addresses(bytes: &[u8]) -> Addresses {
    assert_eq!(bytes.len(), 4 * 19);
    let slots = (0..)
        .zip(bytes.chunks(19))
        .filter(|(_, slot)| slot.iter().any(|&byte| byte != 0));
    let all = slots.map(|(number, slot)| {
        assert_ne!(slot[0], 0, "none, and yet not empty");
        let filled = [0, 6, 6, 18][usize::from(slot[0])];
        let (address, rest) = slot[1..].split_at(filled);
        assert!(rest.iter().all(|&byte| byte == 0));
        let port = u16::from_be_bytes([address[filled - 2], address[filled - 1]]);
        let address = match slot[0] {
            1 => Address::Ethernet(MacAddr(address.try_into().expect("6 bytes"))),
            2 => {
                let ip: [u8; 4] = address[..4].try_into().expect("4 bytes");
                Address::Udp((ip, port).into())
            }
            _ => {
                let ip: [u8; 16] = address[..16].try_into().expect("16 bytes");
                Address::Udp((ip, port).into())
            }
        };
        (Network::new(number).expect("a network"), address)
    });
    Addresses::first_of_each(all).expect("an address")
}

/// The node's address on the network of the exchange.
fn to_side(vector: &Vector, side: &str) -> Destination {
    let addresses = addresses(vector.bytes(&format!("{side}_addresses")));
    let address = addresses.on(Network::DEFAULT).expect("an address on it");
    Destination::Node(Network::DEFAULT, address)
}

/// Gives out the 8-byte and the 32-byte draws of a vector; others there are none.
struct Scripted {
    /// The generation and the first index of SPIs.
    spis: VecDeque<u64>,
    /// Every other word: an initiator's exchange id is one.
    word: [u8; 8],
    keys: VecDeque<[u8; 32]>,
}

impl Random for Scripted {
    fn fill(&mut self, bytes: &mut [u8]) {
        match bytes.len() {
            8 => {
                let word = self.spis.pop_front().map_or(self.word, u64::to_be_bytes);
                bytes.copy_from_slice(&word);
            }
            32 => bytes.copy_from_slice(&self.keys.pop_front().expect("another 32 bytes")),
            other => panic!("a draw of {other} bytes"),
        }
    }
}

/// A machine with the settings of one side, at a fixed moment.
struct Side {
    machine: Machine,
    random: Scripted,
}

const NOW: Instant = Instant::since_boot(Duration::from_secs(1000));

impl Side {
    fn new(vector: &Vector, side: &str, incarnation: u64) -> Self {
        let field = |name: &str| format!("{side}_{name}");
        let spis = vector.bytes(&field("spis"));
        let first = u32::from_be_bytes([spis[0], spis[1], spis[2], spis[3]]);
        let generation = tipsec_xdp::wire::spi_generation(first).into();
        // Index 0 is never used: the first of all is 1.
        let index = tipsec_xdp::wire::spi_index(first) - 1;
        // The ephemeral key for an m1 that brings no cookie, at either side, and
        // what makes one are drawn before those of the exchange.
        let mut draws = VecDeque::from([[0x40; 32]]);
        if side == "responder" {
            draws.push_back(vector.array("cookie_secret"));
        }
        draws.push_back(vector.array(&field("ephemeral")));
        draws.push_back(vector.array(&field("sek")));
        let mut random = Scripted {
            spis: VecDeque::from([generation, index.into()]),
            word: vector.array("exchange_id"),
            keys: draws,
        };
        let interval_s = vector.u32(&field("interval_s"));
        let settings = Settings {
            node: node(vector.u32(side)),
            incarnation: Incarnation(incarnation),
            cluster: vector.text("cluster").parse().expect("a cluster name"),
            addresses: addresses(vector.bytes(&field("addresses"))),
            lanes: vec![Network::DEFAULT; vector.u8(&field("lanes")).into()],
            suites: suites(vector.bytes(&field("suites"))),
            rekey_interval: (interval_s > 0).then(|| Duration::from_secs(interval_s.into())),
            link_tolerance: Duration::from_millis(1500),
            budget: vector.u64(&field("budget")),
            phase_bits: PhaseBits::PROTOCOL,
            failed_opens_limit: 1,
            max_peers: 1,
            spi_slots: 4096,
        };
        let machine = Machine::new(settings, NOW, &mut random);
        let mut side = Self { machine, random };
        side.input(Input::SetMasters(Masters::only(Arc::new(keys(vector)))));
        side
    }

    /// Its first beacon leaves with the first timer, and is not looked at here.
    fn after_its_beacon(mut self) -> Self {
        self.input(Input::Timer);
        self
    }

    fn input(&mut self, input: Input<'_>) -> Outcome {
        self.machine.handle(NOW, &mut self.random, input);
        let mut outcome = Outcome::default();
        while let Some(action) = self.machine.next_action() {
            match action {
                Action::Send { to, frame } => outcome.sent.push((to, frame)),
                Action::InstallRx { token, lanes } => {
                    outcome.installing = Some(token);
                    outcome.rx = lanes;
                }
                Action::InstallTx { lanes, .. } => outcome.tx = lanes,
                _ => {}
            }
        }
        outcome
    }

    fn frame(&mut self, bytes: &[u8]) -> Outcome {
        self.input(Input::Frame {
            bytes,
            network: Network::DEFAULT,
            source: Address::Ethernet(MacAddr([2; 6])),
        })
    }
}

/// What a machine asked for.
#[derive(Default)]
struct Outcome {
    sent: Vec<(Destination, Vec<u8>)>,
    installing: Option<Token>,
    rx: Vec<RxLaneSpec>,
    tx: Vec<TxLaneSpec>,
}

impl Outcome {
    /// The only frame, which goes to `to`.
    fn frame_to(&self, to: Destination) -> &[u8] {
        match self.sent.as_slice() {
            [(address, frame)] if *address == to => frame,
            other => panic!("{} frames were sent", other.len()),
        }
    }

    fn installing(&self) -> Input<'static> {
        assert!(
            self.sent.is_empty(),
            "an offer left before it was installed"
        );
        Input::Installed(self.installing.expect("an SA to install"))
    }
}

pub(crate) fn beacon(vector: &Vector, vectors: &[Vector]) {
    let exchange = named(vectors, "exchange");
    // The responder of the exchange; its beacon says who and where it is.
    let mut responder = Side::new(exchange, "responder", vector.u64("incarnation"));
    let sent = responder.input(Input::Timer).sent;
    let number = vector.u8("network");
    let network = Network::new(number).expect("a network");
    let beacon = sent
        .iter()
        .find(|(to, _)| *to == Destination::Group(network));
    let (_, frame) = beacon.expect("a beacon on this network");
    vector.says("frame", frame);
    assert_eq!(vector.u32("node"), exchange.u32("responder"));
    let addresses = exchange.bytes("responder_addresses");
    assert_eq!(
        sent.len(),
        addresses.chunks(19).filter(|slot| slot[0] != 0).count()
    );
    let slot = addresses.chunks(19).nth(number.into()).expect("a slot");
    vector.says("address", slot);
    for field in ["master", "cluster"] {
        vector.says(field, exchange.bytes(field));
    }
}

pub(crate) fn hello(vector: &Vector, vectors: &[Vector]) {
    let exchange = named(vectors, "exchange");
    // The responder has been started again since the initiator heard of it.
    let incarnation = vector.u64("responder_incarnation");
    let mut responder = Side::new(exchange, "responder", incarnation).after_its_beacon();
    let sent = responder.frame(exchange.bytes("m1"));
    vector.says("frame", sent.frame_to(to_side(exchange, "initiator")));
}

fn named<'a>(vectors: &'a [Vector], name: &str) -> &'a Vector {
    let found = vectors.iter().find(|vector| vector.name == name);
    found.expect("the vector is there")
}

pub(crate) fn exchange(vector: &Vector, vectors: &[Vector]) {
    let incarnation = |side: &str| vector.u64(&format!("{side}_incarnation"));
    let mut initiator = Side::new(vector, "initiator", incarnation("initiator")).after_its_beacon();
    let mut responder = Side::new(vector, "responder", incarnation("responder")).after_its_beacon();
    let [to_initiator, to_responder] = ["initiator", "responder"].map(|side| to_side(vector, side));

    let heard = initiator.frame(named(vectors, "beacon").bytes("frame"));
    assert!(heard.sent.is_empty());
    let asked = initiator.input(Input::Timer);
    let refused = responder.frame(asked.frame_to(to_responder));
    vector.says("hello", refused.frame_to(to_initiator));
    let started = initiator.frame(vector.bytes("hello"));
    vector.says("m1", started.frame_to(to_responder));

    let answering = responder.frame(vector.bytes("m1"));
    let answered = responder.input(answering.installing());
    vector.says("m2", answered.frame_to(to_initiator));

    let offering = initiator.frame(vector.bytes("m2"));
    let offered = initiator.input(offering.installing());
    vector.says("m3", offered.frame_to(to_responder));
    let completed = responder.frame(vector.bytes("m3"));

    check_lanes(
        vector,
        "initiator_to_responder",
        &offering.tx,
        &answering.rx,
    );
    check_lanes(
        vector,
        "responder_to_initiator",
        &completed.tx,
        &offering.rx,
    );
    check_contents(vector);
}

/// Sender and receiver derived the same keys, and those of the document.
fn check_lanes(vector: &Vector, direction: &str, tx: &[TxLaneSpec], rx: &[RxLaneSpec]) {
    let issuer = match direction {
        "initiator_to_responder" => "responder_spis",
        _ => "initiator_spis",
    };
    let spis: Vec<u8> = rx
        .iter()
        .flat_map(|lane| lane.spi.value().to_be_bytes())
        .collect();
    vector.says(issuer, &spis);
    assert_eq!(tx.len(), rx.len());
    for (at, (tx, rx)) in tx.iter().zip(rx).enumerate() {
        let field = format!("{direction}_{at}");
        for (spi, secret) in [(tx.spi, &tx.secret), (rx.spi, &rx.secret)] {
            assert_eq!(spi, rx.spi);
            vector.says(&field, &[secret.key(), secret.iv()].concat());
        }
    }
}

/// What is inside the messages, and the handshake's hash, by Noise alone.
fn check_contents(vector: &Vector) {
    let keys = keys(vector);
    let [m1, m2, m3] = ["m1", "m2", "m3"].map(|field| {
        let frame = ControlFrame::decode(vector.bytes(field)).expect("a control frame");
        assert!(frame.verify(&keys));
        frame
    });
    let cluster = vector.text("cluster");
    let mut prologue = m1.clear().to_vec();
    prologue.push(u8::try_from(cluster.len()).expect("a short name"));
    prologue.extend_from_slice(cluster.as_bytes());
    let random = |field: &str| Scripted {
        spis: VecDeque::new(),
        word: [0; 8],
        keys: VecDeque::from([vector.array(field)]),
    };

    let mut theirs = random("responder_ephemeral");
    let read = Responder::read(keys.psk(), &prologue, &mut theirs, m1.body());
    let (responder, start) = read.expect("m1 opens");
    vector.says("start", &start);
    assert!(Start::decode(&start).is_some());
    let (responder, body) = responder.answer(vector.bytes("offer2")).expect("m2");
    assert_eq!(body, m2.body());

    let mut ours = random("initiator_ephemeral");
    let (initiator, body) = Initiator::start(keys.psk(), &prologue, &mut ours, &start).expect("m1");
    assert_eq!(body, m1.body());
    let (mut initiator, offer) = initiator.finish(m2.body()).ok().expect("m2 opens");
    vector.says("offer2", &offer);
    vector.says("handshake_hash", initiator.hash());
    vector.says("handshake_hash", responder.hash());
    let body = initiator.seal(vector.bytes("offer3")).expect("m3");
    assert_eq!(body, m3.body());
    for (offer, sek) in [("offer2", "responder_sek"), ("offer3", "initiator_sek")] {
        let offer = Offer::decode(vector.bytes(offer)).expect("an offer");
        vector.says(sek, offer.sek.bytes());
    }
}
