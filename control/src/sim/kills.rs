//! One cluster under load, in which one node after another is killed and started
//! again: how soon each is back, and whether a number is ever used twice.

use std::time::Duration;

use serde::Serialize;

use super::invariant::Invariant;
use super::random::Seeded;
use super::{Universe, master, ms, node_id};
use crate::time::Random;

/// A node that starts has all its links within this time.
pub const BACK_WITHIN: Duration = ms(1500);
/// Distance of data frames of one worker to one peer.
const PACE: Duration = ms(5);
/// A killed node is away for up to this: now less than its peers need to notice,
/// now more.
const AWAY_MAX: Duration = Duration::from_secs(3);
/// A node that is back carries traffic for up to this before the next is killed.
const UP_MAX: Duration = Duration::from_secs(2);
/// Rekeys go on meanwhile.
const INTERVAL: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Kills {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Nodes killed and back.
    pub kills: u32,
    /// From the start of the process until all its links were up, in ms: half of
    /// them were no slower.
    pub median_ms: u128,
    /// The slowest.
    pub longest_ms: u128,
    /// Payloads sealed.
    pub sealed: u64,
    /// Payloads delivered.
    pub delivered: u64,
    /// Virtual time, in seconds.
    pub simulated_s: f64,
    /// The invariant that broke, if one did.
    pub broken: Option<String>,
}

/// Kills a node of a cluster so many times.
pub fn run(nodes: usize, kills: u32, seed: u64) -> Kills {
    let mut chance = Seeded::new(seed);
    let mut universe = Universe::new(chance.next_u64());
    universe.seed = seed;
    universe.capture = false;
    universe.spi_slots = 4096;
    for _ in 0..nodes {
        universe.add(&master(1), Some(INTERVAL));
    }
    let start = universe.now;
    wait_until_up(&mut universe);
    let mut took = Vec::new();
    while took.len() < kills as usize && universe.broken().is_none() {
        let victim = chance.below(nodes);
        let (up, away) = (
            chance.between(Duration::ZERO, UP_MAX),
            chance.between(Duration::ZERO, AWAY_MAX),
        );
        universe.step_with_traffic(up, PACE);
        universe.kill(victim);
        universe.step_with_traffic(away, PACE);
        universe.start(victim, node_id(victim), &master(1), Some(INTERVAL));
        took.extend(wait_until_up(&mut universe));
    }
    took.sort_unstable();
    let (sealed, delivered) = universe.data();
    let millis = |at: Option<&Duration>| at.map_or(0, Duration::as_millis);
    Kills {
        nodes,
        kills: u32::try_from(took.len()).unwrap_or(u32::MAX),
        median_ms: millis(took.get(took.len() / 2)),
        longest_ms: millis(took.last()),
        sealed,
        delivered,
        simulated_s: universe.now.since(start).as_secs_f64(),
        broken: universe.broken().map(ToString::to_string),
    }
}

/// How long it takes, under load, until all links are up; `None` if an invariant
/// broke, and it is one that this is within the limit.
fn wait_until_up(universe: &mut Universe) -> Option<Duration> {
    let since = universe.now;
    while !universe.all_up() && universe.broken().is_none() {
        if universe.now.since(since) > BACK_WITHIN {
            let text = format!("not within {} ms", BACK_WITHIN.as_millis());
            universe.is_wrong((Invariant::AllUp, text));
        }
        universe.step_with_traffic(PACE, PACE);
    }
    universe
        .broken()
        .is_none()
        .then(|| universe.now.since(since))
}
