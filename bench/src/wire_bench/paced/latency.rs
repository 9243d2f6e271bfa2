//! `tipsec-bench latency`: how long frames take from one end to the other at
//! 10, 50 and 90 % of the rate that passes without loss. Imports `rate`,
//! `stage`, `timer`.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::rate;
use super::stage::{self, Stage};
use super::timer::Timer;
use super::{Device, Options, Order, Trial, Wait, ndr};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::mlr::Limits;
use crate::report::{Countdown, Progress};
use crate::results::{Comparison, MPPS, PERCENTILES, Run, Sample, Series};
use crate::rounds::{self, Contender};
use crate::wire_bench::accounting::Book;
use crate::wire_bench::options::{FrameSize, Kind};
use crate::wire_bench::{BARE, TIPSEC, UDP, why_not};

/// Name of this benchmark.
pub const BENCH: &str = "latency";
/// Name of the series without a network.
pub const TIMER: &str = "timer, no network";
/// Loads, in per cent of the contender's own no-drop rate.
pub const LOADS: [u64; 3] = [10, 50, 90];
/// The load that the timer runs at: in the middle.
const TIMER_LOAD: u64 = 50;
/// Frames flow this long before they count: caches, schedulers, clocks.
const WARM_UP: Duration = Duration::from_millis(50);
/// The no-drop rate is searched to this share: the loads are far apart.
const WIDTH: f64 = 0.05;
/// Longest trial of that search.
const TRIAL_MAX: Duration = Duration::from_millis(100);
/// And most trials of it: a rate that is not found to the width by then is used
/// as far as it is known.
const TRIALS_MAX: usize = 16;
/// Trials of a sample before it counts as failed.
const ATTEMPTS: usize = 3;
/// The cost of sealing is compared at these places of the distribution.
const COMPARED: [&str; 2] = ["p50", "p99"];

const NOTES: [&str; 6] = [
    "Open loop: frames fall due one by one in equal intervals, whatever became of those before. \
     Latency is from the time when a frame was due, not from when it was sent, to the time when \
     the receiver had it, opened: one way, sender and receiver on the CLOCK_MONOTONIC of one \
     machine, the time due carried in the payload.",
    "The sender spins and sends in one burst what has fallen due since its last look, 64 frames at \
     most; sender late is how long frames were due by then, and a part of the latency.",
    "Loads are shares of the contender's own no-drop rate, found first in this run with the same \
     way to wait (series of ndr, one trial of at most 0.1 s a load, 16 trials, width 0.05). The same share is \
     not the same load: see offered.",
    "wait: what the receiver does without frames, spin or sleep in poll. The sender always spins.",
    "timer, no network: the same loop where frames are there when they are due, at 50 % of the \
     first contender's rate: what clock and scheduler alone make late.",
    "Frames that were lost have no latency; they are counted, by reason. The first 50 ms of a \
     sample are sent and accounted for, and their latencies left out.",
];

/// Runs it all. Unaccounted frames are in the result and not an error here.
///
/// # Errors
/// [`Error`]; nothing is left behind.
pub fn run(options: &Options, progress: &Progress) -> Result<Run> {
    let contenders = options.contenders.len();
    let conditions = options.profiles.len() * options.sizes.len() * options.waits.len();
    // Every contender at each load, and the timer, after the searches.
    let steps = conditions * ((contenders * LOADS.len() + 1) * options.rounds + contenders);
    let mut countdown = progress.countdown(steps);
    stage::run(BENCH, options, &NOTES, compare, |stage| {
        let mut series = Vec::new();
        for &size in &options.sizes {
            series.extend(run_size(stage, size, progress, &mut countdown)?);
        }
        Ok(series)
    })
}

/// All ways to wait take turns.
fn run_size(
    stage: &Stage<'_>,
    size: FrameSize,
    progress: &Progress,
    countdown: &mut Countdown<'_>,
) -> Result<Vec<Series>> {
    let options = stage.options;
    let mut series = Vec::new();
    let mut contenders: Vec<Box<dyn Contender + '_>> = Vec::new();
    for &wait in &options.waits {
        let mut first = None;
        for &kind in &options.contenders {
            let named = |load: &str| {
                let load = Some(load);
                stage.series(BENCH, stage.name(kind), (size, wait, load))
            };
            let rate = match why_not(size, kind) {
                Some(reason) => Err(reason),
                None => {
                    interrupt::check()?;
                    let name = stage.name(kind);
                    countdown.step(format!("no-drop rate of {name}, size {size}, wait {wait}"));
                    let (rate, found) = no_drop_rate(stage, kind, size, wait)?;
                    progress.say(format!("{}: {rate} frames a second", found.title()));
                    series.push(found);
                    if rate == 0 {
                        Err("no rate without loss was found".into())
                    } else {
                        Ok(rate)
                    }
                }
            };
            for share in LOADS {
                let empty = named(&format!("{share} %"));
                match &rate {
                    Err(reason) => series.push(empty.skipped(reason.clone())),
                    Ok(rate) => contenders.push(Box::new(Paced {
                        device: stage.device(kind, size),
                        series: empty,
                        load: rate * share / 100,
                        wait,
                    })),
                }
            }
            first = first.or(rate.ok());
        }
        if let Some(rate) = first {
            let load = format!("{TIMER_LOAD} %");
            contenders.push(Box::new(Paced {
                device: Box::new(Timer {
                    core: stage.plan.receive_core,
                }),
                series: stage.series(BENCH, TIMER, (size, wait, Some(&load))),
                load: rate * TIMER_LOAD / 100,
                wait,
            }));
        }
    }
    let (rounds, sample) = (options.rounds, options.sample);
    series.extend(rounds::run(&mut contenders, rounds, sample, countdown)?);
    Ok(series)
}

