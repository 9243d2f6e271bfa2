//! The rates that a contender loses nothing, or little, at. Imports `mlr`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Device, Order, Wait};
use crate::error::Result;
use crate::mlr::{self, Goal, Limits, Outcome};

/// Loads of interest, in frames a second. No veth pair reaches the highest,
/// so that the first trial of a search tells how much gets through.
pub(super) const LIMITS: Limits = Limits {
    load_min: 500,
    load_max: 4_000_000,
    trials_max: 80,
};
/// Share of frames that the partial-drop rate may lose.
const PARTIAL: f64 = 0.005;
/// Trials of a load that decide, the majority of them.
const TRIALS: u32 = 3;
/// How much shorter the first trials are than those that decide.
const SHORTER: u32 = 10;
/// No trial is shorter: sockets and clocks are not made for it.
const TRIAL_MIN: Duration = Duration::from_millis(20);

/// What no loss means; `trial` is the length of the trials that decide.
pub(super) fn no_drop(trial: Duration, width: f64) -> Goal {
    Goal {
        loss_ratio: 0.0,
        exceed_ratio: 0.5,
        width,
        initial_trial: (trial / SHORTER).max(TRIAL_MIN).min(trial),
        final_trial: trial,
        duration_sum: trial * TRIALS,
    }
}

/// What little loss means.
pub(super) fn partial_drop(trial: Duration, width: f64) -> Goal {
    Goal {
        loss_ratio: PARTIAL,
        ..no_drop(trial, width)
    }
}

/// The same with one trial a load: for a first look.
pub(super) fn quick(goal: Goal) -> Goal {
    Goal {
        duration_sum: goal.final_trial,
        ..goal
    }
}

/// A search, with the books of all its trials.
pub(super) struct Searched {
    pub(super) outcome: Outcome,
    /// Frames lost in all trials, by reason.
    pub(super) drops: BTreeMap<String, u64>,
    /// Frames that nothing explains; those of two trials never cancel out.
    pub(super) unaccounted: i64,
}

/// Searches for the rates that meet the goals.
///
/// # Errors
/// Those of the device.
pub(super) fn search(
    device: &mut dyn Device,
    goals: &[Goal],
    limits: Limits,
    wait: Wait,
) -> Result<Searched> {
    let mut drops = BTreeMap::new();
    let mut unaccounted = 0;
    let outcome = mlr::search(goals, limits, |load, duration| {
        let trial = device.trial(&Order {
            load,
            warm_up: Duration::ZERO,
            duration,
            wait,
        })?;
        for (reason, frames) in &trial.book.losses {
            *drops.entry(reason.clone()).or_default() += frames;
        }
        unaccounted += trial.book.unaccounted().saturating_abs();
        Ok(trial.count())
    })?;
    Ok(Searched {
        outcome,
        drops,
        unaccounted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::wire_bench::accounting::Book;
    use crate::wire_bench::paced::Trial;
    use crate::wire_bench::paced::trial::histogram;

    /// Passes so many frames a second, and hides what it loses if told to.
    struct Bottleneck {
        capacity: u64,
        hides: bool,
    }

    impl Device for Bottleneck {
        fn trial(&mut self, order: &Order) -> Result<Trial> {
            let frames =
                |load: u64| load * u64::try_from(order.duration.as_millis()).unwrap() / 1000;
            let mut book = Book {
                submitted: frames(order.load),
                delivered: frames(order.load.min(self.capacity)),
                ..Book::default()
            };
            if !self.hides {
                book.lose("full", book.submitted - book.delivered);
            }
            Ok(Trial {
                book,
                latency: histogram()?,
                lateness: histogram()?,
            })
        }
    }

    fn searched(hides: bool) -> Searched {
        let mut device = Bottleneck {
            capacity: 300_000,
            hides,
        };
        let goal = no_drop(Duration::from_millis(200), 0.02);
        search(
            &mut device,
            &[goal, partial_drop(goal.final_trial, 0.02)],
            LIMITS,
            Wait::Sleep,
        )
        .unwrap()
    }

    #[test]
    fn every_trial_is_in_the_books() {
        let Searched {
            outcome,
            drops,
            unaccounted,
        } = searched(false);
        let [ndr, pdr] = outcome.found[..] else {
            panic!("{outcome:?}");
        };
        assert!((294_000..=300_000).contains(&ndr.lower.unwrap()), "{ndr:?}");
        assert!(pdr.lower >= ndr.lower && pdr.regular, "{pdr:?}");
        assert!(drops["full"] > 0);
        assert_eq!(unaccounted, 0);
    }

    #[test]
    fn what_is_hidden_is_unaccounted_for() {
        assert!(searched(true).unaccounted > 0);
    }

    #[test]
    fn a_device_that_breaks_ends_the_search() {
        struct Broken;
        impl Device for Broken {
            fn trial(&mut self, _: &Order) -> Result<Trial> {
                Err(Error::Interrupted)
            }
        }
        let goal = quick(no_drop(Duration::from_millis(10), 0.05));
        assert_eq!(goal.initial_trial, goal.final_trial, "never longer");
        assert!(search(&mut Broken, &[goal], LIMITS, Wait::Spin).is_err());
    }
}
