//! Evictions, in a small universe: who is out gets nothing, can be nobody else
//! either, and the next master key ends it.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod forgery;

use std::time::Duration;

use forgery::{cookie_in, forged_m1};
use tipsec_control::evictions::Evictions;
use tipsec_control::frame::{ControlFrame, MessageType};
use tipsec_control::machine::{Count, EventKind, Input, LinkState};
use tipsec_control::masters::Masters;
use tipsec_control::sim::{Universe, master, ms, node_id, to_node};
use tipsec_dataplane::ids::Incarnation;

const SECOND: Duration = Duration::from_secs(1);
/// Within this every pair is under the newest key that both hold.
const ROTATED: Duration = Duration::from_secs(90);

/// A cluster under key 1, whose pairs are up and past their first exchanges.
fn cluster(nodes: usize) -> Universe {
    let mut universe = Universe::new(1);
    for _ in 0..nodes {
        universe.add(&master(1), Some(SECOND));
    }
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.run(6 * SECOND);
    universe.captured.clear();
    universe
}

/// Place `n` puts out the node at place `out`, under key 1 alone.
fn evict(universe: &mut Universe, n: usize, out: usize) {
    let mut evictions = Evictions::default();
    let held = Masters::only(master(1).id());
    assert_eq!(evictions.evict(node_id(out), &held), Ok(true));
    universe.input(n, Input::SetEvictions(evictions));
}

fn count(universe: &Universe, n: usize, count: Count) -> u64 {
    universe.node(n).machine.counts().value(count)
}

/// Handshake messages from one place to another that were sent lately.
fn messages(universe: &Universe, from: usize, to: usize) -> Vec<MessageType> {
    let captured = universe.captured.iter();
    let headers = captured.map(|(_, frame)| *ControlFrame::decode(frame).unwrap().header());
    let between = headers
        .filter(|header| header.sender == node_id(from) && header.receiver == Some(node_id(to)));
    between.map(|header| header.message).collect()
}

fn holds_keys(universe: &Universe, n: usize, of: usize) -> bool {
    let view = universe.view(n, of);
    view.is_some_and(|view| view.rx_epoch.is_some() || view.tx_epoch.is_some())
}

#[test]
fn who_is_evicted_gets_nothing_and_the_others_go_on() {
    let mut universe = cluster(3);
    let rekeys = count(&universe, 0, Count::Rekeyed);
    for n in [0, 1] {
        evict(&mut universe, n, 2);
        assert!(!holds_keys(&universe, n, 2), "at once");
    }
    universe.captured.clear();
    universe.run_with_traffic(20 * SECOND, ms(10));
    for n in [0, 1] {
        let view = universe.view(n, 2).unwrap();
        assert!(view.evicted && view.link == LinkState::Down);
        assert!(!holds_keys(&universe, n, 2));
        assert_eq!(
            messages(&universe, n, 2),
            [],
            "nothing is answered or begun"
        );
        assert!(count(&universe, n, Count::Evicted) > 10, "it calls");
        assert_eq!(universe.events(n, EventKind::EvictedCalls), 1, "said once");
        assert_eq!(universe.events(n, EventKind::LinkDown), 1, "no other");
    }
    assert!(universe.is_up(0, 1) && universe.is_up(1, 0));
    assert!(count(&universe, 0, Count::Rekeyed) > rekeys + 10);
}

/// Whether somebody with the master key, who writes as a node that nobody hears,
/// gets keys from node 0. He reads every cookie on the wire.
fn poses_as_a_node_that_is_down(is_evicted: bool) -> bool {
    let mut universe = cluster(4);
    for n in [0, 1, 3] {
        universe.cut.extend([(n, 2), (2, n)]);
    }
    universe.kill(3);
    universe.run(5 * SECOND);
    assert!(!universe.is_up(0, 2));
    if is_evicted {
        evict(&mut universe, 0, 3);
    }
    let mut cookie = [0; 16];
    for _ in 0..2 {
        universe.captured.clear();
        let m1 = forged_m1(&universe, 2, 0, &master(1), Incarnation(99), cookie);
        universe.replay(to_node(0), m1, 3);
        universe.run(ms(20));
        let is_hello = |frame: &&Vec<u8>| {
            ControlFrame::decode(frame).unwrap().header().message == MessageType::Hello
        };
        let mut frames = universe.captured.iter().map(|(_, frame)| frame);
        cookie = frames
            .rfind(is_hello)
            .map_or(cookie, |hello| cookie_in(hello));
    }
    let was_refused = count(&universe, 0, Count::AwaitsMaster) > 0;
    let is_answered = messages(&universe, 0, 2).contains(&MessageType::M2);
    assert_eq!(was_refused, is_evicted);
    assert_eq!(universe.events(0, EventKind::AwaitsMaster) > 0, is_evicted);
    is_answered
}

