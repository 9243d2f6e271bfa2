//! Nodes with several lanes on several networks, in a small universe.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use tipsec_control::address::Address;
use tipsec_control::machine::{Count, Destination, EventKind, Input};
use tipsec_control::sim::{Faults, Losses, Universe, master, ms, network, node_id};
use tipsec_dataplane::mac::MacAddr;
use tipsec_xdp::wire::OFFSET_SENDER;

const SECOND: Duration = Duration::from_secs(1);

/// Nodes whose lanes are on these networks.
fn cluster(seed: u64, lanes: &[&[u8]], interval: Option<Duration>) -> Universe {
    let mut universe = Universe::new(seed);
    for networks in lanes {
        universe.lanes = networks.iter().map(|&number| network(number)).collect();
        universe.add(&master(1), interval);
    }
    universe.run_until(2 * SECOND, Universe::all_up);
    universe
}

/// Until every lane is confirmed.
fn settle(universe: &mut Universe) {
    universe.run(SECOND);
}

fn cut(universe: &mut Universe, number: u8) {
    for (a, b) in [(0, 1), (1, 0)] {
        universe.cut_networks.insert((a, b, network(number)));
    }
}

fn link_downs(universe: &Universe) -> usize {
    (0..2)
        .map(|n| universe.events(n, EventKind::LinkDown))
        .sum()
}

#[test]
fn every_lane_carries_data_to_every_queue() {
    let mut universe = cluster(1, &[&[0, 0, 0], &[0, 0, 0]], None);
    settle(&mut universe);
    universe.faults.delay = ms(20);
    universe.run_with_traffic(5 * SECOND, ms(1));
    universe.faults.delay = ms(0);
    settle(&mut universe);
    let (sealed, delivered) = universe.data();
    assert!(sealed > 20_000);
    assert_eq!(delivered, sealed);
    assert_eq!(universe.losses(), Losses::default());
    for n in 0..2 {
        for worker in 0..3 {
            for lane in 0..3 {
                let opened = universe.opened[&(n, worker, lane)];
                assert!(opened > 500, "node {n} worker {worker} lane {lane}");
            }
        }
    }
}

#[test]
fn nodes_may_differ_in_lanes() {
    for seed in 0..10 {
        let mut universe = cluster(seed, &[&[0, 0], &[0], &[0, 0, 0, 0, 0]], Some(SECOND));
        settle(&mut universe);
        universe.run_with_traffic(5 * SECOND, ms(2));
        settle(&mut universe);
        let (sealed, delivered) = universe.data();
        assert_eq!(delivered, sealed, "seed {seed}");
        assert_eq!(universe.losses(), Losses::default(), "seed {seed}");
        assert!(universe.view(0, 2).unwrap().rekeys >= 4);
    }
}

#[test]
fn rekeys_over_two_networks_lose_only_what_the_networks_lose() {
    for seed in 0..20 {
        let mut universe = cluster(seed, &[&[0, 1], &[0, 1, 1]], Some(ms(200)));
        settle(&mut universe);
        universe.faults = Faults {
            loss: 50,
            duplication: 50,
            delay: ms(20),
            ..Faults::default()
        };
        universe.run_with_traffic(5 * SECOND, ms(2));
        universe.faults = Faults::default();
        settle(&mut universe);
        let (sealed, delivered) = universe.data();
        assert_eq!(
            delivered + universe.lost_by_network(),
            sealed,
            "seed {seed}"
        );
        let losses = universe.losses();
        let keys = (losses.no_key, losses.unknown_spi, losses.not_open);
        assert_eq!(keys, (0, 0, 0), "seed {seed}");
        assert_eq!(link_downs(&universe), 0, "seed {seed}");
    }
}

#[test]
fn a_cut_network_takes_its_lanes_down_and_not_the_link() {
    for dead in [0, 1] {
        for seed in 0..10 {
            let mut universe = cluster(seed, &[&[0, 1], &[0, 1]], Some(SECOND));
            settle(&mut universe);
            cut(&mut universe, dead);
            universe.run_with_traffic(20 * SECOND, ms(5));
            assert_eq!(link_downs(&universe), 0, "seed {seed}");
            assert!(universe.view(0, 1).unwrap().rekeys > 10, "seed {seed}");
            let before = universe.data();
            universe.run_with_traffic(2 * SECOND, ms(5));
            let after = universe.data();
            // The lane that is left carries everything that it is given.
            let delivered = after.1 - before.1;
            assert!(delivered >= 2 * 395, "seed {seed}: {delivered}");
            // The other is held by itself by now, and says so.
            assert_eq!(after.0 - before.0, delivered, "seed {seed}");
            assert!(universe.events(0, EventKind::Unconfirmed) > 0);

            universe.cut_networks.clear();
            universe.run(3 * SECOND);
            let (sealed, delivered) = universe.data();
            let held = universe.losses().no_key;
            universe.run_with_traffic(2 * SECOND, ms(5));
            universe.run(ms(100));
            let after = universe.data();
            assert!(after.0 - sealed >= 4 * 395, "both carry again");
            assert_eq!(after.1 - delivered, after.0 - sealed, "seed {seed}");
            assert_eq!(universe.losses().no_key, held, "seed {seed}");
        }
    }
}

