//! The key machine, driven through its public API in a small universe.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use tipsec_control::machine::{Count, EventKind, Input, LinkState};
use tipsec_control::masters::Masters;
use tipsec_control::sim::{Faults, Losses, Seeded, Universe, master, ms, node_id};
use tipsec_control::time::Random;
use tipsec_dataplane::ids::Epoch;

const SECOND: Duration = Duration::from_secs(1);

fn cluster(seed: u64, nodes: usize, interval: Option<Duration>) -> Universe {
    let mut universe = Universe::new(seed);
    for _ in 0..nodes {
        universe.add(&master(1), interval);
    }
    universe
}

#[test]
fn three_nodes_find_each_other_at_once() {
    let mut universe = cluster(1, 3, None);
    let took = universe.run_until(2 * SECOND, Universe::all_up);
    assert!(took < ms(100), "took {took:?}");
}

#[test]
fn a_node_that_joins_later_is_up_within_the_backup_wait() {
    for seed in 0..20 {
        let mut universe = cluster(seed, 3, None);
        universe.run_until(2 * SECOND, Universe::all_up);
        universe.run(ms(437));
        universe.add(&master(1), None);
        let took = universe.run_until(2 * SECOND, Universe::all_up);
        assert!(took < ms(400), "took {took:?}");
    }
}

#[test]
fn rekeys_lose_nothing() {
    let mut universe = cluster(7, 3, Some(SECOND));
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.faults.delay = ms(5);
    universe.run_with_traffic(20 * SECOND, ms(1));
    universe.run(SECOND);
    let (sealed, delivered) = universe.data();
    assert!(sealed > 100_000);
    assert_eq!(delivered, sealed);
    assert_eq!(universe.losses(), Losses::default());
    for (a, b) in [(0, 1), (1, 2), (0, 2), (2, 0)] {
        let view = universe.view(a, b).unwrap();
        assert!((15..=25).contains(&view.rekeys), "{} rekeys", view.rekeys);
        assert_eq!(view.link, LinkState::Up);
    }
    assert!(universe.most_rx_lanes() <= 2 * 16);
}

#[test]
fn rekeys_lose_only_what_the_network_loses() {
    for seed in 0..30 {
        let mut universe = cluster(seed, 3, Some(ms(200)));
        universe.run_until(2 * SECOND, Universe::all_up);
        universe.faults = Faults {
            loss: 100,
            duplication: 50,
            delay: ms(20),
            ..Faults::default()
        };
        universe.run_with_traffic(5 * SECOND, ms(2));
        universe.faults = Faults::default();
        universe.run(SECOND);
        let (sealed, delivered) = universe.data();
        assert_eq!(
            delivered + universe.lost_by_network(),
            sealed,
            "seed {seed}"
        );
        let losses = universe.losses();
        let keys = (losses.no_key, losses.unknown_spi, losses.not_open);
        assert_eq!(keys, (0, 0, 0), "seed {seed}");
        assert!(universe.all_up(), "seed {seed}");
    }
}

#[test]
fn a_killed_node_recovers_with_new_keys() {
    for seed in 0..50 {
        let mut universe = cluster(seed, 3, Some(SECOND));
        universe.run_until(2 * SECOND, Universe::all_up);
        let mut chance = Seeded::new(seed);
        for _ in 0..5 {
            universe.run_with_traffic(chance.between(ms(0), ms(1500)), ms(1));
            universe.kill(1);
            universe.run_with_traffic(chance.between(ms(0), ms(2500)), ms(1));
            universe.start(1, node_id(1), &master(1), Some(SECOND));
            // (key, nonce) repetition is asserted at every seal.
            let up = |u: &Universe| {
                u.is_up(1, 0) && u.is_up(0, 1) && u.is_up(1, 2) && u.is_up(2, 1) && u.all_up()
            };
            let took = universe.run_until(2 * SECOND, up);
            assert!(took < ms(1500), "seed {seed}: took {took:?}");
        }
    }
}

