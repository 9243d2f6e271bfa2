//! What all workers share of a receiving lane. Imports the window and `sync`.

use std::sync::Arc;

use crate::phase::Phase;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::window::Window;

/// Failed opens of one receiving SA: of all its lanes, at all workers. Written
/// on failure alone.
#[derive(Debug)]
pub struct FailedOpens {
    count: AtomicU64,
    limit: u64,
}

impl FailedOpens {
    /// None so far; at `limit` the SA opens nothing more (RFC 9001, 6.6).
    pub fn new(limit: u64) -> Self {
        Self {
            count: AtomicU64::new(0),
            limit,
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts one; whether the limit is reached now or was before.
    pub(super) fn add(&self) -> bool {
        // One word, and nothing else is published by it.
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        before.saturating_add(1) >= self.limit
    }
}

/// What all workers share of a receiving lane: whichever of them a frame
/// reaches, it opens once, and a probe gets the same answer.
pub struct RxShared {
    window: Window,
    reported_phase: AtomicU32,
    failed_opens: Arc<FailedOpens>,
}

impl RxShared {
    /// Of a lane in which nothing was seen.
    pub fn new(failed_opens: Arc<FailedOpens>) -> Self {
        Self {
            window: Window::new(),
            reported_phase: AtomicU32::new(Phase::FIRST.0),
            failed_opens,
        }
    }

    /// The same, of an SA of one lane.
    pub fn of_single_lane(failed_opens_limit: u64) -> Arc<Self> {
        Arc::new(Self::new(Arc::new(FailedOpens::new(failed_opens_limit))))
    }

    /// Which packet numbers have been seen.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The count of the lane's SA.
    pub fn failed_opens(&self) -> &FailedOpens {
        &self.failed_opens
    }

    /// The highest phase that was opened on the lane and whose successor every
    /// worker holds: what answers to probes say. A sender that believes it is
    /// never ahead of its receiver.
    pub fn reported_phase(&self) -> Phase {
        Phase(self.reported_phase.load(Ordering::Acquire))
    }

    /// Has answers say `phase` from now on, or more if they do already. For
    /// the control plane, once every worker has acknowledged its successor.
    pub fn report_phase(&self, phase: Phase) {
        self.reported_phase.fetch_max(phase.0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_only_grow() {
        let shared = RxShared::new(Arc::new(FailedOpens::new(1)));
        assert_eq!(shared.reported_phase(), Phase::FIRST);
        for (phase, reported) in [(2, 2), (1, 2), (3, 3)] {
            shared.report_phase(Phase(phase));
            assert_eq!(shared.reported_phase(), Phase(reported));
        }
    }

    #[test]
    fn lanes_of_an_sa_and_workers_count_together() {
        let all = Arc::new(FailedOpens::new(3));
        let lanes = [0, 1].map(|_| RxShared::new(Arc::clone(&all)));
        let reached = [0, 1, 0, 1].map(|lane: usize| lanes[lane].failed_opens().add());
        assert_eq!(reached, [false, false, true, true]);
        assert_eq!(all.count(), 4);
    }
}
