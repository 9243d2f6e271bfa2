//! A whole history from one seed: who there is, what befalls them, and in the
//! liveness mode the calm afterwards, in which everything has to work again.

use std::fmt;
use std::time::Duration;

use tipsec_dataplane::phase::{Phase, PhaseBits};

use super::invariant::{Invariant, Violation};
use super::mutants::Mutant;
use super::random::Seeded;
use super::rotation::Step;
use super::{Faults, Universe, master, ms, network, node_id};
use crate::address::Network;
use crate::machine::{Input, LinkState};
use crate::masters::Masters;
use crate::time::{Instant, Random};

/// After the faults stop, every pair is up within this time.
pub const UP_WITHIN: Duration = Duration::from_secs(20);
/// How long the calm goes on after that: now and then longer than any superseded
/// key lives.
const CALM: [Duration; 3] = [
    Duration::from_secs(6),
    Duration::from_secs(6),
    Duration::from_secs(12),
];
/// What an exchange takes at most in a calm network, jitter included.
const REKEY_WITHIN: Duration = Duration::from_secs(2);
/// After all nodes hold the same master keys, every pair is under the active one
/// within this time.
const ROTATED_WITHIN: Duration = Duration::from_secs(60);
/// Distance of data frames of one worker to one peer.
const PACE: Duration = ms(40);
/// The same in the calm before the last look.
const CALM_PACE: Duration = ms(250);
const SECOND: Duration = Duration::from_secs(1);

/// How a history ends, and so what is asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// With faults to the end: only what must never happen is looked for.
    Safety,
    /// In calm: what must happen then is looked for as well.
    Liveness,
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// Nodes, or as many as the seed says: 2 to 4.
    pub nodes: Option<usize>,
    /// How it ends.
    pub mode: Mode,
    /// What is wrong with every node, if anything is.
    pub mutant: Option<Mutant>,
    /// Whether to keep what happens, to read.
    pub trace: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The invariant that broke, if one did.
    pub violation: Option<Violation>,
    /// Two runs of one plan have the same.
    pub trace_hash: u64,
    /// What happened, if it was to be kept.
    pub trace: Vec<String>,
    /// Virtual time that passed.
    pub simulated: Duration,
    /// Payloads sealed, delivered, and lost by the network.
    pub payloads: (u64, u64, u64),
    /// How long it took from the calm until all pairs were up.
    pub up_after: Option<Duration>,
    /// The highest phase in which a frame was opened.
    pub highest_phase: Phase,
}

/// One thing that befalls the cluster.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill(usize),
    Start(usize),
    Stop(usize),
    Resume(usize),
    CutOneWay(usize, usize),
    Cut(usize, usize),
    CutNetwork(usize, usize, Network),
    Heal,
    Weather(Faults),
    RekeyNow(usize),
    RekeyAll,
    Interval(usize, Option<Duration>),
    OtherMaster(usize),
    /// The next step of the rotation, unless the node is ahead of another.
    Rotate(usize),
    Attack(u32),
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A history in the making.
struct History {
    universe: Universe,
    chance: Seeded,
    /// What is drawn apart, so that histories without it are as they were.
    apart: Seeded,
    /// How far each node is in the rotation; `None` if there is none.
    steps: Option<Vec<Step>>,
    intervals: Vec<Option<Duration>>,
    lanes: Vec<Vec<Network>>,
}

/// Runs a plan.
pub fn run(plan: &Plan) -> Outcome {
    let mut history = History::new(plan);
    let start = history.universe.now;
    history.storm();
    let mut up_after = None;
    if plan.mode == Mode::Liveness {
        up_after = history.calm();
    }
    history.outcome(start, up_after)
}

impl History {
    fn new(plan: &Plan) -> Self {
        let mut chance = Seeded::new(plan.seed);
        let mut apart = Seeded::new(!plan.seed);
        let mut universe = Universe::new(chance.next_u64());
        universe.seed = plan.seed;
        universe.mutant = plan.mutant;
        universe.capture = false;
        universe.max_peers = 16;
        // For a minute of rekeys each 300 ms: SPIs rest that long.
        universe.spi_slots = 4096;
        universe.activity = chance.chance(500);
        universe.delays.commands = ms(chance.pick(&[1, 5, 50]));
        universe.delays.events = ms(chance.pick(&[0, 0, 5]));
        if chance.chance(100) {
            universe.link_tolerance = Duration::from_secs(80);
        }
        if plan.trace {
            universe.keep_trace();
        }
        let nodes = plan.nodes.unwrap_or_else(|| chance.pick(&[2, 2, 3, 3, 4]));
        let intervals = [
            None,
            None,
            None,
            Some(ms(300)),
            Some(SECOND),
            Some(3 * SECOND),
        ];
        if apart.chance(400) {
            draw_phases(&mut universe, &mut apart);
        }
        let mut history = Self {
            universe,
            steps: apart.chance(300).then(|| vec![Step::Old; nodes]),
            apart,
            intervals: (0..nodes).map(|_| chance.pick(&intervals)).collect(),
            lanes: (0..nodes).map(|_| draw_lanes(&mut chance)).collect(),
            chance,
        };
        for n in 0..nodes {
            let drift_ppm = i32::try_from(history.chance.below(20_001)).unwrap_or(0) - 10_000;
            history.universe.add_place(drift_ppm);
            history.strike(Blow::Start(n));
        }
        history
    }

