//! Contenders of the wire on a schedule (open loop): the benchmarks
//! `tipsec-bench ndr` and `tipsec-bench latency`.
//!
//! A closed loop asks a slow device for less; an open loop does not. Frame `n`
//! is due `n` intervals after the start, whatever became of the frames before
//! it, and carries the time at which it was due. What was not sent soon after
//! the end of the schedule counts as lost, by that name.
//!
//! * this file: what a contender must do to be paced;
//! * `schedule`: when which frame is due; `clock`: the one clock;
//! * `trial`: one run at one rate; `timer`: the same loop without a network;
//! * `options`: what can be asked; `stage`: the contenders;
//! * `rate`: their no-drop and partial-drop rates; `ndr`, `latency`: the
//!   benchmarks.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::accounting::Book;
use super::measure::{Sink, Source};
use crate::error::Result;
use crate::mlr::Count;

mod clock;
pub mod latency;
pub mod ndr;
pub mod options;
mod rate;
mod schedule;
mod stage;
mod timer;
mod trial;

pub use options::{Options, Wait};
pub(super) use trial::trial;

/// What to do in a trial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    /// Frames a second that fall due.
    pub(super) load: u64,
    /// Frames fall due this long before latencies count; all else does.
    pub(super) warm_up: Duration,
    /// And this long after it.
    pub(super) duration: Duration,
    /// What the receiver does without frames.
    pub(super) wait: Wait,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Trial {
    /// Where the frames went; `submitted` are those that fell due.
    pub(super) book: Book,
    /// From the time when a frame was due to the time when the receiver had
    /// it, opened, in ns.
    pub(super) latency: Histogram<u64>,
    /// From the time when a frame was due to the time when its sender took it
    /// up, in ns: a part of the latency.
    pub(super) lateness: Histogram<u64>,
}

impl Trial {
    /// For the search of a rate.
    pub(super) fn count(&self) -> Count {
        Count {
            intended: self.book.submitted,
            lost: self.book.submitted.saturating_sub(self.book.delivered),
        }
    }
}

/// A contender that can be paced.
pub(super) trait Device {
    /// Runs the order on fresh sockets.
    ///
    /// # Errors
    /// Whatever went wrong; loss is no error.
    fn trial(&mut self, order: &Order) -> Result<Trial>;
}

/// A sending half that is told what to send.
pub(super) trait PacedSource: Source {
    /// Begins a frame for each of the stamps, from the first on, as many as
    /// there is room for; says how many.
    ///
    /// # Errors
    /// Whatever ends the trial.
    fn submit(&mut self, stamps: &[u64]) -> Result<usize>;
}

/// A receiving half that reads stamps.
pub(super) trait StampedSink: Sink {
    /// Takes up to a burst; `each` gets the stamp of each delivered frame.
    /// Says how many frames there were, of any fate.
    ///
    /// # Errors
    /// Whatever ends the trial.
    fn take_stamps(&mut self, each: impl FnMut(u64)) -> Result<usize>;
}

/// The stamp at the start of a message, in ns of `clock`; 0, which is before
/// any trial, if there is no room for one.
pub(super) fn read_stamp(message: Option<&[u8]>) -> u64 {
    let stamp = message.and_then(<[u8]>::first_chunk);
    stamp.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
