//! Receiving SAs: installed, offered, live, in grace, wiped.
//!
//! An offer leaves only when its receiving SA is installed everywhere; a receiver
//! retires only lower epochs than one that has opened.
//! (docs/protocol.md, "Install and retire")

use std::sync::Arc;
use std::time::Duration;

use tipsec_dataplane::command::RxLaneSpec;
use tipsec_dataplane::ids::{Epoch, Incarnation, MasterId, Spi};
use tipsec_dataplane::phase::Phase;
use tipsec_dataplane::sa::{FailedOpens, RxShared};

use super::offers::lanes;
use super::peer::Peer;
use super::phases::RxPhases;
use super::sa_keys::SaKeys;
use super::{Action, Context, Defect, EventKind, Pending};
use crate::message::Offer;
use crate::time::Instant;

/// Most receiving SAs of a pair; beyond, hello(busy).
pub(super) const MAX_RX_SAS: usize = 16;
/// An SA that nobody used is wiped this long after its offer was last sent.
const UNOPENED_LIFE: Duration = Duration::from_secs(15);
/// Shortest and longest time that a superseded SA still opens.
pub(super) const GRACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// SAs of a peer's former life end this long after the next is proven.
const FORMER_LIFE_GRACE: Duration = Duration::from_secs(1);

/// One receiving SA.
pub(super) struct RxSa {
    pub(super) epoch: Epoch,
    /// The master key of its exchange.
    pub(super) master: MasterId,
    pub(super) incarnation: Incarnation,
    pub(super) spis: Vec<Spi>,
    pub(super) phases: RxPhases,
    pub(super) state: RxState,
}

/// Where a receiving SA is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RxState {
    /// Not every worker and map has it yet.
    Installing { since: Instant },
    /// Offered; nothing has opened on it.
    Issued { offered: Instant },
    /// Something has opened on it.
    Live,
    /// A higher epoch is live; late frames still open.
    Grace { until: Instant },
}

#[cfg(feature = "sim")]
super::digest::parts!(RxSa: epoch, master, incarnation, spis, phases, state);

#[cfg(feature = "sim")]
super::digest::parts!(
    enum RxState: Installing { since }, Issued { offered }, Live, Grace { until }
);

impl RxSa {
    /// Withdraws the SA.
    pub(super) fn remove(self, cx: &mut Context<'_>) {
        let token = cx.core.token(Pending::Removed(self.spis.clone()));
        cx.core.act(Action::RemoveRx {
            token,
            spis: self.spis,
        });
    }

    /// Nothing could open on it for so long.
    pub(super) fn allow_for_standstill(&mut self, lost: Duration) {
        self.phases.allow_for_standstill(lost);
        match &mut self.state {
            RxState::Live => {}
            RxState::Installing { since: at }
            | RxState::Issued { offered: at }
            | RxState::Grace { until: at } => *at = *at + lost,
        }
    }

    /// When it is to be removed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            RxState::Live => None,
            // Not even offered: a worker hangs, or a map refused it.
            RxState::Installing { since } | RxState::Issued { offered: since } => {
                Some(since + UNOPENED_LIFE)
            }
            RxState::Grace { until } => Some(until),
        }
    }

    /// It opens until then at most; a grace that runs is not prolonged.
    pub(super) fn retire_at(&mut self, until: Instant) {
        let until = match self.state {
            RxState::Grace { until: present } => present.min(until),
            _ => until,
        };
        self.state = RxState::Grace { until };
    }
}

