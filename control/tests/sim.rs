//! Histories from seeds in the simulator, a hundred of them; many more with
//! `tipsec-bench sim`.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use tipsec_control::sim::scenario::{Mode, Plan, run};
use tipsec_dataplane::phase::Phase;

/// In how many histories lanes went on in phases.
fn no_seed_breaks_an_invariant(mode: Mode, seeds: std::ops::Range<u64>) -> u32 {
    let mut phases = 0;
    for seed in seeds {
        let plan = Plan {
            seed,
            nodes: None,
            mode,
            mutant: None,
            trace: false,
        };
        let outcome = run(&plan);
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}, {mode:?}: {violation}");
        }
        phases += u32::from(outcome.highest_phase > Phase(1));
    }
    phases
}

#[test]
fn nothing_forbidden_happens_in_any_history() {
    no_seed_breaks_an_invariant(Mode::Safety, 0..60);
}

#[test]
fn everything_works_again_after_any_history() {
    let phases = no_seed_breaks_an_invariant(Mode::Liveness, 1000..1060);
    assert!(phases > 2, "lanes went on in phases in {phases} histories");
}

#[test]
fn nodes_that_are_killed_under_load_are_back_soon_with_new_keys() {
    let outcome = tipsec_control::sim::kills::run(3, 20, 7);
    assert_eq!(outcome.broken, None);
    assert_eq!(outcome.kills, 20);
    assert!(outcome.delivered > 1000, "{outcome:?}");
}
