//! Histories from seeds in the simulator, a hundred of them; many more with
//! `tipsec-bench sim`.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use tipsec_control::sim::scenario::{Mode, Plan, run};

fn no_seed_breaks_an_invariant(mode: Mode, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let plan = Plan {
            seed,
            nodes: None,
            mode,
            mutant: None,
            trace: false,
        };
        if let Some(violation) = run(&plan).violation {
            panic!("seed {seed}, {mode:?}: {violation}");
        }
    }
}

#[test]
fn nothing_forbidden_happens_in_any_history() {
    no_seed_breaks_an_invariant(Mode::Safety, 0..60);
}

#[test]
fn everything_works_again_after_any_history() {
    no_seed_breaks_an_invariant(Mode::Liveness, 1000..1060);
}
