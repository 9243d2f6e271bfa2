//! Link state: judged by probes inside the SA, with a tolerance.

use std::time::Duration;

use tipsec_dataplane::ids::LaneIndex;
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::phase::Phase;

#[cfg(feature = "sim")]
use super::digest::{Digester, Part};
use super::lanes::ProbeName;
use super::peer::Peer;
use super::rotation::After;
use super::{Action, Context, EventKind};
use crate::time::Instant;

/// Probes within one tolerance.
pub(super) const PROBES_PER_TOLERANCE: u32 = 4;
/// Tolerances without an answer after which a link is down although the peer's
/// own frames arrive: the way there is cut.
const UNANSWERED_TOLERANCES: u32 = 4;

/// Whether a peer answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Never answered in this process's life.
    Connecting,
    /// Answers.
    Up,
    /// Answered once, and does no more.
    Down,
}

impl LinkState {
    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// One link.
pub(super) struct Link {
    state: LinkState,
    since: Instant,
    last_heard: Instant,
    /// When a probe was last answered: data may arrive while nothing of ours does.
    last_answered: Instant,
    next_probe: Instant,
    /// When probes last left, and the lane whose turn it was.
    last_probe: Instant,
    turn: LaneIndex,
    /// The lane whose probe was answered last.
    proven: Option<LaneIndex>,
}

#[cfg(feature = "sim")]
impl Part for Link {
    fn put(&self, into: &mut Digester) {
        let Self {
            state,
            since,
            last_heard,
            last_answered,
            next_probe,
            last_probe,
            turn,
            proven,
        } = self;
        state.put(into);
        // Only who is forgotten first depends on it, and what is asked of a link
        // that has just come up.
        into.moment_within(*since, Duration::from_secs(1));
        last_heard.put(into);
        last_answered.put(into);
        next_probe.put(into);
        into.value(&(last_answered < last_probe));
        turn.put(into);
        proven.put(into);
    }
}

impl Link {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: LinkState::Connecting,
            since: now,
            last_heard: now,
            last_answered: now,
            next_probe: now,
            last_probe: now,
            turn: LaneIndex(0),
            proven: None,
        }
    }

    pub(super) fn state(&self) -> LinkState {
        self.state
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == LinkState::Up
    }

    /// When the link is down unless more is heard: nothing at all for one
    /// tolerance, or no answer of its own for four.
    fn silent_at(&self, tolerance: Duration) -> Instant {
        (self.last_heard + tolerance).min(self.last_answered + tolerance * UNANSWERED_TOLERANCES)
    }

    /// Nothing could be heard for so long.
    pub(super) fn allow_for_standstill(&mut self, lost: Duration) {
        self.last_heard = self.last_heard + lost;
        self.last_answered = self.last_answered + lost;
        self.last_probe = self.last_probe + lost;
    }

    /// The peer lives: something of it opened.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }
}

impl Peer {
    /// Seals a probe on a lane.
    pub(super) fn send_probe(&mut self, cx: &mut Context<'_>, lane: LaneIndex) {
        let number = cx.core.next_probe;
        cx.core.next_probe += 1;
        let probe = Probe {
            op: ProbeOp::Request,
            id: ProbeName { number, lane }.to_id(),
            phase: Phase::FIRST,
        };
        cx.core.act(Action::SendProbe {
            peer: self.index,
            lane,
            probe,
        });
    }

    pub(super) fn on_probe_reply(&mut self, cx: &mut Context<'_>, probe: Probe) {
        let name = ProbeName::from_id(probe.id);
        if probe.op != ProbeOp::Reply || name.number >= cx.core.next_probe {
            return;
        }
        self.suspicion_answered(cx, name.number);
        self.note_confirmed(cx, name);
        self.note_reported(cx, name, probe.phase);
        self.link.heard(cx.now);
        self.link.last_answered = cx.now;
        self.link.proven = Some(name.lane);
        if !self.link.is_up() && self.tx.is_some() {
            self.link.state = LinkState::Up;
            self.link.since = cx.now;
            let text = format!("link to node {} is up", self.node);
            cx.note(EventKind::LinkUp, self.node, text);
            // What was given up while the peer was silent is due again.
            if self.start_at.is_none() && self.initiator.is_idle() {
                self.schedule_rekey(cx);
            }
            // The first keys may be under another master key than is due by now.
            self.rotate_if_owed(cx, After::Exchange);
        }
    }

    /// Takes the link down, if it is up.
    pub(super) fn link_down(&mut self, cx: &mut Context<'_>, why: &str) {
        if self.link.is_up() {
            self.link.state = LinkState::Down;
            self.link.since = cx.now;
            let text = format!("link to node {} is down: {why}", self.node);
            cx.note(EventKind::LinkDown, self.node, text);
        }
    }

    /// When the link wants attention.
    pub(super) fn link_deadline(&self, tolerance: Duration) -> Option<Instant> {
        self.tx.as_ref()?;
        let silent_at = self.link.silent_at(tolerance);
        Some(if self.link.is_up() {
            self.link.next_probe.min(silent_at)
        } else {
            self.link.next_probe
        })
    }

    pub(super) fn link_timer(&mut self, cx: &mut Context<'_>) {
        if self.tx.is_none() {
            return;
        }
        let tolerance = cx.core.settings.link_tolerance;
        if self.link.is_up() && cx.now >= self.link.silent_at(tolerance) {
            let why = if cx.now >= self.link.last_heard + tolerance {
                format!("nothing heard for {} ms", tolerance.as_millis())
            } else {
                let waited = tolerance * UNANSWERED_TOLERANCES;
                format!(
                    "its frames arrive, but it has answered nothing for {} ms",
                    waited.as_millis()
                )
            };
            self.link_down(cx, &why);
            self.start(cx);
        }
        if self.link.next_probe <= cx.now {
            self.link.next_probe = cx.now + tolerance / PROBES_PER_TOLERANCE;
            self.probe_some_lanes(cx);
            self.link.last_probe = cx.now;
        }
    }

    /// One lane's answer proves the peer: so the lane that was answered last is
    /// asked, and one more in turn, to know of each lane over time. If nothing
    /// was answered since the last time, that lane's way may be cut, and every
    /// lane is asked before the link is given up.
    fn probe_some_lanes(&mut self, cx: &mut Context<'_>) {
        if self.link.is_up() && self.link.last_answered < self.link.last_probe {
            return self.probe_every_lane(cx);
        }
        let Some(tx) = &self.tx else { return };
        let Some(turn) = tx.next_in_turn(self.link.turn) else {
            return;
        };
        let proven = tx.reachable().find(|&lane| Some(lane) == self.link.proven);
        self.link.turn = turn;
        self.send_probe(cx, turn);
        if let Some(proven) = proven.filter(|&lane| lane != turn) {
            self.send_probe(cx, proven);
        }
    }

    /// Seals a probe on each lane that can reach the peer.
    pub(super) fn probe_every_lane(&mut self, cx: &mut Context<'_>) {
        let Some(tx) = &self.tx else { return };
        for lane in tx.reachable().collect::<Vec<_>>() {
            self.send_probe(cx, lane);
        }
    }
}
