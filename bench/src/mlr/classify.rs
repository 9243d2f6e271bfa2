//! What the trials at one load say of it (draft-ietf-bmwg-mlrsearch-15: load
//! classification, conditional throughput). Imports nothing.

use std::time::Duration;

use super::Trial;

/// A goal, or a step on the way to it with shorter trials and wider bounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Target {
    /// As the goal's.
    pub(super) loss_ratio: f64,
    /// As the goal's.
    pub(super) exceed_ratio: f64,
    /// Distance of the bounds that is enough, as a share of the upper one.
    pub(super) width: f64,
    /// Length of its trials; shorter ones are short.
    pub(super) trial: Duration,
    /// Time of full-length trials that decides.
    pub(super) duration_sum: Duration,
}

/// What a load is, for one target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// It meets the target, whatever further trials up to the sum may say.
    Lower,
    /// It does not, whatever they may say.
    Upper,
    /// They decide.
    Undecided,
}

/// Time in trials of one load, in seconds, by length and loss.
#[derive(Default)]
struct Sums {
    full_low: f64,
    full_high: f64,
    short_low: f64,
    short_high: f64,
}

impl Target {
    fn is_full(&self, trial: &Trial) -> bool {
        trial.duration >= self.trial
    }

    fn sums(&self, trials: &[Trial]) -> Sums {
        let mut sums = Sums::default();
        for trial in trials {
            let low = trial.loss_ratio <= self.loss_ratio;
            let sum = match (self.is_full(trial), low) {
                (true, true) => &mut sums.full_low,
                (true, false) => &mut sums.full_high,
                (false, true) => &mut sums.short_low,
                (false, false) => &mut sums.short_high,
            };
            *sum += trial.duration.as_secs_f64();
        }
        sums
    }

    /// The class of a load with these trials.
    ///
    /// Short trials never speak for a load. They speak against it as far as
    /// those with high loss outweigh those with low loss.
    pub(super) fn classify(&self, trials: &[Trial]) -> Class {
        let sums = self.sums(trials);
        let balancing = sums.short_low * self.exceed_ratio / (1.0 - self.exceed_ratio);
        let high = sums.full_high + (sums.short_high - balancing).max(0.0);
        let whole = (sums.full_low + high).max(self.duration_sum.as_secs_f64());
        let allowed = whole * self.exceed_ratio;
        // Trials still missing, were they all lossy.
        let pessimistic = whole - sums.full_low;
        if pessimistic <= allowed {
            Class::Lower
        } else if high > allowed {
            Class::Upper
        } else {
            Class::Undecided
        }
    }

    /// The loss ratio that full-length trials do not exceed for all but the
    /// share of time that may be lossier. Missing trials count as total loss.
    pub(super) fn quantile_loss(&self, trials: &[Trial]) -> f64 {
        let mut full: Vec<&Trial> = trials.iter().filter(|t| self.is_full(t)).collect();
        full.sort_by(|a, b| a.loss_ratio.total_cmp(&b.loss_ratio));
        let measured: f64 = full.iter().map(|t| t.duration.as_secs_f64()).sum();
        let whole = measured.max(self.duration_sum.as_secs_f64());
        let mut remaining = whole * (1.0 - self.exceed_ratio);
        let mut quantile = 1.0;
        for trial in full {
            quantile = trial.loss_ratio;
            remaining -= trial.duration.as_secs_f64();
            if remaining <= 0.0 {
                return quantile;
            }
        }
        if remaining > 0.0 { 1.0 } else { quantile }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target {
        loss_ratio: 0.01,
        exceed_ratio: 0.5,
        width: 0.1,
        trial: Duration::from_secs(1),
        duration_sum: Duration::from_secs(3),
    };

    fn trials(of: &[(u64, f64)]) -> Vec<Trial> {
        let trial = |&(ms, loss_ratio): &(u64, f64)| Trial {
            duration: Duration::from_millis(ms),
            loss_ratio,
        };
        of.iter().map(trial).collect()
    }

    fn class(of: &[(u64, f64)]) -> Class {
        TARGET.classify(&trials(of))
    }

    #[test]
    fn the_majority_of_full_trials_decides_as_soon_as_it_is_certain() {
        let (good, bad) = ((1000, 0.0), (1000, 0.02));
        assert_eq!(class(&[]), Class::Undecided);
        assert_eq!(class(&[good]), Class::Undecided);
        assert_eq!(class(&[good, good]), Class::Lower);
        assert_eq!(class(&[bad]), Class::Undecided);
        assert_eq!(class(&[bad, bad]), Class::Upper);
        assert_eq!(class(&[good, bad]), Class::Undecided);
        assert_eq!(class(&[good, bad, good]), Class::Lower);
        assert_eq!(class(&[good, bad, bad]), Class::Upper);
    }

    #[test]
    fn loss_at_the_goal_is_within_it() {
        assert_eq!(class(&[(1000, 0.01), (1000, 0.01)]), Class::Lower);
        assert_eq!(class(&[(1000, 0.0101), (1000, 0.0101)]), Class::Upper);
    }

    #[test]
    fn short_trials_speak_against_a_load_and_never_for_it() {
        let (good, bad) = ((500, 0.0), (500, 1.0));
        assert_eq!(class(&[good; 20]), Class::Undecided);
        assert_eq!(class(&[bad; 3]), Class::Undecided, "half of the sum");
        assert_eq!(class(&[bad; 4]), Class::Upper);
        assert_eq!(
            class(&[bad, bad, bad, bad, good]),
            Class::Undecided,
            "balanced"
        );
        let mixed = [bad, bad, bad, bad, (1000, 0.0), (1000, 0.0)];
        assert_eq!(class(&mixed), Class::Lower, "half of it all is good");
    }

    #[test]
    fn without_tolerance_one_lossy_trial_is_enough() {
        let strict = Target {
            exceed_ratio: 0.0,
            ..TARGET
        };
        let (good, bad) = ((1000, 0.0), (1000, 0.02));
        assert_eq!(strict.classify(&trials(&[good, good])), Class::Undecided);
        assert_eq!(strict.classify(&trials(&[good; 3])), Class::Lower);
        assert_eq!(strict.classify(&trials(&[good, good, bad])), Class::Upper);
    }

    #[test]
    fn the_quantile_leaves_out_the_worst_share_and_counts_what_is_missing() {
        let quantile = |of: &[(u64, f64)]| TARGET.quantile_loss(&trials(of));
        let full = [(1000, 0.03), (1000, 0.001), (1000, 0.002)];
        assert_eq!(quantile(&full), 0.002, "half of three seconds");
        assert_eq!(
            quantile(&full[1..]),
            0.002,
            "the third, missing, is the worst"
        );
        assert_eq!(quantile(&full[1..2]), 1.0, "one of three says too little");
        assert_eq!(quantile(&[(500, 0.0); 9]), 1.0, "short ones say nothing");
    }
}