    /// Blow after blow, with traffic between them.
    fn storm(&mut self) {
        let settle = self.chance.between(ms(0), ms(1500));
        self.universe.step_with_traffic(settle, PACE);
        for _ in 0..4 + self.chance.below(8) {
            let blow = self.draw_blow();
            self.strike(blow);
            if self.steps.is_some() && self.apart.chance(700) {
                let n = self.apart.below(self.universe.nodes.len());
                self.strike(Blow::Rotate(n));
            }
            let length = match self.chance.chance(30) {
                true => self.chance.between(ms(0), 30 * SECOND),
                false => self.chance.between(ms(0), ms(1200)),
            };
            self.universe.step_with_traffic(length, PACE);
        }
    }

    fn draw_blow(&mut self) -> Blow {
        let chance = &mut self.chance;
        let nodes = self.universe.nodes.len();
        let (a, b) = (chance.below(nodes), chance.below(nodes));
        match chance.below(26) {
            0 | 1 => Blow::Kill(a),
            2..=4 => Blow::Start(a),
            5 => Blow::Stop(a),
            6 | 7 => Blow::Resume(a),
            8 => Blow::CutOneWay(a, b),
            9 => Blow::Cut(a, b),
            10 => Blow::CutNetwork(a, b, network(u8::from(chance.chance(500)))),
            11 | 12 => Blow::Heal,
            13..=17 => Blow::Weather(draw_weather(chance)),
            18 | 19 => Blow::RekeyNow(a),
            20 | 21 => Blow::RekeyAll,
            22 => Blow::Interval(a, chance.pick(&[None, Some(ms(300)), Some(2 * SECOND)])),
            23 => Blow::OtherMaster(a),
            _ => Blow::Attack(u32::try_from(1 + chance.below(60)).unwrap_or(1)),
        }
    }

    fn strike(&mut self, blow: Blow) {
        let steps = self.steps.clone();
        let ring = |n: usize| steps.as_ref().map_or(Step::Old, |steps| steps[n]).ring();
        let universe = &mut self.universe;
        universe.say(format!("BLOW {blow}"));
        match blow {
            Blow::Kill(n) => universe.kill(n),
            Blow::Start(n) => {
                universe.lanes.clone_from(&self.lanes[n]);
                universe.start_with(n, node_id(n), ring(n), self.intervals[n]);
            }
            Blow::Stop(n) => universe.stop(n),
            Blow::Resume(n) => universe.resume(n),
            Blow::CutOneWay(a, b) => drop(universe.cut.insert((a, b))),
            Blow::Cut(a, b) => universe.cut.extend([(a, b), (b, a)]),
            Blow::CutNetwork(a, b, network) => {
                let both = [(a, b, network), (b, a, network)];
                universe.cut_networks.extend(both);
            }
            Blow::Heal => {
                universe.cut.clear();
                universe.cut_networks.clear();
            }
            Blow::Weather(faults) => universe.faults = faults,
            Blow::RekeyNow(n) => drop(universe.operate(n, Input::RekeyNow)),
            Blow::RekeyAll => {
                for n in 0..universe.nodes.len() {
                    universe.operate(n, Input::RekeyNow);
                }
            }
            Blow::Interval(n, interval) => {
                // A process that starts again reads the same configuration.
                if universe.operate(n, Input::SetRekeyInterval(interval)) {
                    self.intervals[n] = interval;
                }
            }
            Blow::OtherMaster(n) => {
                universe.operate(n, Input::SetMasters(Masters::only(master(9))));
                universe.step_with_traffic(ms(300), PACE);
                universe.operate(n, Input::SetMasters(ring(n)));
            }
            Blow::Rotate(n) => self.rotate(n),
            Blow::Attack(frames) => universe.attack_at_once(frames),
        }
    }

    /// An operator takes the next step at a node, if it has come no further
    /// than any other. One that is stopped does not hear it.
    fn rotate(&mut self, n: usize) {
        let Some(steps) = &mut self.steps else {
            return;
        };
        let node = self.universe.nodes[n].as_ref();
        let is_stopped = node.is_some_and(|node| node.stopped.is_some());
        if let Some(next) = steps[n].next()
            && !is_stopped
            && steps.iter().all(|other| steps[n] <= *other)
        {
            // A process that is dead reads it when it starts again.
            steps[n] = next;
            self.universe.hand_masters(n, next.ring());
        }
    }

