//! What must not happen after an outage, a replay, or a crash at a bad moment.
//! Each of these was a defect once.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use tipsec_control::machine::{Destination, EventKind, Input, LinkState};
use tipsec_control::masters::Masters;
use tipsec_control::sim::{Faults, Seeded, Universe, is_group, master, ms, node_id, to_node};
use tipsec_control::time::Random;
use tipsec_xdp::wire::{MESSAGE_M1, OFFSET_MASTER_ID, OFFSET_MESSAGE_TYPE, OFFSET_SENDER};

const SECOND: Duration = Duration::from_secs(1);

fn pair(seed: u64, interval: Option<Duration>) -> Universe {
    let mut universe = Universe::new(seed);
    universe.add(&master(1), interval);
    universe.add(&master(1), interval);
    universe.run_until(2 * SECOND, Universe::all_up);
    universe
}

/// A place on the wire without a node, to inject from.
fn outsider(universe: &mut Universe) -> usize {
    let place = universe.add(&master(1), None);
    universe.kill(place);
    place
}

fn captured(
    universe: &Universe,
    from: usize,
    is: impl Fn(Destination, &[u8]) -> bool,
) -> Vec<Vec<u8>> {
    let sender = node_id(from).value().to_be_bytes();
    let frames = universe.captured.iter();
    frames
        .filter(|(to, frame)| frame[OFFSET_SENDER..][..4] == sender && is(*to, frame))
        .map(|(_, frame)| frame.clone())
        .collect()
}

fn m1s(universe: &Universe, from: usize) -> Vec<Vec<u8>> {
    captured(universe, from, |to, frame| {
        !is_group(to) && frame[OFFSET_MESSAGE_TYPE] == MESSAGE_M1
    })
}

#[test]
fn rekeys_go_on_after_a_partition() {
    for cut_s in [8, 12, 16, 20, 30, 60] {
        let mut universe = pair(cut_s, Some(SECOND));
        universe.run(3 * SECOND);
        universe.cut.extend([(0, 1), (1, 0)]);
        universe.run(Duration::from_secs(cut_s));
        universe.cut.clear();
        universe.run_until(10 * SECOND, Universe::all_up);
        universe.run(20 * SECOND);
        let view = universe.view(0, 1).unwrap();
        assert!(
            view.key_age.unwrap() < 3 * SECOND,
            "cut of {cut_s} s: {view:?}"
        );
    }
}

#[test]
fn a_cut_in_the_middle_of_a_rekey_heals() {
    for seed in 0..100 {
        let mut universe = pair(seed, Some(SECOND));
        universe.faults.delay = ms(20);
        let mut chance = Seeded::new(seed + 1000);
        universe.run_with_traffic(chance.between(ms(500), ms(3000)), ms(5));
        universe.cut.extend([(0, 1), (1, 0)]);
        universe.run_with_traffic(40 * SECOND, ms(100));
        universe.cut.clear();
        let took = universe.run_until(20 * SECOND, Universe::all_up);
        assert!(took < 10 * SECOND, "seed {seed}: {took:?}");
    }
}

#[test]
fn m1_of_former_lives_are_never_fresh() {
    let mut universe = pair(3, Some(SECOND));
    let mut lives = Vec::new();
    for _ in 0..2 {
        for _ in 0..3 {
            universe.input(1, Input::RekeyNow);
            universe.run(ms(500));
        }
        lives.push(m1s(&universe, 1).pop().unwrap());
        universe.captured.clear();
        universe.kill(1);
        universe.run(ms(100));
        universe.start(1, node_id(1), &master(1), Some(SECOND));
        universe.run_until(3 * SECOND, Universe::all_up);
    }
    let wire = outsider(&mut universe);
    let events = universe.events(0, EventKind::DuplicateNode);
    for m1 in &lives {
        universe.replay(to_node(0), m1.clone(), wire);
        universe.run(ms(300));
    }
    assert_eq!(
        universe.events(0, EventKind::DuplicateNode),
        events,
        "a replay accuses nobody"
    );

    universe.kill(1);
    universe.run(20 * SECOND);
    for turn in 0..40 {
        universe.replay(to_node(0), lives[turn % 2].clone(), wire);
        universe.run(ms(110));
    }
    assert!(universe.most_rx_lanes() <= 2, "no SA for a replay");
    universe.start(1, node_id(1), &master(1), Some(SECOND));
    let took = universe.run_until(2 * SECOND, |u| u.is_up(0, 1) && u.is_up(1, 0));
    assert!(took < SECOND, "took {took:?}");
}

