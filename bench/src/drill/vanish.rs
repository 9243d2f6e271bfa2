//! A NIC is deleted under the daemon and made anew with the same name and
//! address. The daemon stays, says what it has lost and what to do; after that,
//! all is well. Imports `lab`, `trial`.

use std::time::{Duration, Instant};

use tipsec_control::admin::BearerState;

use super::Scene;
use super::lab::{Lab, tell};
use super::outcome::Outcome;
use super::stream::Pace;
use super::tally::Tally;
use super::trial::{Trial, check_doubled, note_sums};
use crate::capture::Capture;
use crate::error::Result;
use crate::wait;

/// Index of the node whose NIC it is.
const VICTIM: usize = 1;
/// Away for so long.
const AWAY: Duration = Duration::from_millis(500);
/// Then nothing is done for so long: the daemon does not take a new NIC up.
const IDLE: Duration = Duration::from_secs(2);
/// Of traffic after the recovery.
const AFTER: Duration = Duration::from_secs(1);
/// Datagrams a second, each way.
const LOAD: Pace = Pace::PerSecond(1000);
/// Traffic has to flow again so long after the daemon is up again: its peer has
/// given exchanges up by then, and waits before it tries again.
const RECOVER_WITHIN_MS: u64 = 3000;

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    Lab::with(scene, "vanish", 2, outcome, |lab, outcome| {
        drill(scene, lab, outcome)
    })
}

fn drill(scene: &Scene<'_>, lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    let event = lab.last_event(VICTIM)?;
    let streams = [(0, VICTIM, LOAD), (VICTIM, 0, LOAD)];
    let mut trial = Trial::begin(lab, &streams, &[0, 1])?;
    lab.check_wire(outcome);

    let began = Instant::now();
    lab.cluster.topology.pull(VICTIM)?;
    wait::pass(AWAY)?;
    let said = lab.wait_for_event(VICTIM, event, "bearer-lost", "restart tipsecd");
    let words = said.as_deref().unwrap_or_default().to_owned();
    tell(
        "the daemon says what is gone and what to do",
        &words,
        said,
        outcome,
    )?;
    lab.check_bearers(VICTIM, BearerState::Lost, outcome)?;

    lab.cluster.topology.replug(VICTIM)?;
    // On the new port; its findings begin here.
    lab.capture = Capture::start(&lab.cluster.topology)?;
    let back = Instant::now();
    wait::pass(IDLE)?;
    let alone = trial.streams[0].first_after(back).is_some();
    scene.progress.say(match alone {
        true => "the new NIC was taken up without help",
        false => "the new NIC is not taken up; restarting tipsecd, as its event says",
    });
    let what = if alone {
        "NIC deleted and made anew"
    } else {
        "NIC deleted and made anew, tipsecd restarted"
    };
    let since = match alone {
        true => back,
        false => restart(lab)?,
    };
    trial.recover(what, began, since)?;
    lab.wait_for_links()?;
    wait::pass(AFTER)?;

    let (tallies, windows) = trial.end_without_books()?;
    note_sums(&tallies, &windows, outcome);
    check_loss(&tallies, outcome);
    outcome.check_recovery(
        "recovery within 3 s after the daemon is up again",
        RECOVER_WITHIN_MS,
    );
    lab.check_wire(outcome);
    lab.check_health(outcome)
}

/// As an operator would: asks it to leave, and starts it. Gives the time when
/// it was up.
pub(super) fn restart(lab: &mut Lab) -> Result<Instant> {
    lab.cluster.stop_one(VICTIM)?;
    Ok(lab.start_again(VICTIM)?.up)
}

/// The device took its counters with it, and the daemon's end the daemon's: all
/// that is left to hold is that nothing was lost beside it.
fn check_loss(tallies: &[Tally], outcome: &mut Outcome) {
    let lost: u64 = outcome.harms.iter().map(|harm| harm.lost).sum();
    outcome.check(
        "nothing lost beside the harm",
        lost == outcome.lost,
        format!(
            "{lost} of {} lost between deletion and recovery",
            outcome.lost
        ),
    );
    outcome
        .why
        .push("while there was no NIC, and until the restart".to_owned());
    check_doubled(tallies, outcome);
}
