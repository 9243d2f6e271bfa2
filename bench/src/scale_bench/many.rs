//! Many SAs in the pipelines, without NIC and kernel: each frame of a burst is
//! of an SA drawn at random. Imports `burst_times`, `seed`, `rounds`.
//!
//! * this file: what takes turns, and the names of SAs; `frames`: the memory of
//!   a burst; `receiving`, `sending`: one direction each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tipsec_dataplane::burst::BURST;
use tipsec_dataplane::ids::{NodeId, PeerIndex, Spi};
use tipsec_dataplane::secret::LaneSecret;

use super::SUITE;
use crate::burst_times::BurstTimes;
use crate::error::{Error, Result};
use crate::results::{Sample, Series};
use crate::rounds::Contender;
use crate::seed::Random;
use crate::{interrupt, machine};

mod frames;
mod receiving;
mod sending;

use frames::{BurstMemory, OVERHEAD};
pub(super) use receiving::Receiving;
pub(super) use sending::Sending;

/// Peers that their index tells apart.
pub(super) const PEERS_MAX: u32 = 1 << u16::BITS;
/// Bursts between two looks at the clock and the interrupt flag.
const A_LOOK: usize = 16;

fn failed(what: &str, detail: impl Into<String>) -> Error {
    Error::Failed {
        what: what.into(),
        detail: detail.into(),
    }
}

/// Every lane's: it protects nothing.
fn secret() -> LaneSecret {
    LaneSecret::new(SUITE, [0x5a; 32], [0xa5; 12])
}

/// SPI and peer of the SA with this number. A peer has one SA as long as there
/// are enough peers.
fn names(sa: u32) -> Result<(Spi, PeerIndex, NodeId)> {
    let peer = u16::try_from(sa % PEERS_MAX).unwrap_or(0);
    match (Spi::from_parts(sa, 1), NodeId::new(sa + 1)) {
        (Some(spi), Some(node)) => Ok((spi, PeerIndex(peer), node)),
        _ => Err(failed("number an SA", format!("{sa} is beyond an SPI"))),
    }
}

/// One burst at a time in one direction, each frame of another SA.
pub(super) trait Direction: Send {
    /// Has a burst of these SAs ready, then passes it through the pipeline: how
    /// long that took.
    ///
    /// # Errors
    /// [`Error::Failed`] if a frame is lost.
    fn burst(&mut self, sas: &[u32; BURST], memory: &mut BurstMemory) -> Result<Duration>;
}

/// A direction with its SAs, for several contenders.
pub(super) struct Lanes<D> {
    direction: Arc<Mutex<D>>,
    sas: u32,
}

impl<D> Clone for Lanes<D> {
    fn clone(&self) -> Self {
        Self {
            direction: Arc::clone(&self.direction),
            sas: self.sas,
        }
    }
}

impl<D: Direction> Lanes<D> {
    /// Uses each SA once, so that whatever happens on first use is over.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Interrupted`].
    pub(super) fn new(mut direction: D, sas: u32) -> Result<Self> {
        let mut memory = BurstMemory::new(OVERHEAD + 1);
        for first in (0..sas).step_by(BURST) {
            interrupt::check()?;
            let mut numbers = (first..).map(|number| number % sas);
            let numbers = std::array::from_fn(|_| numbers.next().unwrap_or(0));
            direction.burst(&numbers, &mut memory)?;
        }
        Ok(Self {
            direction: Arc::new(Mutex::new(direction)),
            sas,
        })
    }

    fn lock(&self) -> MutexGuard<'_, D> {
        // A panic of the holder is on its way to the user already.
        self.direction
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One direction at one number of SAs and one frame size.
pub(super) struct Many<D> {
    series: Series,
    metric: &'static str,
    lanes: Lanes<D>,
    length: usize,
    random: Random,
    core: usize,
}

impl<D: Direction> Many<D> {
    /// Takes part under the name and labels of `series`, with frames of
    /// `length` bytes on the wire, on `core`.
    pub(super) fn new(
        series: Series,
        metric: &'static str,
        lanes: Lanes<D>,
        length: usize,
        seed: u64,
        core: usize,
    ) -> Self {
        Self {
            series,
            metric,
            lanes,
            length,
            random: Random::new(seed),
            core,
        }
    }

    fn run(&mut self, duration: Duration) -> Result<f64> {
        let mut direction = self.lanes.lock();
        let mut memory = BurstMemory::new(self.length);
        let mut times = BurstTimes::new();
        // Each SA once more, in the random order: the caches hold what they
        // can hold of these and of nothing else.
        let warm_up = (self.lanes.sas as usize).div_ceil(BURST).max(A_LOOK);
        let mut turn = |times: Option<&mut BurstTimes>| -> Result<()> {
            let sas = self.lanes.sas as usize;
            #[allow(clippy::cast_possible_truncation)] // below a u32
            let numbers = std::array::from_fn(|_| self.random.below(sas) as u32);
            let time = direction.burst(&numbers, &mut memory)?;
            if let Some(times) = times {
                times.add(time);
            }
            Ok(())
        };
        for _ in 0..warm_up {
            turn(None)?;
        }
        let start = Instant::now();
        while start.elapsed() < duration {
            interrupt::check()?;
            for _ in 0..A_LOOK {
                turn(Some(&mut times))?;
            }
        }
        times
            .per_frame(BURST)
            .ok_or_else(|| failed("measure", "not one burst in the time of a sample"))
    }
}

impl<D: Direction> Contender for Many<D> {
    fn series(&self) -> Series {
        self.series.clone()
    }

    fn sample(&mut self, duration: Duration) -> Result<Sample> {
        let ns = machine::on_core(self.core, || self.run(duration))?;
        Ok(Sample {
            metrics: vec![(self.metric, "ns/frame", ns)],
            ..Sample::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire_bench::NullCipher;

    #[test]
    fn both_directions_are_measured_with_any_number_of_sas() {
        let core = machine::cores().unwrap()[0];
        let short = Duration::from_millis(2);
        for sas in [1, 100] {
            let lanes = Lanes::new(Receiving::<NullCipher>::new(sas).unwrap(), sas).unwrap();
            let mut open = Many::new(Series::default(), "open", lanes, 64, 1, core);
            assert!(open.sample(short).unwrap().metrics[0].2 > 0.0);
            let lanes = Lanes::new(Sending::<NullCipher>::new(sas).unwrap(), sas).unwrap();
            let mut seal = Many::new(Series::default(), "seal", lanes, 1400, 1, core);
            assert!(seal.sample(short).unwrap().metrics[0].2 > 0.0);
        }
    }
}
