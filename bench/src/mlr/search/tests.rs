//! The search against devices that are made up: a step, a slope, noise, one
//! that lies. Deterministic; a failure names its seed.

use super::*;

const LIMITS: Limits = Limits {
    load_min: 1_000,
    load_max: 4_000_000,
    trials_max: 200,
};

const NDR: Goal = Goal {
    loss_ratio: 0.0,
    exceed_ratio: 0.5,
    width: 0.01,
    initial_trial: Duration::from_millis(100),
    final_trial: Duration::from_secs(1),
    duration_sum: Duration::from_secs(3),
};

const PDR: Goal = Goal {
    loss_ratio: 0.005,
    ..NDR
};

/// A device: load and a number that differs each time, to the share lost.
type Device<'a> = &'a dyn Fn(u64, u64) -> f64;

/// Forwards up to `capacity`, and no more of what is above.
fn step(capacity: u64) -> impl Fn(u64, u64) -> f64 {
    move |load, _| 1.0 - (capacity as f64 / load as f64).min(1.0)
}

/// The next number of a sequence (Knuth's MMIX), its upper bits.
fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// What was tried, and what came of it.
struct Ran {
    outcome: Outcome,
    log: Vec<(u64, Duration)>,
}

fn run(goals: &[Goal], limits: Limits, seed: u64, device: Device<'_>) -> Ran {
    let mut log = Vec::new();
    let mut state = seed;
    let outcome = search(goals, limits, |load, duration| -> Result<Count, ()> {
        assert!(
            (limits.load_min..=limits.load_max).contains(&load),
            "seed {seed}: load {load}"
        );
        log.push((load, duration));
        let intended = rounded(load as f64 * duration.as_secs_f64());
        let lost = device(load, random(&mut state)) * intended as f64;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let lost = lost.ceil() as u64;
        Ok(Count { intended, lost })
    });
    let outcome = outcome.unwrap();
    assert_eq!(outcome.trials, log.len(), "seed {seed}");
    assert!(log.len() <= limits.trials_max, "seed {seed}");
    Ran { outcome, log }
}

#[test]
fn a_step_is_found_within_the_width_wherever_it_is() {
    let mut seed = 7;
    for _ in 0..500 {
        let capacity = 2_000 + random(&mut seed) % 3_900_000;
        let ran = run(&[NDR], LIMITS, 1, &step(capacity));
        let found = ran.outcome.found[0];
        let (lower, upper) = (found.lower.unwrap(), found.upper.unwrap());
        assert!(found.regular, "{capacity}: {found:?}");
        assert!(
            lower <= capacity && capacity < upper,
            "{capacity}: {found:?}"
        );
        assert!((upper - lower) as f64 <= upper as f64 * NDR.width + 1.0);
        assert_eq!(found.throughput, Some(lower as f64), "{capacity}");
    }
}

#[test]
fn few_trials_of_full_length_are_needed() {
    let ran = run(&[NDR], LIMITS, 1, &step(612_340));
    let full = ran.log.iter().filter(|(_, time)| *time == NDR.final_trial);
    // Two decide a load; the bounds of the step before are two widths apart.
    assert!(full.count() <= 8, "{:?}", ran.log);
    assert_eq!(ran.log[0], (LIMITS.load_max, NDR.initial_trial));
    assert_eq!(ran.log[1].0, 612_340, "begins at what got through");
}

#[test]
fn goals_share_trials_and_a_looser_one_finds_no_less() {
    // Loss rises with load from 400,000 on: 0.5 % at 600,000.
    let slope = |load: u64, _| (load.saturating_sub(400_000) as f64 / 200_000.0 * 0.005).min(0.9);
    let ran = run(&[NDR, PDR], LIMITS, 1, &slope);
    let [ndr, pdr] = ran.outcome.found[..] else {
        panic!("{:?}", ran.outcome);
    };
    assert!(ndr.regular && pdr.regular, "{:?}", ran.outcome);
    assert!((390_000..=400_000).contains(&ndr.lower.unwrap()), "{ndr:?}");
    assert!((590_000..=600_000).contains(&pdr.lower.unwrap()), "{pdr:?}");
    // What was lost at the bound is taken off.
    let throughput = pdr.throughput.unwrap();
    let (low, bound) = (pdr.lower.unwrap() as f64 * 0.99, pdr.lower.unwrap() as f64);
    assert!(throughput > low && throughput < bound, "{pdr:?}");
}