#[test]
fn a_dead_peer_is_noticed_within_the_tolerance() {
    let mut universe = cluster(3, 2, None);
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.kill(1);
    let took = universe.run_until(2 * SECOND, |u| !u.is_up(0, 1));
    assert!((ms(1000)..=ms(1900)).contains(&took), "took {took:?}");
    assert_eq!(universe.events(0, EventKind::LinkDown), 1);
}

#[test]
fn a_partition_heals() {
    for seed in 0..20 {
        let mut universe = cluster(seed, 2, Some(SECOND));
        universe.run_until(2 * SECOND, Universe::all_up);
        universe.cut.extend([(0, 1), (1, 0)]);
        universe.run_with_traffic(30 * SECOND, ms(10));
        assert!(!universe.is_up(0, 1) && !universe.is_up(1, 0));
        universe.cut.clear();
        let took = universe.run_until(10 * SECOND, Universe::all_up);
        assert!(took < 3 * SECOND, "took {took:?}");
    }
}

#[test]
fn a_one_way_cut_does_not_wedge_the_pair() {
    let mut universe = cluster(5, 2, Some(SECOND));
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.cut.insert((0, 1));
    universe.run_with_traffic(20 * SECOND, ms(10));
    universe.cut.clear();
    universe.run_until(8 * SECOND, Universe::all_up);
}

#[test]
fn different_masters_never_meet_and_say_so() {
    let mut universe = Universe::new(11);
    universe.add(&master(1), Some(SECOND));
    universe.add(&master(2), Some(SECOND));
    universe.run_with_traffic(5 * SECOND, ms(5));
    assert_eq!(universe.data(), (0, 0));
    for (a, b) in [(0, 1), (1, 0)] {
        let view = universe.view(a, b).unwrap();
        assert_ne!(view.link, LinkState::Up);
        assert_eq!(view.claimed_master, universe.node(b).machine.master());
        assert_eq!(universe.events(a, EventKind::OtherMaster), 1);
    }
    universe.input(1, Input::SetMasters(Masters::only(master(1))));
    universe.run_until(2 * SECOND, Universe::all_up);
    assert_eq!(universe.view(0, 1).unwrap().claimed_master, None);
}

#[test]
fn setting_another_master_starts_anew() {
    let mut universe = cluster(12, 2, Some(SECOND));
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.input(0, Input::SetMasters(Masters::only(master(2))));
    universe.run(2 * SECOND);
    assert!(!universe.is_up(0, 1) && !universe.is_up(1, 0));
    universe.input(1, Input::SetMasters(Masters::only(master(2))));
    universe.run_until(3 * SECOND, Universe::all_up);
}

#[test]
fn a_second_node_with_the_same_id_is_named_on_both() {
    let mut universe = cluster(13, 2, Some(SECOND));
    universe.run_until(2 * SECOND, Universe::all_up);
    let twin = universe.add(&master(1), Some(SECOND));
    universe.start(twin, node_id(1), &master(1), Some(SECOND));
    universe.run(5 * SECOND);
    for n in [1, twin] {
        assert!(
            universe.events(n, EventKind::DuplicateNode) > 0,
            "place {n}"
        );
    }
    assert!(
        universe.events(0, EventKind::DuplicateNode) > 0,
        "the third sees it too"
    );
    assert!(universe.is_up(0, 1), "the first stays");
}

#[test]
fn replayed_handshakes_change_nothing() {
    let mut universe = cluster(14, 2, Some(SECOND));
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.run_with_traffic(3 * SECOND, ms(1));
    let captured = std::mem::take(&mut universe.captured);
    let third = universe.add(&master(1), None);
    universe.kill(third);
    let (lanes, before) = (
        universe.most_rx_lanes(),
        universe.node(0).machine.counts().value(Count::Completed),
    );
    for (to, frame) in &captured {
        universe.replay(*to, frame.clone(), third);
    }
    universe.run_with_traffic(ms(500), ms(1));
    assert!(universe.most_rx_lanes() <= lanes + 2, "no SA for a replay");
    assert!(universe.node(0).machine.counts().value(Count::Completed) <= before + 2);
    assert!(universe.all_up_but(third));
    universe.run_with_traffic(3 * SECOND, ms(1));
    let (sealed, delivered) = universe.data();
    assert!(sealed - delivered < 10, "only what is under way is missing");
    assert_eq!(universe.losses(), Losses::default());
}

