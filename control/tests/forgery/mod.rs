//! What a member can write in another's name: whoever holds the master key and
//! has seen the wire.

#![allow(dead_code, unreachable_pub)] // each test file uses a part

use tipsec_control::address::{Address, Addresses, Network};
use tipsec_control::cluster::ClusterName;
use tipsec_control::derive::ClusterKeys;
use tipsec_control::frame::{BARE, ClearHeader, ControlFrame, MessageType, encode, encode_clear};
use tipsec_control::masters::Masters;
use tipsec_control::message::{Beacon, Hello, Holdings, MAX_OFFER_LEN, Start};
use tipsec_control::noise::{HANDSHAKE_OVERHEAD, Initiator};
use tipsec_control::sim::{Seeded, Universe, node_id};
use tipsec_dataplane::ids::{Epoch, Incarnation, NodeId};

/// What a hello gives to whoever reads it on its way.
pub fn cookie_in(hello: &[u8]) -> [u8; 16] {
    let frame = ControlFrame::decode(hello).unwrap();
    assert_eq!(frame.header().message, MessageType::Hello);
    Hello::decode(frame.body()).unwrap().cookie
}

/// What an invented m1 says of its sender.
#[derive(Clone, Copy)]
pub struct Claim {
    pub sender: NodeId,
    pub incarnation: Incarnation,
    pub addresses: Addresses,
    pub exchange: u64,
    pub counter: u64,
    /// Each lane of the sender asks its responder for an SPI.
    pub lanes: u8,
    /// Named only: the secret that belongs to it is nobody's but the pair's.
    pub chain: u64,
    pub cookie: [u8; 16],
}

impl Claim {
    /// To be place `of`, where that is.
    pub fn of_place(universe: &Universe, of: usize, incarnation: Incarnation) -> Self {
        Self {
            sender: node_id(of),
            incarnation,
            addresses: universe.node(of).machine.settings().addresses,
            exchange: 77,
            counter: 1 << 40,
            lanes: 1,
            chain: BARE,
            cookie: [0; 16],
        }
    }

    /// The m1 to place `to`, under these keys.
    pub fn m1(&self, universe: &Universe, to: usize, keys: &ClusterKeys) -> Vec<u8> {
        let settings = universe.node(to).machine.settings();
        self.m1_to(node_id(to), settings.incarnation, "test", keys)
    }

    /// The m1 to this life of a node of this cluster.
    pub fn m1_to(
        &self,
        receiver: NodeId,
        life: Incarnation,
        cluster: &str,
        keys: &ClusterKeys,
    ) -> Vec<u8> {
        let start = Start {
            initiator: self.incarnation,
            responder: Some(life),
            counter: self.counter,
            lanes: self.lanes,
            addresses: self.addresses,
            holdings: holdings(keys),
            cookie: self.cookie,
        };
        let header = ClearHeader {
            message: MessageType::M1,
            sender: self.sender,
            receiver: Some(receiver),
            exchange: self.exchange,
            epoch: Epoch(0),
            master: keys.id(),
            chain: self.chain,
            suites: 1,
        };
        let clear = encode_clear(&header, MAX_OFFER_LEN + HANDSHAKE_OVERHEAD, keys);
        let name: ClusterName = cluster.parse().unwrap();
        let prologue = [&clear[..], &name.length_prefixed()].concat();
        let mut random = Seeded::new(self.exchange);
        let (_, body) =
            Initiator::start(keys.psk(), &prologue, &mut random, &start.encode()).unwrap();
        encode(MessageType::M1, &clear, &body, keys)
    }
}

/// The newest there are, of this master key alone.
fn holdings(keys: &ClusterKeys) -> Holdings {
    Holdings {
        change: 1 << 30,
        masters: Masters::only(keys.id()),
    }
}

/// An m1 in the name of place `of`, by somebody who holds this key and has seen
/// the wire.
pub fn forged_m1(
    universe: &Universe,
    of: usize,
    to: usize,
    keys: &ClusterKeys,
    incarnation: Incarnation,
    cookie: [u8; 16],
) -> Vec<u8> {
    let claim = Claim::of_place(universe, of, incarnation);
    Claim { cookie, ..claim }.m1(universe, to, keys)
}

/// A beacon that says that a node receives at this address.
pub fn forged_beacon(
    sender: NodeId,
    incarnation: Incarnation,
    address: Address,
    keys: &ClusterKeys,
) -> Vec<u8> {
    let header = ClearHeader {
        message: MessageType::Beacon,
        sender,
        receiver: None,
        exchange: incarnation.0,
        epoch: Epoch(0),
        master: keys.id(),
        chain: BARE,
        suites: 0,
    };
    let beacon = Beacon {
        network: Network::DEFAULT,
        address,
        holdings: holdings(keys),
    };
    let clear = encode_clear(&header, Beacon::LEN, keys);
    encode(MessageType::Beacon, &clear, &beacon.encode(), keys)
}

/// A hello in the name of place `of`, which answers `m1` and says that its chain is
/// not held.
pub fn forged_hello(universe: &Universe, of: usize, keys: &ClusterKeys, m1: &[u8]) -> Vec<u8> {
    let settings = universe.node(of).machine.settings();
    let hello = Hello {
        incarnation: settings.incarnation,
        busy: false,
        cookie: [0; 16],
        addresses: settings.addresses,
    };
    hello_that_says(of, &hello, keys, m1)
}

/// The same, and says this.
pub fn hello_that_says(of: usize, hello: &Hello, keys: &ClusterKeys, m1: &[u8]) -> Vec<u8> {
    hello_by(node_id(of), hello, keys, m1)
}

/// The same by this node.
pub fn hello_by(sender: NodeId, hello: &Hello, keys: &ClusterKeys, m1: &[u8]) -> Vec<u8> {
    let asked = *ControlFrame::decode(m1).unwrap().header();
    let header = ClearHeader {
        message: MessageType::Hello,
        sender,
        receiver: Some(asked.sender),
        chain: BARE,
        suites: 0,
        ..asked
    };
    let clear = encode_clear(&header, Hello::LEN, keys);
    encode(MessageType::Hello, &clear, &hello.encode(), keys)
}
