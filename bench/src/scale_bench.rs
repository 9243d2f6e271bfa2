//! `tipsec-bench scale`: many SAs, many queues, and a rekey of many peers
//! while traffic flows. Imports `results`, `rounds`, `wire_bench`.
//!
//! * this file: the parts, one after another; `options`: what can be asked;
//! * `many`: many SAs in the pipelines, without NIC; end to end they and the
//!   queues are measured by `wire_bench`;
//! * `rekey`: two workers and a control thread; `targets`: what is compared.

use tipsec_dataplane::aead::aws_lc::AwsLc;
use tipsec_dataplane::aead::ring::Ring;
use tipsec_dataplane::aead::{Aead, Provider};
use tipsec_dataplane::secret::Suite;

use crate::error::{Error, Result};
use crate::machine;
use crate::report::Progress;
use crate::results::{Run, SCHEMA, Series, UNOPTIMISED};
use crate::rounds::{self, Contender};
use crate::wire_bench::options::FrameSize;
use crate::wire_bench::scale::{self as wire, Entry};

mod many;
mod options;
mod rekey;
mod targets;

use many::{Direction, Lanes, Many, PEERS_MAX, Receiving, Sending};
pub use options::{Options, Part, SIZES};

/// Names of this benchmark's parts, as series have them.
const SAS: &str = "scale: SAs in the pipelines";
const WIRE: &str = "scale: SAs end to end";
const QUEUES: &str = "scale: queues";
const REKEY: &str = "scale: rekey";
/// Contenders of the pipelines, followed by a cipher.
const OPENING: &str = "open_burst ";
const SENDING: &str = "seal_burst ";
/// Contender end to end, followed by a cipher.
const TIPSEC: &str = "tipsec ";
/// Metric of the pipelines.
const COST: &str = "cost";
/// Value of the label `cores` where no two threads share one.
const OWN_CORES: &str = "of their own";
/// The cipher of everything here: the default.
const SUITE: Suite = Suite::Aes256Gcm;

/// What has to be known to judge the figures.
const NOTES: [&str; 6] = [
    "SAs in the pipelines: ns a frame of the median burst, each of its 64 frames of an SA drawn at \
     random. A lane has a key schedule, a window and (up to 65,536 SAs) a peer's counters of its \
     own. Frame memory is 64 chunks, always the same.",
    "100,000 SAs are more than the 65,536 places that tipsecd gives its tables and maps; the table \
     itself takes any number up to 2^20, and is given as many as are asked for.",
    "SAs end to end and queues: a veth pair with inline NAPI, 64 frames in flight on each queue. \
     Each queue has a thread and a socket at each end; where cores are fewer than threads, threads \
     share them, and only frames per core-second compare.",
    "Rekey: two workers joined by memory, with commands and events through their queues; a control \
     thread installs receiving lanes for all peers, a peer's sending lane as soon as its receiving \
     lane is acknowledged, and removes the old receiving lanes when what was sealed on them has \
     arrived; 50 ms of rest; over again. All peers at once: tipsecd spreads them, unless it is told \
     to rekey now.",
    "Latency: 10,000 frames a second, each counted from the time it was meant to be sent until the \
     other worker hands it over; `rekey` counts only frames that were meant to be sent or arrived \
     while a rekey was under way.",
    "scheduler's floor: the same schedule, threads, cores and wake-ups without any work.",
];

