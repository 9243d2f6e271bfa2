//! The chain: a rekey builds on the exchange before, and who holds the master key
//! alone stands in for nobody who is up.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod forgery;

use std::collections::BTreeSet;
use std::time::Duration;

use forgery::{cookie_in, forged_hello, forged_m1, hello_that_says};
use tipsec_control::address::{Addresses, Network};
use tipsec_control::frame::{ControlFrame, MessageType};
use tipsec_control::machine::{Count, EventKind, Input};
use tipsec_control::masters::Masters;
use tipsec_control::message::Hello;
use tipsec_control::sim::{Losses, Universe, address_of, master, ms, node_id, to_node};
use tipsec_dataplane::ids::Incarnation;

const SECOND: Duration = Duration::from_secs(1);
/// From then on nothing of a pair's first exchange is under way any more.
const SETTLED: Duration = Duration::from_secs(6);

/// A pair that is up and has been for a while.
fn pair(seed: u64, interval: Option<Duration>) -> Universe {
    let mut universe = Universe::new(seed);
    for _ in 0..2 {
        universe.add(&master(1), interval);
    }
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.run(SETTLED);
    universe.captured.clear();
    universe
}

/// Chain ids of the messages of this type that were sent lately.
fn chains(universe: &Universe, message: MessageType) -> Vec<u64> {
    let captured = universe.captured.iter();
    let headers = captured.map(|(_, frame)| *ControlFrame::decode(frame).unwrap().header());
    let of_type = headers.filter(|header| header.message == message);
    of_type.map(|header| header.chain).collect()
}

/// The m1 that node 0 sends when it is asked for new keys.
fn fresh_m1(universe: &mut Universe) -> Vec<u8> {
    universe.captured.clear();
    universe.input(0, Input::RekeyNow);
    universe.run_until(SECOND, |universe| {
        !chains(universe, MessageType::M1).is_empty()
    });
    let is_m1 =
        |frame: &&Vec<u8>| ControlFrame::decode(frame).unwrap().header().message == MessageType::M1;
    let mut frames = universe.captured.iter().map(|(_, frame)| frame);
    frames.rfind(is_m1).unwrap().clone()
}

#[test]
fn each_rekey_builds_on_the_exchange_before() {
    let mut universe = pair(1, Some(SECOND));
    universe.run_with_traffic(10 * SECOND, ms(10));
    let m1 = chains(&universe, MessageType::M1);
    let different: BTreeSet<_> = m1.iter().collect();
    assert!(different.len() >= 8, "{m1:x?}");
    for message in [MessageType::M1, MessageType::M2, MessageType::M3] {
        let chains = chains(&universe, message);
        assert!(!chains.contains(&0), "{message:?}: {chains:x?}");
        assert!(chains.iter().all(|chain| different.contains(chain)));
    }
    assert_eq!(universe.losses(), Losses::default());
}

#[test]
fn an_exchange_that_is_answered_after_it_was_given_up_is_one_that_both_have() {
    let mut universe = Universe::new(9);
    for _ in 0..2 {
        universe.add(&master(1), None);
    }
    universe.run_until(2 * SECOND, |universe| {
        !chains(universe, MessageType::M3).is_empty()
    });
    let (_, m3) = universe.captured.last().unwrap();
    let sender = ControlFrame::decode(m3).unwrap().header().sender;
    let initiator = usize::from(sender != node_id(0));
    let responder = 1 - initiator;
    // m3 arrives, the answer to it does not.
    universe.cut.insert((responder, initiator));
    universe.run(ms(5100));
    assert_eq!(universe.events(initiator, EventKind::ExchangeTimeout), 1);
    universe.cut.clear();
    universe.run_until(SECOND, Universe::all_up);
    universe.captured.clear();
    universe.input(initiator, Input::RekeyNow);
    universe.run_with_traffic(SECOND, ms(10));
    let started = chains(&universe, MessageType::M1);
    assert!(!started.is_empty() && !started.contains(&0), "{started:x?}");
    assert!(!chains(&universe, MessageType::M3).is_empty());
    assert_eq!(universe.losses(), Losses::default());
}