    /// The faults stop; then everything has to work, and to go on working.
    fn calm(&mut self) -> Option<Duration> {
        self.universe.faults = Faults::default();
        self.strike(Blow::Heal);
        for n in 0..self.universe.nodes.len() {
            match &self.universe.nodes[n] {
                None => self.strike(Blow::Start(n)),
                Some(_) => self.strike(Blow::Resume(n)),
            }
            let furthest = self.steps.iter().flatten().max().copied();
            let furthest = furthest.unwrap_or_default();
            if let Some(steps) = &mut self.steps {
                steps[n] = furthest;
            }
            self.universe.hand_masters(n, furthest.ring());
        }
        let start = self.universe.now;
        while !self.universe.all_up() {
            if self.universe.broken().is_some() {
                return None;
            }
            if self.universe.now.since(start) > UP_WITHIN {
                let text = self.who_is_not_up();
                self.universe.is_wrong((Invariant::AllUp, text));
                return None;
            }
            self.universe.step_with_traffic(ms(50), PACE);
        }
        let took = self.universe.now.since(start);
        if self.steps.is_some() {
            self.universe.step_with_traffic(ROTATED_WITHIN, CALM_PACE);
            self.judge_masters();
        }
        self.quiet();
        Some(took)
    }

    /// Data both ways, without a loss, and fresh keys.
    fn quiet(&mut self) {
        let calm = self.chance.pick(&CALM);
        if self.universe.link_tolerance > calm {
            // A lane that was held in the storm is probed once in a quarter of
            // the tolerance, or with the next keys.
            self.strike(Blow::RekeyAll);
        }
        let universe = &mut self.universe;
        // Lanes that nobody confirmed in the storm are probed one by one.
        universe.step_with_traffic(calm, CALM_PACE);
        universe.step_with_traffic(ms(200), SECOND);
        let before = universe.data();
        let losses = universe.losses();
        let epochs = self.epochs();
        let eager = self.chance.below(self.universe.nodes.len());
        self.strike(Blow::RekeyNow(eager));
        let universe = &mut self.universe;
        universe.step_with_traffic(REKEY_WITHIN, PACE);
        universe.step_with_traffic(ms(200), SECOND);
        let after = universe.data();
        let (sealed, missing) = (
            after.0 - before.0,
            universe.payloads.missing_since(before.0),
        );
        let now = universe.losses();
        if sealed == 0 || missing > 0 || now.no_key != losses.no_key {
            let text = format!(
                "{sealed} payloads sealed, {missing} of them missing, {} refused for want of a key",
                now.no_key - losses.no_key
            );
            universe.is_wrong((Invariant::DataBothWays, text));
        }
        self.judge_keys(eager, &epochs);
    }

    /// All nodes hold the same keys: what they seal is under the active one.
    fn judge_masters(&mut self) {
        let ring = self.steps.iter().flatten().max().copied();
        let active = ring.unwrap_or_default().ring().active().id();
        let others = [1, 2].map(|n| master(n).id());
        let mut behind = Vec::new();
        for (a, b) in self.pairs() {
            let under = self.universe.view(a, b).and_then(|view| view.master);
            let machine = self.universe.nodes[a].as_ref().map(|node| &node.machine);
            let depends = machine.is_some_and(|machine| {
                let others = others.iter().filter(|other| **other != active);
                let mut dependents = others.flat_map(|other| machine.dependents(*other));
                dependents.any(|dependent| dependent.node == node_id(b))
            });
            if under != Some(active) || depends {
                behind.push(format!("{} to {}", node_id(a), node_id(b)));
            }
        }
        if !behind.is_empty() {
            let text = format!("under another key: {}", behind.join(", "));
            self.universe.is_wrong((Invariant::ActiveKey, text));
        }
    }

    /// Sending epochs: (node, peer, epoch).
    fn epochs(&self) -> Vec<(usize, usize, u32)> {
        let mut epochs = Vec::new();
        for (a, b) in self.pairs() {
            if let Some(view) = self.universe.view(a, b) {
                epochs.push((a, b, view.tx_epoch.map_or(0, |epoch| epoch.0)));
            }
        }
        epochs
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let nodes = self.universe.nodes.len();
        (0..nodes).flat_map(move |a| (0..nodes).filter(move |&b| a != b).map(move |b| (a, b)))
    }