#[test]
fn strangers_cannot_push_events_out() {
    let mut universe = pair(4, None);
    let beacon = captured(&universe, 0, |to, _| is_group(to)).pop().unwrap();
    let wire = outsider(&mut universe);
    for n in 0..2000u64 {
        let mut frame = beacon.clone();
        let sender = 77 + u32::try_from(n % 50).unwrap();
        frame[OFFSET_SENDER..][..4].copy_from_slice(&sender.to_be_bytes());
        frame[OFFSET_MASTER_ID..][..8].copy_from_slice(&n.to_be_bytes());
        universe.replay(to_node(0), frame, wire);
        universe.run(ms(50));
    }
    assert!(universe.events(0, EventKind::OtherMaster) < 120);
    assert_eq!(
        universe.events(0, EventKind::LinkUp),
        1,
        "what matters is still there"
    );
}

#[test]
fn a_restart_is_not_called_a_duplicate() {
    for seed in 0..150 {
        let mut universe = pair(seed, Some(SECOND));
        universe.faults.delay = ms(5);
        let mut chance = Seeded::new(seed + 7);
        universe.run_with_traffic(chance.between(ms(500), ms(2500)), ms(5));
        universe.kill(1);
        universe.run_with_traffic(ms(30), ms(5));
        universe.start(1, node_id(1), &master(1), Some(SECOND));
        universe.run_with_traffic(3 * SECOND, ms(5));
        assert_eq!(
            universe.events(0, EventKind::DuplicateNode),
            0,
            "seed {seed}"
        );
        assert!(universe.events(0, EventKind::LinkDown) <= 1, "seed {seed}");
    }
}

#[test]
fn beacons_of_former_lives_change_nothing() {
    let mut universe = pair(5, Some(SECOND));
    universe.run(2 * SECOND);
    let old = captured(&universe, 1, |to, _| is_group(to)).pop().unwrap();
    universe.kill(1);
    universe.run(ms(100));
    universe.start(1, node_id(1), &master(1), Some(SECOND));
    universe.run_until(3 * SECOND, Universe::all_up);
    universe.run(20 * SECOND);
    let wire = outsider(&mut universe);
    let downs = universe.events(0, EventKind::LinkDown);
    universe.replay(to_node(0), old.clone(), wire);
    universe.cut.extend([(0, 1), (1, 0)]);
    universe.replay(to_node(0), old, wire);
    universe.run(ms(250));
    universe.cut.clear();
    universe.run(2 * SECOND);
    assert_eq!(universe.events(0, EventKind::DuplicateNode), 0);
    assert_eq!(
        universe.events(0, EventKind::LinkDown),
        downs,
        "an outage below the tolerance"
    );
}

#[test]
fn a_peer_that_was_forgotten_comes_back() {
    let mut universe = Universe::new(6);
    universe.max_peers = 1;
    universe.add(&master(1), Some(SECOND));
    universe.max_peers = 64;
    universe.add(&master(1), Some(SECOND));
    universe.run_until(2 * SECOND, |u| u.is_up(0, 1) && u.is_up(1, 0));
    universe.run(100 * SECOND);
    universe.cut.extend([(0, 1), (1, 0)]);
    universe.run(30 * SECOND);
    let other = universe.add(&master(1), Some(SECOND));
    universe.run_until(20 * SECOND, |u| u.is_up(0, other));
    universe.kill(other);
    universe.run(30 * SECOND);
    universe.cut.clear();
    universe.run_until(20 * SECOND, |u| u.is_up(0, 1) && u.is_up(1, 0));
}