#[test]
fn a_member_cannot_take_the_place_of_a_node_that_is_up() {
    // In its present life, and in an invented one.
    for life in [|life| life, |_| Incarnation(99)] {
        let mut universe = pair(2, None);
        let present = universe.node(1).machine.settings().incarnation;
        let epoch = universe.view(0, 1).unwrap().rx_epoch;
        let m1 = |universe: &Universe, cookie| {
            forged_m1(universe, 1, 0, &master(1), life(present), cookie)
        };
        let member = universe.add(&master(1), None);
        universe.kill(member);
        // Without the cookie it is nobody yet; the member reads it on the wire.
        let without = m1(&universe, [0; 16]);
        universe.replay(to_node(0), without, member);
        universe.run_with_traffic(ms(10), ms(10));
        assert_eq!(universe.node(0).machine.counts().value(Count::Impostor), 0);
        let (_, hello) = universe.captured.last().unwrap();
        let with = m1(&universe, cookie_in(hello));
        universe.replay(to_node(0), with, member);
        universe.run_with_traffic(2 * SECOND, ms(10));
        assert!(chains(&universe, MessageType::M2).is_empty(), "no answer");
        assert_eq!(universe.events(0, EventKind::DuplicateNode), 1);
        assert_eq!(universe.node(0).machine.counts().value(Count::Impostor), 1);
        assert_eq!(universe.view(0, 1).unwrap().rx_epoch, epoch);
        // The true one is not locked out.
        universe.input(1, Input::RekeyNow);
        universe.run_with_traffic(2 * SECOND, ms(10));
        assert!(universe.view(0, 1).unwrap().rx_epoch > epoch);
        assert_eq!(universe.losses(), Losses::default());
    }
}

#[test]
fn a_node_that_stands_still_while_it_asks_believes_no_claim_for_that() {
    let mut universe = pair(4, None);
    let m1 = |universe: &Universe, cookie| {
        forged_m1(universe, 1, 0, &master(1), Incarnation(99), cookie)
    };
    let member = universe.add(&master(1), None);
    universe.kill(member);
    let without = m1(&universe, [0; 16]);
    universe.replay(to_node(0), without, member);
    universe.run(ms(10));
    let (_, hello) = universe.captured.last().unwrap();
    let with = m1(&universe, cookie_in(hello));
    universe.replay(to_node(0), with, member);
    // Node 0 has asked node 1, and does not read the answer for some time.
    universe.run(Duration::from_micros(50));
    assert_eq!(universe.node(0).machine.counts().value(Count::Impostor), 0);
    universe.stop(0);
    universe.run(3 * SECOND);
    universe.resume(0);
    universe.step_with_traffic(SECOND, ms(10));
    universe.assert_sound();
    assert_eq!(universe.node(0).machine.counts().value(Count::Impostor), 1);
    assert_eq!(universe.events(0, EventKind::DuplicateNode), 1);
    assert_eq!(universe.events(0, EventKind::LinkDown), 0);
    assert_eq!(universe.events(0, EventKind::PeerRestarted), 0);
}

#[test]
fn a_member_in_the_middle_of_a_rekey_gets_no_bare_exchange() {
    let mut universe = pair(3, None);
    let member = universe.add(&master(1), None);
    universe.kill(member);
    // Nothing of the handshake arrives, and the member answers in node 1's name,
    // as often as node 0 listens.
    universe.cut_control.extend([(0, 1), (1, 0)]);
    let m1 = fresh_m1(&mut universe);
    let mut answered = BTreeSet::new();
    let hello = forged_hello(&universe, 1, &master(1), &m1);
    universe.replay(to_node(0), hello, member);
    for _ in 0..100 {
        universe.run_with_traffic(ms(100), ms(10));
        let last = universe.captured.iter().rfind(|(_, frame)| {
            let header = *ControlFrame::decode(frame).unwrap().header();
            header.message == MessageType::M1 && header.sender == node_id(0)
        });
        let m1 = last.unwrap().1.clone();
        let exchange = ControlFrame::decode(&m1).unwrap().header().exchange;
        if answered.insert(exchange) {
            let hello = forged_hello(&universe, 1, &master(1), &m1);
            universe.replay(to_node(0), hello, member);
        }
    }
    assert!(answered.len() > 3, "{answered:x?}");
    assert!(!chains(&universe, MessageType::M1).contains(&0));
    assert!(universe.events(0, EventKind::ChainLost) > 0);
    assert!(universe.is_up(0, 1) && universe.is_up(1, 0));
    assert_eq!(universe.losses(), Losses::default());
    universe.cut_control.clear();
    let rekeys = universe.node(0).machine.counts().value(Count::Rekeyed);
    universe.input(0, Input::RekeyNow);
    universe.run_with_traffic(10 * SECOND, ms(10));
    assert!(universe.node(0).machine.counts().value(Count::Rekeyed) > rekeys);
}

