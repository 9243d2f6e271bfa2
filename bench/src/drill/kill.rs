//! `kill -9` under load, again and again: a new life finds its way back in
//! 1.5 s, and repeats nothing of the last one. Imports `lab`, `trial`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Scene;
use super::lab::{Lab, Life};
use super::outcome::{Outcome, millis};
use super::stream::Pace;
use super::trial::Trial;
use crate::error::Result;
use crate::wait;

/// Index of the node that is killed.
const VICTIM: usize = 1;
/// Dead for so long: its peers go on sending meanwhile.
const DEAD_FOR: Duration = Duration::from_millis(300);
/// Traffic has to flow again so long after the process is up, that is, answers
/// its operator.
const RECOVER_WITHIN_MS: u64 = 1500;
/// Of traffic between one recovery and the next kill.
const LIFE: Duration = Duration::from_millis(500);
/// Datagrams a second of each of four streams.
const LOAD: Pace = Pace::PerSecond(1000);

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    Lab::with(scene, "kill", 3, outcome, |lab, outcome| {
        drill(scene, lab, outcome)
    })
}

fn drill(scene: &Scene<'_>, lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    // To it, from it, and between the others, who must not notice.
    let streams = [(0, VICTIM), (VICTIM, 0), (0, 2), (2, 0)].map(|(from, to)| (from, to, LOAD));
    let mut trial = Trial::begin(lab, &streams, &[0, 1])?;
    let rounds = scene.pick(5, 50);
    let mut lives = BTreeSet::from([incarnation(lab)?]);
    let mut from_start_ms = Vec::new();
    for round in 1..=rounds {
        let began = Instant::now();
        lab.cluster.kill(VICTIM);
        wait::pass(DEAD_FOR)?;
        let Life { started, up } = lab.start_again(VICTIM)?;
        let recovery = trial.recover("kill -9", began, up)?;
        lab.wait_for_links()?;
        from_start_ms.push(millis(up + recovery - started));
        scene.progress.say(format!(
            "kill {round} of {rounds}: traffic {} ms after the process was up, {} ms after it \
             was started",
            millis(recovery),
            millis(up + recovery - started)
        ));
        lives.insert(incarnation(lab)?);
        wait::pass(LIFE)?;
    }
    let id = lab.id(VICTIM);
    let ended = trial.end(lab, Some(id))?;
    ended.check(outcome);
    ended.check_keys(outcome);
    let worst = outcome.recoveries_ms().last().copied();
    outcome.check(
        "recovery within 1.5 s after the process is up",
        worst.is_some_and(|ms| ms <= RECOVER_WITHIN_MS),
        format!(
            "worst of {rounds}: {} ms; since the process was started, {} ms",
            worst.unwrap_or(u64::MAX),
            from_start_ms.iter().max().copied().unwrap_or(0)
        ),
    );
    outcome.check(
        "every life is a new one",
        lives.len() == rounds + 1,
        format!("{} incarnations in {} lives", lives.len(), rounds + 1),
    );
    lab.check_wire(outcome);
    lab.check_sight(outcome);
    lab.check_health(outcome)
}

fn incarnation(lab: &mut Lab) -> Result<String> {
    Ok(lab.cluster.admin(VICTIM)?.status()?.incarnation)
}
