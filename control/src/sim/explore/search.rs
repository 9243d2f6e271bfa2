//! Every state within a number of steps of a root, each once, the nearest first.

use std::collections::HashSet;
use std::time::{Duration, Instant as Clock};

use super::calm::{self, Wire};
use super::locals::Locals;
use super::property::{Property, Wrong};
use super::roots::Root;
use super::state::{Choice, State, What};
use crate::sim::mutants::Mutant;

/// What to explore.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where from.
    pub root: Root,
    /// How many nodes: 2 or 3.
    pub nodes: u8,
    /// How many steps.
    pub depth: u32,
    /// Repetitions, restarts, requests, data and beacons, all together.
    pub extras: u8,
    /// States after which the depth that is under way is the last: bounds memory.
    pub states_max: usize,
    /// From one in so many states, convergence is asked for.
    pub calm_every: u64,
    /// The defect that all nodes have.
    pub mutant: Option<Mutant>,
    /// Whether equal states are one. Only to show that it makes no difference.
    pub merges: bool,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The steps up to which every state was seen.
    pub depth: u32,
    /// States, each once.
    pub states: usize,
    /// Steps taken from them.
    pub steps: u64,
    /// States of single nodes.
    pub locals: usize,
    /// How often convergence was asked for: twice for a state.
    pub calms: u64,
    /// The longest time until everything worked again.
    pub longest_calm: Duration,
    /// How long it all took.
    pub seconds: f64,
    /// The first thing that was wrong: after the least steps that lead there.
    pub violation: Option<Found>,
    /// Whether the states of the next depth were too many.
    pub is_cut: bool,
}

/// A property that does not hold.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which.
    pub property: Property,
    /// Where and how.
    pub detail: String,
    /// After so many steps from the root.
    pub depth: u32,
    /// The steps.
    pub trace: Vec<String>,
}

/// An exploration under way.
struct Search<'a> {
    plan: &'a Plan,
    locals: Locals,
    /// Names of all states.
    seen: HashSet<u128>,
    /// By state, its predecessor and how it was reached.
    reached: Vec<(usize, Choice)>,
    root: State,
    outcome: Outcome,
    began: Clock,
}

/// Explores.
pub fn explore(plan: &Plan) -> Outcome {
    explore_watched(plan, &mut |_, _| true, &mut |_| {})
}

/// The same; `go_on` is told depth and states now and then, and may say no, and
/// `see` is told the name of each state.
pub fn explore_watched(
    plan: &Plan,
    go_on: &mut dyn FnMut(u32, usize) -> bool,
    see: &mut dyn FnMut(u128),
) -> Outcome {
    let began = Clock::now();
    let mut locals = Locals::new(plan.mutant, plan.merges);
    let outcome = Outcome {
        depth: 0,
        states: 0,
        steps: 0,
        locals: 0,
        calms: 0,
        longest_calm: Duration::ZERO,
        seconds: 0.0,
        violation: None,
        is_cut: false,
    };
    let root = match plan.root.reach(&mut locals, plan.nodes, plan.extras) {
        Ok(root) => root,
        Err((property, detail)) => {
            let violation = Some(Found {
                property,
                detail,
                depth: 0,
                trace: Vec::new(),
            });
            return Outcome {
                violation,
                ..outcome
            };
        }
    };
    let mut search = Search {
        plan,
        locals,
        seen: HashSet::new(),
        reached: Vec::new(),
        root,
        outcome,
        began,
    };
    search.run(go_on, see);
    search.outcome.states = search.reached.len() + 1;
    search.outcome.locals = search.locals.len();
    search.outcome.seconds = search.began.elapsed().as_secs_f64();
    search.outcome
}

