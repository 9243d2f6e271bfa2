//! A worker panics, at each stage of its pass. The daemon says so and ends, the
//! kernel takes its devices back, and a new life finds its way back. Its own
//! build of `tipsecd`, with the feature `drill`, panics on demand. Imports
//! `lab`, `trial`.

use std::ffi::OsString;
use std::fs;
use std::time::{Duration, Instant};

use super::Scene;
use super::lab::Lab;
use super::outcome::Outcome;
use super::stream::Pace;
use super::trial::Trial;
use crate::daemon::TAP;
use crate::error::{Error, Result};
use crate::topology::BEARER;
use crate::wait;

/// Index of the node whose worker panics.
const VICTIM: usize = 1;
/// As `dataplane/src/fault.rs` names them.
const STAGES: [&str; 6] = ["commands", "open", "deliver", "seal", "transmit", "ingest"];
/// Once it is there, the worker panics.
const TRIGGER: &str = "panic";
/// A daemon has to be gone so long after the panic.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Of traffic after each recovery.
const AFTER: Duration = Duration::from_millis(300);
/// Datagrams a second, each way.
const LOAD: Pace = Pace::PerSecond(1000);
/// Traffic has to flow again so long after the daemon is up again.
const RECOVER_WITHIN_MS: u64 = 1500;

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    let program = &scene.binaries.drill_tipsecd;
    if !program.is_file() {
        return Err(Error::Unavailable {
            name: program.display().to_string(),
            why: "it is not there: ci/drill builds it, by `cargo build --release -p \
                  tipsec-control --features drill`"
                .into(),
        });
    }
    Lab::with(scene, "panic", 2, outcome, |lab, outcome| {
        drill(scene, lab, outcome)
    })
}

fn drill(scene: &Scene<'_>, lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    for stage in STAGES {
        panic_at(scene, lab, stage, outcome)?;
    }
    outcome.check_recovery(
        "recovery within 1.5 s after the daemon is up again",
        RECOVER_WITHIN_MS,
    );
    lab.check_wire(outcome);
    lab.check_sight(outcome);
    lab.check_health(outcome)
}

fn panic_at(scene: &Scene<'_>, lab: &mut Lab, stage: &str, outcome: &mut Outcome) -> Result<()> {
    lab.cluster.stop_one(VICTIM)?;
    let trigger = lab.cluster.directory().join(TRIGGER);
    let armed = format!("TIPSEC_DRILL_PANIC={stage}:{}", trigger.display());
    let program = scene.binaries.drill_tipsecd.clone().into_os_string();
    let command: [OsString; 3] = ["env".into(), armed.into(), program];
    lab.start_program(VICTIM, &command)?;
    lab.wait_for_links()?;
    let mut trial = Trial::begin(lab, &[(0, VICTIM, LOAD), (VICTIM, 0, LOAD)], &[0, 1])?;

    let began = Instant::now();
    let file = |what: &str| format!("{what} {}", trigger.display());
    fs::write(&trigger, "").map_err(Error::io(file("make")))?;
    let ended = lab.cluster.wait_for_end(VICTIM, ENDS_WITHIN);
    fs::remove_file(&trigger).map_err(Error::io(file("remove")))?;
    let (status, log) = ended?;
    let words = format!("a worker thread panicked: a drill wants a panic at the stage {stage}");
    outcome.check(
        &format!("the daemon ends and names the panic ({stage})"),
        !status.success() && status.code().is_some() && log.contains(&words),
        log.lines().last().unwrap_or("it said nothing").to_owned(),
    );
    let namespace = lab.cluster.namespace(VICTIM);
    let tap = namespace.ip(&format!("link show dev {TAP}")).is_ok();
    let xdp = namespace
        .ip(&format!("link show dev {BEARER}"))?
        .contains("xdp");
    outcome.check(
        &format!("nothing of it is left ({stage})"),
        !tap && !xdp,
        format!("tap there: {tap}, XDP program there: {xdp}"),
    );

    let up = lab.start_again(VICTIM)?.up;
    trial.recover(&format!("panic at {stage}"), began, up)?;
    wait::pass(AFTER)?;
    let id = lab.id(VICTIM);
    let ended = trial.end(lab, Some(id))?;
    ended.check(outcome);
    Ok(())
}
