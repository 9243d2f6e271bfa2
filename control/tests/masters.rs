//! The rotation of master keys, in a small universe: hitless where it goes by
//! the book, healing where it does not, and never back to a key that leaked.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod forgery;

use std::time::Duration;

use forgery::forged_m1;
use tipsec_control::address::Network;
use tipsec_control::derive::MasterRing;
use tipsec_control::frame::{ClearHeader, MessageType, encode, encode_clear};
use tipsec_control::machine::{Count, Dependent, EventKind, Input, LinkState};
use tipsec_control::masters::Masters;
use tipsec_control::sim::{
    Faults, Losses, Seeded, Universe, address_of, is_group, master, ms, node_id, to_node,
};
use tipsec_control::time::Random;
use tipsec_dataplane::ids::{Epoch, Incarnation, MasterId};
use tipsec_xdp::wire::{MESSAGE_M1, OFFSET_MASTER_ID, OFFSET_MESSAGE_TYPE, OFFSET_SENDER};

const SECOND: Duration = Duration::from_secs(1);
/// Within this every pair is under the newest key that both hold.
const ROTATED: Duration = Duration::from_secs(60);

/// Numbers of the keys by role: staged, active, previous; 0 for none.
type Shape = [u8; 3];

const OLD_ONLY: Shape = [0, 1, 0];
const STAGED: Shape = [2, 1, 0];
const ACTIVATED: Shape = [0, 2, 1];
const NEW_ONLY: Shape = [0, 2, 0];

fn ring([staged, active, previous]: Shape) -> MasterRing {
    let some = |n: u8| (n != 0).then(|| master(n));
    Masters::new(master(active), some(staged), some(previous))
}

fn id(n: u8) -> MasterId {
    master(n).id()
}

fn set(universe: &mut Universe, n: usize, shape: Shape) {
    universe.input(n, Input::SetMasters(ring(shape)));
}

/// A cluster under key 1.
fn cluster(seed: u64, nodes: usize, interval: Option<Duration>) -> Universe {
    let mut universe = Universe::new(seed);
    for _ in 0..nodes {
        universe.add(&master(1), interval);
    }
    universe.run_until(2 * SECOND, Universe::all_up);
    universe
}

/// Whether what the pair seals, both ways, is under this key and no other.
fn is_under(universe: &Universe, a: usize, b: usize, key: u8) -> bool {
    let of = |a: usize, b: usize| {
        let others = (1..4).filter(|&other| other != key);
        let depends = |other: u8| {
            let all = universe.node(a).machine.dependents(id(other));
            all.iter().any(|d| d.node == node_id(b) && d.is_up)
        };
        let view = universe.view(a, b);
        view.is_some_and(|view| view.link == LinkState::Up && view.master == Some(id(key)))
            && !others.into_iter().any(depends)
    };
    of(a, b) && of(b, a)
}

fn all_under(universe: &Universe, key: u8) -> bool {
    let count = universe.nodes.len();
    (0..count).all(|a| (0..a).all(|b| is_under(universe, a, b, key)))
}

fn cut(universe: &mut Universe, a: usize, b: usize) {
    universe.cut.extend([(a, b), (b, a)]);
}

#[test]
fn a_rotation_by_the_book_loses_nothing() {
    for seed in 0..10 {
        let mut universe = cluster(seed, 4, None);
        universe.faults.delay = ms(5);
        let mut chance = Seeded::new(seed + 100);
        for (shape, key) in [(STAGED, 1), (ACTIVATED, 2), (NEW_ONLY, 2)] {
            // An operator goes from node to node.
            for n in 0..4 {
                set(&mut universe, n, shape);
                universe.run_with_traffic(chance.between(ms(0), 3 * SECOND), ms(5));
            }
            universe.run_with_traffic(ROTATED, ms(5));
            assert!(all_under(&universe, key), "seed {seed}: {shape:?}");
        }
        universe.run(SECOND);
        let (sealed, delivered) = universe.data();
        assert_eq!(delivered, sealed, "seed {seed}");
        assert_eq!(universe.losses(), Losses::default(), "seed {seed}");
        for n in 0..4 {
            assert_eq!(universe.events(n, EventKind::LinkDown), 0, "seed {seed}");
        }
    }
}

