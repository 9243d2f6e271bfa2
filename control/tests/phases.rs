//! Pairs that go on in phases of their keys, in a small universe, which sees
//! to it that no (key, nonce) pair is used twice.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use tipsec_control::machine::{Count, EventKind, Input};
use tipsec_control::sim::{FRAME_COST, Faults, Losses, Universe, master, ms, network};
use tipsec_dataplane::ids::PeerIndex;
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::phase::Phase;

const SECOND: Duration = Duration::from_secs(1);
/// Between the data frames of a lane.
const PACE: Duration = ms(20);
/// Spent in some 3 s, with the probes: longer than the grace of a phase, and
/// shorter than it takes for a silent link to be given up.
const BUDGET: u64 = 180 * FRAME_COST;

/// Two nodes of two lanes, whose phases are short.
fn pair(seed: u64, interval: Option<Duration>) -> Universe {
    pair_with(seed, interval, BUDGET)
}

fn pair_with(seed: u64, interval: Option<Duration>, budget: u64) -> Universe {
    let mut universe = Universe::new(seed);
    universe.lanes = vec![network(0), network(0)];
    universe.budget = budget;
    universe.activity = true;
    universe.add(&master(1), interval);
    universe.add(&master(1), interval);
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.run(ms(500));
    universe
}

fn events(universe: &Universe, kind: EventKind) -> usize {
    (0..2).map(|n| universe.events(n, kind)).sum()
}

fn rekeys(universe: &Universe) -> u64 {
    universe.view(0, 1).unwrap().rekeys
}

fn everything_arrived(universe: &Universe) {
    let (sealed, delivered) = universe.data();
    assert_eq!(delivered + universe.lost_by_network(), sealed);
    let losses = Losses {
        replayed: 0,
        ..universe.losses()
    };
    assert_eq!(losses, Losses::default());
}

#[test]
fn data_flows_through_phases_while_rekeys_are_off() {
    for seed in 0..10 {
        let mut universe = pair(seed, None);
        universe.run_with_traffic(30 * SECOND, PACE);
        universe.run(ms(100));
        everything_arrived(&universe);
        assert_eq!(rekeys(&universe), 0, "seed {seed}");
        assert_eq!(events(&universe, EventKind::BudgetSpent), 0);
        assert_eq!(events(&universe, EventKind::BudgetLow), 0, "seed {seed}");
        assert!(events(&universe, EventKind::PhaseEntered) > 0);
        for (n, of) in [(0, 1), (1, 0)] {
            let view = universe.view(n, of).unwrap();
            assert!(view.tx_phase > Some(Phase(7)), "seed {seed}: {view:?}");
            let theirs = universe.view(of, n).unwrap().rx_phase;
            assert!(theirs >= view.tx_phase.map(|p| Phase(p.0 - 1)));
            let counts = universe.node(n).machine.counts();
            assert!(counts.value(Count::PhaseEntered) > 14, "both lanes");
        }
    }
}

#[test]
fn what_is_late_or_doubled_across_a_phase_opens_once() {
    for seed in 0..20 {
        let mut universe = pair(seed, None);
        universe.faults = Faults {
            loss: 20,
            duplication: 300,
            delay: ms(200),
            ..Faults::default()
        };
        universe.run_with_traffic(30 * SECOND, PACE);
        universe.faults = Faults::default();
        universe.run(SECOND);
        everything_arrived(&universe);
        assert!(universe.losses().replayed > 100);
        let highest = universe.highest_phase;
        assert!(highest > Phase(3), "seed {seed}: {highest:?}");
    }
}

#[test]
fn rekeys_come_before_phases() {
    let mut universe = pair(1, Some(2 * SECOND));
    universe.run_with_traffic(30 * SECOND, PACE);
    universe.run(ms(100));
    everything_arrived(&universe);
    assert_eq!(universe.highest_phase, Phase::FIRST);
    assert!(rekeys(&universe) > 10);
    // Also if the budget is what asks for them.
    let mut universe = pair(2, Some(3600 * SECOND));
    universe.run_with_traffic(30 * SECOND, PACE);
    universe.run(ms(100));
    everything_arrived(&universe);
    assert_eq!(universe.highest_phase, Phase::FIRST);
    assert!(rekeys(&universe) > 5);
    assert!(events(&universe, EventKind::BudgetLow) > 0);
}

