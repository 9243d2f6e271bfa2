//! `tipsec-bench sim`: many histories of the simulator, on every core; and what
//! a rekey of many nodes costs.

use std::io::{self, Write};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tipsec_control::sim::kills::{self, Kills};
use tipsec_control::sim::mutants::{CATALOGUE, Mutant};
use tipsec_control::sim::scale::{self, Row};
use tipsec_control::sim::scenario::{self, Mode, Plan};

use crate::error::Result;
use crate::interrupt;

/// Broken histories after which the rest is not worth waiting for.
const BROKEN_MAX: usize = 10;
/// Distance of lines about progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The first history.
    pub plan: Plan,
    /// How many: the plan's seed and those that follow it.
    pub seeds: u64,
}

/// A history in which an invariant broke.
#[derive(Clone, Debug, Serialize)]
pub struct Broken {
    /// Its seed.
    pub seed: u64,
    /// The invariant's name.
    pub invariant: &'static str,
    /// When, where and how.
    pub text: String,
}

/// What came of all histories.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Histories run.
    pub seeds: u64,
    /// The first seed.
    pub first_seed: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Virtual time of all of them together, in seconds.
    pub simulated_s: f64,
    /// Payloads sealed.
    pub sealed: u64,
    /// Payloads delivered.
    pub delivered: u64,
    /// Payloads of which the simulated network lost every copy.
    pub lost_by_network: u64,
    /// The longest time from the calm until every pair was up, in ms.
    pub longest_up_ms: u128,
    /// Broken ones, at most some.
    pub broken: Vec<Broken>,
}

/// Runs histories until all are through, or enough of them are broken.
///
/// # Errors
/// [`crate::Error::Interrupted`].
pub fn run(options: &Options) -> Result<Outcome> {
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Outcome {
        first_seed: options.plan.seed,
        ..Outcome::default()
    });
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(options, &next, &sum));
        }
        scope.spawn(|| tell_progress(options, start, &next, &sum));
    });
    interrupt::check()?;
    let mut outcome = sum
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    outcome.seconds = start.elapsed().as_secs_f64();
    outcome.broken.sort_by_key(|broken| broken.seed);
    Ok(outcome)
}

/// One thread's share: whichever histories nobody has taken yet.
fn work(options: &Options, next: &AtomicU64, sum: &Mutex<Outcome>) {
    while !interrupt::requested() {
        let position = next.fetch_add(1, Ordering::Relaxed);
        if position >= options.seeds {
            return;
        }
        let plan = Plan {
            seed: options.plan.seed.wrapping_add(position),
            ..options.plan
        };
        let one = scenario::run(&plan);
        let Ok(mut sum) = sum.lock() else { return };
        sum.seeds += 1;
        sum.simulated_s += one.simulated.as_secs_f64();
        sum.sealed += one.payloads.0;
        sum.delivered += one.payloads.1;
        sum.lost_by_network += one.payloads.2;
        let up_ms = one.up_after.unwrap_or_default().as_millis();
        sum.longest_up_ms = sum.longest_up_ms.max(up_ms);
        if let Some(violation) = one.violation {
            sum.broken.push(Broken {
                seed: plan.seed,
                invariant: violation.invariant.name(),
                text: violation.to_string(),
            });
            if sum.broken.len() >= BROKEN_MAX {
                next.store(options.seeds, Ordering::Relaxed);
            }
        }
    }
}

/// Says how far it is until all histories are taken.
#[allow(clippy::cast_precision_loss)]
fn tell_progress(options: &Options, start: Instant, next: &AtomicU64, sum: &Mutex<Outcome>) {
    let mut told = Instant::now();
    while next.load(Ordering::Relaxed) < options.seeds && !interrupt::requested() {
        std::thread::sleep(Duration::from_millis(100));
        if told.elapsed() < PROGRESS_EVERY {
            continue;
        }
        told = Instant::now();
        let Ok(sum) = sum.lock() else { return };
        let rate = sum.seeds as f64 / start.elapsed().as_secs_f64();
        let left = options.seeds.saturating_sub(sum.seeds) as f64 / rate.max(f64::MIN_POSITIVE);
        eprintln!(
            "{} of {} seeds, {rate:.0} a second, {left:.0} s left; broken: {}",
            sum.seeds,
            options.seeds,
            sum.broken.len()
        );
    }
}