#[test]
fn data_from_a_peer_does_not_hide_that_nothing_reaches_it() {
    let mut universe = Universe::new(7);
    universe.activity = true;
    universe.add(&master(1), Some(SECOND));
    universe.add(&master(1), Some(SECOND));
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.cut.insert((0, 1));
    universe.run_with_traffic(8 * SECOND, ms(10));
    for (n, of) in [(0, 1), (1, 0)] {
        assert_eq!(
            universe.view(n, of).unwrap().link,
            LinkState::Down,
            "at {n}"
        );
    }
    universe.cut.clear();
    universe.run_until(10 * SECOND, Universe::all_up);
}

#[test]
fn room_for_sas_never_runs_out() {
    for gap_ms in [1000, 600, 300] {
        let mut universe = pair(8, None);
        let mut oldest = Duration::ZERO;
        for _ in 0..60_000 / gap_ms {
            universe.input(0, Input::RekeyNow);
            universe.run_with_traffic(ms(gap_ms), ms(20));
            oldest = oldest.max(universe.view(0, 1).unwrap().key_age.unwrap());
        }
        assert!(oldest < 3 * SECOND, "every {gap_ms} ms: {oldest:?}");
    }
}

#[test]
fn nothing_is_stuck_after_any_history() {
    for seed in 5000..5060 {
        let mut chance = Seeded::new(seed);
        let intervals = [Some(SECOND), Some(3 * SECOND), None];
        let mut pick = |n: u64| usize::try_from(chance.next_u64() % n).unwrap();
        let mut universe = Universe::new(seed);
        let own: Vec<_> = (0..3).map(|_| intervals[pick(3)]).collect();
        for &interval in &own {
            universe.add(&master(1), interval);
        }
        for _ in 0..12 {
            universe.faults = Faults {
                loss: pick(300) as u64,
                duplication: pick(300) as u64,
                delay: ms(pick(200) as u64),
                ..Faults::default()
            };
            let (a, b) = (pick(3), pick(3));
            match pick(8) {
                0 => universe.kill(a),
                1 | 2 => universe.start(a, node_id(a), &master(1), own[a]),
                3 => drop(universe.cut.insert((a, b))),
                4 => universe.cut.extend([(a, b), (b, a)]),
                5 => universe.cut.clear(),
                6 => universe.input(a, Input::RekeyNow),
                _ => {
                    universe.input(a, Input::SetMasters(Masters::only(master(2))));
                    universe.run(ms(pick(3000) as u64));
                    universe.input(a, Input::SetMasters(Masters::only(master(1))));
                }
            }
            let length = if pick(10) < 3 { 30_000 } else { 2_000 };
            universe.run_with_traffic(ms(pick(length) as u64), ms(20));
        }
        universe.faults = Faults::default();
        universe.cut.clear();
        for (n, &interval) in own.iter().enumerate() {
            if universe.nodes[n].is_none() {
                universe.start(n, node_id(n), &master(1), interval);
            }
        }
        universe.run_until(20 * SECOND, Universe::all_up);
        universe.run_with_traffic(20 * SECOND, ms(20));
        let before = universe.losses();
        universe.run_with_traffic(10 * SECOND, ms(20));
        assert_eq!(
            universe.losses(),
            before,
            "seed {seed}: losses in quiet time"
        );
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            let age = universe.view(a, b).unwrap().key_age.unwrap();
            let rekeys = own[a].is_some() || own[b].is_some();
            assert!(!rekeys || age < 5 * SECOND, "seed {seed}: {a}-{b} {age:?}");
        }
    }
}
