//! A burst: up to [`BURST`] things that go through a pass together.
//!
//! Imports nothing from this crate.

use arrayvec::ArrayVec;

/// Most frames that a worker takes in one pass (docs/architecture.md).
pub const BURST: usize = 64;

/// Frames, or what became of them, in arrival order; lives on the worker's
/// stack or in its state and never allocates.
pub type Burst<T> = ArrayVec<T, BURST>;

/// Asks for keys a few frames ahead of the pass that needs them, so that they
/// come while other frames are sealed or opened. A burst's worth at once would
/// keep the processor waiting, which has some 16 requests under way at a time,
/// and they would push one another out of the first cache (docs/adr/0020).
pub(crate) struct Ahead<K> {
    /// Where frames of another key begin, and which.
    runs: Burst<(usize, K)>,
    /// The first of them that was not asked for.
    next: usize,
}

impl<K: Copy + PartialEq> Ahead<K> {
    /// In frames: one is too close where frames are short; more gain nothing.
    const DISTANCE: usize = 3;

    pub(crate) fn new() -> Self {
        Self {
            runs: Burst::new(),
            next: 0,
        }
    }

    /// Notes the key of frame `at`, in ascending order; false if its neighbour
    /// has the same: asking for what is there costs as much as needing it.
    #[inline(always)]
    pub(crate) fn note(&mut self, at: usize, key: K) -> bool {
        let differs = self.runs.last().is_none_or(|&(_, last)| last != key);
        if differs {
            self.runs.push((at, key));
        }
        differs
    }

    /// Calls `ask` with what frame `at` and the next few need, once each; to be
    /// called with ascending `at`.
    #[inline(always)]
    pub(crate) fn reach(&mut self, at: usize, mut ask: impl FnMut(K)) {
        while let Some(&(start, key)) = self.runs.get(self.next)
            && start <= at + Self::DISTANCE
        {
            self.next += 1;
            ask(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_asked_for_once_and_in_time() {
        let keys = [
            Some(1),
            Some(1),
            Some(2),
            None,
            Some(2),
            Some(3),
            None,
            Some(1),
        ];
        let mut ahead = Ahead::new();
        let mut fresh = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            if key.is_some_and(|key| ahead.note(at, key)) {
                fresh.push(at);
            }
        }
        assert_eq!(fresh, [0, 2, 5, 7]);
        let mut asked = Vec::new();
        for at in 0..keys.len() {
            ahead.reach(at, |key| asked.push((at, key)));
        }
        assert_eq!(asked, [(0, 1), (0, 2), (2, 3), (4, 1)]);
    }
}
