//! Two series set against each other, round by round: what was measured side
//! by side is compared, and the median is taken of the outcomes. A ratio of
//! two medians would mix rounds, and a machine drifts. Imports `stats`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MPPS, Series, Stats};

/// 1 Mpps is a frame each microsecond.
const NS_PER_US: f64 = 1000.0;

/// What a comparison should come to.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The median must not be below.
    AtLeast(f64),
    /// The median must not be above.
    AtMost(f64),
}

impl Bound {
    /// Whether `value` keeps it.
    pub fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// An outcome a round of series `a` against series `b`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// What it says, for people.
    pub what: String,
    /// Contender in the numerator.
    pub a: String,
    /// Contender in the denominator.
    pub b: String,
    /// The metric of both.
    pub metric: String,
    /// Labels that both share.
    pub labels: BTreeMap<String, String>,
    /// Of the outcomes: `ratio`, or the metric's for a difference.
    pub unit: String,
    /// One a round.
    pub samples: Vec<f64>,
    /// What the median should be.
    pub wanted: Option<Bound>,
    /// Whether it is; `None` if nothing is wanted.
    pub met: Option<bool>,
}

impl Comparison {
    /// `a` divided by `b` in each round; `None` unless both have samples of
    /// `metric` from the same rounds.
    pub fn ratio(
        what: impl Into<String>,
        a: &Series,
        b: &Series,
        metric: &str,
        wanted: Option<Bound>,
    ) -> Option<Self> {
        Self::of_metric(what.into(), (a, b), metric, wanted, "ratio", |a, b| a / b)
    }

    /// `a` less `b` in each round; `None` as for [`Self::ratio`].
    pub fn difference(
        what: impl Into<String>,
        a: &Series,
        b: &Series,
        metric: &str,
        wanted: Option<Bound>,
    ) -> Option<Self> {
        let unit = a.metrics.get(metric)?.unit.clone();
        Self::of_metric(what.into(), (a, b), metric, wanted, &unit, |a, b| a - b)
    }

    /// The share of its rate that `bare` would keep if each of its frames took
    /// `added` nanoseconds more, round by round: `a` adds them. `None` unless
    /// there are as many samples of both.
    pub fn share_left(
        what: impl Into<String>,
        a: &Series,
        added: &[f64],
        bare: &Series,
    ) -> Option<Self> {
        let samples = (added, bare.samples(MPPS));
        let left = |added: f64, mpps: f64| 1.0 / (1.0 + added * mpps / NS_PER_US);
        Self::new(what.into(), (a, bare), samples, None, (MPPS, "ratio"), left)
    }

    fn of_metric(
        what: String,
        (a, b): (&Series, &Series),
        metric: &str,
        wanted: Option<Bound>,
        unit: &str,
        outcome: impl Fn(f64, f64) -> f64,
    ) -> Option<Self> {
        let samples = (a.samples(metric), b.samples(metric));
        Self::new(what, (a, b), samples, wanted, (metric, unit), outcome)
    }

    fn new(
        what: String,
        (a, b): (&Series, &Series),
        (of_a, of_b): (&[f64], &[f64]),
        wanted: Option<Bound>,
        (metric, unit): (&str, &str),
        outcome: impl Fn(f64, f64) -> f64,
    ) -> Option<Self> {
        if of_a.len() != of_b.len() {
            return None;
        }
        let samples: Vec<f64> = of_a
            .iter()
            .zip(of_b)
            .map(|(&a, &b)| outcome(a, b))
            .collect();
        if samples.iter().any(|sample| !sample.is_finite()) {
            return None;
        }
        let median = Stats::of(&samples)?.median;
        let shared = |(key, value): &(&String, &String)| b.labels.get(*key) == Some(*value);
        let owned = |(key, value): (&String, &String)| (key.clone(), value.clone());
        Some(Self {
            what,
            a: a.contender.clone(),
            b: b.contender.clone(),
            metric: metric.to_owned(),
            labels: a.labels.iter().filter(shared).map(owned).collect(),
            unit: unit.to_owned(),
            samples,
            wanted,
            met: wanted.map(|bound| bound.is_met_by(median)),
        })
    }

    /// Median and spread of the outcomes.
    pub fn stats(&self) -> Option<Stats> {
        Stats::of(&self.samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    fn series(contender: &str, samples: &[f64]) -> Series {
        let mut series = Series::new("wire", contender, &[("size", "64"), ("who", contender)]);
        for &value in samples {
            series.add(Sample {
                metrics: vec![("rate", "Mpps", value)],
                ..Sample::default()
            });
        }
        series
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine halved its speed in the middle: every round says 0.5,
        // the ratio of the medians would say 2/2.
        let a = series("a", &[2.0, 2.0, 1.0, 1.0, 4.0]);
        let b = series("b", &[4.0, 4.0, 2.0, 2.0, 8.0]);
        let wanted = Some(Bound::AtLeast(0.5));
        let ratio = Comparison::ratio("a/b", &a, &b, "rate", wanted).unwrap();
        assert_eq!(ratio.samples, [0.5; 5]);
        assert_eq!(ratio.met, Some(true));
        assert_eq!(ratio.labels.len(), 1, "only what both share: {ratio:?}");
        let uneven = series("b", &[8.0, 4.0, 2.0, 2.0, 8.0]);
        let ratio = Comparison::ratio("a/b", &a, &uneven, "rate", None).unwrap();
        assert_eq!(ratio.stats().unwrap().median, 0.5);
        assert_eq!(ratio.met, None, "nothing was wanted");
    }

    #[test]
    fn a_bound_is_on_the_median() {
        let (a, b) = (series("a", &[1.0, 5.0, 1.0]), series("b", &[0.0, 1.0, 0.0]));
        let met = |bound| {
            let difference = Comparison::difference("d", &a, &b, "rate", Some(bound)).unwrap();
            assert_eq!(
                (difference.unit.as_str(), difference.samples[1]),
                ("Mpps", 4.0)
            );
            difference.met.unwrap()
        };
        assert!(met(Bound::AtMost(1.0)) && met(Bound::AtLeast(1.0)));
        assert!(!met(Bound::AtMost(0.9)) && !met(Bound::AtLeast(1.1)));
    }

    #[test]
    fn what_cannot_be_compared_is_not() {
        let (a, b) = (series("a", &[1.0, 2.0]), series("b", &[1.0]));
        assert_eq!(Comparison::ratio("", &a, &b, "rate", None), None, "rounds");
        assert_eq!(Comparison::ratio("", &a, &a, "other", None), None);
        let zero = series("z", &[0.0, 1.0]);
        assert_eq!(Comparison::ratio("", &a, &zero, "rate", None), None);
    }
}
