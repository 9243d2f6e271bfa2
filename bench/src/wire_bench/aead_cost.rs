//! The cipher alone: nanoseconds to seal and to open one frame's plaintext, in
//! this process, with no frame around it. Measured in the same rounds as the
//! pipelines, since what they may cost is set by it. Imports `options`.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use tipsec_dataplane::aead::{Aead, Nonce};
use tipsec_dataplane::secret::{LaneSecret, Suite};

use super::ends::OVERHEAD;
use super::measure::pin;
use super::options::FrameSize;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::results::{Sample, Series, Stats};
use crate::rounds::Contender;

/// Name of the metric: sealing.
pub(super) const SEAL: &str = "seal";
/// Name of the metric: opening.
pub(super) const OPEN: &str = "open";
/// Frames that are worked on in turn: a burst, a whole number of IMIX rows.
const FRAMES: usize = 60;
/// Longest sample: the figure is steady, and a cipher needs no wire.
const SAMPLE_MAX: Duration = Duration::from_millis(200);
/// Most bursts in a sample.
const BURSTS_MAX: usize = 100_000;
const TAG_LEN: usize = 16;

/// One cipher of one crate at one frame size.
pub(super) struct AeadCost<A> {
    series: Series,
    suite: Suite,
    size: FrameSize,
    core: usize,
    cipher: PhantomData<fn() -> A>,
}

impl<A: Aead> AeadCost<A> {
    /// Takes part under the name and labels of `series`, on `core`.
    pub(super) fn new(series: Series, suite: Suite, size: FrameSize, core: usize) -> Self {
        Self {
            series,
            suite,
            size,
            core,
            cipher: PhantomData,
        }
    }

    /// Runs for `duration` and gives back ns a frame: sealing, opening.
    fn run(&self, duration: Duration) -> Result<(f64, f64)> {
        pin(self.core)?;
        let secret = LaneSecret::new(self.suite, [0x5a; 32], [0xa5; 12]);
        let key = A::key(&secret);
        let pattern = self.size.pattern().iter().cycle().take(FRAMES);
        let mut frames: Vec<Vec<u8>> = pattern
            .map(|length| vec![0x5a; length - OVERHEAD + TAG_LEN])
            .collect();
        let mut bursts = Bursts::default();
        let mut number = 0u64;
        let end = Instant::now() + duration;
        loop {
            interrupt::check()?;
            let start = Instant::now();
            for (frame, n) in frames.iter_mut().zip(number..) {
                if let Some((payload, tag)) = frame.split_last_chunk_mut::<TAG_LEN>() {
                    *tag = A::seal(&key, Nonce::new(secret.iv(), n), &[0; 16], payload);
                }
            }
            let sealed = Instant::now();
            for (frame, n) in frames.iter_mut().zip(number..) {
                A::open(&key, Nonce::new(secret.iv(), n), &[0; 16], frame).map_err(|_| {
                    Error::Failed {
                        what: format!("open what {} has sealed", A::NAME),
                        detail: "its tag does not match".into(),
                    }
                })?;
            }
            let opened = Instant::now();
            bursts.add(sealed - start, opened - sealed);
            number += FRAMES as u64;
            if opened >= end || bursts.seal.len() == BURSTS_MAX {
                return Ok(bursts.per_frame());
            }
        }
    }
}

/// Times of single bursts, in ns. Their median leaves out those in which
/// something else had the core.
#[derive(Default)]
struct Bursts {
    seal: Vec<f64>,
    open: Vec<f64>,
}

impl Bursts {
    fn add(&mut self, seal: Duration, open: Duration) {
        self.seal.push(seal.as_nanos() as f64);
        self.open.push(open.as_nanos() as f64);
    }

    /// ns a frame: sealing, opening.
    fn per_frame(&self) -> (f64, f64) {
        let of = |times: &[f64]| Stats::of(times).map_or(0.0, |s| s.median / FRAMES as f64);
        (of(&self.seal), of(&self.open))
    }
}

impl<A: Aead> Contender for AeadCost<A> {
    fn series(&self) -> Series {
        self.series.clone()
    }

    fn sample(&mut self, duration: Duration) -> Result<Sample> {
        // On a thread of its own: pinning is for good.
        let (seal, open) = std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.run(duration.min(SAMPLE_MAX)));
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        Ok(Sample {
            metrics: vec![(SEAL, "ns/frame", seal), (OPEN, "ns/frame", open)],
            ..Sample::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_that_was_interrupted_does_not_count() {
        let mut bursts = Bursts::default();
        let ns = Duration::from_nanos;
        for seal in [6_000, 6_000, 6_000_000, 6_000, 6_060] {
            bursts.add(ns(seal), ns(2 * seal));
        }
        assert_eq!(bursts.per_frame(), (100.0, 200.0));
    }
}