#[test]
fn phases_carry_a_pair_whose_rekeys_fail() {
    let mut universe = pair(3, Some(SECOND));
    universe.lose_control = true;
    universe.run_with_traffic(60 * SECOND, PACE);
    universe.run(ms(100));
    everything_arrived(&universe);
    assert!(universe.highest_phase > Phase(15));
    assert!(
        events(&universe, EventKind::BudgetLow) > 0,
        "said long before"
    );
    assert!(events(&universe, EventKind::ExchangeTimeout) > 0);
    // And ends when they work again.
    universe.lose_control = false;
    universe.run_with_traffic(10 * SECOND, PACE);
    universe.run(ms(100));
    everything_arrived(&universe);
    assert!(rekeys(&universe) > 5);
    assert_eq!(universe.view(0, 1).unwrap().tx_phase, Some(Phase::FIRST));
}

#[test]
fn a_phase_that_was_not_reported_is_not_entered() {
    for seed in 0..10 {
        // Two phases in 4 s, before the silence is noticed.
        let mut universe = pair_with(seed, None, 120 * FRAME_COST);
        universe.lose_replies = true;
        // The first phase was reported; in the second the budget asks for a
        // rekey, though they are off.
        universe.run_with_traffic(5 * SECOND, PACE);
        universe.run(ms(100));
        everything_arrived(&universe);
        assert_eq!(universe.highest_phase, Phase(1), "seed {seed}");
        assert!(rekeys(&universe) > 0, "seed {seed}");
        universe.lose_replies = false;
        universe.run_with_traffic(10 * SECOND, PACE);
        universe.run(ms(100));
        everything_arrived(&universe);
    }
}

#[test]
fn answers_on_former_keys_say_nothing_of_the_present_ones() {
    let mut universe = pair(5, None);
    universe.input(0, Input::RekeyNow);
    universe.run(SECOND);
    assert_eq!(rekeys(&universe), 1);
    universe.lose_replies = true;
    universe.lose_control = true;
    // The first probe of all, and what could be true of its keys.
    let probe = Probe {
        op: ProbeOp::Reply,
        id: 1 << 8,
        phase: Phase(5),
    };
    let peer = PeerIndex(0);
    universe.input(0, Input::ProbeReply { peer, probe });
    universe.run_with_traffic(10 * SECOND, PACE);
    assert_eq!(universe.highest_phase, Phase(1));
    assert!(universe.losses().spent > 0);
    assert_eq!(universe.losses().unknown_phase, 0);
}

#[test]
fn with_neither_phase_nor_rekey_a_lane_stops_and_says_so() {
    for seed in 0..10 {
        let mut universe = pair(seed, Some(60 * SECOND));
        universe.lose_replies = true;
        universe.lose_control = true;
        universe.run_with_traffic(7 * SECOND, PACE);
        assert_eq!(universe.highest_phase, Phase(1), "seed {seed}");
        assert!(universe.losses().spent > 100, "seed {seed}");
        assert!(events(&universe, EventKind::BudgetSpent) > 0);
        // Answers alone bring it back to life: a part of the budget is theirs.
        universe.lose_replies = false;
        universe.run_until(2 * SECOND, Universe::all_up);
        universe.run_with_traffic(3 * SECOND, PACE);
        assert!(universe.highest_phase > Phase(1), "seed {seed}");
        let before = universe.losses();
        universe.run_with_traffic(20 * SECOND, PACE);
        universe.run(ms(100));
        assert_eq!(universe.losses(), before, "seed {seed}");
        assert_eq!(rekeys(&universe), 0, "seed {seed}");
    }
}

#[test]
fn a_sender_never_outruns_its_receiver() {
    // Phases of a few frames, spent long before the receiver is ready; with no
    // rekey that would help.
    for (seed, frames) in (0..).zip([10, 20, 40, 100, 150, 240]) {
        let mut universe = pair_with(seed, None, frames * FRAME_COST);
        universe.lose_control = true;
        universe.delays.staging = ms(700);
        universe.faults.delay = ms(50);
        universe.run_with_traffic(60 * SECOND, ms(2));
        universe.faults = Faults::default();
        universe.run(SECOND);
        let (sealed, delivered) = universe.data();
        assert_eq!(sealed, delivered, "frames {frames}");
        let losses = universe.losses();
        let keys = (losses.unknown_phase, losses.not_open, losses.unknown_spi);
        assert_eq!(keys, (0, 0, 0), "frames {frames}");
        assert!(losses.spent > 0, "frames {frames}");
        // The smallest budgets have too little for the probes that it takes.
        let progress = universe.highest_phase > Phase(10);
        assert!(progress || frames < 100, "frames {frames}");
    }
}