#[test]
fn rekeys_for_a_new_key_are_spread_and_done_once() {
    let mut universe = cluster(1, 12, None);
    for n in 0..12 {
        set(&mut universe, n, STAGED);
    }
    universe.run(3 * SECOND);
    let started = |u: &Universe| -> u64 {
        let counts = (0..12).map(|n| u.node(n).machine.counts().value(Count::Started));
        counts.sum()
    };
    let before = started(&universe);
    for n in 0..12 {
        set(&mut universe, n, ACTIVATED);
    }
    let mut most = 0;
    for _ in 0..60 {
        let at = started(&universe);
        universe.run(SECOND);
        most = most.max(started(&universe) - at);
    }
    assert!(all_under(&universe, 2));
    let pairs = 12 * 11 / 2;
    assert!(started(&universe) - before <= pairs + pairs / 10);
    assert!(most <= pairs / 4, "{most} of {pairs} in one second");
}

#[test]
fn a_peer_that_only_staged_is_led_to_the_new_key() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut universe = cluster(2, 2, Some(10 * SECOND));
        for n in [0, 1] {
            set(&mut universe, n, STAGED);
        }
        universe.run(30 * SECOND);
        assert!(is_under(&universe, 0, 1, 1), "nobody goes ahead");
        set(&mut universe, first, ACTIVATED);
        universe.run_until(ROTATED, |u| is_under(u, 0, 1, 2));
        // It stays so over rekeys that either side starts.
        universe.run_with_traffic(60 * SECOND, ms(20));
        assert!(is_under(&universe, 0, 1, 2));
        set(&mut universe, first, NEW_ONLY);
        universe.run_with_traffic(30 * SECOND, ms(20));
        assert!(is_under(&universe, 0, 1, 2), "nothing of it was retired");
        let restarted = ring(STAGED);
        universe.start_with(second, node_id(second), restarted, None);
        universe.run_until(5 * SECOND, |u| is_under(u, 0, 1, 2));
    }
}

#[test]
fn a_peer_that_never_staged_keeps_the_old_key_and_is_named() {
    for (ahead, behind) in [(0, 1), (1, 0)] {
        let mut universe = cluster(3, 2, Some(10 * SECOND));
        set(&mut universe, ahead, STAGED);
        set(&mut universe, ahead, ACTIVATED);
        universe.run_with_traffic(100 * SECOND, ms(20));
        assert!(is_under(&universe, 0, 1, 1));
        let view = universe.view(ahead, behind).unwrap();
        assert_eq!(view.holdings, Some(Masters::only(id(1))));
        let expected = Dependent {
            node: node_id(behind),
            is_up: true,
            holds_other: false,
        };
        assert_eq!(universe.node(ahead).machine.dependents(id(1)), [expected]);
        // It is called under the key that it has.
        assert_eq!(universe.events(ahead, EventKind::ExchangeTimeout), 0);
        // It catches up when it is given the key.
        set(&mut universe, behind, STAGED);
        universe.run_until(ROTATED, |u| is_under(u, 0, 1, 2));
        let (sealed, delivered) = universe.data();
        assert!(sealed - delivered < 10, "only what is under way is missing");
        assert_eq!(universe.losses(), Losses::default());
    }
}

