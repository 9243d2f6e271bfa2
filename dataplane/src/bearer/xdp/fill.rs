//! How many chunks the kernel holds to receive into.
//!
//! The fill ring is first in, first out: a chunk comes round again after all
//! others that were lent. Few chunks stay in the cache of the core; many
//! outlast a worker that is late. So the level goes down slowly while the
//! kernel never comes near its end, and to its maximum at once when it does.
//! A worker that is not late but too slow gains nothing by a long queue, and
//! gets the lowest level (docs/adr, "Fill level"). Imports nothing from this
//! crate.

/// Chunks received between two looks at whether to go down: long enough to
/// have seen bursts, some 65 ms at a million frames a second.
const WINDOW: usize = 1 << 16;

/// The level, and what it is decided from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FillLevel {
    level: usize,
    min: usize,
    max: usize,
    /// Chunks that one pass takes.
    burst: usize,
    /// Received in this window.
    received: usize,
    /// Most chunks used between two refills in this window.
    peak: usize,
    /// Whether everything that had arrived was once taken in this window.
    drained: bool,
    /// A whole window was not: the queue is as long as it may get.
    overloaded: bool,
}

impl FillLevel {
    /// Starts at the maximum. A pass takes `burst` chunks.
    pub(super) fn new(min: usize, max: usize, burst: usize) -> Self {
        Self {
            level: max,
            min: min.min(max),
            max,
            burst,
            received: 0,
            peak: 0,
            drained: false,
            overloaded: false,
        }
    }

    /// Chunks that the kernel should hold.
    #[inline]
    pub(super) fn target(&self) -> usize {
        self.level
    }

    /// `received` chunks were taken from the RX ring; `used` are all that the
    /// kernel filled since it was last given any, those included.
    #[inline]
    pub(super) fn on_receive(&mut self, received: usize, used: usize) {
        if self.min == self.max {
            return;
        }
        if used <= self.burst {
            self.drained = true;
            self.overloaded = false;
        }
        self.peak = self.peak.max(used);
        if used * 2 > self.level && !self.overloaded {
            self.level = self.max;
        }
        self.received += received;
        if self.received >= WINDOW {
            self.end_window();
        }
    }

    fn end_window(&mut self) {
        if !self.drained {
            self.overloaded = true;
            self.level = self.min;
        } else if self.peak * 4 <= self.level {
            self.level = (self.level / 2).max(self.min);
        }
        (self.received, self.peak, self.drained) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(level: &mut FillLevel, count: usize, used: usize) {
        for _ in 0..count * WINDOW / 32 {
            level.on_receive(32, used.min(level.target()));
        }
    }

    #[test]
    fn goes_down_while_the_kernel_has_plenty() {
        let mut level = FillLevel::new(256, 3776, 64);
        assert_eq!(level.target(), 3776);
        windows(&mut level, 1, 40);
        assert_eq!(level.target(), 1888);
        windows(&mut level, 10, 40);
        assert_eq!(level.target(), 256);
    }

    #[test]
    fn stays_above_four_bursts_of_what_it_has_seen() {
        let mut level = FillLevel::new(256, 4096, 64);
        for _ in 0..20 {
            // Bursts of 200, and moments of rest.
            windows(&mut level, 1, 40);
            level.on_receive(64, 200);
        }
        windows(&mut level, 1, 40);
        assert!((512..=1024).contains(&level.target()), "{level:?}");
    }

    #[test]
    fn late_worker_gets_the_maximum_at_once() {
        let mut level = FillLevel::new(256, 4096, 64);
        windows(&mut level, 20, 40);
        assert_eq!(level.target(), 256);
        level.on_receive(64, 128);
        assert_eq!(level.target(), 256, "half is enough");
        level.on_receive(64, 129);
        assert_eq!(level.target(), 4096);
    }

    #[test]
    fn slow_worker_gets_the_minimum_until_it_has_caught_up() {
        let mut level = FillLevel::new(256, 4096, 64);
        // Always behind, whatever the level.
        windows(&mut level, 2, usize::MAX);
        assert_eq!(level.target(), 256);
        windows(&mut level, 20, usize::MAX);
        assert_eq!(level.target(), 256, "no use in going up again");
        level.on_receive(30, 30);
        level.on_receive(64, 200);
        assert_eq!(level.target(), 4096, "late once more");
    }

    #[test]
    fn level_of_equal_bounds_is_fixed() {
        let mut level = FillLevel::new(4096, 4096, 64);
        windows(&mut level, 3, 40);
        windows(&mut level, 3, usize::MAX);
        assert_eq!(level.target(), 4096);
    }
}
