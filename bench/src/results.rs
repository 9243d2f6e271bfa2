//! What a benchmark measured, as its report file holds it, and what follows
//! from it. Pure: knows neither clock nor machine. Imports `error`, and of `steal`
//! its bounds.
//!
//! * this file: [`Run`] and what it is made of;
//! * `stats`: median and spread of samples, computed on reading and never
//!   stored;
//! * `compare`: two series set against each other round by round;
//! * `file`: reading, checking and writing a report file;
//! * `print`: tables for a terminal.
//!
//! A series has one sample a round of each metric, in the order of the rounds,
//! so that samples at one index of two series were taken side by side.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::steal::{RETAKES_MAX, SHARE_MAX};

mod compare;
mod file;
mod print;
pub mod stats;

pub use compare::{Bound, Comparison};
pub use print::figure;
pub use stats::Stats;

/// Version of the report file's layout; a reader refuses any other.
pub const SCHEMA: u32 = 1;

/// Name of the metric that every throughput benchmark has: frames (or
/// datagrams) that arrived, in millions a second.
pub const MPPS: &str = "delivered";
/// Name of the metric that every benchmark that occupies cores has: CPU time
/// of all cores it may use, for one delivered frame.
pub const CPU_NS: &str = "cpu";

/// Names of the metrics that describe a distribution, and the share of it that
/// lies below each. A series that has them is drawn as a curve.
pub const PERCENTILES: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("max", 1.0),
];

/// Note of a run that a development build made.
pub const UNOPTIMISED: &str = "THIS BUILD IS NOT OPTIMISED (build it with --release): no figure of \
                               this run is to be quoted.";

/// A label of series that must not stand beside the others in a plot, since
/// they measure something else.
pub const NOT_COMPARABLE: (&str, &str) = ("comparable", "no");

/// One run of one benchmark: the report file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Which benchmark, as on the command line: `wire`, `tap` …
    pub bench: String,
    /// When it started: RFC 3339, UTC, to the second.
    pub started: String,
    /// Version of this program.
    pub version: String,
    /// Where it ran.
    pub machine: Machine,
    /// Rounds asked for; a series has as many samples of each metric.
    pub rounds: usize,
    /// Which thread ran on which core, for people.
    pub pinning: String,
    /// What was measured.
    pub series: Vec<Series>,
    /// What was set against what.
    pub comparisons: Vec<Comparison>,
    /// What a reader has to know to judge the figures: methods, caveats.
    pub notes: Vec<String>,
}

/// The machine of a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the CPU, as /proc/cpuinfo has it.
    pub cpu: String,
    /// Cores that this process may run on.
    pub cores: usize,
    /// Release of the kernel, as `uname -r` prints it.
    pub kernel: String,
    /// Whether it is a virtual machine.
    pub virtualised: bool,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// One contender under one set of conditions.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Series {
    /// The benchmark that it belongs to: the run's, or a part of it.
    pub bench: String,
    /// Who: `tipsec aes-256-gcm ring`, `bare forwarder`, `kernel udp` …
    pub contender: String,
    /// Under which conditions: profile, frame size, protocol, depth …
    pub labels: BTreeMap<String, String>,
    /// What was measured, by name.
    pub metrics: BTreeMap<String, Metric>,
    /// Frames that were lost, by reason, where any were; all rounds together.
    pub drops: BTreeMap<String, u64>,
    /// Submitted − delivered − lost, all rounds together. Anything but 0 is a
    /// fault of the benchmark or of what it measures, and fails the run.
    pub unaccounted: i64,
    /// Samples that do not stand, since the host took the cores' time meanwhile
    /// ([`crate::steal`]); all rounds together.
    #[serde(default)]
    pub retaken: u64,
    /// Why it was not measured, or not to its end: then there are no metrics.
    pub skipped: Option<String>,
}

/// One thing that was measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Metric {
    /// As in `Mpps`, `Gbit/s`, `ns/frame`.
    pub unit: String,
    /// One a round, in the order of the rounds.
    pub samples: Vec<f64>,
}

impl Metric {
    /// Median and spread; `None` without samples.
    pub fn stats(&self) -> Option<Stats> {
        Stats::of(&self.samples)
    }
}

/// What one contender did in one round; [`Series::add`] takes it in.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sample {
    /// Name, unit and value of each metric; the same names in every round.
    pub metrics: Vec<(&'static str, &'static str, f64)>,
    /// Frames lost, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Submitted − delivered − lost.
    pub unaccounted: i64,
}

impl Series {
    /// An empty series.
    pub fn new(bench: &str, contender: impl Into<String>, labels: &[(&str, &str)]) -> Self {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Self {
            bench: bench.to_owned(),
            contender: contender.into(),
            labels: labels.iter().map(owned).collect(),
            ..Self::default()
        }
    }

