//! SIGSTOP under load: a process that stands still and goes on, as under a
//! debugger, a frozen container, a starved machine. Imports `lab`, `trial`.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Scene;
use super::lab::Lab;
use super::outcome::Outcome;
use super::stream::Pace;
use super::trial::Trial;
use crate::error::{Error, Result};
use crate::wait;

/// Index of the node that is stopped.
const VICTIM: usize = 1;
/// Seconds that it stands still. Below and above the link tolerance of 1.5 s.
const SHORT_S: &[u64] = &[1, 3];
const LONG_S: &[u64] = &[1, 10, 300];
/// Datagrams a second, each way.
const LOAD: Pace = Pace::PerSecond(1000);
/// Of traffic after the recovery.
const AFTER: Duration = Duration::from_secs(1);
/// Traffic has to flow again so long after SIGCONT.
const RECOVER_WITHIN_MS: u64 = 3000;

/// Sets a process going again when dropped.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::Failed {
            what: "stop a daemon".into(),
            detail: "it has no process id".into(),
        })?;
        kill_process(pid, Signal::STOP).map_err(Error::errno("stop a daemon"))?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Fails only if it is gone.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    Lab::with(scene, "stop", 2, outcome, |lab, outcome| {
        drill(scene, lab, outcome)
    })
}

fn drill(scene: &Scene<'_>, lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    for &seconds in scene.pick(SHORT_S, LONG_S) {
        stop_for(scene, lab, seconds, outcome)?;
    }
    outcome.check_recovery("recovery within 3 s after SIGCONT", RECOVER_WITHIN_MS);
    lab.check_wire(outcome);
    lab.check_sight(outcome);
    lab.check_health(outcome)
}

fn stop_for(scene: &Scene<'_>, lab: &mut Lab, seconds: u64, outcome: &mut Outcome) -> Result<()> {
    let streams = [(0, VICTIM, LOAD), (VICTIM, 0, LOAD)];
    let mut trial = Trial::begin(lab, &streams, &[0, 1])?;
    scene.progress.say(format!("SIGSTOP for {seconds} s"));
    let began = Instant::now();
    let stopped = Stopped::stop(lab.cluster.pid(VICTIM).unwrap_or(0))?;
    wait::pass(Duration::from_secs(seconds))?;
    drop(stopped);
    let ended = Instant::now();
    trial.recover(&format!("SIGSTOP for {seconds} s"), began, ended)?;
    wait::pass(AFTER)?;
    let ended = trial.end(lab, None)?;
    ended.check(outcome);
    // A link that goes down starts an exchange; its keys stay.
    ended.check_keys(outcome);
    Ok(())
}