#[test]
fn garbage_changes_nothing() {
    let mut universe = cluster(15, 2, None);
    universe.run_until(2 * SECOND, Universe::all_up);
    let captured = universe.captured.clone();
    let mut chance = Seeded::new(99);
    for _ in 0..20_000 {
        let pick = usize::try_from(chance.next_u64() % captured.len() as u64).unwrap();
        let (to, mut frame) = captured[pick].clone();
        let bit = usize::try_from(chance.next_u64() % (frame.len() as u64 * 8)).unwrap();
        frame[bit / 8] ^= 1 << (bit % 8);
        if chance.chance(100) {
            frame.truncate(bit / 8);
        }
        universe.replay(to, frame, 0);
        universe.replay(to, captured[pick].1.clone(), 1);
    }
    let before = universe.most_rx_lanes();
    universe.run(ms(10));
    assert!(universe.all_up());
    assert!(universe.most_rx_lanes() <= before + 1);
    let counts = universe.node(1).machine.counts();
    assert!(counts.value(Count::BadMac) + counts.value(Count::Malformed) > 1000);
}

#[test]
fn off_means_no_rekey_and_now_means_one() {
    let mut universe = cluster(16, 2, None);
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.run(3600 * SECOND);
    assert_eq!(universe.view(0, 1).unwrap().rekeys, 0);
    universe.input(1, Input::RekeyNow);
    universe.run(SECOND);
    assert_eq!(universe.view(0, 1).unwrap().rekeys, 1);
    assert_eq!(universe.view(1, 0).unwrap().rekeys, 1);
    universe.input(0, Input::SetRekeyInterval(Some(10 * SECOND)));
    universe.run(60 * SECOND);
    assert!(universe.view(0, 1).unwrap().rekeys >= 6);
}

#[test]
fn a_rekey_that_is_asked_for_during_another_is_not_forgotten() {
    for after_us in (0..20_000).step_by(500) {
        let mut universe = cluster(17, 2, None);
        universe.run(6 * SECOND);
        universe.input(0, Input::RekeyNow);
        universe.run_until(SECOND, |u| u.view(0, 1).unwrap().tx_epoch != Some(Epoch(1)));
        universe.run(Duration::from_micros(after_us));
        let asked = universe.now;
        universe.input(0, Input::RekeyNow);
        universe.run(SECOND);
        let age = universe.view(0, 1).unwrap().key_age.unwrap();
        let since = universe.now.since(asked);
        assert!(
            since - age > ms(1),
            "{after_us} µs after the first: keys of {age:?}"
        );
        assert_eq!(universe.view(0, 1).unwrap().rekeys, 2, "{after_us} µs");
    }
}

#[test]
fn simultaneous_rekeys_converge() {
    for seed in 0..100 {
        let mut universe = cluster(seed, 2, None);
        universe.run_until(2 * SECOND, Universe::all_up);
        universe.faults = Faults {
            loss: 200,
            duplication: 100,
            delay: ms(30),
            ..Faults::default()
        };
        for _ in 0..5 {
            universe.input(0, Input::RekeyNow);
            universe.input(1, Input::RekeyNow);
            universe.run_with_traffic(ms(700), ms(1));
        }
        universe.faults = Faults::default();
        universe.run_with_traffic(6 * SECOND, ms(5));
        let (sealed, delivered) = universe.data();
        let losses = universe.losses();
        assert_eq!(
            (losses.no_key, losses.unknown_spi, losses.not_open),
            (0, 0, 0),
            "seed {seed}"
        );
        assert!(
            sealed - delivered - universe.lost_by_network() < 10,
            "seed {seed}"
        );
    }
}
