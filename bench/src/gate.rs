//! Short runs held against what is expected of them, and against the reports
//! of the last full run: what `tipsec-bench gate` does. A short run is no
//! measurement; it shows that everything was measured, that every frame is
//! accounted for, and that nothing is far out of line. Pure, but for reading
//! the file of `expect`. Imports `results`, `error`.
//!
//! * this file: what is held against what;
//! * `expect`: the file that says what has to be there;
//! * `limit`: how much worse than its report a short run may be;
//! * `verdict`: what came of it, for people and for programs.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::results::{Comparison, Run};

mod expect;
mod limit;
mod verdict;

pub use expect::Expectations;
pub use limit::{SLACK_CPU_NS, SLACK_NS, TIMES};
pub use verdict::{Fault, Held, NotGated, Verdict};

/// The benchmarks that leave results, by their names on the command line.
pub const BENCHES: [&str; 6] = ["wire", "tap", "pipeline", "scale", "ndr", "latency"];

/// The label of what a run was set to, and not of what it measured: a full run
/// finds it out, a short one is told.
const DEPTH: &str = "depth";

/// Holds `runs` against `reports` and `expected`. Of a comparison, what the run
/// wants says which way is worse; where nothing is wanted, nothing is judged.
///
/// # Errors
/// [`Error::Unreadable`] if two reports are of the same benchmark.
pub fn judge(runs: &[Run], reports: &[Run], expected: &Expectations) -> Result<Verdict> {
    let mut by_bench = BTreeMap::new();
    for report in reports {
        if by_bench.insert(report.bench.as_str(), report).is_some() {
            return Err(Error::Unreadable {
                what: "the reports to hold runs against".into(),
                detail: format!("two of them are of `{}`: name one", report.bench),
            });
        }
    }
    let mut verdict = Verdict::default();
    for (what, all) in [("run", runs), ("report", reports)] {
        let unoptimised = all.iter().filter(|run| run.is_unoptimised());
        verdict
            .faults
            .extend(unoptimised.map(|run| Fault::Unoptimised {
                bench: run.bench.clone(),
                what: what.to_owned(),
            }));
    }
    verdict.faults.extend(expected.missing_in(runs));
    for run in runs {
        verdict
            .faults
            .extend(run.unaccounted().map(|series| Fault::Unaccounted {
                bench: run.bench.clone(),
                series: series.title(),
                frames: series.unaccounted,
            }));
        let report = by_bench.get(run.bench.as_str()).copied();
        hold(run, report, &mut verdict);
    }
    verdict.passed = verdict.faults.is_empty();
    Ok(verdict)
}

/// All comparisons of a run that carry a bound.
fn hold(run: &Run, report: Option<&Run>, verdict: &mut Verdict) {
    for comparison in &run.comparisons {
        let Some(wanted) = comparison.wanted else {
            continue;
        };
        match figures(comparison, report) {
            Ok((median, reported)) => {
                let limit = limit::limit(comparison, wanted, reported);
                let held = Held {
                    bench: run.bench.clone(),
                    what: comparison.what.clone(),
                    unit: comparison.unit.clone(),
                    median,
                    report: reported,
                    limit,
                };
                if !limit.is_met_by(median) {
                    verdict.faults.push(Fault::Worse(held.clone()));
                }
                verdict.held.push(held);
            }
            Err(why) => verdict.not_gated.push(NotGated {
                bench: run.bench.clone(),
                what: comparison.what.clone(),
                why: why.to_owned(),
            }),
        }
    }
}

/// Medians of the run's and of the report's, or why there are none.
fn figures(
    comparison: &Comparison,
    report: Option<&Run>,
) -> std::result::Result<(f64, f64), &'static str> {
    let median = |of: &Comparison| of.stats().map(|stats| stats.median);
    let report = report.ok_or(verdict::NO_REPORT)?;
    let reported = find(report, comparison).ok_or("the report does not hold it")?;
    let reported = median(reported).ok_or("the report has no samples of it")?;
    let ours = median(comparison).ok_or("the run has no samples of it")?;
    Ok((ours, reported))
}

/// The same comparison in a report: under the same settings if it is there, else
/// under others.
fn find<'a>(report: &'a Run, one: &Comparison) -> Option<&'a Comparison> {
    let conditions = |of: &Comparison| {
        let mut labels = of.labels.clone();
        labels.remove(DEPTH);
        labels
    };
    // Labels that the two sides do not share are in its words alone.
    let is_same = |other: &&Comparison| {
        (&other.what, &other.a, &other.b) == (&one.what, &one.a, &one.b)
            && (&other.metric, &other.unit) == (&one.metric, &one.unit)
            && conditions(other) == conditions(one)
    };
    let same = || report.comparisons.iter().filter(is_same);
    same()
        .find(|other| other.labels == one.labels)
        .or_else(|| same().next())
}

#[cfg(test)]
mod tests;
