//! `tipsec-bench pipeline`: what the pipelines cost a frame without NIC and
//! kernel, beside the bare AEAD call.
//!
//! One burst of 64 frames goes round: sealed by `seal_burst`, opened by
//! `open_burst`, then sealed and opened by the cipher alone, and over again.
//! Both kinds of burst work on the same bytes of the same memory, which the
//! burst before has touched from end to end, so that only the pipeline
//! differs. Imports `chunks`, `burst_times`, `results`, `rounds`, `sys`.
//!
//! * this file: who takes part; `turn`: the burst that goes round; `targets`:
//!   what is compared.

use std::time::Duration;

use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::aead::aws_lc::AwsLc;
use tipsec_dataplane::aead::ring::Ring;
use tipsec_dataplane::secret::Suite;

use crate::error::{Error, Result};
use crate::report::Progress;
use crate::results::{Run, SCHEMA, Sample, Series, UNOPTIMISED};
use crate::wire_bench::NullCipher;
use crate::wire_bench::options::FrameSize;
use crate::{interrupt, machine, rounds, steal};

mod targets;
mod turn;

use turn::Turn;

/// Name of this benchmark.
const BENCH: &str = "pipeline";
/// Contenders' names, followed by a cipher.
const PIPELINE: &str = "pipeline ";
const AEAD: &str = "aead ";
/// The cipher that is none.
const NULL: &str = "null";
/// Names of metrics.
const SEAL: &str = "seal";
const OPEN: &str = "open";
const ALLOCATIONS: &str = "allocations";

const NOTES: [&str; 4] = [
    "ns a frame of the median burst of 64 frames; a pipeline's bursts and the bare cipher's take \
     turns within each sample, the same frames in the same memory.",
    "Memory: 64 chunks of 4,096 bytes, laid out as the AF_XDP bearer lays out its own, always the \
     same ones, as its free list hands them out: 64 x the frame's size is what the caches hold.",
    "seal: lookup, number, header, cipher, tag, path's header, counters, from a plaintext in its \
     place to a frame to send. open: headers, lookup, replay check, cipher, window, counters, from \
     a received frame to a plaintext. Neither contains receiving, sending or copying.",
    "The null cipher reads and writes one byte of each line of the payload.",
];

/// One run of `tipsec-bench pipeline`.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Frame sizes, each measured by itself.
    pub sizes: Vec<FrameSize>,
    /// Ciphers; the null cipher always takes part.
    pub suites: Vec<Suite>,
    /// AEAD crates.
    pub providers: Vec<Provider>,
    /// Rounds.
    pub rounds: usize,
    /// Length of one sample.
    pub sample: Duration,
}

/// Sizes that can be measured: of one length, and in one chunk.
pub const SIZES: [FrameSize; 5] = [
    FrameSize::B64,
    FrameSize::B256,
    FrameSize::B570,
    FrameSize::B1400,
    FrameSize::B3400,
];

/// A pipeline with its cipher, and the same cipher alone.
struct Pair<'a> {
    pipeline: Series,
    aead: Series,
    measure: Box<dyn FnMut(Duration) -> Result<Outcome> + Send + 'a>,
}

/// What one sample of a [`Pair`] found, in ns a frame: sealing, opening.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Outcome {
    pipeline: [f64; 2],
    aead: [f64; 2],
    /// Of the pipelines, a frame.
    allocations: f64,
}

impl Pair<'_> {
    fn add(&mut self, outcome: Outcome) {
        let sample = |[seal, open]: [f64; 2]| Sample {
            metrics: vec![(SEAL, "ns/frame", seal), (OPEN, "ns/frame", open)],
            ..Sample::default()
        };
        let mut pipeline = sample(outcome.pipeline);
        let allocations = (ALLOCATIONS, "per frame", outcome.allocations);
        pipeline.metrics.push(allocations);
        self.pipeline.add(pipeline);
        self.aead.add(sample(outcome.aead));
    }
}

/// Runs it all.
///
/// # Errors
/// [`Error`]: a size that cannot be measured, a pipeline that loses frames,
/// an interruption.
pub fn run(options: &Options, progress: &Progress) -> Result<Run> {
    if let Some(size) = options.sizes.iter().find(|size| !SIZES.contains(size)) {
        return Err(Error::Failed {
            what: format!("measure pipelines at {size}"),
            detail: format!("there are {}", SIZES.map(FrameSize::name).join(", ")),
        });
    }
    let started = machine::now();
    let cores = machine::cores()?;
    // Interrupts of a small machine go to its first core.
    let core = cores.last().copied().unwrap_or(0);
    let mut series = Vec::new();
    let ciphers = options.suites.len() * options.providers.len() + 1;
    let mut countdown = progress.countdown(options.sizes.len() * options.rounds * ciphers);
    for &size in &options.sizes {
        let mut pairs = line_up(options, size)?;
        for round in 0..options.rounds {
            for index in rounds::order(pairs.len(), round) {
                interrupt::check()?;
                let pair = &mut pairs[index];
                let title = pair.pipeline.title();
                countdown.step(format!(
                    "round {} of {}: {title}",
                    round + 1,
                    options.rounds
                ));
                let measure = &mut pair.measure;
                let mut retaken = 0;
                let outcome = steal::calm(
                    || machine::on_core(core, || measure(options.sample)),
                    |_| retaken += 1,
                )?;
                pair.pipeline.retaken += retaken;
                pair.add(outcome);
            }
        }
        series.extend(
            pairs
                .into_iter()
                .flat_map(|pair| [pair.pipeline, pair.aead]),
        );
    }
    Ok(Run {
        schema: SCHEMA,
        bench: BENCH.into(),
        started,
        version: env!("CARGO_PKG_VERSION").into(),
        machine: machine::look()?,
        rounds: options.rounds,
        pinning: format!("one thread on core {core}"),
        comparisons: targets::compare(&series),
        series,
        notes: cfg!(debug_assertions)
            .then_some(UNOPTIMISED)
            .into_iter()
            .chain(NOTES)
            .map(str::to_owned)
            .collect(),
    })
}

/// Every cipher at one size.
fn line_up(options: &Options, size: FrameSize) -> Result<Vec<Pair<'static>>> {
    let length = size.longest();
    let pair = |cipher: &str| {
        let series =
            |who: &str| Series::new(BENCH, format!("{who}{cipher}"), &[("size", size.name())]);
        (series(PIPELINE), series(AEAD))
    };
    let mut pairs = Vec::new();
    for &provider in &options.providers {
        for &suite in &options.suites {
            let (pipeline, aead) = pair(&format!("{} {}", suite.name(), provider.name()));
            let measure: Box<dyn FnMut(Duration) -> Result<Outcome> + Send> = match provider {
                Provider::Ring => {
                    let mut turn = Turn::<Ring>::new(suite, length)?;
                    Box::new(move |duration| turn.sample(duration))
                }
                Provider::AwsLc => {
                    let mut turn = Turn::<AwsLc>::new(suite, length)?;
                    Box::new(move |duration| turn.sample(duration))
                }
            };
            pairs.push(Pair {
                pipeline,
                aead,
                measure,
            });
        }
    }
    let (pipeline, aead) = pair(NULL);
    // It has no suite; any does.
    let mut turn = Turn::<NullCipher>::new(Suite::Aes256Gcm, length)?;
    pairs.push(Pair {
        pipeline,
        aead,
        measure: Box::new(move |duration| turn.sample(duration)),
    });
    Ok(pairs)
}