#[test]
fn a_partition_in_the_middle_of_any_step_heals() {
    // What each side holds when the cut ends.
    let ends = [OLD_ONLY, STAGED, ACTIVATED, NEW_ONLY];
    for interval in [None, Some(5 * SECOND)] {
        for (a, b) in ends.iter().flat_map(|&a| ends.map(|b| (a, b))) {
            let mut universe = cluster(4, 2, interval);
            cut(&mut universe, 0, 1);
            for (n, end) in [(0, a), (1, b)] {
                for step in ends.into_iter().skip(1) {
                    if ends.iter().position(|s| *s == end) >= ends.iter().position(|s| *s == step) {
                        set(&mut universe, n, step);
                        universe.run(7 * SECOND);
                    }
                }
            }
            universe.cut.clear();
            let meet = ring(a)
                .iter()
                .any(|(_, key)| ring(b).role_of(key.id()).is_some());
            let told = format!("{a:?} and {b:?}");
            if meet {
                universe.run_until(20 * SECOND, Universe::all_up);
                universe.run(ROTATED);
                let key = if a == OLD_ONLY || b == OLD_ONLY || (a, b) == (STAGED, STAGED) {
                    1
                } else {
                    2
                };
                assert!(is_under(&universe, 0, 1, key), "{told}");
            } else {
                universe.run(20 * SECOND);
                for (n, of) in [(0, 1), (1, 0)] {
                    let view = universe.view(n, of).unwrap();
                    assert_ne!(view.link, LinkState::Up, "{told}");
                    assert_eq!(
                        view.claimed_master,
                        universe.node(of).machine.master(),
                        "{told}"
                    );
                }
            }
            // The operator ends the rotation, and all is well.
            for n in [0, 1] {
                set(&mut universe, n, ACTIVATED);
            }
            universe.run_until(20 * SECOND, Universe::all_up);
            universe.run_until(ROTATED, |u| is_under(u, 0, 1, 2));
        }
    }
}

#[test]
fn a_step_in_the_middle_of_the_first_exchange_is_not_forgotten() {
    for wait_us in (0..6000).step_by(100) {
        let mut universe = Universe::new(wait_us);
        universe.faults.delay = ms(2);
        for n in [0, 1] {
            universe.add(&master(1), None);
            set(&mut universe, n, STAGED);
        }
        universe.run(Duration::from_micros(wait_us));
        set(&mut universe, 0, ACTIVATED);
        universe.run_until(2 * SECOND, Universe::all_up);
        universe.run_until(ROTATED, |u| is_under(u, 0, 1, 2));
    }
}

#[test]
fn a_node_that_was_down_joins_under_the_previous_key_until_it_is_retired() {
    let mut universe = cluster(5, 3, Some(10 * SECOND));
    universe.kill(2);
    for shape in [STAGED, ACTIVATED] {
        for n in [0, 1] {
            set(&mut universe, n, shape);
        }
        universe.run(ROTATED);
    }
    assert!(is_under(&universe, 0, 1, 2));
    universe.start(2, node_id(2), &master(1), Some(10 * SECOND));
    universe.run_until(3 * SECOND, Universe::all_up);
    universe.run(ROTATED);
    for n in [0, 1] {
        assert!(is_under(&universe, n, 2, 1));
    }
    assert!(
        is_under(&universe, 0, 1, 2),
        "the others stay where they are"
    );
    universe.kill(2);
    universe.run(5 * SECOND);
    for n in [0, 1] {
        let [left] = universe.node(n).machine.dependents(id(1))[..] else {
            panic!("one is left behind");
        };
        assert_eq!((left.node, left.is_up), (node_id(2), false));
        set(&mut universe, n, NEW_ONLY);
    }
    universe.run(20 * SECOND);
    universe.start(2, node_id(2), &master(1), Some(10 * SECOND));
    universe.run(20 * SECOND);
    for n in [0, 1] {
        let view = universe.view(n, 2).unwrap();
        assert_eq!(view.claimed_master, Some(id(1)));
        assert_ne!(view.link, LinkState::Up);
        assert!(universe.events(n, EventKind::OtherMaster) > 0);
        let theirs = universe.view(2, n).unwrap();
        assert_eq!(theirs.claimed_master, Some(id(2)));
    }
    set(&mut universe, 2, STAGED);
    universe.run_until(3 * SECOND, Universe::all_up);
    assert!(is_under(&universe, 0, 2, 2));
}