#[test]
fn a_hello_leads_nobody_away_from_a_peer_that_is_up() {
    // In the peer's present life, and in an invented one; not now, and come here.
    for (life, busy) in [
        (None, false),
        (None, true),
        (Some(99), false),
        (Some(99), true),
    ] {
        let mut universe = pair(5, None);
        let member = universe.add_place(0);
        let settings = universe.node(1).machine.settings();
        let present = settings.incarnation;
        let here = Addresses::one(Network::DEFAULT, address_of(member, Network::DEFAULT));
        let hello = Hello {
            incarnation: life.map_or(present, Incarnation),
            busy,
            cookie: [7; 16],
            addresses: here,
        };
        let epoch = universe.view(0, 1).unwrap().tx_epoch;
        let rekeys = universe.node(0).machine.counts().value(Count::Rekeyed);
        universe.captured.clear();
        universe.input(0, Input::RekeyNow);
        // The member is faster than the peer, as often as node 0 asks.
        let mut answered = BTreeSet::new();
        universe.cut_control.insert((0, 1));
        for _ in 0..100 {
            universe.run_with_traffic(ms(10), ms(10));
            let sent: Vec<_> = universe
                .captured
                .iter()
                .map(|(_, frame)| frame.clone())
                .collect();
            for frame in sent {
                let header = *ControlFrame::decode(&frame).unwrap().header();
                let asks = header.sender == node_id(0) && header.message == MessageType::M1;
                if asks && answered.insert(header.exchange) {
                    let hello = hello_that_says(1, &hello, &master(1), &frame);
                    universe.replay(to_node(0), hello, member);
                }
            }
        }
        assert!(!answered.is_empty());
        assert!(!chains(&universe, MessageType::M1).contains(&0), "bare");
        let led_away = universe
            .captured
            .iter()
            .any(|(to, _)| *to == to_node(member));
        assert!(!led_away, "asked at the member's");
        // What was under way goes on where the peer is.
        universe.cut_control.clear();
        universe.run_with_traffic(4 * SECOND, ms(10));
        assert!(universe.node(0).machine.counts().value(Count::Rekeyed) > rekeys);
        assert!(universe.view(0, 1).unwrap().tx_epoch > epoch);
        assert_eq!(universe.node(0).machine.counts().value(Count::TimedOut), 0);
        assert_eq!(universe.events(0, EventKind::LinkDown), 0);
        assert_eq!(universe.losses(), Losses::default());
    }
}

#[test]
fn a_node_that_lost_its_chain_is_taken_back_when_it_is_silent() {
    let mut universe = pair(4, Some(10 * SECOND));
    // Both keys are forgotten with the master key that they were made under.
    universe.input(1, Input::SetMasters(Masters::only(master(2))));
    universe.input(1, Input::SetMasters(Masters::only(master(1))));
    assert!(!universe.is_up(1, 0) && universe.is_up(0, 1));
    let took = universe.run_until(5 * SECOND, |universe| {
        universe.is_up(0, 1) && universe.is_up(1, 0)
    });
    println!("back after {took:?}");
    universe.captured.clear();
    universe.run(15 * SECOND);
    let m1 = chains(&universe, MessageType::M1);
    assert!(!m1.is_empty() && !m1.contains(&0), "{m1:x?}");
}

#[test]
fn nobody_cries_impostor_when_first_exchanges_cross() {
    for seed in 0..200 {
        let mut universe = Universe::new(seed);
        universe.faults.delay = ms(300);
        universe.faults.loss = seed % 4 * 100;
        universe.faults.duplication = 300;
        for _ in 0..2 {
            universe.add(&master(1), Some(5 * SECOND));
        }
        universe.run(8 * SECOND);
        for n in [0, 1] {
            assert_eq!(
                universe.events(n, EventKind::DuplicateNode),
                0,
                "seed {seed}"
            );
            assert_eq!(universe.events(n, EventKind::ChainLost), 0, "seed {seed}");
        }
    }
}
