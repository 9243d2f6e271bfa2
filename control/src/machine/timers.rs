//! Every timer of the machine (boot-time clock, never the wall clock):
//!
//! * beacon: each second, jittered (`beacon`)
//! * per peer: start of the next exchange (`peer::schedule_rekey`), also for
//!   another master key (`rotation`), retransmit
//!   and end of slot I (`initiator`), end of slot R (`responder`), end of
//!   receiving SAs and confirmation of the sending SA (`rx`, `tx`), probes and
//!   silence (`link`), grace of a phase that is over (`phases`), patience with a second
//!   claimant (`suspicion`), keys that have grown old (`age`)

use std::time::Duration;

use super::peer::Peer;
use super::{Context, Machine};
use crate::time::{Instant, Random};

const FIRST_RETRANSMIT: Duration = Duration::from_millis(50);
const LAST_RETRANSMIT: Duration = Duration::from_secs(1);
/// A peer without SAs that is silent this long is not called any more.
const BEACON_LIFE: Duration = Duration::from_secs(10);

/// Retransmission: 50 ms, doubling to 1 s, each ±25 %.
pub(super) struct Retransmit {
    at: Instant,
    wait: Duration,
}

#[cfg(feature = "sim")]
super::digest::parts!(Retransmit: at, wait);

impl Retransmit {
    pub(super) fn starting(now: Instant, random: &mut dyn Random) -> Self {
        let mut retransmit = Self {
            at: now,
            wait: FIRST_RETRANSMIT,
        };
        retransmit.arm(now, random);
        retransmit
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Whether it is time; if so, the next time is twice as far away.
    pub(super) fn fire(&mut self, now: Instant, random: &mut dyn Random) -> bool {
        if self.at > now {
            return false;
        }
        self.wait = (self.wait * 2).min(LAST_RETRANSMIT);
        self.arm(now, random);
        true
    }

    fn arm(&mut self, now: Instant, random: &mut dyn Random) {
        self.at = now + random.between(self.wait.mul_f64(0.75), self.wait.mul_f64(1.25));
    }
}

impl Machine {
    /// When [`super::Input::Timer`] is due next; `None` while there is no
    /// master key, and so nothing to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.core.masters.as_ref()?;
        let beacon = self.beaconing.deadline();
        Some(self.schedule.first().map_or(beacon, |at| at.min(beacon)))
    }

    /// Notes when a peer wants attention next: after each of its steps.
    pub(super) fn reschedule(&mut self, index: usize) {
        if let Some(peer) = self.peers.get(index) {
            let at = peer.deadline(self.core.settings.link_tolerance);
            self.schedule.set(peer.index, at);
        }
    }

    pub(super) fn on_timer(&mut self, now: Instant, random: &mut dyn Random) {
        let Some(masters) = self.core.masters.clone() else {
            return;
        };
        self.beaconing.on_timer(&mut Context {
            now,
            random: &mut *random,
            core: &mut self.core,
            masters,
        });
        for index in self.schedule.due(now) {
            self.with_peer(now, random, index, Peer::on_timer);
        }
    }
}

impl Peer {
    fn deadline(&self, tolerance: Duration) -> Option<Instant> {
        let sas = self.rx.iter().filter_map(|sa| sa.deadline()).min();
        let tx = self.tx.as_ref().and_then(|tx| tx.deadline());
        [
            self.start_at,
            self.rotate_at,
            self.initiator.deadline(),
            self.responder.deadline(),
            self.suspicion.deadline(),
            self.link_deadline(tolerance),
            sas,
            tx,
            self.phase_deadline(),
            self.old_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_timer(&mut self, cx: &mut Context<'_>) {
        self.initiator_timer(cx);
        self.responder_timer(cx.now);
        self.rx_timer(cx);
        self.phase_timer(cx);
        self.tx_timer(cx);
        self.link_timer(cx);
        self.suspicion_timer(cx);
        self.rotation_timer(cx);
        self.age_timer(cx);
        if self.start_at.is_some_and(|at| at <= cx.now) {
            let silent = self
                .beacon_heard
                .is_none_or(|heard| cx.now.since(heard) > BEACON_LIFE);
            if silent && !self.link.is_up() {
                self.start_at = None;
            } else {
                self.start(cx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Middle;
    impl Random for Middle {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(0);
            bytes[0] = 0x80;
        }
    }

    #[test]
    fn retransmissions_double_to_a_second() {
        let start = Instant::default();
        let mut timer = Retransmit::starting(start, &mut Middle);
        let mut waits = Vec::new();
        let mut now = start;
        for _ in 0..7 {
            waits.push(timer.at().since(now).as_millis());
            now = timer.at();
            assert!(timer.fire(now, &mut Middle));
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000]);
    }
}
