//! Holds what happened against the invariants.

use std::time::Duration;

use tipsec_dataplane::ids::NodeId;

use super::Universe;
use super::invariant::{Invariant, Violation};
use super::ledger::{End, Serial, Wrong};
use super::ms;
use super::queue::Content;
use crate::machine::LinkState;

/// How long a frame may be under way: a superseded key lives 1 s at least.
pub(super) const LATE: Duration = ms(900);
/// After a key was taken from a pair by force: an exchange that is given up, the
/// wait for the next, and that one.
const FORCED: Duration = Duration::from_secs(12);
/// Most receiving SAs of a pair.
const RX_SAS_MAX: usize = 16;
/// Timers of a node between two looks at what it holds.
const SIZES_EVERY: u32 = 8;
/// Steps without time that only a timer in the past can make.
const IDLE_STEPS_MAX: u32 = 10_000;

impl Universe {
    /// Keeps the first violation.
    pub(super) fn is_wrong(&mut self, (invariant, detail): Wrong) {
        let at = self.now;
        self.broken.get_or_insert(Violation {
            invariant,
            at,
            detail,
        });
    }

    /// A copy of a frame came to an end at (or on the way to) a place.
    pub(super) fn ended(&mut self, to: usize, content: Content, end: End) {
        let Content::Data(serial) = content else {
            return;
        };
        let last = self.payloads.ended(serial, end);
        if let (true, End::Refused(why)) = (last, end) {
            self.judge_loss(to, serial, why);
        }
    }

    /// A frame came, as it was sealed, and was refused: a loss that the
    /// network did not cause. Between nodes that are up without interruption
    /// there is no excuse.
    fn judge_loss(&mut self, to: usize, serial: Serial, why: &'static str) {
        let Some(payload) = self.payloads.get(serial) else {
            return;
        };
        let age = self.now.since(payload.sealed_at);
        let ((from, meant), lives) = (payload.places, payload.lives);
        let same = (self.lives[from], self.lives[to]) == lives && meant == to;
        let (Some(sender), Some(receiver)) = (&self.nodes[from], &self.nodes[to]) else {
            return;
        };
        let paused = [sender, receiver].iter().any(|node| {
            node.stopped.is_some() || node.resumed_at.is_some_and(|at| at >= payload.sealed_at)
        });
        let forced = receiver.forced_at;
        let forced = forced.is_some_and(|at| payload.sealed_at < at + FORCED);
        let (sender, receiver) = (sender.id, receiver.id);
        if age > LATE
            || !same
            || paused
            || forced
            || !self.has_been_up(from, receiver, age)
            || !self.has_been_up(to, sender, age)
        {
            return;
        }
        let text = format!(
            "node {receiver} refused payload {serial} of node {sender}, {} µs under way: {why}",
            age.as_micros()
        );
        self.is_wrong((Invariant::NothingLost, text));
    }

    /// Whether a node's link to another is up, and has been for that long.
    fn has_been_up(&self, n: usize, id: NodeId, age: Duration) -> bool {
        // Clocks differ by a hundredth at most.
        let age = age + age / 50;
        self.view_of(n, id)
            .is_some_and(|view| view.link == LinkState::Up && view.since >= age)
    }

    /// Bounds of what a node keeps.
    pub(super) fn judge_sizes(&mut self, n: usize) {
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        // Counting takes longer than most of what is counted.
        node.timers += 1;
        if !node.timers.is_multiple_of(SIZES_EVERY) {
            return;
        }
        let settings = node.machine.settings();
        let peers = usize::from(settings.max_peers);
        let sizes = node.machine.sizes();
        let sas = RX_SAS_MAX * peers;
        let bounds = [
            ("receiving SAs of a pair", node.most_rx_sas(), RX_SAS_MAX),
            (
                "receiving lanes",
                node.rx_lanes(),
                settings.spi_slots as usize,
            ),
            ("peers", sizes.peers, peers),
            ("completions awaited by workers", node.waiting(), 2 * sas),
            ("completions awaited by the machine", sizes.pending, 2 * sas),
            ("actions not carried out", sizes.actions, 0),
            ("events kept", sizes.journal, 1024),
            ("claims of other masters", sizes.claims, 64),
            ("lives of a peer", sizes.lives, 32),
        ];
        let node = node.id;
        for (what, size, bound) in bounds {
            if size > bound {
                let text = format!("node {node} has {size} {what}, and {bound} are the bound");
                return self.is_wrong((Invariant::Bounded, text));
            }
        }
    }

    /// Notes that a step did or did not take time.
    pub(super) fn judge_progress(&mut self, moved: bool) {
        self.idle_steps = if moved { 0 } else { self.idle_steps + 1 };
        if self.idle_steps > IDLE_STEPS_MAX {
            let text = format!("{IDLE_STEPS_MAX} steps in no time");
            self.is_wrong((Invariant::Progress, text));
        }
    }
}
