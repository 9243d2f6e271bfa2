//! Cookies: a bare m1 leaves nothing at its responder before its sender has shown
//! that it receives where it says.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod forgery;

use std::time::Duration;

use forgery::{cookie_in, forged_m1};
use tipsec_control::frame::{ControlFrame, MessageType};
use tipsec_control::sim::{Universe, master, ms, node_id, to_node};
use tipsec_dataplane::ids::Incarnation;

const LIFE: Incarnation = Incarnation(99);
const NO_COOKIE: [u8; 16] = [0; 16];
/// Longer than a bucket of hellos takes to fill, and an m1 to be answered.
const SOON: Duration = Duration::from_secs(2);

/// Nobody hears anybody, but node 0 the member at place 3, who writes in the names
/// of those at places 1 and 2.
fn alone() -> Universe {
    let mut universe = Universe::new(1);
    for from in 0..3 {
        universe.cut_control.extend((0..3).map(|to| (from, to)));
    }
    for _ in 0..4 {
        universe.add(&master(1), None);
    }
    universe.kill(3);
    universe.run(ms(10));
    universe.captured.clear();
    universe
}

/// What node 0 answers to an m1 in the name of place `of`.
fn answer(universe: &mut Universe, of: usize, life: Incarnation, cookie: [u8; 16]) -> Vec<u8> {
    universe.captured.clear();
    let m1 = forged_m1(universe, of, 0, &master(1), life, cookie);
    universe.replay(to_node(0), m1, 3);
    universe.run_until(SOON, |universe| last_answer(universe).is_some());
    last_answer(universe).unwrap()
}

fn last_answer(universe: &Universe) -> Option<Vec<u8>> {
    let frames = universe.captured.iter().map(|(_, frame)| frame);
    let mut answers = frames.filter(|frame| {
        let header = *ControlFrame::decode(frame).unwrap().header();
        header.sender == node_id(0) && header.message != MessageType::Beacon
    });
    answers.next_back().cloned()
}

fn message(frame: &[u8]) -> MessageType {
    ControlFrame::decode(frame).unwrap().header().message
}

/// Whether node 0 holds anything for place `of` that an exchange makes.
fn holds_keys(universe: &Universe, of: usize) -> bool {
    let view = universe.view(0, of);
    view.is_some_and(|view| view.rx_epoch.is_some() || view.tx_epoch.is_some())
}

#[test]
fn m1s_without_cookie_leave_no_keys_however_many() {
    let mut universe = alone();
    for life in 0..200 {
        let m1 = forged_m1(&universe, 1, 0, &master(1), Incarnation(life), NO_COOKIE);
        universe.replay(to_node(0), m1, 3);
        universe.run(ms(100));
    }
    let sent = universe.captured.iter();
    let hellos = sent.filter(|(_, frame)| message(frame) == MessageType::Hello);
    assert!(hellos.count() > 10, "they were answered");
    assert!(!holds_keys(&universe, 1));
    assert_eq!(universe.most_rx_lanes(), 0);
}

#[test]
fn a_cookie_is_good_for_what_it_was_asked_for_alone() {
    let mut universe = alone();
    let hello = answer(&mut universe, 1, LIFE, NO_COOKIE);
    let cookie = cookie_in(&hello);
    assert_ne!(cookie, NO_COOKIE);
    let refused = |universe: &mut Universe, of, life| {
        let answer = answer(universe, of, life, cookie);
        assert_eq!(message(&answer), MessageType::Hello);
        assert_ne!(cookie_in(&answer), cookie, "it gets its own");
        assert!(!holds_keys(universe, of));
    };
    refused(&mut universe, 1, Incarnation(100));
    refused(&mut universe, 2, LIFE);
    let m2 = answer(&mut universe, 1, LIFE, cookie);
    assert_eq!(message(&m2), MessageType::M2);
    assert!(holds_keys(&universe, 1));
}

#[test]
fn a_cookie_gets_too_old_and_another_serves() {
    let mut universe = alone();
    let old = cookie_in(&answer(&mut universe, 1, LIFE, NO_COOKIE));
    universe.run(Duration::from_secs(120));
    let hello = answer(&mut universe, 1, LIFE, old);
    assert_eq!(message(&hello), MessageType::Hello);
    let new = cookie_in(&hello);
    assert_ne!(new, old);
    let m2 = answer(&mut universe, 1, LIFE, new);
    assert_eq!(message(&m2), MessageType::M2);
}
