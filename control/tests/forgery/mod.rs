//! What a member can write in another's name: whoever holds the master key and
//! has seen the wire.

#![allow(dead_code, unreachable_pub)] // each test file uses a part

use tipsec_control::derive::ClusterKeys;
use tipsec_control::frame::{ClearHeader, ControlFrame, MessageType, encode, encode_clear};
use tipsec_control::masters::Masters;
use tipsec_control::message::{Hello, Holdings, MAX_OFFER_LEN, Start};
use tipsec_control::noise::{HANDSHAKE_OVERHEAD, Initiator};
use tipsec_control::sim::{Seeded, Universe, node_id};
use tipsec_dataplane::ids::{Epoch, Incarnation};

/// An m1 in the name of place `of`, by somebody who holds this key and has seen
/// the wire.
pub fn forged_m1(
    universe: &Universe,
    of: usize,
    to: usize,
    keys: &ClusterKeys,
    incarnation: Incarnation,
) -> Vec<u8> {
    let addresses = universe.node(of).machine.settings().addresses;
    let start = Start {
        initiator: incarnation,
        responder: Some(universe.node(to).machine.settings().incarnation),
        counter: 1 << 40,
        lanes: 1,
        addresses,
        holdings: Holdings {
            change: 1 << 30,
            masters: Masters::only(keys.id()),
        },
        cookie: [0; 16],
    };
    let header = ClearHeader {
        message: MessageType::M1,
        sender: node_id(of),
        receiver: Some(node_id(to)),
        exchange: 77,
        epoch: Epoch(0),
        master: keys.id(),
        chain: 0,
        suites: 1,
    };
    let clear = encode_clear(&header, MAX_OFFER_LEN + HANDSHAKE_OVERHEAD, keys);
    let name = "test"
        .parse::<tipsec_control::cluster::ClusterName>()
        .unwrap();
    let prologue = [&clear[..], &name.length_prefixed()].concat();
    let mut random = Seeded::new(4711);
    let (_, body) = Initiator::start(keys.psk(), &prologue, &mut random, &start.encode()).unwrap();
    encode(MessageType::M1, &clear, &body, keys)
}

/// A hello in the name of place `of`, which answers `m1` and says that its chain is
/// not held.
pub fn forged_hello(universe: &Universe, of: usize, keys: &ClusterKeys, m1: &[u8]) -> Vec<u8> {
    let settings = universe.node(of).machine.settings();
    let asked = *ControlFrame::decode(m1).unwrap().header();
    let hello = Hello {
        incarnation: settings.incarnation,
        busy: false,
        cookie: [0; 16],
        addresses: settings.addresses,
    };
    let header = ClearHeader {
        message: MessageType::Hello,
        sender: node_id(of),
        receiver: Some(asked.sender),
        chain: 0,
        suites: 0,
        ..asked
    };
    let clear = encode_clear(&header, Hello::LEN, keys);
    encode(MessageType::Hello, &clear, &hello.encode(), keys)
}
