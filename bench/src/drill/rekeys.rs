//! Saturating traffic while every pair rekeys each 200 ms: nothing is lost at a
//! rekey, and whatever an overload loses has a name. Imports `lab`, `trial`.
//!
//! The configured interval is in whole seconds, so each exchange is asked for
//! through the admin socket (`rekey now`).

use std::time::{Duration, Instant};

use super::Scene;
use super::lab::Lab;
use super::outcome::Outcome;
use super::stream::Pace;
use super::trial::Trial;
use crate::books;
use crate::error::Result;
use crate::wait;

/// Between two rekeys.
pub(super) const EACH: Duration = Duration::from_millis(200);
/// The configured interval in seconds, which nothing waits for here: it bounds
/// how long an old SA stays (twice as long), and so how many there are. With
/// 10 minutes the 16 of a pair would be used up.
const INTERVAL_S: u32 = 1;
/// The stream against the saturating one.
const AGAINST: Pace = Pace::PerSecond(1000);

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    Lab::with(scene, "rekeys", 2, outcome, |lab, outcome| {
        drill(scene, lab, outcome)
    })
}

fn drill(scene: &Scene<'_>, lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    set_interval(lab)?;
    // The nodes are to be the narrow place, not the search of what is captured.
    lab.capture.bound_effort(true);
    let before = rekeys(lab)?;
    let streams = [(0, 1, Pace::Saturating), (1, 0, AGAINST)];
    let trial = Trial::begin(lab, &streams, &[0, 1])?;
    let time = Duration::from_secs(scene.pick(12, 600));
    let events = [lab.last_event(0)?, lab.last_event(1)?];
    let asked = rekey_for(scene, lab, time)?;
    let ended = trial.end(lab, None)?;
    let done = rekeys(lab)? - before;
    let lost = ended
        .balance
        .key_losses
        .iter()
        .map(|loss| loss.frames)
        .sum();
    outcome.harm(
        format!("{done} rekeys under saturating traffic"),
        time,
        lost,
    );
    ended.check_saturated(outcome);
    ended.check_keys(outcome);
    check_rekeys(asked, done, outcome);
    for (index, event) in events.into_iter().enumerate() {
        lab.check_links_stayed(index, event, outcome)?;
    }
    lab.check_wire(outcome);
    lab.check_health(outcome)
}

/// Keeps few SAs, see [`INTERVAL_S`].
pub(super) fn set_interval(lab: &mut Lab) -> Result<()> {
    for index in lab.cluster.running() {
        lab.cluster.admin(index)?.set_rekey_interval(INTERVAL_S)?;
    }
    Ok(())
}

/// Asks the first node for a rekey every 200 ms; says how often.
pub(super) fn rekey_for(scene: &Scene<'_>, lab: &mut Lab, time: Duration) -> Result<u64> {
    let begin = Instant::now();
    let mut asked = 0;
    let mut due = begin;
    let mut told = begin;
    while begin.elapsed() < time {
        lab.cluster.admin(0)?.rekey_now()?;
        asked += 1;
        due += EACH;
        wait::pass(due.saturating_duration_since(Instant::now()))?;
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            let left = time.saturating_sub(begin.elapsed()).as_secs();
            scene
                .progress
                .say(format!("{asked} rekeys asked for ({left} s left)"));
        }
    }
    Ok(asked)
}

/// Times that the first node's keys with the second were replaced.
pub(super) fn rekeys(lab: &mut Lab) -> Result<u64> {
    let pair = (lab.id(0), lab.id(1));
    let counts = books::rekeys(&mut lab.cluster)?;
    Ok(counts.get(&pair).copied().unwrap_or(0))
}

/// Without rekeys, nothing would have been shown.
pub(super) fn check_rekeys(asked: u64, done: u64, outcome: &mut Outcome) {
    outcome.check(
        "keys were replaced each 200 ms",
        done * 10 >= asked * 9,
        format!("{asked} rekeys asked for, {done} completed; at least nine of ten"),
    );
}
