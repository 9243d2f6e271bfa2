//! Times of bursts of one kind within one sample. The figure of a sample is
//! the median burst: an interrupt, or whatever else the machine does, lengthens
//! a few bursts a lot and says nothing about the others. Pure; imports nothing.

use std::time::Duration;

/// Bursts that are kept; a longer sample keeps its first ones.
const KEPT: usize = 1 << 17;

/// See the module.
pub(crate) struct BurstTimes {
    /// Of each burst, in ns.
    times: Vec<u32>,
}

impl BurstTimes {
    /// None yet; takes all the memory that it will ever take.
    pub(crate) fn new() -> Self {
        Self {
            times: Vec::with_capacity(KEPT),
        }
    }

    /// Enters one burst.
    #[inline]
    pub(crate) fn add(&mut self, time: Duration) {
        if self.times.len() < KEPT {
            let ns = u32::try_from(time.as_nanos()).unwrap_or(u32::MAX);
            self.times.push(ns);
        }
    }

    /// ns for each of the `frames` of the median burst; `None` without bursts.
    pub(crate) fn per_frame(mut self, frames: usize) -> Option<f64> {
        let middle = self.times.len() / 2;
        if self.times.is_empty() {
            return None;
        }
        let (_, median, _) = self.times.select_nth_unstable(middle);
        Some(f64::from(*median) / frames as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_burst_moves_nothing() {
        let mut times = BurstTimes::new();
        for ns in [640, 1_000_000_000, 704, 576, 640] {
            times.add(Duration::from_nanos(ns));
        }
        assert_eq!(times.per_frame(64), Some(10.0));
        assert_eq!(BurstTimes::new().per_frame(64), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut times = BurstTimes::new();
        let capacity = times.times.capacity();
        for _ in 0..2 * KEPT {
            times.add(Duration::from_nanos(1));
        }
        assert_eq!(
            (times.times.len(), times.times.capacity()),
            (KEPT, capacity)
        );
    }
}