    /// The keys that an operator asked for are there, and those of an interval.
    fn judge_keys(&mut self, eager: usize, before: &[(usize, usize, u32)]) {
        let after = self.epochs();
        let mut stale = Vec::new();
        for (old, new) in before.iter().zip(&after) {
            let asked = old.0 == eager || old.1 == eager;
            if asked && new.2 <= old.2 {
                stale.push(format!(
                    "{} to {} on request",
                    node_id(old.0),
                    node_id(old.1)
                ));
            }
        }
        for (a, b) in self.pairs() {
            let shortest = self.intervals[a].into_iter().chain(self.intervals[b]).min();
            let age = self.universe.view(a, b).and_then(|view| view.key_age);
            // What the backup waits for, and 1 % for the clocks.
            if let (Some(shortest), Some(age)) = (shortest, age)
                && age > shortest.mul_f64(1.22) + REKEY_WITHIN
            {
                stale.push(format!("{} and {} for {age:?}", node_id(a), node_id(b)));
            }
        }
        if !stale.is_empty() {
            let text = format!("no fresh keys: {}", stale.join(", "));
            self.universe.is_wrong((Invariant::FreshKeys, text));
        }
    }

    fn who_is_not_up(&self) -> String {
        let not_up: Vec<String> = self
            .pairs()
            .filter(|&(a, b)| !self.universe.is_up(a, b))
            .map(|(a, b)| {
                let link = self.universe.view(a, b).map(|view| view.link);
                let state = link.map_or("unknown", LinkState::name);
                format!("{} to {} is {state}", node_id(a), node_id(b))
            })
            .collect();
        format!("after {} s: {}", UP_WITHIN.as_secs(), not_up.join(", "))
    }

    fn outcome(self, start: Instant, up_after: Option<Duration>) -> Outcome {
        let universe = self.universe;
        Outcome {
            violation: universe.broken().cloned(),
            trace_hash: universe.trace_hash(),
            trace: universe.trace().to_vec(),
            simulated: universe.now.since(start),
            payloads: universe.payloads.totals(),
            up_after,
            highest_phase: universe.highest_phase,
        }
    }
}

/// Budgets that last seconds, so that lanes go on in phases.
fn draw_phases(universe: &mut Universe, apart: &mut Seeded) {
    universe.budget = apart.pick(&[60, 120, 400]);
    let bits = apart.pick(&[PhaseBits::MIN, PhaseBits::MIN + 3]);
    universe.phase_bits = PhaseBits::new(bits).unwrap_or(PhaseBits::PROTOCOL);
    universe.delays.staging = apart.pick(&[ms(0), ms(0), ms(300)]);
}

fn draw_lanes(chance: &mut Seeded) -> Vec<Network> {
    // All are on network 0, or some pairs could never meet.
    let choices: [&[u8]; 5] = [&[0], &[0], &[0, 0], &[0, 1], &[0, 0, 1]];
    let lanes = chance.pick(&choices);
    lanes.iter().map(|&number| network(number)).collect()
}

fn draw_weather(chance: &mut Seeded) -> Faults {
    let mut rate = |most: usize| match chance.below(2) {
        0 => 0,
        _ => chance.below(most) as u64,
    };
    Faults {
        loss: rate(300),
        duplication: rate(300),
        corruption: rate(100),
        replay: rate(100),
        delay: ms(rate(150)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        Plan {
            seed,
            nodes: None,
            mode: Mode::Liveness,
            mutant: None,
            trace: false,
        }
    }

    #[test]
    fn a_seed_replays_exactly() {
        for seed in 0..8 {
            let plan = plan(seed);
            let traced = Plan {
                trace: true,
                ..plan
            };
            let (once, again) = (run(&plan), run(&traced));
            assert_eq!(once.trace_hash, again.trace_hash, "seed {seed}");
            assert!(once.trace.is_empty() && again.trace.len() > 1000);
            assert_eq!(once.payloads, again.payloads, "seed {seed}");
        }
        let hash = |seed| {
            run(&Plan {
                nodes: Some(2),
                mode: Mode::Safety,
                ..plan(seed)
            })
            .trace_hash
        };
        assert_ne!(hash(1), hash(2));
    }

    /// Seeds of a key that was retired by force, which may cost frames, of an m1 that
    /// came again when its exchange was complete, of an m2 that a stopped process
    /// found when its SA was gone, and of an exchange that was given up just before
    /// the peer's answer to m3; what was under way when its key was retired, or waited
    /// for a process that stood still; a standstill that was counted twice; and an
    /// exchange that was overtaken by one whose m3 never came.
    #[test]
    fn what_once_broke_an_invariant_does_not() {
        for seed in [
            5232, 11_811, 13_166, 13_607, 16_773, 21_391, 32_799, 40_180, 54_061, 55_563,
        ] {
            let violation = run(&plan(seed)).violation;
            assert!(violation.is_none(), "seed {seed}: {violation:?}");
        }
    }
}
