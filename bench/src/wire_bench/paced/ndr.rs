//! `tipsec-bench ndr`: the highest rate that each contender passes without
//! loss, and the highest with half a per cent. Imports `rate`, `stage`.

use std::time::Duration;

use super::rate::{self, LIMITS};
use super::stage::{self, Stage};
use super::{Device, Options, Wait};
use crate::error::Result;
use crate::report::{Countdown, Progress};
use crate::results::{Comparison, Run, Sample, Series};
use crate::rounds::{self, Contender};
use crate::wire_bench::{BARE, TIPSEC, UDP, why_not};

/// Name of this benchmark.
pub const BENCH: &str = "ndr";
/// Name of the metric: conditional throughput without loss.
pub const NDR: &str = "no-drop rate";
/// Name of the metric: conditional throughput with a loss of 0.5 %.
pub const PDR: &str = "partial-drop rate";
/// Bounds are this near, as a share of the upper one.
const WIDTH: f64 = 0.01;

const NOTES: [&str; 5] = [
    "Searched by MLRsearch rules (draft-ietf-bmwg-mlrsearch-15): loss ratio 0 (no-drop) and 0.005 \
     (partial-drop), exceed ratio 0.5, width 0.01; the last trials take --seconds each and the \
     majority of three decides a load, the first take a tenth of it. A rate is the conditional \
     throughput at the lower bound.",
    "Frames fall due one by one in equal intervals, whatever became of those before. The sender \
     spins and sends in one burst what has fallen due since its last look, 64 frames at most.",
    "A frame that fell due and was not sent within a hundredth of the trial after its end (2 ms at \
     least) is lost: not sent in time. Losses are those of all trials, above the rate as well.",
    "irregular: goals whose bounds were not found as near as wanted, or not at all, within 80 \
     trials; a rate of 0 says that none was found.",
    "A veth pair is copy mode and bound by system calls: it ranks overhead, and says nothing of \
     a NIC.",
];

/// Runs it all. Unaccounted frames are in the result and not an error here.
///
/// # Errors
/// [`crate::Error`]; nothing is left behind.
pub fn run(options: &Options, progress: &Progress) -> Result<Run> {
    let able = |&&size: &&_| {
        options
            .contenders
            .iter()
            .filter(move |&&k| why_not(size, k).is_none())
    };
    let a_round: usize = options.sizes.iter().map(|size| able(&size).count()).sum();
    let steps = options.profiles.len() * options.waits.len() * options.rounds * a_round;
    let mut countdown = progress.countdown(steps);
    stage::run(BENCH, options, &NOTES, compare, |stage| {
        run_profile(stage, &mut countdown)
    })
}

fn run_profile(stage: &Stage<'_>, countdown: &mut Countdown<'_>) -> Result<Vec<Series>> {
    let options = stage.options;
    let mut series = Vec::new();
    for &wait in &options.waits {
        for &size in &options.sizes {
            let mut contenders: Vec<Box<dyn Contender + '_>> = Vec::new();
            for &kind in &options.contenders {
                let empty = stage.series(BENCH, stage.name(kind), (size, wait, None));
                match why_not(size, kind) {
                    Some(reason) => series.push(empty.skipped(reason)),
                    None => contenders.push(Box::new(Searcher {
                        device: stage.device(kind, size),
                        series: empty,
                        wait,
                    })),
                }
            }
            let (rounds, sample) = (options.rounds, options.sample);
            series.extend(rounds::run(&mut contenders, rounds, sample, countdown)?);
        }
    }
    Ok(series)
}

/// A contender whose sample is a search.
struct Searcher<'a> {
    device: Box<dyn Device + 'a>,
    series: Series,
    wait: Wait,
}

impl Contender for Searcher<'_> {
    fn series(&self) -> Series {
        self.series.clone()
    }

    /// A search, in many trials.
    fn is_short(&self) -> bool {
        false
    }

    fn sample(&mut self, trial: Duration) -> Result<Sample> {
        let goals = [
            rate::no_drop(trial, WIDTH),
            rate::partial_drop(trial, WIDTH),
        ];
        let searched = rate::search(self.device.as_mut(), &goals, LIMITS, self.wait)?;
        let found = &searched.outcome.found;
        let throughput = |place: usize| found[place].throughput.unwrap_or(0.0) / 1e6;
        let upper = found[0].upper.unwrap_or(LIMITS.load_max);
        let irregular = found.iter().filter(|found| !found.regular).count();
        Ok(Sample {
            metrics: vec![
                (NDR, "Mpps", throughput(0)),
                ("no-drop upper bound", "Mpps", upper as f64 / 1e6),
                (PDR, "Mpps", throughput(1)),
                ("trials", "a search", searched.outcome.trials as f64),
                ("irregular", "goals", irregular as f64),
            ],
            drops: searched.drops,
            unaccounted: searched.unaccounted,
        })
    }
}

/// Sealed against bare and against the kernel's UDP, without loss.
fn compare(series: &[Series]) -> Vec<Comparison> {
    let sealed = series
        .iter()
        .filter(|one| one.contender.starts_with(TIPSEC));
    sealed
        .flat_map(|one| {
            [BARE, UDP].into_iter().filter_map(move |who| {
                let other = stage::beside(one, who, series)?;
                let what = format!("{}: {NDR} of {} / {who}", stage::place(one), one.contender);
                Comparison::ratio(what, one, other, NDR, None)
            })
        })
        .collect()
}