impl Search<'_> {
    fn run(&mut self, go_on: &mut dyn FnMut(u32, usize) -> bool, see: &mut dyn FnMut(u128)) {
        let root = self.root.clone();
        let name = root.fingerprint(&self.locals);
        self.seen.insert(name);
        see(name);
        self.judge_calm(0, &root, name, 0);
        let mut frontier = vec![(0, root)];
        for depth in 1..=self.plan.depth {
            let mut next = Vec::new();
            for (number, (index, state)) in frontier.iter().enumerate() {
                if number % 1024 == 0 && !go_on(depth, self.reached.len()) {
                    self.outcome.is_cut = true;
                    return;
                }
                for choice in state.choices(&self.locals) {
                    self.take(depth, (*index, state), choice, &mut next, see);
                    if self.outcome.violation.is_some() {
                        return;
                    }
                }
            }
            self.outcome.depth = depth;
            frontier = next;
            if frontier.is_empty() {
                return;
            }
            if self.reached.len() >= self.plan.states_max {
                self.outcome.is_cut = depth < self.plan.depth;
                return;
            }
        }
    }

    fn take(
        &mut self,
        depth: u32,
        (from, state): (usize, &State),
        choice: Choice,
        next: &mut Vec<(usize, State)>,
        see: &mut dyn FnMut(u128),
    ) {
        self.outcome.steps += 1;
        let (reached, wrong) = self.locals.apply(state, choice);
        if let Some(wrong) = wrong {
            return self.found(depth, wrong, from, Some(choice));
        }
        if reached.is_dominated_by(state, &self.locals) {
            debug_assert!(reached.offers_no_more_than(state, &self.locals));
            return;
        }
        let name = reached.fingerprint(&self.locals);
        see(name);
        let is_new = self.seen.insert(name);
        if !is_new && self.plan.merges {
            return;
        }
        self.reached.push((from, choice));
        let index = self.reached.len();
        self.judge_calm(index, &reached, name, depth);
        next.push((index, reached));
    }

    /// Asks whether a state converges, if it is among those that are asked.
    fn judge_calm(&mut self, index: usize, state: &State, name: u128, depth: u32) {
        if !name.is_multiple_of(u128::from(self.plan.calm_every.max(1))) {
            return;
        }
        for wire in [Wire::Arrives, Wire::IsLost] {
            self.outcome.calms += 1;
            match calm::converge(&mut self.locals, state, wire) {
                Ok(took) => self.outcome.longest_calm = self.outcome.longest_calm.max(took),
                Err((property, text)) => {
                    let text = format!("{text} (what was on its way {wire:?})");
                    return self.found(depth, (property, text), index, None);
                }
            }
        }
    }

    /// Keeps the first violation, with the way to it.
    fn found(&mut self, depth: u32, wrong: Wrong, from: usize, last: Option<Choice>) {
        if self.outcome.violation.is_some() {
            return;
        }
        let mut choices: Vec<Choice> = last.into_iter().collect();
        let mut index = from;
        while index > 0 {
            let (former, choice) = self.reached[index - 1];
            choices.push(choice);
            index = former;
        }
        choices.reverse();
        let mut trace = Vec::new();
        let mut state = self.root.clone();
        for choice in choices {
            state = self.locals.apply(&state, choice).0;
            trace.push(self.line(&state, choice));
        }
        self.outcome.violation = Some(Found {
            property: wrong.0,
            detail: wrong.1,
            depth,
            trace,
        });
    }

    /// One step, to read.
    fn line(&mut self, after: &State, choice: Choice) -> String {
        let what = |what: What| match what {
            What::Message(id) => self.locals.book.message(id).name(),
            What::Frame(frame) => format!(
                "{:?} of node {}, number {} on {}",
                frame.content, frame.from, frame.number, frame.spi
            ),
        };
        let text = match choice {
            Choice::Deliver(to, one) => format!("node {to} gets {}", what(one)),
            Choice::Repeat(to, one) => format!("node {to} gets again {}", what(one)),
            Choice::Installed(place) => format!("node {place} has installed a receiving SA"),
            Choice::Timer(place) => format!("a timer of node {place}"),
            Choice::Restart(place) => format!("node {place} dies and starts again"),
            Choice::Rekey(place) => format!("node {place} is asked for fresh keys"),
            Choice::Data(place, to) => format!("node {place} seals data for node {to}"),
            Choice::Hear(place, of, life) => {
                format!("node {place} hears the beacon of node {of}, life {life}")
            }
        };
        let places = after.places();
        let slots: Vec<String> = places
            .map(|place| self.locals.slots(after, place))
            .collect();
        format!(
            "{:8.3} s  {text}  [{}]",
            after.now.as_secs_f64(),
            slots.join("; ")
        )
    }
}