#[test]
fn what_is_under_way_when_a_key_is_retired_arrives() {
    let mut universe = cluster(11, 2, None);
    universe.faults.delay = ms(40);
    for shape in [STAGED, ACTIVATED] {
        for n in [0, 1] {
            set(&mut universe, n, shape);
        }
    }
    // Each has sent under the new key, so the old SAs are superseded at both.
    let began = universe.now;
    while !is_under(&universe, 0, 1, 2) {
        assert!(universe.now.since(began) < ROTATED);
        universe.run_with_traffic(ms(1), ms(1));
    }
    for n in [0, 1] {
        set(&mut universe, n, NEW_ONLY);
    }
    assert_eq!(
        universe.most_rx_lanes(),
        2,
        "those before are in their grace"
    );
    universe.run_with_traffic(SECOND, ms(1));
    assert_eq!(universe.losses(), Losses::default());
    universe.run(ms(1));
    assert_eq!(universe.most_rx_lanes(), 1, "for a second, not longer");
}

#[test]
fn a_forced_retirement_wipes_what_was_under_the_key_and_nothing_else() {
    let mut universe = cluster(6, 3, None);
    for n in [0, 1] {
        set(&mut universe, n, STAGED);
        set(&mut universe, n, ACTIVATED);
    }
    universe.run(ROTATED);
    assert!(is_under(&universe, 0, 1, 2) && is_under(&universe, 0, 2, 1));
    let epoch = universe.view(0, 1).unwrap().tx_epoch;
    set(&mut universe, 0, NEW_ONLY);
    assert!(!universe.is_up(0, 2), "the link ends at once");
    let wiped = universe.view(0, 2).unwrap();
    assert_eq!((wiped.tx_epoch, wiped.rx_epoch), (None, None));
    universe.run(10 * SECOND);
    assert!(is_under(&universe, 0, 1, 2));
    assert_eq!(universe.view(0, 1).unwrap().tx_epoch, epoch);
    assert!(is_under(&universe, 1, 2, 1), "node 1 still has both");
    assert!(!universe.is_up(0, 2) && !universe.is_up(2, 0));
    set(&mut universe, 2, STAGED);
    universe.run_until(10 * SECOND, Universe::all_up);
}

/// A pair after the rotation, with the previous key not yet retired.
fn rotated_pair(seed: u64) -> Universe {
    let mut universe = cluster(seed, 2, None);
    for shape in [STAGED, ACTIVATED] {
        for n in [0, 1] {
            set(&mut universe, n, shape);
        }
        universe.run(ROTATED);
    }
    assert!(is_under(&universe, 0, 1, 2));
    universe
}

/// What node 0 does about an m1 in the name of node 1, which is up or cut off.
fn answers_to_forgery(
    key: u8,
    life: impl Fn(Incarnation) -> Incarnation,
    is_up: bool,
) -> (Universe, usize) {
    let mut universe = rotated_pair(7);
    let present = universe.node(1).machine.settings().incarnation;
    if !is_up {
        universe.cut.extend([(0, 1), (1, 0)]);
        universe.run(5 * SECOND);
    }
    let m1 = forged_m1(&universe, 1, 0, &master(key), life(present), [0; 16]);
    let outsider = universe.add(&master(1), None);
    universe.kill(outsider);
    universe.captured.clear();
    universe.replay(to_node(0), m1, outsider);
    universe.run(ms(10));
    let sender = node_id(0).value().to_be_bytes();
    let answers = universe
        .captured
        .iter()
        .filter(|(to, frame)| !is_group(*to) && frame[OFFSET_SENDER..][..4] == sender);
    let answers = answers.count();
    (universe, answers)
}

#[test]
fn a_leaked_previous_key_leads_nobody_back() {
    // With the peer's present life, and with an invented one.
    for life in [|life| life, |_| Incarnation(99)] {
        let (mut universe, answers) = answers_to_forgery(1, life, true);
        assert_eq!(answers, 0);
        let counts = universe.node(0).machine.counts();
        assert!(counts.value(Count::OlderMaster) > 0);
        assert_eq!(universe.events(0, EventKind::OlderMaster), 1);
        universe.run_with_traffic(30 * SECOND, ms(20));
        assert!(is_under(&universe, 0, 1, 2));
        assert_eq!(universe.losses(), Losses::default());
    }
    // The same by a holder of the active key is answered if node 1 is cut off: the
    // forgery is sound.
    let (_, answers) = answers_to_forgery(2, |life| life, false);
    assert_eq!(answers, 1);
}

