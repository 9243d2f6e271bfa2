//! One state of the whole cluster, and what may happen in it.

use std::time::Duration;

use ring::digest::{SHA256, digest};

use super::book::{Content, Frame, MessageId, Place};
use super::locals::{LocalId, Locals};
use crate::sim::ms;

/// Processes look at their timers at multiples of this: so late is a process that
/// has to wait for its turn, and timers that are due between two of them fire in
/// any order.
pub(super) const TICK: Duration = ms(125);
/// Probes, and answers, that are under way from one node to another, at most: the
/// oldest are lost.
const PROBES_MAX: usize = 1;
/// Payloads older than this may be lost.
pub(super) const LATE: Duration = ms(900);

/// What is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum What {
    Message(MessageId),
    Frame(Frame),
}

/// One thing on its way, which may take as long as it likes: whoever never comes
/// is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flight {
    pub(super) to: Place,
    pub(super) what: What,
    /// Whether it has yet to arrive; else it may be repeated.
    pub(super) is_fresh: bool,
    /// When it left.
    pub(super) at: Duration,
    /// The lives of its sender and its receiver then.
    pub(super) lives: (u8, u8),
}

/// What else may go wrong, or be asked for, from here on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budgets {
    /// All of the following together.
    pub extras: u8,
    /// Messages that arrive once more, old ones too.
    pub repeats: u8,
    /// Processes that die and start again.
    pub restarts: u8,
    /// Requests for fresh keys.
    pub rekeys: u8,
    /// Data frames.
    pub data: u8,
    /// Beacons that arrive.
    pub beacons: u8,
}

impl Budgets {
    /// Nothing.
    pub const NONE: Self = Self {
        extras: 0,
        repeats: 0,
        restarts: 0,
        rekeys: 0,
        data: 0,
        beacons: 0,
    };

    /// Whether a message may arrive once more.
    fn may_repeat(self) -> bool {
        self.extras.min(self.repeats) > 0
    }

    /// How often each may still be used.
    fn in_use(self) -> [u8; 6] {
        let one = |of: u8| of.min(self.extras);
        [
            self.extras
                .min(self.repeats + self.restarts + self.rekeys + self.data + self.beacons),
            one(self.repeats),
            one(self.restarts),
            one(self.rekeys),
            one(self.data),
            one(self.beacons),
        ]
    }
}

/// A node as it is since the last thing that happened to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) local: LocalId,
    pub(super) since: Duration,
}

/// A state of the cluster.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) now: Duration,
    pub(super) nodes: Vec<At>,
    /// In the order in which they left.
    pub(super) wire: Vec<Flight>,
    pub(super) left: Budgets,
}

/// Something that may happen next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Choice {
    Deliver(Place, What),
    Repeat(Place, What),
    Installed(Place),
    Timer(Place),
    Restart(Place),
    Rekey(Place),
    Data(Place, Place),
    /// A node hears the beacon of another, of its present life or the one before.
    Hear(Place, Place, u8),
}

impl Choice {
    /// Whether it is none of what nodes and networks do by themselves.
    pub(super) fn is_extra(self) -> bool {
        match self {
            Self::Deliver(..) | Self::Installed(_) | Self::Timer(_) => false,
            Self::Repeat(..)
            | Self::Restart(_)
            | Self::Rekey(_)
            | Self::Data(..)
            | Self::Hear(..) => true,
        }
    }
}

impl State {
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + use<> {
        0..u8::try_from(self.nodes.len()).unwrap_or(u8::MAX)
    }

    pub(super) fn at(&self, place: Place) -> At {
        self.nodes[usize::from(place)]
    }

