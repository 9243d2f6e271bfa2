//! The test vectors of docs/protocol.md against the code: none may be missing,
//! unknown or different.

#![allow(clippy::expect_used)] // a test that panics has failed

use std::panic::{AssertUnwindSafe, catch_unwind};

use ring::hmac;
use tipsec_control::derive::{Chain, ClusterKeys, LaneBinding, Sek};
use tipsec_dataplane::aead::{Aead, Nonce};
use tipsec_dataplane::command::{Budget, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::frame::DataHeader;
use tipsec_dataplane::ids::{Epoch, Incarnation, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::sa::{Class, RxLane, RxShared, TxLane};
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_xdp::gate::{GateKey, gate};
use tipsec_xdp::wire::{HEADER_LEN, TAG_LEN};

mod vector;
use vector::exchange::{beacon, exchange, hello};
use vector::file::{Vector, read};

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

type Check = fn(&Vector, &[Vector]);

/// Every vector that there must be, and what checks it.
const CHECKS: [(&str, Check); 20] = [
    ("cluster-keys", cluster_keys),
    ("chain", chain),
    ("lane-aes-256-gcm", lane),
    ("lane-aes-128-gcm", lane),
    ("lane-chacha20-poly1305", lane),
    ("lane-second-phase", lane),
    ("xdp-gate", xdp_gate),
    ("data-aes-256-gcm", data),
    ("data-aes-128-gcm", data),
    ("data-chacha20-poly1305", data),
    ("data-second-phase", data),
    ("data-large-packet-number", data),
    ("data-probe", data),
    ("probe-request", probe),
    ("probe-reply", probe),
    ("tap-address", tap_address),
    ("beacon", beacon),
    ("beacon-second-network", beacon),
    ("exchange", exchange),
    ("hello", hello),
];

fn check_of(name: &str) -> Check {
    match CHECKS.iter().find(|(known, _)| *known == name) {
        Some((_, check)) => *check,
        None => panic!("the test knows no vector {name}"),
    }
}

#[test]
fn the_document_and_the_code_agree() {
    let vectors = read(DOCUMENT);
    for (name, _) in CHECKS {
        let count = vectors.iter().filter(|vector| vector.name == name).count();
        assert_eq!(count, 1, "vector {name} is there {count} times");
    }
    for vector in &vectors {
        check_of(&vector.name)(vector, &vectors);
        vector.end();
    }
}

#[test]
fn no_field_can_be_changed() {
    let vectors = read(DOCUMENT);
    for vector in &vectors {
        for changed in vector.with_one_bit_flipped() {
            let check = check_of(&vector.name);
            let result = catch_unwind(AssertUnwindSafe(|| check(&changed, &vectors)));
            assert!(result.is_err(), "{} {}", vector.name, changed.changed());
        }
    }
}

pub(crate) fn node(id: u32) -> NodeId {
    NodeId::new(id).expect("node ids are not 0")
}

pub(crate) fn keys(vector: &Vector) -> ClusterKeys {
    let cluster = vector.text("cluster").parse().expect("a cluster name");
    ClusterKeys::derive(vector.bytes("master"), &cluster)
}

/// HMAC-SHA-256/128 under a key from the document: the code shows no MAC key.
fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref()[..16].to_vec()
}

fn cluster_keys(vector: &Vector, _: &[Vector]) {
    let keys = keys(vector);
    vector.says("master_id", &keys.id().0.to_be_bytes());
    assert!(keys.xdp_gate() == GateKey::from_bytes(vector.array("xdp_gate")));
    let message = b"any message";
    let expected = mac(vector.bytes("gate"), message);
    assert_eq!(keys.gate().sign(message)[..], expected);
    let expected = mac(vector.bytes("beacon"), message);
    assert_eq!(keys.beacon().sign(message)[..], expected);
    vector.says("psk", keys.psk());
}

fn chain(vector: &Vector, _: &[Vector]) {
    let [initiator, responder] =
        ["initiator_sek", "responder_sek"].map(|name| Sek::new(vector.array(name)));
    let chain = Chain::of_exchange(&vector.array("handshake_hash"), &initiator, &responder);
    vector.says("chain_id", &chain.id().to_be_bytes());
    vector.says("chained_psk", &*chain.psk(&vector.array("psk")));
}

fn lane(vector: &Vector, _: &[Vector]) {
    let secret = LaneBinding {
        handshake_hash: &vector.array("handshake_hash"),
        suite: Suite::from_code(vector.u16("suite")).expect("a suite"),
        cluster: &vector.text("cluster").parse().expect("a cluster name"),
        sender: (
            node(vector.u32("sender")),
            Incarnation(vector.u64("sender_incarnation")),
        ),
        receiver: (
            node(vector.u32("receiver")),
            Incarnation(vector.u64("receiver_incarnation")),
        ),
        spi: Spi::new(vector.u32("spi")).expect("SPIs are not 0"),
        lane: LaneIndex(vector.u8("lane")),
        phase: Phase(vector.u32("phase")),
    }
    .derive(&Sek::new(vector.array("sek")));
    vector.says("key", secret.key());
    vector.says("iv", secret.iv());
}

fn xdp_gate(vector: &Vector, _: &[Vector]) {
    let key = GateKey::from_bytes(vector.array("key"));
    let clear = vector.array("clear_header");
    vector.says("gate", &gate(&key, &clear).to_be_bytes());
    assert_eq!(clear[8..16], *vector.bytes("gate"));
}

fn data(vector: &Vector, _: &[Vector]) {
    data_by::<tipsec_dataplane::aead::ring::Ring>(vector);
    #[cfg(feature = "daemon")] // which brings the second provider
    data_by::<tipsec_dataplane::aead::aws_lc::AwsLc>(vector);
}

fn data_by<A: Aead>(vector: &Vector) {
    let suite = Suite::from_code(vector.u16("suite")).expect("a suite");
    let given = vector.bytes("key");
    assert_eq!(given.len(), suite.key_len());
    let mut key = [0; 32];
    key[..given.len()].copy_from_slice(given);
    let secret = LaneSecret::new(suite, key, vector.array("iv"));
    let spi = Spi::new(vector.u32("spi")).expect("SPIs are not 0");
    let packet_number = vector.u64("packet_number");
    let plaintext = vector.bytes("plaintext");
    let nonce = || Nonce::new(secret.iv(), packet_number);
    vector.says("nonce", &nonce().bytes());

    let header = DataHeader {
        spi,
        packet_number,
        length: u16::try_from(plaintext.len() + TAG_LEN).expect("a short plaintext"),
    };
    let mut payload = plaintext.to_vec();
    let tag = A::seal(&A::key(&secret), nonce(), &header.encode(), &mut payload);
    vector.says("frame", &[&header.encode()[..], &payload, &tag].concat());

    if packet_number < 1000 {
        let mut lane = TxLane::<A>::new(tx_lane(&secret, spi));
        for _ in 0..packet_number {
            assert!(lane.number(1, Class::Data).is_ok());
        }
        let mut payload = plaintext.to_vec();
        let number = lane
            .number(payload.len(), Class::Data)
            .expect("the lane has a number");
        let header = number.header();
        let tag = lane.seal(number, &header, &mut payload);
        let tag = tag.expect("its own number");
        vector.says("frame", &[&header[..], &payload, &tag].concat());
    }

    let (header, sealed) = vector.bytes("frame").split_at(HEADER_LEN);
    let header: &[u8; HEADER_LEN] = header.try_into().expect("a header");
    let decoded = DataHeader::decode(header, sealed.len()).expect("a data frame");
    let mut opened = sealed.to_vec();
    let result = A::open(&A::key(&secret), nonce(), header, &mut opened);
    assert!(result.is_ok());
    assert_eq!(opened[..plaintext.len()], *plaintext);
    if decoded.packet_number >> 33 != 0 {
        return;
    }
    // With the same key in both phases: the number says which one it takes.
    let mut lane = RxLane::<A>::new(rx_lane(&secret, spi));
    let mut opened = sealed.to_vec();
    let result = lane.open(header, decoded.packet_number, &mut opened);
    assert!(result.is_ok());
    assert_eq!(opened[..plaintext.len()], *plaintext);
}

fn tx_lane(secret: &LaneSecret, spi: Spi) -> TxLaneSpec {
    TxLaneSpec {
        spi,
        peer: PeerIndex(0),
        node: node(1),
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: secret.duplicate(),
        next: None,
        phase_bits: PhaseBits::PROTOCOL,
        budget: Budget {
            soft: 1 << 32,
            hard: 1 << 32,
        },
    }
}

fn rx_lane(secret: &LaneSecret, spi: Spi) -> RxLaneSpec {
    RxLaneSpec {
        spi,
        peer: PeerIndex(0),
        node: node(1),
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: secret.duplicate(),
        next: Some(secret.duplicate()),
        phase_bits: PhaseBits::PROTOCOL,
        shared: RxShared::of_single_lane(1),
    }
}

fn probe(vector: &Vector, _: &[Vector]) {
    let probe = Probe {
        op: match vector.u8("op") {
            1 => ProbeOp::Request,
            2 => ProbeOp::Reply,
            other => panic!("no operation {other}"),
        },
        id: vector.u64("id"),
        phase: Phase(vector.u32("phase")),
    };
    vector.says("plaintext", &probe.encode());
    assert_eq!(Probe::decode(vector.bytes("plaintext")), Some(probe));
}

fn tap_address(vector: &Vector, _: &[Vector]) {
    let address = MacAddr::of_tap(node(vector.u32("node")));
    vector.says("address", &address.0);
}
