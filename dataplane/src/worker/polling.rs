//! Whether a worker with nothing to do looks again or sleeps.
//!
//! ```text
//!          frames moved                 nothing to do
//!   ┌──► busy ◄───────────────┐   ┌──────────────────────┐
//!   │     │ nothing to do     │   ▼                      │
//!   │     └─────────────► looking again ── bound over ─► sleeping
//!   │                                                    │
//!   └──────────────────── frames moved ──────────────────┘
//! ```
//!
//! `Sleep` is a bound of nothing and `Spin` one without end. Time is an
//! argument. Imports nothing from this crate.

use std::time::{Duration, Instant};

/// Idle passes of a worker that spins without end between two looks at the
/// device, which makes no sound when it is deleted.
const SPINS_A_LOOK: u32 = 1 << 18;

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Polling {
    /// Sleeps until something arrives.
    #[default]
    Sleep,
    /// Looks again at once: lowest latency, a whole core.
    Spin,
    /// Looks again for this long after the last frame, then sleeps: the
    /// latency of spinning within a burst of traffic, and a core that rests
    /// between them.
    Adaptive {
        /// Measured by the clock; [`Polling::ADAPTIVE_SPIN`] unless there is
        /// reason for another.
        spin: Duration,
    },
}

impl Polling {
    /// Long enough to hear an answer from the same rack before sleeping.
    pub const ADAPTIVE_SPIN: Duration = Duration::from_micros(100);
}

/// What to do now that a pass found nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// Look again at once.
    Spin,
    /// The same, and see whether the device is still there.
    SpinAndLook,
    /// Sleep until something happens.
    Sleep,
}

/// How long a worker has had nothing to do.
#[derive(Default)]
pub(super) struct Idle {
    /// Of the first idle pass since a frame moved.
    since: Option<Instant>,
    spins: u32,
}

impl Idle {
    /// Frames moved.
    pub(super) fn on_frames(&mut self) {
        self.since = None;
    }

    /// A pass found nothing to do. The clock is read only if the time matters.
    pub(super) fn on_nothing(&mut self, polling: Polling, now: impl FnOnce() -> Instant) -> Rest {
        match polling {
            Polling::Sleep => Rest::Sleep,
            Polling::Spin => {
                self.spins = self.spins.wrapping_add(1);
                match self.spins.is_multiple_of(SPINS_A_LOOK) {
                    true => Rest::SpinAndLook,
                    false => Rest::Spin,
                }
            }
            Polling::Adaptive { spin } => {
                let now = now();
                let since = *self.since.get_or_insert(now);
                match now.saturating_duration_since(since) < spin {
                    true => Rest::Spin,
                    // Until frames move, since `since` stays: a command or a
                    // look at the device is no reason to spin.
                    false => Rest::Sleep,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adaptive_spins_for_its_bound_after_the_last_frame() {
        let start = Instant::now();
        let at = |us| move || start + Duration::from_micros(us);
        let polling = Polling::Adaptive {
            spin: Duration::from_micros(50),
        };
        let mut idle = Idle::default();
        for us in [0, 1, 49] {
            assert_eq!(idle.on_nothing(polling, at(us)), Rest::Spin, "{us}");
        }
        assert_eq!(idle.on_nothing(polling, at(50)), Rest::Sleep);
        // Woken for something else than frames.
        assert_eq!(idle.on_nothing(polling, at(60)), Rest::Sleep);
        idle.on_frames();
        assert_eq!(idle.on_nothing(polling, at(1000)), Rest::Spin);
        assert_eq!(idle.on_nothing(polling, at(1049)), Rest::Spin);
        assert_eq!(idle.on_nothing(polling, at(1050)), Rest::Sleep);
    }

    #[test]
    fn adaptive_counts_from_the_last_frame_and_not_from_the_first() {
        let start = Instant::now();
        let polling = Polling::Adaptive {
            spin: Duration::from_micros(50),
        };
        let mut idle = Idle::default();
        for us in (0..1000).step_by(40) {
            idle.on_frames();
            for us in [us, us + 39] {
                let now = || start + Duration::from_micros(us);
                assert_eq!(idle.on_nothing(polling, now), Rest::Spin, "{us}");
            }
        }
    }

    #[test]
    fn sleeper_never_spins_and_spinner_never_sleeps() {
        let clock = || -> Instant { unreachable!("no need of the clock") };
        let mut idle = Idle::default();
        assert_eq!(idle.on_nothing(Polling::Sleep, clock), Rest::Sleep);
        let mut looks = 0;
        for _ in 0..3 * SPINS_A_LOOK {
            match idle.on_nothing(Polling::Spin, clock) {
                Rest::Spin => {}
                Rest::SpinAndLook => looks += 1,
                Rest::Sleep => panic!("slept"),
            }
        }
        assert_eq!(looks, 3);
    }

    #[test]
    fn bound_of_nothing_is_sleep() {
        let polling = Polling::Adaptive {
            spin: Duration::ZERO,
        };
        let rest = Idle::default().on_nothing(polling, Instant::now);
        assert_eq!(rest, Rest::Sleep);
    }
}