/// A silent half of many lanes must not outlast the link's tolerance.
#[test]
fn half_of_many_lanes_may_die_at_once() {
    let lanes: Vec<u8> = (0..32).map(|lane| lane / 16).collect();
    for dead in [0, 1] {
        let mut universe = cluster(3, &[&lanes, &lanes], None);
        settle(&mut universe);
        cut(&mut universe, dead);
        universe.run(60 * SECOND);
        assert_eq!(link_downs(&universe), 0, "network {dead}");
        assert!(universe.all_up());
    }
}

#[test]
fn a_peer_that_dies_is_noticed_as_soon_with_many_lanes() {
    let mut universe = cluster(4, &[&[0, 0, 1, 1], &[0, 0, 1, 1]], None);
    universe.kill(1);
    let took = universe.run_until(2 * SECOND, |u| !u.is_up(0, 1));
    assert!((ms(1000)..=ms(1900)).contains(&took), "took {took:?}");
}

#[test]
fn a_lost_nic_leaves_the_others_and_the_peer_is_told() {
    for lost in [0, 1] {
        let mut universe = cluster(5, &[&[0, 1], &[0, 1]], None);
        settle(&mut universe);
        let told = |u: &Universe| {
            let addresses = u.view(0, 1).unwrap().addresses.unwrap();
            addresses.iter().count() == 1
        };
        assert!(!told(&universe));
        universe.lose_lane(1, lost);
        universe.run_until(SECOND, told);
        universe.run_with_traffic(30 * SECOND, ms(5));
        universe.run(ms(100));
        assert_eq!(link_downs(&universe), 0, "lane {lost}");
        let (sealed, delivered) = universe.data();
        assert!(sealed > 10_000);
        assert_eq!(delivered, sealed, "lane {lost}");
        let losses = universe.losses();
        assert!(losses.no_path > 5000, "the peer's other lane has no way");
        assert_eq!((losses.no_key, losses.lost), (0, 0), "lane {lost}");
        assert_eq!(universe.events(0, EventKind::NoPath), 1, "said once");
        assert_eq!(universe.events(1, EventKind::NoPath), 0);
        for n in 0..2 {
            assert_eq!(universe.events(n, EventKind::Unconfirmed), 0);
        }
    }
}

#[test]
fn a_network_that_is_not_shared_has_no_path_and_is_named_once() {
    let mut universe = cluster(6, &[&[0, 1], &[0, 2]], Some(SECOND));
    settle(&mut universe);
    universe.run_with_traffic(10 * SECOND, ms(5));
    universe.run(ms(100));
    let (sealed, delivered) = universe.data();
    assert_eq!(delivered, sealed);
    let losses = universe.losses();
    assert!(losses.no_path > 3000);
    assert_eq!(losses.no_key, 0);
    for n in 0..2 {
        assert_eq!(universe.events(n, EventKind::NoPath), 1);
        assert_eq!(universe.events(n, EventKind::Unconfirmed), 0);
    }
}

#[test]
fn questions_take_every_network_and_answers_do_not_multiply() {
    let mut universe = cluster(7, &[&[0, 1, 2], &[0, 1, 2]], None);
    settle(&mut universe);
    universe.captured.clear();
    universe.input(0, Input::RekeyNow);
    universe.run(SECOND);
    let handshakes = universe.captured.iter();
    let nodes = handshakes.filter(|(to, _)| matches!(to, Destination::Node(..)));
    // Three copies of m1. They arrive together, before the answer is installed,
    // so there is one m2, and one m3.
    let count = nodes.count();
    assert_eq!(count, 5);
    assert_eq!(universe.view(1, 0).unwrap().rekeys, 1);
}

#[test]
fn a_handshake_needs_one_network_of_two_each_way() {
    for seed in 0..20 {
        let mut universe = Universe::new(seed);
        universe.lanes = vec![network(0), network(1)];
        universe.cut_networks.insert((0, 1, network(0)));
        universe.cut_networks.insert((1, 0, network(0)));
        universe.add(&master(1), None);
        universe.add(&master(1), None);
        let took = universe.run_until(2 * SECOND, Universe::all_up);
        assert!(took < SECOND, "seed {seed}: {took:?}");
    }
}

#[test]
fn networks_that_are_numbered_differently_are_named() {
    let mut universe = Universe::new(8);
    universe.lanes = vec![network(0)];
    universe.add(&master(1), None);
    universe.add(&master(1), None);
    universe.run_until(2 * SECOND, Universe::all_up);
    let sender = node_id(0).value().to_be_bytes();
    let mut captured = universe.captured.iter();
    let beacon = captured.rfind(|(to, frame)| {
        *to == Destination::Group(network(0)) && frame[OFFSET_SENDER..][..4] == sender
    });
    let beacon = beacon.unwrap().1.clone();
    let refused = |u: &Universe| u.node(1).machine.counts().value(Count::Refused);
    let before = refused(&universe);
    universe.input(
        1,
        Input::Frame {
            bytes: &beacon,
            network: network(3),
            source: Address::Ethernet(MacAddr([2; 6])),
        },
    );
    assert_eq!(universe.events(1, EventKind::Incompatible), 1);
    assert_eq!(refused(&universe), before + 1);
}