#[test]
fn noise_moves_the_bounds_and_not_the_rules() {
    for seed in 0..300 {
        // One trial in eight loses a few frames for another reason.
        let noisy = |load: u64, random: u64| {
            let step = step(700_000)(load, 0);
            if random.is_multiple_of(8) {
                step + 0.0001
            } else {
                step
            }
        };
        let found = run(&[NDR, PDR], LIMITS, seed, &noisy).outcome.found;
        let [ndr, pdr] = found[..] else {
            panic!("seed {seed}");
        };
        // Noise is below the looser goal.
        assert!(pdr.regular, "seed {seed}: {pdr:?}");
        assert!(
            (690_000..=704_000).contains(&pdr.lower.unwrap()),
            "seed {seed}: {pdr:?}"
        );
        assert!(
            ndr.lower.is_none_or(|lower| lower <= 700_000),
            "seed {seed}: {ndr:?}"
        );
    }
    // Half of the searches must not be thrown off by it.
    let noisy = |load: u64, random: u64| {
        if random.is_multiple_of(8) {
            0.0001
        } else {
            step(700_000)(load, 0)
        }
    };
    let near = (0..300).filter(|&seed| {
        let found = run(&[NDR], LIMITS, seed, &noisy).outcome.found[0];
        found
            .lower
            .is_some_and(|lower| (650_000..=760_000).contains(&lower))
    });
    assert!(near.count() > 150);
}

#[test]
fn a_device_that_lies_ends_the_search_and_bounds_stay_in_order() {
    for seed in 0..500 {
        let flaky = |_: u64, random: u64| if random.is_multiple_of(2) { 0.0 } else { 0.3 };
        let ran = run(&[NDR, PDR], LIMITS, seed, &flaky);
        for found in ran.outcome.found {
            if let (Some(lower), Some(upper)) = (found.lower, found.upper) {
                assert!(lower < upper, "seed {seed}: {found:?}");
            }
            assert_eq!(
                found.lower.is_some(),
                found.throughput.is_some(),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn the_limits_are_told_apart_from_results() {
    let all = run(&[NDR], LIMITS, 1, &|_, _| 0.0).outcome.found[0];
    assert_eq!((all.lower, all.upper), (Some(LIMITS.load_max), None));
    assert!(!all.regular);
    let none = run(&[NDR], LIMITS, 1, &|_, _| 1.0).outcome.found[0];
    assert_eq!((none.lower, none.upper), (None, Some(LIMITS.load_min)));
    assert_eq!((none.throughput, none.regular), (None, false));
}

#[test]
fn trials_are_bounded_and_what_is_known_by_then_is_told() {
    for trials_max in 0..30 {
        let limits = Limits {
            trials_max,
            ..LIMITS
        };
        let ran = run(&[NDR, PDR], limits, 1, &step(300_000));
        assert_eq!(ran.outcome.found.len(), 2);
        for found in ran.outcome.found {
            assert!(found.lower.is_none_or(|lower| lower <= 300_000));
            assert!(found.upper.is_none_or(|upper| upper > 300_000));
        }
    }
}

#[test]
fn an_error_ends_it() {
    let mut trials = 0;
    let result = search(&[NDR], LIMITS, |_, _| {
        trials += 1;
        if trials == 3 {
            Err("broken")
        } else {
            Ok(Count {
                intended: 1,
                lost: 0,
            })
        }
    });
    assert_eq!((result, trials), (Err("broken"), 3));
}

#[test]
fn a_trial_without_frames_is_no_success() {
    let none = Count {
        intended: 0,
        lost: 0,
    };
    assert_eq!(none.loss_ratio(), 1.0);
}
