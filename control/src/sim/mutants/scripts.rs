//! Histories for mutants that chance is too slow to show.

use std::time::Duration;

use tipsec_xdp::wire::{MESSAGE_M1, OFFSET_MESSAGE_TYPE, OFFSET_SENDER};

use crate::address::Network;
use crate::machine::Input;
use crate::sim::invariant::Invariant;
use crate::sim::{Universe, is_group, master, ms, node_id, to_node};

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes that rekey on request only, and are up unless something is cut.
fn pair(universe: &mut Universe) {
    for _ in 0..2 {
        universe.add(&master(1), None);
    }
    universe.step_with_traffic(2 * SECOND, ms(20));
}

/// The m1 that a node sent last.
fn last_m1(universe: &Universe, from: usize) -> Option<Vec<u8>> {
    let sender = node_id(from).value().to_be_bytes();
    let mut captured = universe.captured.iter().rev();
    let found = captured.find(|(to, frame)| {
        !is_group(*to)
            && frame.get(OFFSET_SENDER..OFFSET_SENDER + 4) == Some(&sender[..])
            && frame.get(OFFSET_MESSAGE_TYPE) == Some(&MESSAGE_M1)
    });
    found.map(|(_, frame)| frame.clone())
}

/// The network loses an m1 for good, and an attacker keeps it.
fn withheld_m1(universe: &mut Universe) -> Vec<u8> {
    universe.cut.insert((0, 1));
    universe.input(0, Input::RekeyNow);
    universe.step_with_traffic(ms(300), ms(20));
    last_m1(universe, 0).unwrap_or_default()
}

/// An m1 of a former life of a node, which its peer never saw, arrives when the
/// next life is up. It is fresh, by its counter; it builds on no chain, so that it
/// can be read; it has its cookie, since the attacker let the m1 before it pass; and
/// nobody answers for it.
pub(super) fn m1_of_a_former_life(universe: &mut Universe) {
    universe.cut.insert((0, 1));
    pair(universe);
    let first = last_m1(universe, 0).unwrap_or_default();
    // What node 0 sends is cut off, and what the attacker sends is not.
    let attacker = universe.add_place(0);
    universe.replay(to_node(1), first, attacker);
    universe.step_with_traffic(ms(20), ms(20));
    let m1 = last_m1(universe, 0).unwrap_or_default();
    universe.cut.clear();
    universe.start(0, node_id(0), &master(1), None);
    universe.step_with_traffic(8 * SECOND, ms(20));
    universe.replay(to_node(1), m1, 0);
    universe.step_with_traffic(5 * SECOND, ms(20));
}

/// An m1 that was withheld until its exchange was over arrives while its
/// receiver, which has the higher id, waits for the answer to its own.
pub(super) fn m1_that_comes_late(universe: &mut Universe) {
    pair(universe);
    let m1 = withheld_m1(universe);
    // The other's exchange ends the one that m1 was of.
    universe.cut.clear();
    universe.input(1, Input::RekeyNow);
    universe.step_with_traffic(SECOND, ms(20));
    universe.cut.insert((1, 0));
    universe.input(1, Input::RekeyNow);
    universe.step_with_traffic(ms(200), ms(20));
    universe.replay(to_node(1), m1, 0);
    universe.step_with_traffic(ms(10), ms(20));
    universe.cut.clear();
    universe.step_with_traffic(8 * SECOND, ms(20));
    let age = universe.view(1, 0).and_then(|view| view.key_age);
    if age.is_none_or(|age| age > 8 * SECOND) {
        let text = format!("keys of {age:?}, although others were asked for 8 s ago");
        universe.is_wrong((Invariant::FreshKeys, text));
    }
}

/// Both ends start at once, again and again, and what they send overtakes what
/// they sent before; then nothing happens until superseded keys are gone.
pub(super) fn crossing_rekeys(universe: &mut Universe) {
    pair(universe);
    for _ in 0..60 {
        universe.faults.delay = ms(150);
        for n in 0..2 {
            universe.input(n, Input::RekeyNow);
        }
        universe.step_with_traffic(SECOND, ms(20));
        universe.faults.delay = ms(0);
        universe.step_with_traffic(12 * SECOND, ms(250));
    }
}

/// Rekeys under load in one direction; the receiver's workers have nothing else
/// to do, and are slow to hear of commands.
pub(super) fn slow_workers(universe: &mut Universe) {
    universe.lanes = vec![Network::DEFAULT; 8];
    universe.delays.commands = ms(50);
    pair(universe);
    for turn in 0..15_000 {
        if turn % 150 == 0 {
            universe.input(0, Input::RekeyNow);
        }
        universe.send_data(0);
        let next = universe.now + ms(1);
        while universe.now < next {
            universe.step(next);
        }
    }
}