#[test]
fn who_is_evicted_cannot_be_another_node_that_is_down() {
    assert!(!poses_as_a_node_that_is_down(true));
    assert!(poses_as_a_node_that_is_down(false), "as threats.md says");
}

#[test]
fn an_exchange_that_was_answered_just_before_comes_to_nothing() {
    let mut universe = Universe::new(2);
    for from in 0..2 {
        universe.cut_control.extend((0..2).map(|to| (from, to)));
    }
    for _ in 0..3 {
        universe.add(&master(1), None);
    }
    universe.kill(2);
    let mut cookie = [0; 16];
    for _ in 0..2 {
        let m1 = forged_m1(&universe, 1, 0, &master(1), Incarnation(99), cookie);
        universe.replay(to_node(0), m1, 2);
        universe.run(ms(20));
        let (_, answer) = universe.captured.last().unwrap();
        if ControlFrame::decode(answer).unwrap().header().message == MessageType::Hello {
            cookie = cookie_in(answer);
        }
    }
    assert!(holds_keys(&universe, 0, 1));
    evict(&mut universe, 0, 2);
    assert!(!holds_keys(&universe, 0, 1));
    universe.run(ms(20));
    assert_eq!(universe.most_rx_lanes(), 0);
}

#[test]
fn a_node_that_comes_meanwhile_waits_for_the_next_key_and_the_evicted_one_stays_out() {
    let ring = |staged: u8, active: u8, previous: u8| {
        let some = |n: u8| (n != 0).then(|| master(n));
        Masters::new(master(active), some(staged), some(previous))
    };
    let mut universe = cluster(4);
    for n in 0..3 {
        evict(&mut universe, n, 3);
    }
    universe.kill(2);
    universe.start_with(2, node_id(2), ring(2, 1, 0), Some(SECOND));
    evict(&mut universe, 2, 3);
    for n in [0, 1] {
        universe.input(n, Input::SetMasters(ring(2, 1, 0)));
    }
    universe.run_with_traffic(20 * SECOND, ms(10));
    assert!(universe.is_up(0, 1) && !universe.is_up(0, 2) && !universe.is_up(2, 1));
    assert!(universe.events(0, EventKind::AwaitsMaster) > 0);

    for n in [0, 1, 2] {
        universe.input(n, Input::SetMasters(ring(0, 2, 1)));
    }
    let members = |universe: &Universe| {
        let pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
        let under = |n, of| universe.view(n, of).and_then(|view| view.master);
        pairs
            .iter()
            .all(|&(n, of)| universe.is_up(n, of) && under(n, of) == Some(master(2).id()))
    };
    universe.run_until(ROTATED, members);
    for n in [0, 1, 2] {
        universe.input(n, Input::SetMasters(ring(0, 2, 0)));
        universe.input(n, Input::SetEvictions(Evictions::default()));
    }
    universe.captured.clear();
    universe.run_with_traffic(20 * SECOND, ms(10));
    assert!(members(&universe));
    for n in [0, 1, 2] {
        assert!(!holds_keys(&universe, n, 3));
        assert_eq!(messages(&universe, n, 3), []);
    }
}

#[test]
fn who_is_readmitted_is_back() {
    let mut universe = cluster(2);
    evict(&mut universe, 0, 1);
    universe.run(5 * SECOND);
    assert!(!universe.is_up(0, 1) && !universe.is_up(1, 0));
    universe.input(0, Input::SetEvictions(Evictions::default()));
    universe.run_until(20 * SECOND, Universe::all_up);
    assert_eq!(universe.events(0, EventKind::NodeEvicted), 1);
    assert_eq!(universe.events(0, EventKind::NodeReadmitted), 1);
}