    /// The same with the reason why it is not measured.
    #[must_use]
    pub fn skipped(mut self, reason: impl Into<String>) -> Self {
        self.skipped = Some(reason.into());
        self
    }

    /// Takes in one round.
    pub fn add(&mut self, sample: Sample) {
        for (name, unit, value) in sample.metrics {
            let metric = self.metrics.entry(name.to_owned());
            let empty = || Metric {
                unit: unit.to_owned(),
                samples: Vec::new(),
            };
            metric.or_insert_with(empty).samples.push(value);
        }
        for (reason, frames) in sample.drops {
            *self.drops.entry(reason).or_default() += frames;
        }
        // Opposite errors of two rounds must not cancel out.
        self.unaccounted = match (self.unaccounted, sample.unaccounted) {
            (0, new) => new,
            (old, 0) => old,
            (old, new) => old.signum() * (old.abs().saturating_add(new.abs())),
        };
    }

    /// Counts a round's sample that does not stand. What became of its frames is
    /// kept: none may be unaccounted for there either.
    pub fn discard(&mut self, sample: Sample) {
        self.retaken += 1;
        self.add(Sample {
            metrics: Vec::new(),
            ..sample
        });
    }

    /// Samples of a metric; empty if it was not measured.
    pub fn samples(&self, metric: &str) -> &[f64] {
        self.metrics
            .get(metric)
            .map_or(&[], |metric| metric.samples.as_slice())
    }

    /// Median of a metric, if it was measured.
    pub fn median(&self, metric: &str) -> Option<f64> {
        Stats::of(self.samples(metric)).map(|stats| stats.median)
    }

    /// The value of a label; empty if it has none.
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }

    /// Contender and labels, for messages.
    pub fn title(&self) -> String {
        let mut title = self.contender.clone();
        for (key, value) in &self.labels {
            title.push_str(&format!(", {key} {value}"));
        }
        title
    }
}

impl Run {
    /// The series of `contender` that has at least these labels.
    pub fn find(&self, contender: &str, labels: &[(&str, &str)]) -> Option<&Series> {
        self.series.iter().find(|series| {
            series.contender == contender
                && labels
                    .iter()
                    .all(|(key, value)| series.label(key) == *value)
        })
    }

    /// [`Self::notes`], and how many samples were taken again, if any were.
    pub fn all_notes(&self) -> Vec<String> {
        let retaken: u64 = self.series.iter().map(|series| series.retaken).sum();
        let percent = SHARE_MAX * 100.0;
        let note = (retaken > 0).then(|| {
            format!(
                "{retaken} samples were taken again, since the host took more than {percent} % of \
                 the cores' time meanwhile; a sample is taken again {RETAKES_MAX} times at most."
            )
        });
        self.notes.iter().cloned().chain(note).collect()
    }

    /// Whether a development build made it, as its notes say.
    pub fn is_unoptimised(&self) -> bool {
        self.notes.iter().any(|note| note == UNOPTIMISED)
    }

    /// Series in which frames are unaccounted for: a run that has any failed.
    pub fn unaccounted(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(|series| series.unaccounted != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: f64, lost: u64, unaccounted: i64) -> Sample {
        Sample {
            metrics: vec![(MPPS, "Mpps", value)],
            drops: BTreeMap::from([("rx ring full".to_owned(), lost)]),
            unaccounted,
        }
    }

    #[test]
    fn rounds_append_samples_and_add_up_losses() {
        let mut series = Series::new("wire", "a", &[("size", "64")]);
        series.add(sample(1.0, 2, 0));
        series.add(sample(3.0, 5, 0));
        assert_eq!(series.samples(MPPS), [1.0, 3.0]);
        assert_eq!(series.median(MPPS), Some(2.0));
        assert_eq!(series.drops["rx ring full"], 7);
        assert_eq!(series.median("other"), None);
        assert_eq!(series.label("size"), "64");
    }

    #[test]
    fn a_discarded_sample_has_no_figures_and_still_has_its_frames() {
        let mut series = Series::new("wire", "a", &[]);
        series.discard(sample(9.0, 2, 3));
        series.add(sample(1.0, 5, 0));
        assert_eq!(series.samples(MPPS), [1.0]);
        assert_eq!(series.drops["rx ring full"], 7);
        assert_eq!((series.unaccounted, series.retaken), (3, 1));
    }

    #[test]
    fn unaccounted_frames_do_not_cancel_out() {
        let mut series = Series::default();
        for unaccounted in [0, 3, 0, -3] {
            series.add(sample(1.0, 0, unaccounted));
        }
        assert_eq!(series.unaccounted, 6);
        let mut series = Series::default();
        for unaccounted in [-2, 1] {
            series.add(sample(1.0, 0, unaccounted));
        }
        assert_eq!(series.unaccounted, -3);
    }
}
