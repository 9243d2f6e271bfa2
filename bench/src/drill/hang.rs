//! One thread of the daemon stands still while the others go on: the control
//! thread, as behind a blocked disk or log; then the worker. Imports `freezer`,
//! `lab`, `trial`.

use std::time::{Duration, Instant};

use super::Scene;
use super::freezer::Freezer;
use super::lab::Lab;
use super::outcome::Outcome;
use super::stream::Pace;
use super::tally::Tally;
use super::trial::Trial;
use crate::error::{Error, Result};
use crate::wait;

/// Index of the node whose thread it is.
const VICTIM: usize = 1;
/// Name of a worker's thread, as the kernel shows it.
const WORKER: &str = "tipsec-worker0";
/// Datagrams a second, each way.
const LOAD: Pace = Pace::PerSecond(1000);
/// Of traffic after the recovery.
const AFTER: Duration = Duration::from_secs(1);
/// An operator's question has to be answered so long after the thread goes on.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Traffic has to flow again so long after the thread goes on.
const RECOVER_WITHIN_MS: u64 = 3000;

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    Lab::with(scene, "hang", 2, outcome, |lab, outcome| {
        drill(scene, lab, outcome)
    })
}

fn drill(scene: &Scene<'_>, lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    let pid = lab.cluster.pid(VICTIM).unwrap_or(0);
    let freezer = Freezer::of(pid)?;
    let time = Duration::from_secs(scene.pick(3, 15));

    // The main thread has the process' id.
    let (streams, what) = (
        pair(),
        format!("control thread still for {} s", time.as_secs()),
    );
    let trial = Trial::begin(lab, &streams, &[])?;
    let events = [lab.last_event(0)?, lab.last_event(VICTIM)?];
    freezer.freeze(pid)?;
    let mut question = lab.cluster.nodes[VICTIM].keyctl.start(&["status"])?;
    wait::pass(time)?;
    let unanswered = question.check_running().is_ok();
    freezer.thaw(pid)?;
    let (answered, _) = question.finish(ANSWER_WITHIN)?;
    outcome.check(
        "the control thread stood still, and answers afterwards",
        unanswered && answered.success(),
        format!("an operator's question had to wait: {unanswered}"),
    );
    wait::pass(AFTER)?;
    let ended = trial.end(lab, None)?;
    // No stream may lose anything: data does not pass the control thread, and
    // its worker answers the peer's probes.
    outcome.harm(what, time, ended.tallies.iter().map(Tally::lost).sum());
    ended.check(outcome);
    ended.check_keys(outcome);
    lab.check_links_stayed(0, events[0], outcome)?;
    lab.check_links_stayed(VICTIM, events[1], outcome)?;
    lab.check_health(outcome)?;

    let worker = thread_named(pid, WORKER)?;
    let mut trial = Trial::begin(lab, &streams, &[0, 1])?;
    let began = Instant::now();
    freezer.freeze(worker)?;
    let before = passes(lab)?;
    wait::pass(time)?;
    let after = passes(lab)?;
    freezer.thaw(worker)?;
    let back = Instant::now();
    outcome.check(
        "the worker stood still, and the control thread answered",
        before == after,
        format!("{} passes of its loop meanwhile", after - before),
    );
    trial.recover(
        &format!("worker still for {} s", time.as_secs()),
        began,
        back,
    )?;
    wait::pass(AFTER)?;
    let ended = trial.end(lab, None)?;
    ended.check(outcome);
    ended.check_keys(outcome);
    outcome.check_recovery(
        "recovery within 3 s after the worker goes on",
        RECOVER_WITHIN_MS,
    );
    lab.check_wire(outcome);
    lab.check_sight(outcome);
    lab.check_health(outcome)
}

/// Times around the loop of the worker.
fn passes(lab: &mut Lab) -> Result<u64> {
    let status = lab.cluster.admin(VICTIM)?.status()?;
    Ok(status.workers.iter().map(|worker| worker.passes).sum())
}

fn pair() -> [(usize, usize, Pace); 2] {
    [(0, VICTIM, LOAD), (VICTIM, 0, LOAD)]
}

/// The id of a process' thread of this name.
fn thread_named(pid: u32, name: &str) -> Result<u32> {
    let path = format!("/proc/{pid}/task");
    let threads = std::fs::read_dir(&path).map_err(Error::io(format!("read {path}")))?;
    let named = |thread: &std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let found = threads.flatten().find(named);
    found
        .and_then(|thread| thread.file_name().to_str()?.parse().ok())
        .ok_or_else(|| Error::Unreadable {
            what: path,
            detail: format!("no thread {name}"),
        })
}