impl Peer {
    /// Installs the receiving SA of an offer; the offer may leave once
    /// `on_installed` is told. `session`: the exchange's hash and master key.
    pub(super) fn install_rx(
        &mut self,
        cx: &mut Context<'_>,
        offer: &Offer,
        session: (&[u8; 32], MasterId),
        sender: Incarnation,
    ) {
        let (handshake_hash, master) = session;
        let settings = &cx.core.settings;
        let receiver = (settings.node, settings.incarnation);
        let sender_end = (self.node, sender);
        let cluster = &settings.cluster;
        let keys = SaKeys::new(offer, handshake_hash, cluster, sender_end, receiver);
        // Once it is reached, each lane at each worker still fails once more.
        let places = settings.lanes.len() * offer.spis.len();
        let limit = settings.failed_opens_limit;
        let limit = limit.saturating_sub(places as u64 - 1).max(1);
        let failed_opens = Arc::new(FailedOpens::new(limit));
        let lanes: Vec<_> = lanes(&offer.spis)
            .map(|(lane, spi)| RxLaneSpec {
                spi,
                peer: self.index,
                node: self.node,
                epoch: offer.epoch,
                lane,
                secret: keys.derive(lane, spi, Phase::FIRST),
                next: keys.derive_next(lane, spi, Phase::FIRST),
                phase_bits: settings.phase_bits,
                shared: Arc::new(RxShared::new(Arc::clone(&failed_opens))),
            })
            .collect();
        let shared = lanes
            .iter()
            .map(|lane| (lane.spi, Arc::clone(&lane.shared)));
        let phases = RxPhases::new(keys, shared);
        if self.rx.len() >= MAX_RX_SAS / 2 {
            // Keys come faster than the grace is long: who is superseded goes
            // sooner, so that the pair never runs out of room.
            for sa in &mut self.rx {
                if matches!(sa.state, RxState::Grace { .. }) {
                    sa.retire_at(cx.now + GRACE.0);
                }
            }
        }
        self.rx.push(RxSa {
            epoch: offer.epoch,
            master,
            incarnation: sender,
            spis: offer.spis.clone(),
            phases,
            state: RxState::Installing { since: cx.now },
        });
        let token = cx.core.token(Pending::Installed(self.index, offer.epoch));
        cx.core.act(Action::InstallRx { token, lanes });
    }

    /// A receiving SA opened its first frame, on whichever lane: its
    /// predecessors' grace starts. The sender installs an SA on all its lanes
    /// at once, so the others follow well within the grace of at least 1 s.
    pub(super) fn on_first_open(&mut self, cx: &mut Context<'_>, spi: Spi) {
        let pair = self.pair_interval(cx);
        let Some(live) = self.rx.iter_mut().find(|sa| sa.spis.contains(&spi)) else {
            return;
        };
        if matches!(live.state, RxState::Issued { .. }) {
            live.state = RxState::Live;
        }
        let (epoch, incarnation) = (live.epoch, live.incarnation);
        let grace = match cx.has(Defect::NoGrace) {
            true => Duration::ZERO,
            false => grace(pair),
        };
        let until = cx.now + grace;
        for sa in &mut self.rx {
            if sa.incarnation == incarnation && sa.epoch < epoch {
                sa.retire_at(until);
            }
        }
        self.initiator_opened(cx, epoch, incarnation);
    }

    /// Ends the SAs of other lives of the peer soon.
    pub(super) fn retire_other_incarnations(&mut self, now: Instant, present: Incarnation) {
        for sa in self.rx.iter_mut().filter(|sa| sa.incarnation != present) {
            sa.retire_at(now + FORMER_LIFE_GRACE);
        }
    }

    /// Removes receiving SAs whose time has come.
    pub(super) fn rx_timer(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let over = |sa: &mut RxSa| sa.deadline().is_some_and(|deadline| deadline <= now);
        let removed: Vec<RxSa> = self.rx.extract_if(.., over).collect();
        for sa in removed {
            sa.remove(cx);
        }
    }

    /// The offer of this epoch leaves now, for the first time or again.
    pub(super) fn note_offered(&mut self, epoch: Epoch, now: Instant) {
        if let Some(sa) = self.rx.iter_mut().find(|sa| sa.epoch == epoch)
            && matches!(
                sa.state,
                RxState::Installing { .. } | RxState::Issued { .. }
            )
        {
            sa.state = RxState::Issued { offered: now };
        }
    }

    pub(super) fn on_open_limit(&mut self, cx: &mut Context<'_>, spi: Spi) {
        let text = format!(
            "SA {spi} of node {} failed to open too many frames and has stopped (somebody \
             forges frames); rekeying",
            self.node
        );
        cx.note_rarely(EventKind::OpenLimit, self.node, text);
        self.start_at = Some(cx.now);
    }
}

/// How long a superseded SA still opens: twice the interval, 1 to 10 s.
fn grace(interval: Option<Duration>) -> Duration {
    let (low, high) = GRACE;
    interval.map_or(high, |interval| interval.saturating_mul(2).clamp(low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_is_clamped() {
        let secs = Duration::from_secs;
        assert_eq!(grace(None), secs(10));
        assert_eq!(grace(Some(Duration::from_millis(200))), secs(1));
        assert_eq!(grace(Some(secs(2))), secs(4));
        assert_eq!(grace(Some(Duration::MAX)), secs(10));
    }
}
