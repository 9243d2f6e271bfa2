//! What happened, as a number that two runs of one seed must share, and as
//! lines to read.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::time::Instant;

/// The trace of a run.
#[derive(Default)]
pub(super) struct Trace {
    hasher: DefaultHasher,
    pub(super) lines: Option<Vec<String>>,
}

impl Trace {
    /// Notes that something happened at a place.
    pub(super) fn note(
        &mut self,
        at: Instant,
        place: usize,
        what: &'static str,
        numbers: [u64; 2],
    ) {
        (at.elapsed(), place, what, numbers).hash(&mut self.hasher);
        if let Some(lines) = &mut self.lines {
            let [first, second] = numbers;
            lines.push(format!(
                "{:14.6} s  place {place}  {what} {first:x} {second:x}",
                at.elapsed().as_secs_f64()
            ));
        }
    }

    /// The number.
    pub(super) fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}