/// Runs it all. Unaccounted frames are in the result and not an error here.
///
/// # Errors
/// [`Error`]; nothing is left behind.
pub fn run(options: &Options, progress: &Progress) -> Result<Run> {
    options.check()?;
    let started = machine::now();
    let machine = machine::look()?;
    let cores = machine::cores()?;
    let [first, second, ..] = cores[..] else {
        return Err(Error::Failed {
            what: "measure".into(),
            detail: "sender and receiver need a core each, and this process may use one".into(),
        });
    };
    progress.say(format!("seed {}", options.seed));
    let mut series = Vec::new();
    for part in &options.parts {
        series.extend(match part {
            Part::Sas => run_sas(options, second, progress)?,
            Part::Wire => run_wire(options, (first, second), progress)?,
            Part::Queues => run_queues(options, &cores, progress)?,
            Part::Rekey => run_rekey(options, (first, second), progress)?,
        });
    }
    let unoptimised = cfg!(debug_assertions).then_some(UNOPTIMISED);
    let notes = unoptimised.into_iter().chain(NOTES);
    let mut notes: Vec<String> = notes.map(str::to_owned).collect();
    notes.push(format!("Seed {}.", options.seed));
    Ok(Run {
        schema: SCHEMA,
        bench: "scale".into(),
        started,
        version: env!("CARGO_PKG_VERSION").into(),
        machine,
        rounds: options.rounds,
        pinning: format!(
            "pipelines on core {second}; senders on core {first}, receivers on core {second}; of \
             several queues, threads go over all cores in turn; the control thread is free"
        ),
        comparisons: targets::compare(&series),
        series,
        notes,
    })
}

/// Many SAs without NIC: per size and AEAD crate, all numbers take turns.
fn run_sas(options: &Options, core: usize, progress: &Progress) -> Result<Vec<Series>> {
    let mut series = Vec::new();
    let crates = options.providers.len();
    let steps = 2 * crates * options.sizes.len() * options.sas.len() * options.rounds;
    let mut countdown = progress.countdown(steps);
    for &provider in &options.providers {
        let mut line_ups = match provider {
            Provider::Ring => line_ups::<Ring>(options, provider, core, progress)?,
            Provider::AwsLc => line_ups::<AwsLc>(options, provider, core, progress)?,
        };
        for contenders in &mut line_ups.0 {
            let (rounds, sample) = (options.rounds, options.sample);
            series.extend(rounds::run(contenders, rounds, sample, &mut countdown)?);
        }
        series.append(&mut line_ups.1);
    }
    Ok(series)
}

/// Who takes turns, one list a direction and size, and those who could not.
type LineUps = (Vec<Vec<Box<dyn Contender>>>, Vec<Series>);

fn line_ups<A: Aead>(
    options: &Options,
    provider: Provider,
    core: usize,
    progress: &Progress,
) -> Result<LineUps> {
    let (mut receiving, mut sending, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    let series = |who: &str, sas: u32, size: &str| {
        let name = format!("{who}{} {}", SUITE.name(), provider.name());
        Series::new(SAS, name, &[("sas", &sas.to_string()), ("size", size)])
    };
    for &sas in &options.sas {
        progress.say(format!("{}: lanes of {sas} SAs", provider.name()));
        receiving.push((sas, Lanes::new(Receiving::<A>::new(sas)?, sas)?));
        if sas > PEERS_MAX {
            let reason = format!("there are at most {PEERS_MAX} peers to send to");
            let sizes = options.sizes.iter();
            skipped.extend(sizes.map(|size| series(SENDING, sas, size.name()).skipped(&*reason)));
        } else {
            sending.push((sas, Lanes::new(Sending::<A>::new(sas)?, sas)?));
        }
    }
    let mut line_ups = Vec::new();
    for &size in &options.sizes {
        let series = |who, sas| series(who, sas, size.name());
        let place = (size.longest(), options.seed, core);
        line_ups.push(contenders(&receiving, |sas| series(OPENING, sas), place));
        line_ups.push(contenders(&sending, |sas| series(SENDING, sas), place));
    }
    Ok((line_ups, skipped))
}

/// One direction at one size, with every number of SAs.
fn contenders<D: Direction + 'static>(
    lanes: &[(u32, Lanes<D>)],
    series: impl Fn(u32) -> Series,
    (length, seed, core): (usize, u64, usize),
) -> Vec<Box<dyn Contender>> {
    let mut list: Vec<Box<dyn Contender>> = Vec::new();
    for (sas, lanes) in lanes {
        let many = Many::new(series(*sas), COST, lanes.clone(), length, seed, core);
        list.push(Box::new(many));
    }
    list
}

