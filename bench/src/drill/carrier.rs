//! The other end of a node's cable goes down and comes up. Imports `lab`,
//! `trial`.

use std::time::{Duration, Instant};

use super::Scene;
use super::lab::Lab;
use super::outcome::Outcome;
use super::stream::Pace;
use super::trial::Trial;
use crate::error::Result;
use crate::wait;

/// Index of the node whose cable it is.
const VICTIM: usize = 1;
/// Without carrier for so long, in ms: below and above the link tolerance.
const AWAY_MS: [u64; 2] = [200, 2500];
/// Of traffic after each recovery.
const AFTER: Duration = Duration::from_millis(500);
/// Datagrams a second, each way.
const LOAD: Pace = Pace::PerSecond(1000);
/// Traffic has to flow again so long after the carrier is back.
const RECOVER_WITHIN_MS: u64 = 3000;

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    Lab::with(scene, "carrier", 2, outcome, |lab, outcome| {
        drill(scene, lab, outcome)
    })
}

fn drill(scene: &Scene<'_>, lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    let event = lab.last_event(VICTIM)?;
    let streams = [(0, VICTIM, LOAD), (VICTIM, 0, LOAD)];
    let mut trial = Trial::begin(lab, &streams, &[0, 1])?;
    let mut in_cut = 0;
    for _ in 0..scene.pick(1, 10) {
        for away_ms in AWAY_MS {
            in_cut += flap(lab, &mut trial, away_ms)?;
            wait::pass(AFTER)?;
        }
    }
    let ended = trial.end(lab, None)?;
    ended.check_cut(in_cut, outcome);
    ended.check_keys(outcome);
    outcome.check_recovery(
        "recovery within 3 s after the carrier is back",
        RECOVER_WITHIN_MS,
    );
    for words in ["is down", "is up"] {
        let said = lab.wait_for_event(VICTIM, event, "bearer-changed", words);
        let name = format!("its daemon says that the interface {words}");
        super::lab::tell(&name, "an event bearer-changed", said, outcome)?;
    }
    lab.check_wire(outcome);
    lab.check_sight(outcome);
    lab.check_health(outcome)
}

/// Gives the frames that entered the bridge while there was no way out of it.
fn flap(lab: &mut Lab, trial: &mut Trial, away_ms: u64) -> Result<u64> {
    let port = lab.port(VICTIM).to_owned();
    let before = lab.wire_to(VICTIM)?;
    let began = Instant::now();
    lab.cluster
        .topology
        .hub
        .ip(&format!("link set {port} down"))?;
    wait::pass(Duration::from_millis(away_ms))?;
    // The time that `ip` takes counts against the recovery.
    let back = Instant::now();
    lab.cluster
        .topology
        .hub
        .ip(&format!("link set {port} up"))?;
    trial.recover(&format!("no carrier for {away_ms} ms"), began, back)?;
    Ok(lab.wire_to(VICTIM)? - before)
}