impl Outcome {
    /// For people.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, options: &Options, out: &mut dyn Write) -> io::Result<()> {
        let last = self.first_seed.wrapping_add(options.seeds - 1);
        writeln!(
            out,
            "{} histories (seeds {} to {last}) in {:.0} s, {:.0} s of virtual time",
            self.seeds, self.first_seed, self.seconds, self.simulated_s
        )?;
        writeln!(
            out,
            "payloads: {} sealed, {} delivered, {} lost by the network",
            self.sealed, self.delivered, self.lost_by_network
        )?;
        if options.plan.mode == Mode::Liveness {
            writeln!(
                out,
                "all pairs were up {} ms after the faults, or sooner",
                self.longest_up_ms
            )?;
        }
        for broken in &self.broken {
            writeln!(out, "seed {}: {}", broken.seed, broken.text)?;
            writeln!(out, "  to see it: {}", command(&options.plan, broken.seed))?;
        }
        if self.broken.is_empty() {
            writeln!(out, "no invariant broke")?;
        }
        Ok(())
    }
}

/// The command that runs one history again, and prints it.
fn command(plan: &Plan, seed: u64) -> String {
    let mode = match plan.mode {
        Mode::Safety => "safety",
        Mode::Liveness => "liveness",
    };
    let nodes = plan.nodes.map(|nodes| format!(" --nodes {nodes}"));
    let mutant = plan
        .mutant
        .map(|mutant| format!(" --mutant {}", name(mutant)));
    format!(
        "tipsec-bench sim --seed {seed} --mode {mode}{}{} --trace",
        nodes.unwrap_or_default(),
        mutant.unwrap_or_default()
    )
}

fn name(mutant: Mutant) -> &'static str {
    let found = CATALOGUE.iter().find(|entry| entry.mutant == mutant);
    found.map_or("", |entry| entry.name)
}

/// Kills a node of one cluster so many times.
pub fn kills(nodes: usize, kills: u32, seed: u64) -> Kills {
    kills::run(nodes, kills, seed)
}

/// For people.
///
/// # Errors
/// Those of `out`.
pub fn print_kills(outcome: &Kills, seed: u64, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{} kills of one of {} nodes under load (seed {seed}), {:.0} s of virtual time",
        outcome.kills, outcome.nodes, outcome.simulated_s
    )?;
    writeln!(
        out,
        "all links up {} ms after the start of the process, median {} ms",
        outcome.longest_ms, outcome.median_ms
    )?;
    writeln!(
        out,
        "payloads: {} sealed, {} delivered",
        outcome.sealed, outcome.delivered
    )?;
    match &outcome.broken {
        Some(broken) => writeln!(out, "{broken}"),
        None => writeln!(out, "no invariant broke"),
    }
}

/// What a rekey of every pair costs, for each number of nodes.
///
/// # Errors
/// [`crate::Error::Interrupted`].
pub fn scale(nodes: &[u16], seed: u64) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &nodes in nodes {
        interrupt::check()?;
        rows.push(scale::measure(usize::from(nodes), seed));
    }
    Ok(rows)
}

/// For people, and for docs/simulator.md.
///
/// # Errors
/// Those of `out`.
pub fn print_rows(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "| nodes | measured at | exchanges | frames sent | bytes sent | CPU ms | CPU µs a peer | most exchanges begun in 100 ms, mean |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for row in rows {
        let at = if row.mesh { "every node" } else { "one node" };
        writeln!(
            out,
            "| {} | {at} | {:.1} | {:.0} | {:.0} | {:.1} | {:.0} | {}, {:.1} |",
            row.nodes,
            row.exchanges,
            row.frames,
            row.bytes,
            row.cpu_ms,
            row.cpu_us_per_peer(),
            row.peak_starts,
            row.mean_starts
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mutant: Option<Mutant>, seed: u64) -> Options {
        Options {
            plan: Plan {
                seed,
                nodes: None,
                mode: Mode::Liveness,
                mutant,
                trace: false,
            },
            seeds: 12,
        }
    }

    #[test]
    fn sound_histories_pass_and_all_are_run() {
        let outcome = run(&options(None, 500)).unwrap();
        assert_eq!(outcome.seeds, 12);
        assert!(outcome.broken.is_empty(), "{:?}", outcome.broken);
        assert!(outcome.delivered > 0 && outcome.delivered <= outcome.sealed);
    }

    #[test]
    fn a_mutant_is_named_with_the_command_that_shows_it() {
        let options = options(Some(Mutant::CounterReset), 0);
        let outcome = run(&options).unwrap();
        assert!(!outcome.broken.is_empty());
        let mut text = Vec::new();
        outcome.print(&options, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let seed = outcome.broken[0].seed;
        let command = format!(
            "tipsec-bench sim --seed {seed} --mode liveness --mutant counter-reset --trace"
        );
        assert!(text.contains(&command), "{text}");
    }
}
