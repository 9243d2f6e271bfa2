//! A member that floods: frames that are right in all but what they say, in the
//! names of many nodes that are not there, as fast as a thread can.

use std::time::{Duration, Instant};

use tipsec_control::address::{Address, Addresses, Network};
use tipsec_control::admin::LinkState;
use tipsec_control::derive::ClusterKeys;
use tipsec_control::master::MasterKey;
use tipsec_control::message::Hello;
use tipsec_dataplane::ids::{Incarnation, NodeId};
use tipsec_dataplane::mac::MacAddr;

use crate::flood::rekey_now;
use crate::flooder::Flood;
use crate::forgery::{Claim, forged_beacon, hello_by};
use crate::lab::{Lab, mac, port, wait_for};
use crate::node::{Daemon, KEY, PATIENCE, cluster, id};
use crate::raw::{ETHERTYPE, RawSocket};
use crate::traffic::{Sink, Source};

/// Nodes that are made up: more than a node keeps peers.
const NAMES: u32 = 3000;
const GAP: Duration = Duration::from_millis(2);
/// A datagram in so many may be lost.
const LOST_PART: u64 = 10;
/// Peers that a node keeps.
const PEERS_MAX: usize = 1024;
/// What a node may grow by once its table of peers is full, in KiB.
const GROWTH_KIB: u64 = 8192;

/// The keys of everybody in the lab.
pub(crate) fn member_keys() -> ClusterKeys {
    let key = MasterKey::parse(KEY).unwrap();
    ClusterKeys::derive(key.octets(), &"lab".parse().unwrap())
}

/// A frame of ours to node 1.
pub(crate) fn to_node_1(body: &[u8]) -> Vec<u8> {
    [&mac(1)[..], &mac(3), &ETHERTYPE, body].concat()
}

/// An m1, a beacon and a hello in each of the names.
fn inventions(life: Incarnation) -> Vec<Vec<u8>> {
    let keys = member_keys();
    // Nobody is there: what is sent there is everybody's to drop.
    let address = Address::Ethernet(MacAddr([0x02, 0xaa, 0, 0, 0, 0x77]));
    let addresses = Addresses::one(Network::DEFAULT, address);
    let receiver = NodeId::new(id(1)).unwrap();
    let mut all = Vec::new();
    for name in 0..NAMES {
        let sender = NodeId::new(500_000 + name).unwrap();
        let incarnation = Incarnation(u64::from(name) + 1);
        let claim = Claim {
            sender,
            incarnation,
            addresses,
            exchange: u64::from(name) + 1,
            counter: 1,
            lanes: 32,
            chain: 0,
            cookie: [0; 16],
        };
        let m1 = claim.m1_to(receiver, life, "lab", &keys);
        let hello = Hello {
            incarnation,
            busy: false,
            cookie: [9; 16],
            addresses,
        };
        // As if node 1 had asked.
        let asked = Claim {
            sender: receiver,
            ..claim
        }
        .m1_to(sender, incarnation, "lab", &keys);
        let beacon = forged_beacon(sender, incarnation, address, &keys);
        let hello = hello_by(sender, &hello, &keys, &asked);
        all.extend([m1, beacon, hello].map(|body| to_node_1(&body)));
    }
    all
}

#[test]
fn invented_nodes_at_full_rate_push_out_no_peer_and_stop_no_rekey() {
    let Some(lab) = Lab::alone(3) else { return };
    let nodes = cluster(&lab, 2);
    let life = u64::from_str_radix(&nodes[0].status().incarnation, 16).unwrap();
    let inventions = inventions(Incarnation(life));
    let sink = Sink::start(&lab, 1);
    let source = Source::start(&lab, 2, 1, GAP);
    wait_for("traffic", PATIENCE, || (sink.received() > 50).then_some(()));
    let done = (source.sent(), sink.received());
    let wire = || RawSocket::open(&lab, &lab.hub(), &port(1));
    // Slowly at first: of a flood that goes round, the driver lets the same few pass
    // each time.
    let slowly = wire();
    let mut beacons = inventions.iter().skip(1).step_by(3).cycle();
    wait_for("the table is full", 3 * PATIENCE, || {
        for beacon in beacons.by_ref().take(4) {
            slowly.send(beacon);
        }
        (nodes[0].peers().len() >= PEERS_MAX).then_some(())
    });
    let flood = Flood::start(wire(), inventions);
    let memory = nodes[0].resident_kib();
    let rekeys: Vec<_> = (0..5)
        .map(|n| rekey_now(&nodes[n % 2], 2 - n % 2))
        .collect();
    flood.wait_sent(200_000);
    let peers = nodes[0].peers();
    let grown = nodes[0].resident_kib().saturating_sub(memory);
    let (sent, received) = (source.sent() - done.0, sink.received() - done.1);
    let (count, rate) = (flood.sent(), flood.rate());
    drop(flood);
    let status = nodes[0].status();
    println!(
        "{count} frames at {rate} a second; rekeys {rekeys:?}; {received} of {sent} datagrams; \
         grown by {grown} KiB, from {memory}; XDP {:?}; control {:?}",
        status.xdp, status.control,
    );
    assert_eq!(peers.len(), PEERS_MAX);
    let peer = nodes[0].peer(2).unwrap();
    assert_eq!(peer.link, LinkState::Up);
    for event in nodes[0].events() {
        assert!(
            event.node != Some(id(2)) || event.kind != "link-down",
            "{event:?}"
        );
    }
    assert!(sent > 100);
    let lost = sent.saturating_sub(received);
    assert!(lost * LOST_PART <= sent, "{received} of {sent} datagrams");
    assert!(grown < GROWTH_KIB, "grown by {grown} KiB");

    // When it is over, who comes finds a place.
    let began = Instant::now();
    let third = Daemon::start(&lab, 3);
    third.set_master(KEY);
    third.wait_link(1, 3 * PATIENCE);
    nodes[0].wait_link(3, PATIENCE);
    println!("a third node joined after {:?}", began.elapsed());
}