/// A quick search, in frames a second, 0 if there is none; and its series.
fn no_drop_rate(
    stage: &Stage<'_>,
    kind: Kind,
    size: FrameSize,
    wait: Wait,
) -> Result<(u64, Series)> {
    let trial = stage.options.sample.min(TRIAL_MAX);
    let goal = rate::quick(rate::no_drop(trial, WIDTH));
    let limits = Limits {
        trials_max: TRIALS_MAX,
        ..rate::LIMITS
    };
    let mut device = stage.device(kind, size);
    let searched = rate::search(device.as_mut(), &[goal], limits, wait)?;
    let rate = searched.outcome.found.first().and_then(|found| found.lower);
    let rate = rate.unwrap_or(0);
    let mut series = stage.series(ndr::BENCH, stage.name(kind), (size, wait, None));
    series.add(Sample {
        metrics: vec![(ndr::NDR, "Mpps", rate as f64 / 1e6)],
        drops: searched.drops,
        unaccounted: searched.unaccounted,
    });
    Ok((rate, series))
}

/// A contender at one load.
struct Paced<'a> {
    device: Box<dyn Device + 'a>,
    series: Series,
    /// Frames a second.
    load: u64,
    wait: Wait,
}

impl Paced<'_> {
    /// A trial in which something arrived, with the books of those in which
    /// nothing did: on a machine that others use, too, a core may be away for
    /// longer than a trial takes.
    fn trial(&mut self, duration: Duration) -> Result<Trial> {
        let order = Order {
            load: self.load,
            warm_up: WARM_UP,
            duration,
            wait: self.wait,
        };
        let mut before = Book::default();
        for _ in 0..ATTEMPTS {
            let mut trial = self.device.trial(&order)?;
            trial.book.add(before);
            if !trial.latency.is_empty() {
                return Ok(trial);
            }
            before = trial.book;
        }
        // Ends this series alone.
        Err(Error::Peer {
            name: self.series.contender.clone(),
            source: Box::new(Error::Failed {
                what: format!("measure a latency: no frame arrived in {ATTEMPTS} trials"),
                detail: format!("{before:?}"),
            }),
        })
    }
}

impl Contender for Paced<'_> {
    fn series(&self) -> Series {
        self.series.clone()
    }

    fn sample(&mut self, duration: Duration) -> Result<Sample> {
        let trial = self.trial(duration)?;
        let book = trial.book;
        let offered = self.load as f64 / 1e6;
        let arrived = book.delivered as f64 / book.submitted.max(1) as f64;
        let mut metrics = vec![
            (MPPS, "Mpps", offered * arrived),
            ("offered", "Mpps", offered),
        ];
        metrics.extend(percentiles(&trial.latency));
        // The timer has no sender.
        if !trial.lateness.is_empty() {
            let late = |quantile| trial.lateness.value_at_quantile(quantile) as f64 / 1e3;
            metrics.push(("sender late p50", "µs", late(0.5)));
            metrics.push(("sender late p99.9", "µs", late(0.999)));
        }
        Ok(Sample {
            metrics,
            unaccounted: book.unaccounted(),
            drops: book.losses,
        })
    }
}

/// The places of a distribution that are told, in µs.
fn percentiles(
    latency: &Histogram<u64>,
) -> impl Iterator<Item = (&'static str, &'static str, f64)> + '_ {
    PERCENTILES
        .into_iter()
        .map(|(name, quantile)| (name, "µs", latency.value_at_quantile(quantile) as f64 / 1e3))
}

/// What sealing adds to the bare forwarder's latency, and how it stands to the
/// kernel's UDP.
fn compare(series: &[Series]) -> Vec<Comparison> {
    let sealed = series
        .iter()
        .filter(|one| one.bench == BENCH && one.contender.starts_with(TIPSEC));
    let mut found = Vec::new();
    for one in sealed {
        for who in [BARE, UDP] {
            let Some(other) = stage::beside(one, who, series) else {
                continue;
            };
            for metric in COMPARED {
                let place = stage::place(one);
                let what = format!("{place}: {metric} of {} beyond {who}", one.contender);
                found.extend(Comparison::difference(what, one, other, metric, None));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire_bench::paced::trial::histogram;

    #[test]
    fn percentiles_are_those_of_the_distribution_in_microseconds() {
        let mut latency = histogram().unwrap();
        // 1 to 100,000 µs, one each.
        for us in 1..=100_000u64 {
            latency.saturating_record(us * 1000);
        }
        let wanted = [50_000.0, 90_000.0, 99_000.0, 99_900.0, 99_990.0, 100_000.0];
        for ((name, unit, value), wanted) in percentiles(&latency).zip(wanted) {
            assert_eq!(unit, "µs");
            assert!((value / wanted - 1.0).abs() < 0.002, "{name}: {value}");
        }
    }

    #[test]
    fn like_is_compared_with_like() {
        let series = |who: &str, load: &str, p50| {
            let labels = [("load", load), ("profile", "inline")];
            let mut series = Series::new(BENCH, who, &labels);
            series.add(Sample {
                metrics: vec![("p50", "µs", p50), ("p99", "µs", 2.0 * p50)],
                ..Sample::default()
            });
            series
        };
        let all = [
            series("tipsec x", "10 %", 5.0),
            series("tipsec x", "50 %", 7.0),
            series(BARE, "50 %", 4.0),
            series(UDP, "90 %", 1.0),
        ];
        let found = compare(&all);
        let outcomes: Vec<f64> = found.iter().map(|c| c.samples[0]).collect();
        assert_eq!(outcomes, [3.0, 6.0], "{found:?}");
        assert!(
            found[0].what.contains("inline, 50 %: p50"),
            "{}",
            found[0].what
        );
    }
}