#[test]
fn a_thief_of_the_previous_key_cannot_replace_a_node_that_is_cut_off() {
    let mut universe = rotated_pair(8);
    let thief = universe.add(&master(1), None);
    universe.kill(thief);
    cut(&mut universe, 0, 1);
    universe.run(5 * SECOND);
    assert!(!universe.is_up(0, 1));
    universe.captured.clear();
    universe.start(thief, node_id(1), &master(1), None);
    universe.run(30 * SECOND);
    assert!(!universe.is_up(0, 1), "the thief is not taken for node 1");
    // Nor is it called: no m1 under the old key has left.
    let old = id(1).0.to_be_bytes();
    let m1s = universe.captured.iter().filter(|(_, frame)| {
        frame[OFFSET_SENDER..][..4] == node_id(0).value().to_be_bytes()
            && frame[OFFSET_MESSAGE_TYPE] == MESSAGE_M1
            && frame[OFFSET_MASTER_ID..][..8] == old
    });
    assert_eq!(m1s.count(), 0);
    universe.kill(thief);
    universe.cut.clear();
    universe.run_until(10 * SECOND, |u| is_under(u, 0, 1, 2));
}

#[test]
fn a_thief_who_was_first_gives_way_to_the_true_node() {
    for seed in 0..20 {
        let mut universe = Universe::new(seed);
        universe.add(&master(1), None);
        universe.start_with(0, node_id(0), ring(ACTIVATED), None);
        let thief = universe.add(&master(1), None);
        universe.start(thief, node_id(2), &master(1), None);
        universe.run(5 * SECOND);
        assert_eq!(universe.view(0, 2).unwrap().master, Some(id(1)));
        let place = universe.add(&master(1), None);
        assert_eq!(place, 2);
        universe.start_with(2, node_id(2), ring(ACTIVATED), None);
        universe.run_until(10 * SECOND, |u| {
            let view = u.view(0, 2).unwrap();
            view.master == Some(id(2)) && u.is_up(2, 0)
        });
        universe.run(20 * SECOND);
        assert_eq!(
            universe.view(0, 2).unwrap().master,
            Some(id(2)),
            "seed {seed}"
        );
        assert!(universe.is_up(0, 2), "seed {seed}");
    }
}

#[test]
fn an_old_beacon_takes_no_key_away() {
    let mut universe = cluster(9, 2, None);
    let beacons: Vec<_> = universe
        .captured
        .iter()
        .filter(|(to, frame)| {
            is_group(*to) && frame[OFFSET_SENDER..][..4] == node_id(1).value().to_be_bytes()
        })
        .cloned()
        .collect();
    assert!(!beacons.is_empty());
    for n in [0, 1] {
        set(&mut universe, n, STAGED);
    }
    universe.run(2 * SECOND);
    let expected = Some(ring(STAGED).ids());
    assert_eq!(universe.view(0, 1).unwrap().holdings, expected);
    for (to, frame) in beacons {
        universe.replay(to, frame, 1);
    }
    universe.run(ms(20));
    assert_eq!(universe.view(0, 1).unwrap().holdings, expected);
}

#[test]
fn beacons_under_the_previous_key_are_few_and_end_with_it() {
    let mut universe = rotated_pair(10);
    let mut count = |seconds: u64| {
        universe.captured.clear();
        universe.run(Duration::from_secs(seconds));
        let under = |key: u8| {
            let id = id(key).0.to_be_bytes();
            let of = universe
                .captured
                .iter()
                .filter(|(to, frame)| is_group(*to) && frame[OFFSET_MASTER_ID..][..8] == id);
            of.count()
        };
        let counts = (under(1), under(2));
        for n in [0, 1] {
            set(&mut universe, n, NEW_ONLY);
        }
        counts
    };
    let (old, new) = count(100);
    assert!((30..=50).contains(&old), "{old}");
    assert!((180..=230).contains(&new), "{new}");
    assert_eq!(count(100).0, 0);
}

