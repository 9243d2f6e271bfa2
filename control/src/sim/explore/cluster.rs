//! What follows from a choice, held against the properties.

use std::rc::Rc;
use std::time::Duration;

use super::book::{Content, Frame, Place};
use super::locals::{Locals, Step};
use super::node::{Fate, Stimulus};
use super::property::{Property, Wrong};
use super::state::{At, Budgets, Choice, Flight, LATE, State, What};

/// What follows from a choice.
pub(super) type Next = (State, Option<Wrong>);

impl Locals {
    /// Nodes that have started at the same time and have heard nothing yet.
    pub(super) fn cold(&mut self, nodes: u8) -> State {
        let mut state = State {
            now: Duration::ZERO,
            nodes: Vec::new(),
            wire: Vec::new(),
            left: Budgets::NONE,
        };
        for place in 0..nodes {
            let at = self.new_life(place, 0, Duration::ZERO);
            state.nodes.push(at);
        }
        state
    }

    /// A process that starts: its first beacon leaves at once, and is lost unless
    /// somebody hears it by choice.
    fn new_life(&mut self, place: Place, life: u8, now: Duration) -> At {
        let birth = self.birth(place, life);
        let step = self.step(birth, Duration::ZERO, Stimulus::Timer);
        At {
            local: step.to,
            since: now,
        }
    }

    /// What follows from a choice.
    pub(super) fn apply(&mut self, state: &State, choice: Choice) -> Next {
        let mut next = state.clone();
        next.left.extras -= u8::from(choice.is_extra());
        let (place, what) = match choice {
            Choice::Deliver(to, what) | Choice::Repeat(to, what) => {
                next.left.repeats -= u8::from(matches!(choice, Choice::Repeat(..)));
                let flight = next.land(to, what);
                let wrong = self.deliver(&mut next, to, what, flight);
                return self.judged(next, wrong);
            }
            Choice::Restart(place) => {
                next.left.restarts -= 1;
                let life = state.life(self, place) + 1;
                next.nodes[usize::from(place)] = self.new_life(place, life, state.now);
                return self.judged(next, None);
            }
            Choice::Hear(place, of, life) => {
                match life == state.life(self, of) {
                    true => next.left.beacons = next.left.beacons.saturating_sub(1),
                    false => next.left.repeats -= 1,
                }
                let birth = self.birth(of, life);
                let beacon = self.step(birth, Duration::ZERO, Stimulus::Timer);
                match beacon.effects.beacon {
                    Some(id) => (place, Stimulus::Message(id)),
                    None => return (next, None),
                }
            }
            Choice::Installed(place) => (place, Stimulus::Installed),
            Choice::Timer(place) => {
                let due = state.deadline(self, place).unwrap_or_default();
                next.now = next.now.max(due);
                (place, Stimulus::Timer)
            }
            Choice::Rekey(place) => {
                next.left.rekeys -= 1;
                (place, Stimulus::Rekey)
            }
            Choice::Data(place, to) => {
                next.left.data -= 1;
                (place, Stimulus::Data(to))
            }
        };
        let step = self.happen(&mut next, place, what);
        let wrong = wrong_of(&step);
        self.judged(next, wrong)
    }

    fn judged(&self, mut next: State, wrong: Option<Wrong>) -> Next {
        next.tidy();
        let wrong = wrong.or_else(|| self.judge(&next));
        (next, wrong)
    }

    /// Something happens at a node, and what leaves it is on its way.
    fn happen(&mut self, state: &mut State, place: Place, what: Stimulus) -> Rc<Step> {
        let At { local, since } = state.at(place);
        let step = self.step(local, state.now - since, what);
        state.nodes[usize::from(place)] = At {
            local: step.to,
            since: state.now,
        };
        let messages = step.effects.messages.iter();
        let messages = messages.map(|&(to, id)| (to, What::Message(id)));
        let frames = step.effects.frames.iter();
        for (to, what) in messages.chain(frames.map(|&(to, frame)| (to, What::Frame(frame)))) {
            if usize::from(to) < state.nodes.len() {
                let lives = (state.life(self, place), state.life(self, to));
                state.launch(Flight {
                    to,
                    what,
                    is_fresh: true,
                    at: state.now,
                    lives,
                });
            }
        }
        step
    }

    fn deliver(
        &mut self,
        state: &mut State,
        to: Place,
        what: What,
        flight: Option<Flight>,
    ) -> Option<Wrong> {
        let stimulus = match what {
            What::Message(id) => Stimulus::Message(id),
            What::Frame(frame) => Stimulus::Frame(frame),
        };
        let before = state.clone();
        let step = self.happen(state, to, stimulus);
        let wrong = wrong_of(&step);
        if wrong.is_some() {
            return wrong;
        }
        match (step.effects.fate, what, flight) {
            (Some(Fate::Refused(why)), What::Frame(frame), Some(flight)) => {
                self.judge_loss(&before, &frame, &flight, why)
            }
            _ => None,
        }
    }

    /// A frame was refused: only age, a restart or a link that was not up all the
    /// time excuses that.
    fn judge_loss(
        &self,
        state: &State,
        frame: &Frame,
        flight: &Flight,
        why: &'static str,
    ) -> Option<Wrong> {
        let age = state.now - flight.at;
        let (from, to) = (frame.from, flight.to);
        let lives = (state.life(self, from), state.life(self, to));
        let is_excused = frame.content != Content::Payload
            || age > LATE
            || lives != flight.lives
            || !self.has_been_up(state, from, to, age)
            || !self.has_been_up(state, to, from, age);
        (!is_excused).then(|| {
            let text = format!(
                "node {to} refused a frame of node {from}, {} ms under way: {why}",
                age.as_millis()
            );
            (Property::NothingLost, text)
        })
    }

    /// Whether a node's link to another has been up for so long.
    fn has_been_up(&self, state: &State, place: Place, of: Place, age: Duration) -> bool {
        let at = state.at(place);
        let up = self.get(at.local).summary.up.get(&of);
        up.is_some_and(|&for_| for_ + (state.now - at.since) >= age)
    }

    /// Who may seal data is heard, as far as both know.
    fn judge(&self, state: &State) -> Option<Wrong> {
        for from in state.places() {
            let sender = &self.get(state.at(from).local).summary;
            for (&to, &(key, life, is_open)) in &sender.sending {
                if usize::from(to) >= state.nodes.len() {
                    continue;
                }
                let receiver = &self.get(state.at(to).local).summary;
                let are_up = sender.up.contains_key(&to) && receiver.up.contains_key(&from);
                if is_open && are_up && life == receiver.life && !receiver.opens.contains(&key) {
                    let text = format!("node {from} seals for node {to}, which cannot open it");
                    return Some((Property::ReceiverReady, text));
                }
            }
        }
        None
    }
}

fn wrong_of(step: &Step) -> Option<Wrong> {
    step.effects.wrong.clone()
}