    /// When a node's timer fires: at the first tick that is not before its deadline.
    pub(super) fn deadline(&self, locals: &Locals, place: Place) -> Option<Duration> {
        let At { local, since } = self.at(place);
        let (is_overdue, distance) = locals.get(local).summary.deadline?;
        let at = match is_overdue {
            false => since + distance,
            true => since.saturating_sub(distance),
        };
        let ticks = at.max(self.now).as_nanos().div_ceil(TICK.as_nanos());
        Some(TICK * u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    pub(super) fn life(&self, locals: &Locals, place: Place) -> u8 {
        locals.get(self.at(place).local).summary.life
    }

    /// Everything that may happen next.
    pub(super) fn choices(&self, locals: &Locals) -> Vec<Choice> {
        let mut choices = Vec::new();
        for flight in &self.wire {
            if flight.is_fresh {
                choices.push(Choice::Deliver(flight.to, flight.what));
            } else if self.left.may_repeat() {
                choices.push(Choice::Repeat(flight.to, flight.what));
            }
        }
        let due = |place| self.deadline(locals, place);
        let first = self.places().filter_map(due).min();
        for place in self.places() {
            let summary = &locals.get(self.at(place).local).summary;
            if summary.is_installing {
                choices.push(Choice::Installed(place));
            }
            if due(place).is_some() && due(place) == first {
                choices.push(Choice::Timer(place));
            }
            if self.left.extras == 0 {
                continue;
            }
            if self.left.restarts > 0 {
                choices.push(Choice::Restart(place));
            }
            if self.left.rekeys > 0 && summary.has_peer {
                choices.push(Choice::Rekey(place));
            }
            if self.left.data > 0 {
                let open = summary.sending.iter().filter(|(_, lane)| lane.2);
                choices.extend(open.map(|(&to, _)| Choice::Data(place, to)));
            }
            for of in self.places().filter(|&of| of != place) {
                let life = self.life(locals, of);
                if self.left.beacons > 0 {
                    choices.push(Choice::Hear(place, of, life));
                }
                if self.left.repeats > 0 && life > 0 {
                    choices.push(Choice::Hear(place, of, life - 1));
                }
            }
        }
        choices
    }

    /// Something leaves. What is on its way already does not come twice for that;
    /// what has arrived may come once more.
    pub(super) fn launch(&mut self, flight: Flight) {
        let same = |other: &&mut Flight| (other.to, other.what) == (flight.to, flight.what);
        match self.wire.iter_mut().find(same) {
            Some(known) => known.is_fresh = true,
            None => self.wire.push(flight),
        }
        let What::Frame(frame) = flight.what else {
            return;
        };
        let kind = |frame: &Frame| match frame.content {
            Content::Request(_) => 0,
            Content::Reply(_) => 1,
            Content::Payload => 2,
        };
        let is_like = |other: &Flight| match other.what {
            What::Frame(other_frame) => {
                other.to == flight.to
                    && other_frame.from == frame.from
                    && kind(&other_frame) == kind(&frame)
            }
            What::Message(_) => false,
        };
        let alike = self.wire.iter().filter(|other| is_like(other)).count();
        if frame.content != Content::Payload
            && alike > PROBES_MAX
            && let Some(oldest) = self.wire.iter().position(is_like)
        {
            self.wire.remove(oldest);
        }
    }

    /// Something arrives. A sealed frame never does so again: a window refuses it.
    pub(super) fn land(&mut self, to: Place, what: What) -> Option<Flight> {
        let at = self
            .wire
            .iter()
            .position(|f| (f.to, f.what) == (to, what))?;
        let flight = self.wire[at];
        match what {
            What::Frame(_) => {
                self.wire.remove(at);
            }
            What::Message(_) => self.wire[at].is_fresh = false,
        }
        Some(flight)
    }

    /// Whether this state, a step after another, differs from it in nothing but
    /// something that is gone or was used up: all that can become of this one can
    /// become of the other, where it is not gone yet. What has arrived and is on its
    /// way again is new: it may come without being a repetition.
    pub(super) fn is_dominated_by(&self, former: &Self, locals: &Locals) -> bool {
        let is_same = |(new, old): (&At, &At)| {
            let old = locals.get(old.local).digest.after(self.now - old.since);
            locals.get(new.local).digest.after(self.now - new.since) == old
        };
        let was_there = |flight: &Flight| {
            let mut others = former.wire.iter();
            others.any(|old| {
                (old.to, old.what) == (flight.to, flight.what) && (old.is_fresh || !flight.is_fresh)
            })
        };
        self.now == former.now
            && self.nodes.iter().zip(&former.nodes).all(is_same)
            && self.wire.iter().all(was_there)
    }

    /// Whether whatever may happen next may happen in the other as well, there
    /// perhaps for the first time.
    pub(super) fn offers_no_more_than(&self, other: &Self, locals: &Locals) -> bool {
        let there = other.choices(locals);
        self.choices(locals).iter().all(|choice| {
            let for_first_time = match *choice {
                Choice::Repeat(to, what) => Choice::Deliver(to, what),
                same => same,
            };
            there.contains(choice) || there.contains(&for_first_time)
        })
    }

    /// Drops what can have no more effect.
    pub(super) fn tidy(&mut self) {
        if !self.left.may_repeat() {
            self.wire.retain(|flight| flight.is_fresh);
        }
    }

    /// Names what matters from here on: nothing that names two states alike may
    /// tell them apart later.
    pub(super) fn fingerprint(&self, locals: &Locals) -> u128 {
        let mut bytes = Vec::with_capacity(1024);
        for at in &self.nodes {
            let local = locals.get(at.local);
            local.digest.write_after(self.now - at.since, &mut bytes);
        }
        let mut wire: Vec<_> = self.wire.iter().map(|one| self.name(locals, one)).collect();
        wire.sort_unstable();
        bytes.extend(wire.concat());
        bytes.extend(self.left.in_use());
        let mut name = [0; 16];
        name.copy_from_slice(&digest(&SHA256, &bytes).as_ref()[..16]);
        u128::from_le_bytes(name)
    }

    /// A flight, by what it is and not by when it was found first.
    fn name(&self, locals: &Locals, flight: &Flight) -> Vec<u8> {
        let mut name = vec![flight.to, u8::from(flight.is_fresh)];
        match flight.what {
            What::Message(id) => name.extend(locals.book.message(id).hash.to_le_bytes()),
            What::Frame(frame) => {
                name.extend(super::book::hash_of(&frame).to_le_bytes());
                if frame.content == Content::Payload {
                    let age = (self.now - flight.at).min(LATE + ms(1));
                    name.extend(age.as_nanos().to_le_bytes());
                    name.extend([flight.lives.0, flight.lives.1]);
                }
            }
        }
        name
    }
}
