//! A relay between two nodes drops, doubles and reorders, while they rekey each
//! 200 ms: what is lost is exactly what the relay's log says, datagram by
//! datagram; what it doubled is refused exactly as often; what it reordered
//! arrives. Imports `lab`, `relay`, `rekeys`, `trial`.

use std::time::Duration;

use super::Scene;
use super::lab::Lab;
use super::mangle::{HELD_FRAMES_MAX, Log, Rates};
use super::outcome::Outcome;
use super::rekeys;
use super::relay::{Relay, Relayed};
use super::stream::Pace;
use super::tally::Tally;
use super::trial::{Ended, Trial, note_sums};
use crate::error::Result;

/// Of a thousand frames, each way: handshakes and beacons too.
const RATES: Rates = Rates {
    dropped: 20,
    doubled: 20,
    held: 50,
};
/// Each way; well below what the relay can take, for what it loses against its
/// will would spoil its log.
const LOAD: Pace = Pace::PerSecond(2000);
/// What the receiver counts a frame as that it has had before.
const REPLAYED: &str = "rx_replayed";

pub(super) fn run(scene: &Scene<'_>, outcome: &mut Outcome) -> Result<()> {
    scene.progress.say(format!("seed {}", scene.seed));
    let mut lab = Lab::plug(scene, "relay", 2)?;
    // From before the first frame, so that it has seen them all.
    let relay = Relay::start(&lab.cluster.topology, scene.seed, RATES)?;
    lab.start()?;
    let result = drill(scene, &mut lab, &relay, outcome);
    lab.conclude(scene, outcome, result)
}

fn drill(scene: &Scene<'_>, lab: &mut Lab, relay: &Relay, outcome: &mut Outcome) -> Result<()> {
    rekeys::set_interval(lab)?;
    let before = rekeys::rekeys(lab)?;
    let trial = Trial::begin(lab, &[(0, 1, LOAD), (1, 0, LOAD)], &[0, 1])?;
    // Its log and the books speak of the same frames: it does harm between the
    // two readings alone.
    relay.harm(true);
    let time = Duration::from_secs(scene.pick(12, 120));
    let asked = rekeys::rekey_for(scene, lab, time)?;
    relay.harm(false);
    let ended = trial.end(lab, None)?;
    let done = rekeys::rekeys(lab)? - before;
    let ways = relay.relayed();
    let sum = |count: fn(&Log) -> u64| ways.iter().map(|way| count(&way.log)).sum::<u64>();
    let what = format!(
        "{} frames dropped, {} doubled, {} overtaken, and {done} rekeys (seed {})",
        sum(|log| log.dropped),
        sum(|log| log.doubled),
        sum(|log| log.held),
        scene.seed
    );
    outcome.harm(what, time, ended.tallies.iter().map(Tally::lost).sum());

    note_sums(&ended.tallies, &ended.windows, outcome);
    let own: u64 = ways.iter().map(|way| way.own_losses).sum();
    outcome.check(
        "the relay lost nothing against its will",
        own == 0,
        format!("{own} frames"),
    );
    for (way, tally) in ways.iter().zip(&ended.tallies) {
        check_way(way, tally, &ended, outcome);
        check_counts(way, tally, &ended, outcome);
    }
    rekeys::check_rekeys(asked, done, outcome);
    lab.check_wire(outcome);
    lab.check_sight(outcome);
    lab.check_health(outcome)
}

/// Datagram by datagram: the n-th long frame that came to the relay carries the
/// n-th datagram of its stream, since one worker sends them all in order.
fn check_way(way: &Relayed, tally: &Tally, ended: &Ended, outcome: &mut Outcome) {
    let (from, to) = (tally.from, tally.to);
    let lost: Vec<u64> = tally.gaps.iter().cloned().flatten().collect();
    let dropped = &way.log.dropped_long;
    let absent = |of: &[u64], number: &u64| of.binary_search(number).is_err();
    let strange = lost.iter().filter(|n| absent(dropped, n));
    let strange: Vec<_> = strange
        .chain(dropped.iter().filter(|n| absent(&lost, n)))
        .collect();
    let (sent, came) = (tally.sent, way.log.long);
    outcome.check(
        &format!("lost {from} -> {to} is what the relay dropped, datagram by datagram"),
        strange.is_empty() && !dropped.is_empty() && came == sent,
        format!(
            "{} lost, {} dropped, {} differ{}; {sent} datagrams sent, {came} came to the relay",
            lost.len(),
            dropped.len(),
            strange.len(),
            strange
                .first()
                .map_or(String::new(), |n| format!(", the first is {n}")),
        ),
    );
    outcome.check(
        &format!("no datagram {from} -> {to} arrived twice"),
        tally.doubled == 0,
        format!("{} did", tally.doubled),
    );
    let stream = ended
        .tallies
        .iter()
        .position(|t| (t.from, t.to) == (from, to));
    let places = stream
        .map(|at| ended.places[at].words())
        .unwrap_or_default();
    outcome.why.push(format!(
        "{from} -> {to} lost {}: the relay dropped {} ({})",
        tally.lost(),
        dropped.len(),
        places.join(", ")
    ));
}

/// Frame by frame, probes included: the daemons' counters against the log.
fn check_counts(way: &Relayed, tally: &Tally, ended: &Ended, outcome: &mut Outcome) {
    let (from, to) = (tally.from, tally.to);
    let log = &way.log;
    let pair = ended
        .balance
        .pairs
        .iter()
        .find(|p| (p.from, p.to) == (from, to));
    let counted = pair.map(|pair| {
        let lost = pair
            .sealed
            .unwrap_or(0)
            .saturating_sub(pair.opened.unwrap_or(0));
        let replayed = pair.refused.get(REPLAYED).copied().unwrap_or(0);
        (
            lost,
            replayed,
            pair.refused.values().sum::<u64>() - replayed,
        )
    });
    let expected = Some((log.dropped, log.doubled, 0));
    outcome.check(
        &format!("counters {from} -> {to} agree with the relay's log"),
        counted == expected && log.doubled > 0 && log.held > 0,
        match counted {
            Some((lost, replayed, others)) => format!(
                "sealed and not opened {lost}, dropped {}; {REPLAYED} {replayed}, doubled {}; \
                 refused for other reasons {others}; overtaken by up to {HELD_FRAMES_MAX} frames \
                 {}; handshakes and beacons touched {}",
                log.dropped, log.doubled, log.held, log.control
            ),
            None => "no counts of this pair".to_owned(),
        },
    );
}