#[test]
fn hellos_under_another_key_do_not_touch_an_exchange() {
    // A holder of the previous key forges a hello for an exchange of two nodes
    // under the active one, whose id it can see.
    let mut universe = rotated_pair(11);
    let hello = |exchange: u64| {
        let keys = master(1);
        let header = ClearHeader {
            message: MessageType::Hello,
            sender: node_id(1),
            receiver: Some(node_id(0)),
            exchange,
            epoch: Epoch(0),
            master: keys.id(),
            chain: 0,
            suites: 0,
        };
        let network = Network::DEFAULT;
        let here = address_of(5, network);
        let hello = tipsec_control::message::Hello {
            incarnation: Incarnation(5),
            busy: false,
            cookie: [0; 16],
            addresses: tipsec_control::address::Addresses::one(network, here),
        };
        let body = hello.encode();
        let clear = encode_clear(&header, body.len(), &keys);
        encode(MessageType::Hello, &clear, &body, &keys)
    };
    let outsider = universe.add(&master(1), None);
    universe.kill(outsider);
    cut(&mut universe, 0, 1);
    universe.captured.clear();
    universe.input(0, Input::RekeyNow);
    universe.run(ms(200));
    let m1 = universe
        .captured
        .iter()
        .find(|(to, frame)| !is_group(*to) && frame[OFFSET_MESSAGE_TYPE] == MESSAGE_M1);
    let exchange = u64::from_be_bytes(m1.unwrap().1[24..32].try_into().unwrap());
    let started = universe.node(0).machine.counts().value(Count::Stale);
    universe.replay(to_node(0), hello(exchange), outsider);
    universe.run(ms(5));
    assert_eq!(
        universe.node(0).machine.counts().value(Count::Stale),
        started + 1
    );
    universe.cut.clear();
    universe.run_until(5 * SECOND, |u| {
        u.view(0, 1).unwrap().rekeys > 0 && u.all_up_but(outsider)
    });
    assert!(is_under(&universe, 0, 1, 2));
}

#[test]
fn rotations_among_crashes_and_cuts_end_well() {
    for seed in 0..40 {
        let mut chance = Seeded::new(seed + 5000);
        let mut pick = |n: u64| chance.next_u64() % n;
        let mut universe = Universe::new(seed);
        let steps = [OLD_ONLY, STAGED, ACTIVATED, NEW_ONLY];
        let mut at = [0; 3];
        for _ in 0..3 {
            let interval = [None, Some(2 * SECOND)][usize::try_from(pick(2)).unwrap()];
            universe.add(&master(1), interval);
        }
        for _ in 0..20 {
            universe.faults = Faults {
                loss: pick(200),
                duplication: pick(200),
                delay: ms(pick(100)),
                ..Faults::default()
            };
            let [a, b] = [(); 2].map(|()| usize::try_from(pick(3)).unwrap());
            match pick(8) {
                // Never two steps ahead of another: the operator looks first.
                0..=3 if at.iter().all(|other| at[a] <= *other) && at[a] < 3 => {
                    at[a] += 1;
                    if universe.nodes[a].is_some() {
                        set(&mut universe, a, steps[at[a]]);
                    }
                }
                4 => universe.kill(a),
                5 => universe.start_with(a, node_id(a), ring(steps[at[a]]), Some(3 * SECOND)),
                6 => cut(&mut universe, a, b),
                _ => universe.cut.clear(),
            }
            universe.run_with_traffic(ms(pick(20_000)), ms(20));
        }
        universe.faults = Faults::default();
        universe.cut.clear();
        for n in 0..3 {
            if universe.nodes[n].is_none() {
                universe.start_with(n, node_id(n), ring(steps[at[n]]), Some(3 * SECOND));
            }
        }
        universe.run_until(20 * SECOND, Universe::all_up);
        for step in [STAGED, ACTIVATED] {
            for n in 0..3 {
                let shape = steps[at[n]];
                if shape[1] == 1 && shape != step {
                    set(&mut universe, n, step);
                    at[n] += 1;
                }
            }
        }
        universe.run_until(20 * SECOND, Universe::all_up);
        universe.run(ROTATED);
        assert!(all_under(&universe, 2), "seed {seed}");
        let before = universe.losses();
        universe.run_with_traffic(5 * SECOND, ms(20));
        assert_eq!(universe.losses(), before, "seed {seed}");
    }
}