/// Many SAs over a veth pair.
fn run_wire(options: &Options, cores: (usize, usize), progress: &Progress) -> Result<Vec<Series>> {
    let entries = |size: FrameSize| {
        let crates = options.providers.iter();
        crates.flat_map(move |&provider| {
            options.wire_sas.iter().map(move |&sas| Entry {
                series: Series::new(
                    WIRE,
                    format!("{TIPSEC}{} {}", SUITE.name(), provider.name()),
                    &[("sas", &sas.to_string()), ("size", size.name())],
                ),
                provider,
                size,
                // The options are checked against it.
                sas: u16::try_from(sas).unwrap_or(u16::MAX),
                cores: vec![cores],
            })
        })
    };
    over_wire(options, entries, progress)
}

/// Threads of a number of queues, sender and receiver of each in turn over all
/// cores.
fn spread(queues: u32, cores: &[usize]) -> Vec<(usize, usize)> {
    let mut next = cores.iter().copied().cycle();
    (0..queues)
        .filter_map(|_| Some((next.next()?, next.next()?)))
        .collect()
}

/// Whether each thread has a core, as a label.
fn occupied(queues: u32, cores: &[usize]) -> &'static str {
    if 2 * queues as usize <= cores.len() {
        OWN_CORES
    } else {
        "shared"
    }
}

/// One to many queues over a veth pair.
fn run_queues(options: &Options, cores: &[usize], progress: &Progress) -> Result<Vec<Series>> {
    let entries = |size: FrameSize| {
        let crates = options.providers.iter();
        crates.flat_map(move |&provider| {
            options.queues.iter().map(move |&queues| Entry {
                series: Series::new(
                    QUEUES,
                    format!("{TIPSEC}{} {}", SUITE.name(), provider.name()),
                    &[
                        ("queues", &queues.to_string()),
                        ("cores", occupied(queues, cores)),
                        ("size", size.name()),
                    ],
                ),
                provider,
                size,
                sas: 1,
                cores: spread(queues, cores),
            })
        })
    };
    over_wire(options, entries, progress)
}

fn over_wire<I: Iterator<Item = Entry>>(
    options: &Options,
    entries: impl Fn(FrameSize) -> I,
    progress: &Progress,
) -> Result<Vec<Series>> {
    let line_ups: Vec<Vec<Entry>> = options
        .sizes
        .iter()
        .map(|&s| entries(s).collect())
        .collect();
    let contenders: usize = line_ups.iter().map(Vec::len).sum();
    let mut countdown = progress.countdown(contenders * options.rounds);
    let mut series = Vec::new();
    for line_up in line_ups {
        let time = (options.rounds, options.sample);
        series.extend(wire::run(line_up, options.seed, time, &mut countdown)?);
    }
    Ok(series)
}

/// A rekey of many peers while traffic flows.
fn run_rekey(options: &Options, cores: (usize, usize), progress: &Progress) -> Result<Vec<Series>> {
    let mut contenders = rekey::contenders(options.peers, options.providers.first(), cores);
    let mut countdown = progress.countdown(contenders.len() * options.rounds);
    rounds::run(
        &mut contenders,
        options.rounds,
        options.sample,
        &mut countdown,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_go_over_all_cores() {
        assert_eq!(spread(1, &[0, 1]), [(0, 1)]);
        assert_eq!(spread(2, &[0, 1]), [(0, 1), (0, 1)]);
        assert_eq!(spread(2, &[4, 5, 6, 7]), [(4, 5), (6, 7)]);
        assert_eq!(spread(2, &[1, 2, 3]), [(1, 2), (3, 1)]);
    }
}
