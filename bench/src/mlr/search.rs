//! Which load to try next. Each goal is approached in steps of longer trials
//! and narrower bounds, all goals share all trials. Imports `classify`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::classify::{Class, Target};
use super::{Count, Found, Goal, Limits, Outcome, Trial};

/// Steps to a goal: trials of initial length, one between, and the final one.
const STEPS: u32 = 3;
/// Bounds of a step are this much wider than those of the step after it.
const WIDENING: f64 = 2.0;
/// No step looks for bounds further apart than that.
const WIDTH_MAX: f64 = 0.5;
/// A search outwards takes strides of this many widths more, each time.
const EXPANSION: f64 = 2.0;

/// Every trial so far, by load.
type Trials = BTreeMap<u64, Vec<Trial>>;

/// Searches for all goals in their order. `measure` runs a trial at a load, in
/// frames a second, for a time. Ends at [`Limits::trials_max`] at the latest,
/// with what is known by then.
///
/// # Errors
/// Those of `measure`, which end it.
pub fn search<E>(
    goals: &[Goal],
    limits: Limits,
    mut measure: impl FnMut(u64, Duration) -> Result<Count, E>,
) -> Result<Outcome, E> {
    let mut trials = Trials::new();
    let mut left = limits.trials_max;
    let mut taken = 0;
    // How much arrives at far too high a load says where to begin.
    let mut hint = limits.load_max;
    let mut trial = |load: u64, duration: Duration, trials: &mut Trials| -> Result<Count, E> {
        let count = measure(load, duration)?;
        taken += 1;
        trials.entry(load).or_default().push(Trial {
            duration,
            loss_ratio: count.loss_ratio(),
        });
        Ok(count)
    };
    if let Some(goal) = goals.first().filter(|_| left > 0) {
        left -= 1;
        let count = trial(limits.load_max, goal.initial_trial, &mut trials)?;
        hint = rounded(limits.load_max as f64 * (1.0 - count.loss_ratio()));
    }
    for goal in goals {
        let mut known = Bounds {
            lower: Some(hint.clamp(limits.load_min, limits.load_max)),
            upper: None,
        };
        for target in goal.targets() {
            let mut stride = target.width;
            while let Some(load) = next(&trials, &target, known, limits, stride) {
                // A load is decided once; were it asked for again, it would be
                // for ever.
                if left == 0 || class(&trials, &target, load) != Class::Undecided {
                    break;
                }
                if Bounds::of(&trials, &target).is_one_sided() {
                    stride = (stride * EXPANSION).min(WIDTH_MAX);
                }
                while left > 0 && class(&trials, &target, load) == Class::Undecided {
                    left -= 1;
                    trial(load, target.trial, &mut trials)?;
                }
            }
            let bounds = Bounds::of(&trials, &target);
            known = Bounds {
                lower: bounds.lower.or(known.lower),
                upper: bounds.upper.or(known.upper),
            };
        }
        hint = known.lower.unwrap_or(hint);
    }
    Ok(Outcome {
        found: goals.iter().map(|goal| goal.found(&trials)).collect(),
        trials: taken,
    })
}

impl Goal {
    /// The goal itself.
    fn target(&self) -> Target {
        Target {
            loss_ratio: self.loss_ratio,
            exceed_ratio: self.exceed_ratio,
            width: self.width,
            trial: self.final_trial,
            duration_sum: self.duration_sum,
        }
    }

    /// The steps to it, itself the last.
    fn targets(&self) -> impl Iterator<Item = Target> {
        let last = self.target();
        let ratio = self.final_trial.as_secs_f64()
            / self.initial_trial.as_secs_f64().max(f64::MIN_POSITIVE);
        let initial = self.initial_trial;
        (0..STEPS).map(move |step| {
            let behind = STEPS - 1 - step;
            if behind == 0 {
                return last;
            }
            // Lengths in equal ratios; one trial decides.
            let factor = ratio.powf(f64::from(step) / f64::from(STEPS - 1));
            let trial = initial.mul_f64(factor).min(last.trial);
            let widening = WIDENING.powf(f64::from(behind));
            Target {
                width: (last.width * widening).min(WIDTH_MAX),
                trial,
                duration_sum: trial,
                ..last
            }
        })
    }

    fn found(&self, trials: &Trials) -> Found {
        let target = self.target();
        let Bounds { lower, upper } = Bounds::of(trials, &target);
        let throughput = lower.map(|load| {
            let loss = trials.get(&load).map_or(1.0, |t| target.quantile_loss(t));
            load as f64 * (1.0 - loss)
        });
        Found {
            lower,
            upper,
            throughput,
            regular: match (lower, upper) {
                (Some(lower), Some(upper)) => is_narrow(lower, upper, self.width),
                _ => false,
            },
        }
    }
}

fn class(trials: &Trials, target: &Target, load: u64) -> Class {
    target.classify(trials.get(&load).map_or(&[], Vec::as_slice))
}

/// Loads that bound the rate, as far as they are known.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    lower: Option<u64>,
    upper: Option<u64>,
}

impl Bounds {
    /// The relevant ones: the lowest load that fails, and the highest below
    /// it that passes. What passes above a load that fails is luck.
    fn of(trials: &Trials, target: &Target) -> Self {
        let mut bounds = Self {
            lower: None,
            upper: None,
        };
        for (&load, of_load) in trials {
            match target.classify(of_load) {
                Class::Lower => bounds.lower = Some(load),
                Class::Upper => {
                    bounds.upper = Some(load);
                    break;
                }
                Class::Undecided => {}
            }
        }
        bounds
    }

    fn is_one_sided(self) -> bool {
        self.lower.is_some() != self.upper.is_some()
    }
}

/// Whether two bounds are near enough; two loads with nothing between are.
fn is_narrow(lower: u64, upper: u64, width: f64) -> bool {
    upper - lower <= 1 || (upper - lower) as f64 <= upper as f64 * width
}

/// The next load to decide for a target, never one decided already; `None` if
/// its bounds are near enough or the limits end it. `known` is what the step
/// before found.
fn next(
    trials: &Trials,
    target: &Target,
    known: Bounds,
    limits: Limits,
    stride: f64,
) -> Option<u64> {
    let Limits {
        load_min, load_max, ..
    } = limits;
    let Bounds { lower, upper } = Bounds::of(trials, target);
    match (lower, upper) {
        (None, None) => Some(known.lower.unwrap_or(load_max).clamp(load_min, load_max)),
        (Some(lower), None) => {
            let further = rounded(lower as f64 / (1.0 - stride)).max(lower + 1);
            let expected = known.upper.filter(|&load| load > lower);
            (lower < load_max).then(|| expected.unwrap_or(further).min(load_max))
        }
        (None, Some(upper)) => {
            let further = rounded(upper as f64 * (1.0 - stride)).min(upper.saturating_sub(1));
            let expected = known.lower.filter(|&load| load < upper);
            (upper > load_min).then(|| expected.unwrap_or(further).max(load_min))
        }
        (Some(lower), Some(upper)) if is_narrow(lower, upper, target.width) => None,
        (Some(lower), Some(upper)) => {
            let middle = rounded((lower as f64 * upper as f64).sqrt());
            Some(middle.clamp(lower + 1, upper - 1))
        }
    }
}

/// A load in whole frames a second.
fn rounded(load: f64) -> u64 {
    // Loads are positive and far below 2^53.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let load = load.round().max(1.0) as u64;
    load
}

#[cfg(test)]
mod tests;
