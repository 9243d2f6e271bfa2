//! Where explorations begin.

use super::book::Content;
use super::locals::Locals;
use super::property::Wrong;
use super::state::{Budgets, Choice, Flight, State, What};
use crate::frame::MessageType;
use crate::sim::ms;

/// Steps within which every root is reached.
const STEPS_MAX: u32 = 10_000;

macro_rules! roots {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $text:literal;)+) => {
        /// Where an exploration begins.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Root { $($(#[$doc])* $variant,)+ }

        impl Root {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Name on the command line and in docs/model.md.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What has happened.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

roots! {
    /// Nothing was said.
    Join = "join", "all have started and have heard one another's beacon";
    /// Nothing was answered.
    Cross = "cross", "the same, and every node has sent its first m1: they started at once";
    /// Nobody has an SA yet.
    Shown = "shown", "the same, and every node has got a cookie and sent its second m1 with it";
    /// Everything works.
    Up = "up", "every pair is up";
    /// A process started again.
    Restart = "restart", "every pair was up; then node 1 started again, and all have heard one another's beacon";
    /// An old message that nobody has seen.
    Former = "former", "node 1 got a cookie, sent its m1 with it, which nobody has seen yet, and started again; now every pair is up";
    /// Rekeys at both ends.
    Rekey = "rekey", "every pair is up, and every node has just sent the m1 of a rekey";
}

impl Root {
    /// What may happen from it on, besides what nodes do and what is lost.
    pub fn budgets(self, extras: u8) -> Budgets {
        let all = Budgets {
            extras,
            repeats: 1,
            restarts: 1,
            rekeys: 0,
            data: 1,
            beacons: 1,
        };
        match self {
            Self::Join | Self::Cross | Self::Shown => Budgets { data: 0, ..all },
            Self::Up => Budgets { rekeys: 2, ..all },
            Self::Restart | Self::Former => Budgets { restarts: 0, ..all },
            Self::Rekey => Budgets { rekeys: 1, ..all },
        }
    }

    /// The state, with so many nodes, and the choices that lead to it.
    pub(super) fn reach(self, locals: &mut Locals, nodes: u8, extras: u8) -> Result<State, Wrong> {
        let mut state = locals.cold(nodes);
        state = hear_all(locals, state)?;
        match self {
            Self::Join => {}
            Self::Cross => state = start_all(locals, state)?,
            Self::Shown => state = show_all(locals, state)?,
            Self::Up | Self::Restart | Self::Rekey => state = come_up(locals, state)?,
            Self::Former => {
                state = show_all(locals, state)?;
                let from_1 = |what: What| match what {
                    What::Message(id) => locals.book.message(id).from == 1,
                    What::Frame(_) => false,
                };
                let m1s = state.wire.iter().filter(|one| from_1(one.what));
                let held: Vec<Flight> = m1s.copied().collect();
                state.wire.clear();
                state = restart(locals, state)?;
                state = come_up(locals, state)?;
                state.wire.extend(held);
            }
        }
        match self {
            Self::Restart => state = restart(locals, state)?,
            Self::Rekey => {
                for place in state.places() {
                    (state.left.rekeys, state.left.extras) = (1, 1);
                    state = take(locals, &state, Choice::Rekey(place))?;
                }
                state = start_all(locals, state)?;
            }
            Self::Join | Self::Cross | Self::Shown | Self::Up | Self::Former => {}
        }
        state.left = self.budgets(extras);
        Ok(state)
    }
}

fn take(locals: &mut Locals, state: &State, choice: Choice) -> Result<State, Wrong> {
    match locals.apply(state, choice) {
        (_, Some(wrong)) => Err(wrong),
        (next, None) => Ok(next),
    }
}

/// Node 1 starts again, and everybody hears everybody.
fn restart(locals: &mut Locals, mut state: State) -> Result<State, Wrong> {
    (state.left.restarts, state.left.extras) = (1, 1);
    let state = take(locals, &state, Choice::Restart(1))?;
    hear_all(locals, state)
}

/// Everybody hears the beacon of everybody else.
fn hear_all(locals: &mut Locals, mut state: State) -> Result<State, Wrong> {
    for place in state.places() {
        for of in state.places().filter(|&of| of != place) {
            (state.left.beacons, state.left.extras) = (1, 1);
            let life = state.life(locals, of);
            state = take(locals, &state, Choice::Hear(place, of, life))?;
        }
    }
    state.left = Budgets::NONE;
    Ok(state)
}

/// Timers fire until every node has sent an m1 to every other; nothing arrives.
fn start_all(locals: &mut Locals, mut state: State) -> Result<State, Wrong> {
    let wanted = state.nodes.len() * (state.nodes.len() - 1);
    for _ in 0..STEPS_MAX {
        if m1s(locals, &state) >= wanted {
            break;
        }
        let due = |place| Some((state.deadline(locals, place)?, place));
        let Some((_, place)) = state.places().filter_map(due).min() else {
            break;
        };
        state = take(locals, &state, Choice::Timer(place))?;
    }
    // Probes that left meanwhile are lost: the start is what matters here.
    state
        .wire
        .retain(|flight| matches!(flight.what, What::Message(_)));
    Ok(state)
}

/// The same, and each m1 is answered by a hello, which the sender takes for
/// another m1.
fn show_all(locals: &mut Locals, state: State) -> Result<State, Wrong> {
    let mut state = start_all(locals, state)?;
    for kind in [MessageType::M1, MessageType::Hello] {
        let is_such = |what: What| match what {
            What::Message(id) => locals.book.message(id).kind == kind,
            What::Frame(_) => false,
        };
        let wire = state.wire.iter();
        let such: Vec<Flight> = wire.filter(|one| is_such(one.what)).copied().collect();
        for one in such {
            state = take(locals, &state, Choice::Deliver(one.to, one.what))?;
        }
    }
    Ok(state)
}

fn m1s(locals: &Locals, state: &State) -> usize {
    let is_m1 = |what: What| match what {
        What::Message(id) => locals.book.message(id).kind == MessageType::M1,
        What::Frame(_) => false,
    };
    state
        .wire
        .iter()
        .filter(|one| one.is_fresh && is_m1(one.what))
        .count()
}

/// Without faults, until every pair has been up for a while and the wire is empty.
fn come_up(locals: &mut Locals, mut state: State) -> Result<State, Wrong> {
    let mut up_since = None;
    for _ in 0..STEPS_MAX {
        let first = state.wire.iter().find(|flight| flight.is_fresh);
        let installing = |&place: &u8| locals.get(state.at(place).local).summary.is_installing;
        let choice = match (first, state.places().find(installing)) {
            (Some(flight), _) => Choice::Deliver(flight.to, flight.what),
            (None, Some(place)) => Choice::Installed(place),
            (None, None) => {
                let others = state.nodes.len() - 1;
                let is_up = |place| locals.get(state.at(place).local).summary.up.len() == others;
                if state.places().all(is_up) {
                    let since = *up_since.get_or_insert(state.now);
                    if state.now - since >= ms(300) {
                        break;
                    }
                }
                let due = |place| Some((state.deadline(locals, place)?, place));
                match state.places().filter_map(due).min() {
                    Some((_, place)) => Choice::Timer(place),
                    None => break,
                }
            }
        };
        state = take(locals, &state, choice)?;
    }
    debug_assert!(!state.wire.iter().any(|one| matches!(
        one.what,
        What::Frame(frame) if frame.content == Content::Payload
    )));
    Ok(state)
}
