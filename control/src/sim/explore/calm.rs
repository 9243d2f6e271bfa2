//! From a state on, nothing goes wrong any more: does everything work again, and
//! how soon?

use std::collections::VecDeque;
use std::time::Duration;

use super::book::{Frame, MessageId, Place};
use super::locals::Locals;
use super::node::{Effects, Fate, Node, Stimulus};
use super::property::{Property, Wrong};
use super::state::{State, What};
use crate::machine::LinkState;
use crate::sim::node_id;

/// Within this everything works.
pub(super) const BOUND: Duration = Duration::from_secs(20);

/// What becomes of what is on its way when the calm begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wire {
    Arrives,
    IsLost,
}

/// The cluster, alive: its nodes' machines are at hand.
struct Calm<'a> {
    locals: &'a mut Locals,
    nodes: Vec<Node>,
    /// By node, when its last stimulus was, on the clock of the state.
    since: Vec<Duration>,
    now: Duration,
    wire: VecDeque<(Place, What)>,
    /// The last frame that came was opened.
    opened: bool,
}

/// Lets a state go on undisturbed until everything works; how long that took.
pub(super) fn converge(locals: &mut Locals, state: &State, wire: Wire) -> Result<Duration, Wrong> {
    let nodes = state.nodes.iter().map(|at| locals.revive(at.local));
    let fresh = state.wire.iter().filter(|flight| flight.is_fresh);
    let mut calm = Calm {
        nodes: nodes.collect(),
        since: state.nodes.iter().map(|at| at.since).collect(),
        now: state.now,
        wire: match wire {
            Wire::Arrives => fresh.map(|flight| (flight.to, flight.what)).collect(),
            Wire::IsLost => VecDeque::new(),
        },
        locals,
        opened: false,
    };
    let end = state.now + BOUND;
    loop {
        calm.settle()?;
        let Some(missing) = calm.missing() else {
            calm.judge_data()?;
            return Ok(calm.now - state.now);
        };
        if !calm.advance(end)? {
            let text = format!("after {} s of calm: {missing}", BOUND.as_secs());
            return Err((Property::Converges, text));
        }
    }
}

impl Calm<'_> {
    fn happen(&mut self, place: Place, what: Stimulus) -> Result<(), Wrong> {
        let at = usize::from(place);
        let wait = self.now - self.since[at];
        self.since[at] = self.now;
        let effects = self.nodes[at].step(&mut self.locals.book, wait, &what);
        if let Some(wrong) = effects.wrong {
            return Err(wrong);
        }
        self.opened = effects.fate == Some(Fate::Opened);
        self.launch(place, &effects);
        Ok(())
    }

    fn launch(&mut self, from: Place, effects: &Effects) {
        let message = |(to, id): (Place, MessageId)| (to, What::Message(id));
        let frame = |(to, frame): (Place, Frame)| (to, What::Frame(frame));
        self.wire
            .extend(effects.messages.iter().copied().map(message));
        self.wire.extend(effects.frames.iter().copied().map(frame));
        if let Some(beacon) = effects.beacon {
            let others = (0..).take(self.nodes.len()).filter(|&to| to != from);
            self.wire
                .extend(others.map(|to| (to, What::Message(beacon))));
        }
    }

    /// Everything that is on its way arrives, and workers do what they were told.
    fn settle(&mut self) -> Result<(), Wrong> {
        loop {
            if let Some((to, what)) = self.wire.pop_front() {
                self.happen(to, stimulus(what))?;
                continue;
            }
            let mut places = (0..).zip(&self.nodes);
            match places.find(|(_, node)| node.is_installing()) {
                Some((place, _)) => self.happen(place, Stimulus::Installed)?,
                None => return Ok(()),
            }
        }
    }

    /// To the next timer; false if there is none in time.
    fn advance(&mut self, end: Duration) -> Result<bool, Wrong> {
        let due = |at: usize| {
            let node = &self.nodes[at];
            let deadline = node.machine().next_deadline()?;
            Some(self.since[at] + deadline.since(node.now()))
        };
        let next = (0u8..).take(self.nodes.len());
        let next = next.filter_map(|place| Some((due(place.into())?, place)));
        let Some((at, place)) = next.min().filter(|&(at, _)| at <= end) else {
            return Ok(false);
        };
        self.now = self.now.max(at);
        self.happen(place, Stimulus::Timer)?;
        Ok(true)
    }

    /// What does not work yet.
    fn missing(&self) -> Option<String> {
        for (from, sender) in (0u8..).zip(&self.nodes) {
            for (to, receiver) in (0u8..).zip(&self.nodes) {
                if from != to
                    && let Some(why) = self.missing_between(sender, receiver, to)
                {
                    return Some(format!("node {from} and node {to}: {why}"));
                }
            }
        }
        None
    }

    fn missing_between(&self, sender: &Node, receiver: &Node, to: Place) -> Option<&'static str> {
        let Some(view) = sender.view(to).filter(|view| view.link == LinkState::Up) else {
            return Some("the link is not up");
        };
        if view.incarnation != Some(receiver.incarnation()) {
            return Some("the keys are with another life");
        }
        let standing = sender.machine().standing(node_id(to.into()));
        if standing.initiator != "Idle" {
            return Some("an exchange is under way");
        }
        let summary = sender.summary(&self.locals.book);
        let lane = summary.sending.get(&to).copied();
        let opens = receiver.summary(&self.locals.book).opens;
        match lane {
            Some((key, _, true)) if opens.contains(&key) => {}
            _ => return Some("data does not flow"),
        }
        let asked = sender.asked_at().map(|at| sender.now().since(at));
        let age = view.key_age;
        if asked.is_some_and(|asked| age.is_none_or(|age| age > asked)) {
            return Some("the fresh keys that were asked for are not there");
        }
        None
    }

    /// A payload passes each way.
    fn judge_data(&mut self) -> Result<(), Wrong> {
        let places = (0u8..).take(self.nodes.len());
        for from in places.clone() {
            for to in places.clone().filter(|&to| to != from) {
                self.happen(from, Stimulus::Data(to))?;
                let Some((to, what)) = self.wire.pop_back() else {
                    let text = format!("node {from} does not seal for node {to}");
                    return Err((Property::Converges, text));
                };
                self.happen(to, stimulus(what))?;
                if !self.opened {
                    let text = format!("node {to} does not open what node {from} seals");
                    return Err((Property::Converges, text));
                }
            }
        }
        Ok(())
    }
}

fn stimulus(what: What) -> Stimulus {
    match what {
        What::Message(id) => Stimulus::Message(id),
        What::Frame(frame) => Stimulus::Frame(frame),
    }
}
