//! One node is cut off from the two others, who go on, and is joined again.
//! Imports `lab`, `trial`.

use std::time::{Duration, Instant};

use super::Scene;
use super::lab::Lab;
use super::outcome::Outcome;
use super::stream::Pace;
use super::trial::Trial;
use crate::error::Result;
use crate::topology::BRIDGE;
use crate::wait;

/// Index of the node that is cut off.
const VICTIM: usize = 2;
/// The bridge on its side of the cut.
const ISLAND: &str = "br1";
/// How long, in ms: links go down in it.
const APART_MS: u64 = 3000;
/// Of traffic after each recovery.
const AFTER: Duration = Duration::from_secs(1);
/// Datagrams a second of each stream.
const LOAD: Pace = Pace::PerSecond(700);
/// Traffic has to flow again so long after the cut is healed.
const RECOVER_WITHIN_MS: u64 = 3000;

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    Lab::with(scene, "partition", 3, outcome, |lab, outcome| {
        drill(scene, lab, outcome)
    })
}

fn drill(scene: &Scene<'_>, lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    let hub = &lab.cluster.topology.hub;
    hub.ip(&format!(
        "link add {ISLAND} type bridge stp_state 0 mcast_snooping 0"
    ))?;
    hub.ip(&format!("link set {ISLAND} up"))?;
    // Across the cut, both ways; and beside it.
    let streams = [(0, VICTIM), (VICTIM, 0), (0, 1), (1, 0)].map(|(from, to)| (from, to, LOAD));
    let mut trial = Trial::begin(lab, &streams, &[0, 1])?;
    let mut in_cut = 0;
    for _ in 0..scene.pick(1, 8) {
        in_cut += part_and_heal(lab, &mut trial)?;
        wait::pass(AFTER)?;
    }
    let ended = trial.end(lab, None)?;
    ended.check_cut(in_cut, outcome);
    ended.check_keys(outcome);
    outcome.check_recovery(
        "recovery within 3 s after the cut is healed",
        RECOVER_WITHIN_MS,
    );
    lab.check_wire(outcome);
    lab.check_sight(outcome);
    lab.check_health(outcome)
}

/// Gives the frames that entered a bridge while there was no way out of it to
/// their destination.
fn part_and_heal(lab: &mut Lab, trial: &mut Trial) -> Result<u64> {
    let port = lab.port(VICTIM).to_owned();
    let across = |lab: &mut Lab| Ok(lab.wire_to(VICTIM)? + lab.wire_from(VICTIM)?);
    let before: u64 = across(lab)?;
    let began = Instant::now();
    let hub = &lab.cluster.topology.hub;
    hub.ip(&format!("link set {port} master {ISLAND}"))?;
    wait::pass(Duration::from_millis(APART_MS))?;
    let hub = &lab.cluster.topology.hub;
    // The time that `ip` takes counts against the recovery.
    let healed = Instant::now();
    hub.ip(&format!("link set {port} master {BRIDGE}"))?;
    let during = across(lab)? - before;
    trial.recover(&format!("cut off for {APART_MS} ms"), began, healed)?;
    Ok(during)
}
