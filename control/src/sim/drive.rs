//! Moves time: step by step, and for tests, which want to panic at a broken
//! invariant, for a while or until something is so.

use std::time::Duration;

use super::{Universe, ms};
use crate::machine::Input;
use crate::time::Instant;

impl Universe {
    /// Moves to the next thing that happens, at most to `horizon`. Nothing
    /// happens once an invariant is broken.
    pub fn step(&mut self, horizon: Instant) {
        if self.broken.is_some() {
            self.now = self.now.max(horizon);
            return;
        }
        let before = self.now;
        let timer = self.wake.iter().flatten().min().copied();
        let next = timer.into_iter().chain(self.queue.next_at()).min();
        self.now = self.now.max(next.unwrap_or(horizon).min(horizon));
        while let Some((place, what)) = self.queue.pop(self.now) {
            self.happen(place, what);
        }
        for n in 0..self.nodes.len() {
            if self.wake[n].is_some_and(|at| at <= self.now) {
                self.input(n, Input::Timer);
                self.judge_sizes(n);
            }
        }
        self.judge_progress(self.now > before);
    }

    /// Runs for a while; every `pace`, each node sends one data frame to each
    /// peer it knows.
    pub fn step_with_traffic(&mut self, length: Duration, pace: Duration) {
        let end = self.now + length;
        let mut next = self.now;
        while self.now < end && self.broken.is_none() {
            if self.now >= next {
                next = next + pace;
                for n in 0..self.nodes.len() {
                    self.send_data(n);
                }
            }
            self.step(next.min(end));
        }
    }

    /// [`Self::step_with_traffic`].
    ///
    /// # Panics
    /// If an invariant breaks.
    pub fn run_with_traffic(&mut self, length: Duration, pace: Duration) {
        self.step_with_traffic(length, pace);
        self.assert_sound();
    }

    /// Runs for a while.
    ///
    /// # Panics
    /// If an invariant breaks.
    pub fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.step(end);
        }
        self.assert_sound();
    }

    /// Runs until `done`; says how long it took.
    ///
    /// # Panics
    /// If that is more than `limit`, or an invariant breaks.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            let waited = self.now.since(start);
            assert!(
                waited <= limit,
                "seed {}: not done after {limit:?}",
                self.seed
            );
            self.step(start + limit + ms(1));
            self.assert_sound();
        }
        self.now.since(start)
    }

    /// # Panics
    /// If an invariant is broken.
    pub fn assert_sound(&self) {
        if let Some(violation) = &self.broken {
            panic!("seed {}: {violation}", self.seed);
        }
    }
}
