//! What a node that stood still could not hear is nobody's silence.
//!
//! A process that was stopped, a machine that was suspended, a control thread behind a
//! blocked disk: when it goes on its timers are overdue, and what came meanwhile
//! waits in queues. Exchanges that are over by the clock end at once
//! ([`Machine::handle`]), since the peer has given up their keys. What judges
//! whether anything *arrived* goes on from where it was: links, receiving SAs,
//! lanes that await a confirmation, claims to a live peer's name, rekeys that are
//! missed.

use std::time::Duration;

use super::Machine;
use super::link::PROBES_PER_TOLERANCE;
use super::peer::Peer;
use crate::time::Instant;

/// A timer that is later than this was not just waiting for its turn; nor one that
/// is later than the distance between two probes.
const STOOD_STILL: Duration = Duration::from_millis(250);

impl Machine {
    /// Looks at how late the timer is that was due at `due`. With a peer that is up one
    /// is due each time that a probe is, else every second: a standstill that ends
    /// before that goes unnoticed.
    pub(super) fn allow_for_standstill(&mut self, now: Instant, due: Instant) {
        let probes = self.core.settings.link_tolerance / PROBES_PER_TOLERANCE;
        // A step may set a timer in the past, to be due at once.
        let late = now.since(due.max(self.stepped));
        if late < STOOD_STILL.min(probes) {
            return;
        }
        let lost = now.since(self.stepped);
        for index in 0..self.peers.len() {
            if let Some(peer) = self.peers.get_mut(index) {
                peer.allow_for_standstill(lost);
            }
            self.reschedule(index);
        }
    }
}

impl Peer {
    fn allow_for_standstill(&mut self, lost: Duration) {
        self.link.allow_for_standstill(lost);
        self.suspicion.allow_for_standstill(lost);
        self.chains.allow_for_standstill(lost);
        for sa in &mut self.rx {
            sa.allow_for_standstill(lost);
        }
        for lane in self.tx.iter_mut().flat_map(|tx| &mut tx.lanes) {
            lane.awaited_since = lane.awaited_since + lost;
        }
        for at in [&mut self.beacon_heard, &mut self.old_at] {
            *at = at.map(|at| at + lost);
        }
    }
}
