//! Search for the highest rate whose loss stays within a goal, by the rules of
//! MLRsearch (draft-ietf-bmwg-mlrsearch-15; FD.io CSIT). Pure: a closure
//! measures a trial, and no clock is read here. Imports nothing.
//!
//! * this file: goals, trials, outcome;
//! * `classify`: whether the trials of one load bound the rate from below,
//!   from above, or not yet;
//! * `search`: which load to try next.
//!
//! A device that loses a frame once in a while is not told from one that is
//! too slow by one trial. A goal therefore says how much time of trials decides
//! (`duration_sum`) and which share of it may be lossy (`exceed_ratio`). Short
//! trials find the neighbourhood, and only trials of the full length decide.

use std::time::Duration;

mod classify;
mod search;

pub use search::search;

/// One question: the highest load with at most this loss.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Goal {
    /// The highest ratio of frames lost to frames intended that a trial may
    /// have, from 0 up to and not including 1.
    pub loss_ratio: f64,
    /// The highest share of time in lossier trials, from 0 up to and not
    /// including 1.
    pub exceed_ratio: f64,
    /// The distance of the bounds at which the search ends, as a share of the
    /// upper one; above 0.
    pub width: f64,
    /// Length of the first trials.
    pub initial_trial: Duration,
    /// Length of the trials that decide; not shorter.
    pub final_trial: Duration,
    /// Time of deciding trials that a load needs; not shorter.
    pub duration_sum: Duration,
}

/// Between which loads to search, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The lowest load of interest, in frames a second; at least 1.
    pub load_min: u64,
    /// The highest one.
    pub load_max: u64,
    /// Trials at most, over all goals.
    pub trials_max: usize,
}

/// What a trial came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    /// Frames that should have been sent.
    pub intended: u64,
    /// Those of them that did not arrive, sent or not.
    pub lost: u64,
}

impl Count {
    /// Lost of intended frames; a trial without frames lost them all.
    pub fn loss_ratio(self) -> f64 {
        if self.intended == 0 {
            return 1.0;
        }
        self.lost as f64 / self.intended as f64
    }
}

/// One trial at some load.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Trial {
    duration: Duration,
    loss_ratio: f64,
}

/// What is known for one goal.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Found {
    /// The highest load below `upper` that meets the goal, in frames a second.
    pub lower: Option<u64>,
    /// The lowest load that does not.
    pub upper: Option<u64>,
    /// What passes at `lower` for all but the share of time that the goal
    /// leaves out (conditional throughput), in frames a second.
    pub throughput: Option<f64>,
    /// Whether both bounds are there, no further apart than the goal wants.
    pub regular: bool,
}

/// The outcome of a search.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// One a goal, in their order.
    pub found: Vec<Found>,
    /// Trials that it took.
    pub trials: usize,
}
