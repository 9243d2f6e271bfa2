//! What came of holding runs against reports and expectations. Imports
//! `results`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use crate::results::{Bound, figure};

/// Why nothing of a benchmark was held against anything.
pub(super) const NO_REPORT: &str = "no report of this benchmark was given";

/// All of it; the JSON of `tipsec-bench gate --json`.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Verdict {
    /// Whether there is no fault.
    pub passed: bool,
    /// What is wrong, all of it.
    pub faults: Vec<Fault>,
    /// Comparisons that were held against a report, whatever came of it.
    pub held: Vec<Held>,
    /// Comparisons with a bound that were not.
    pub not_gated: Vec<NotGated>,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// What was expected was not measured.
    Missing {
        /// Line of the expectation file, from 1.
        line: usize,
        /// What that says.
        expected: String,
        /// How it is missing.
        why: String,
    },
    /// Frames whose fate nobody knows.
    Unaccounted {
        /// The run's benchmark.
        bench: String,
        /// Contender and labels.
        series: String,
        /// How many: lost if positive, out of nowhere if negative.
        frames: i64,
    },
    /// Far worse than in the report.
    Worse(Held),
    /// Figures of a development build.
    Unoptimised {
        /// The run's benchmark.
        bench: String,
        /// `run` or `report`.
        what: String,
    },
}

/// A comparison of a run beside the same one of its report.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Held {
    /// The run's benchmark.
    pub bench: String,
    /// What is compared.
    pub what: String,
    /// Of all three figures: `ratio`, or a metric's.
    pub unit: String,
    /// The run's median.
    pub median: f64,
    /// The report's median.
    pub report: f64,
    /// What the run's median has to keep.
    pub limit: Bound,
}

/// A comparison that nothing was held against.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NotGated {
    /// The run's benchmark.
    pub bench: String,
    /// What is compared.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit.as_str() {
            "ratio" => String::new(),
            unit => format!(" {unit}"),
        };
        write!(
            f,
            "{}: {}: {}{unit}; {} in the report, so {} to pass",
            self.bench,
            self.what,
            figure(self.median),
            figure(self.report),
            self.limit.text(),
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing {
                line,
                expected,
                why,
            } => write!(f, "missing: `{expected}` (line {line}): {why}"),
            Self::Unaccounted {
                bench,
                series,
                frames,
            } => write!(f, "{bench}: {series}: {frames} frames unaccounted for"),
            Self::Worse(held) => write!(f, "out of line: {held}"),
            Self::Unoptimised { bench, what } => write!(
                f,
                "{bench}: the {what} is of a build that is not optimised; build with --release \
                 and run the benchmark again"
            ),
        }
    }
}

impl fmt::Display for NotGated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.bench, self.what, self.why)
    }
}

impl Verdict {
    /// Prints what was held, what was not, and every fault.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        section(out, "Held against the report", &self.held)?;
        section(out, "Not gated", &self.not_gated_lines())?;
        section(out, "FAULTS", &self.faults)
    }

    /// A benchmark without a report is one line, whatever it compares.
    fn not_gated_lines(&self) -> Vec<String> {
        let mut without = BTreeMap::new();
        let mut lines = Vec::new();
        for one in &self.not_gated {
            if one.why == NO_REPORT {
                *without.entry(one.bench.as_str()).or_insert(0) += 1;
            } else {
                lines.push(one.to_string());
            }
        }
        let all = without.iter();
        lines
            .extend(all.map(|(bench, count)| format!("{bench}: {count} comparisons: {NO_REPORT}")));
        lines
    }
}

fn section(out: &mut impl Write, title: &str, lines: &[impl fmt::Display]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "{title}: {}", lines.len())?;
    for line in lines {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}
