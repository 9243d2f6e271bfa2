//! The life of SAs: issued, live, in grace, wiped; installed once.
//!
//! An offer leaves only when its receiving SA is installed everywhere; a
//! sender installs only a higher epoch than it has; a receiver retires only
//! lower ones (docs/protocol.md, "Install and retire").

use std::sync::Arc;
use std::time::Duration;

use tipsec_dataplane::command::{Budget, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::ids::{Epoch, Incarnation, LaneIndex, MasterId, Spi};
use tipsec_dataplane::phase::Phase;
use tipsec_dataplane::sa::{FailedOpens, RxShared};
use tipsec_dataplane::secret::Suite;
use zeroize::Zeroize;

#[cfg(feature = "sim")]
use super::digest::{Digester, Part};
use super::lanes::{ProbeName, Reach, TxLane};
use super::peer::Peer;
use super::phases::{RxPhases, TxPhases};
use super::sa_keys::SaKeys;
use super::spi_pool::Rank;
use super::{Action, Context, Count, Defect, EventKind, Pending};
use crate::address::{Addresses, Network};
use crate::derive::Sek;
use crate::frame::BARE;
use crate::message::Offer;
use crate::time::Instant;

/// Most receiving SAs of a pair; beyond, hello(busy).
pub(super) const MAX_RX_SAS: usize = 16;
/// An SA that nobody used is wiped this long after its offer was last sent.
const UNOPENED_LIFE: Duration = Duration::from_secs(15);
/// Shortest and longest time that a superseded SA still opens.
const GRACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// SAs of a peer's former life end this long after the next is proven.
const FORMER_LIFE_GRACE: Duration = Duration::from_secs(1);
/// A new sending SA that nobody confirms carries no data after this.
const CONFIRM_LIMIT: Duration = Duration::from_secs(5);
/// Confirms are repeated this often, at this distance.
const CONFIRM_REPEATS: u8 = 3;
const CONFIRM_INTERVAL: Duration = Duration::from_millis(50);

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
}

/// One sending SA.
pub(super) struct TxSa {
    pub(super) epoch: Epoch,
    /// The master key of its exchange.
    pub(super) master: MasterId,
    pub(super) incarnation: Incarnation,
    /// Probes from this number on were sealed on this SA.
    first_probe: u64,
    /// One for each lane of this node.
    pub(super) lanes: Vec<TxLane>,
    pub(super) phases: TxPhases,
    repeats: u8,
    next_confirm: Instant,
}

#[cfg(feature = "sim")]
impl Part for TxSa {
    fn put(&self, into: &mut Digester) {
        let Self {
            epoch,
            master,
            incarnation,
            first_probe,
            lanes,
            phases,
            repeats,
            next_confirm,
        } = self;
        into.value(&(epoch, master, incarnation, first_probe));
        lanes.put(into);
        phases.put(into);
        // Of lanes that are all confirmed, none will be asked again: a lane never
        // goes back to being awaited.
        if self.awaited().next().is_some() {
            repeats.put(into);
            next_confirm.put(into);
        }
    }
}

impl TxSa {
    /// When it wants attention while unconfirmed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.awaited().next()?;
        if self.repeats > 0 {
            return Some(self.next_confirm);
        }
        self.overdue_at()
    }

    /// Whether a probe of this name was sealed on this SA.
    pub(super) fn has_sent(&self, probe: ProbeName) -> bool {
        probe.number >= self.first_probe
    }

    /// When a lane has been awaited for too long.
    fn overdue_at(&self) -> Option<Instant> {
        let waiting = self.lanes.iter().filter(|lane| lane.is_pending());
        let since = waiting.map(|lane| lane.awaited_since).min()?;
        Some(since + CONFIRM_LIMIT)
    }
}

#[cfg(test)]
impl TxSa {
    pub(super) fn for_test(reach: &[Reach]) -> Self {
        let lane = |&reach: &Reach| TxLane {
            reach,
            awaited_since: Instant::default(),
            overdue: false,
            held: false,
        };
        Self {
            epoch: Epoch(1),
            master: MasterId(1),
            incarnation: Incarnation(1),
            first_probe: 0,
            lanes: reach.iter().map(lane).collect(),
            phases: TxPhases::new(SaKeys::for_test(), &[]),
            repeats: 0,
            next_confirm: Instant::default(),
        }
    }
}

impl Peer {
    /// Draws an offer for what the peer sends. `None` if too many SAs of the
    /// pair are alive, or SPIs are out.
    pub(super) fn draw_offer(
        &mut self,
        cx: &mut Context<'_>,
        suite: Suite,
        peer_lanes: u8,
        chain: u64,
    ) -> Option<Offer> {
        if self.rx.len() >= MAX_RX_SAS {
            return None;
        }
        let rank = match chain {
            BARE => Rank::Stranger,
            _ => Rank::Known,
        };
        let count = usize::from(peer_lanes);
        let spis = cx.core.spis.allocate(count, rank, cx.now)?;
        let mut secret = [0; 32];
        cx.random.fill(&mut secret);
        let sek = Sek::new(secret);
        secret.zeroize();
        let epoch = self.next_epoch;
        self.next_epoch = Epoch(epoch.0.checked_add(1)?);
        let settings = &cx.core.settings;
        Some(Offer {
            epoch,
            suite,
            suites: suite_sum(&settings.suites),
            lanes: settings.lane_count(),
            rekey_interval: settings.rekey_interval,
            budget: settings.budget,
            addresses: settings.addresses,
            holdings: cx.holdings(),
            sek,
            spis,
        })
    }

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

    /// Installs the sending SA of the peer's offer if it is newer than the
    /// present one, and asks for its confirmation on every lane.
    pub(super) fn install_tx(
        &mut self,
        cx: &mut Context<'_>,
        offer: &Offer,
        session: (&[u8; 32], MasterId),
        receiver: Incarnation,
    ) {
        let (handshake_hash, master) = session;
        if let Some(tx) = &self.tx
            && tx.incarnation == receiver
            && tx.epoch >= offer.epoch
            && !cx.has(Defect::LowerEpoch)
        {
            return;
        }
        let settings = &cx.core.settings;
        let hard = settings.budget.min(offer.budget);
        let budget = Budget {
            soft: hard - hard / 4,
            hard,
        };
        let sender = (settings.node, settings.incarnation);
        let receiver_end = (self.node, receiver);
        let cluster = &settings.cluster;
        let keys = SaKeys::new(offer, handshake_hash, cluster, sender, receiver_end);
        let lanes = lanes(&offer.spis)
            .map(|(lane, spi)| TxLaneSpec {
                spi,
                peer: self.index,
                node: self.node,
                epoch: offer.epoch,
                lane,
                secret: keys.derive(lane, spi, Phase::FIRST),
                next: keys.derive_next(lane, spi, Phase::FIRST),
                phase_bits: settings.phase_bits,
                budget,
            })
            .collect();
        self.addresses = Some(offer.addresses);
        self.interval = Some(offer.rekey_interval);
        let tx_lanes = self.tx_lanes(cx, &offer.addresses, receiver);
        self.tx = Some(TxSa {
            epoch: offer.epoch,
            master,
            incarnation: receiver,
            first_probe: cx.core.next_probe,
            lanes: tx_lanes,
            phases: TxPhases::new(keys, &offer.spis),
            repeats: CONFIRM_REPEATS,
            next_confirm: cx.now + CONFIRM_INTERVAL,
        });
        cx.core.act(Action::ListPeer { node: self.node });
        cx.core.act(Action::InstallTx {
            peer: self.index,
            to: offer.addresses,
            lanes,
        });
        self.hold_data(cx);
        self.note_pathless(cx, &offer.addresses);
        self.confirm(cx);
    }

    /// Uses the sending SA on every lane at once, idle or not: the only
    /// acknowledgement of m3.
    pub(super) fn confirm(&mut self, cx: &mut Context<'_>) {
        if !cx.has(Defect::NoConfirm) {
            self.probe_every_lane(cx);
        }
    }

    /// How the lanes of the next sending SA start. At a rekey data flows on
    /// without a gap. Before that, what arrives while the peer has no SA to
    /// answer on provokes answers that are lost, an ARP request's for one,
    /// which the kernel repeats only later.
    fn tx_lanes(&self, cx: &Context<'_>, to: &Addresses, receiver: Incarnation) -> Vec<TxLane> {
        let former = self.tx.as_ref().filter(|tx| tx.incarnation == receiver);
        let start = |(lane, network): (LaneIndex, Network)| {
            let reached = cx.core.has_bearer(lane) && to.on(network).is_some();
            let before = former.and_then(|tx| tx.lanes.get(usize::from(lane.0)));
            match before.filter(|before| before.reach == Reach::Awaited) {
                Some(before) if reached => *before,
                _ => TxLane {
                    reach: if reached { Reach::Awaited } else { Reach::None },
                    awaited_since: cx.now,
                    overdue: false,
                    held: reached && former.is_none(),
                },
            }
        };
        cx.core.own_lanes().map(start).collect()
    }

    /// Tells the workers which lanes carry no data.
    fn hold_data(&self, cx: &mut Context<'_>) {
        let lanes = self.tx.iter().flat_map(|tx| &tx.lanes);
        for (lane, state) in (0..=u8::MAX).map(LaneIndex).zip(lanes) {
            if state.held {
                cx.core.act(Action::AllowData {
                    peer: self.index,
                    lane,
                    allowed: false,
                });
            }
        }
    }

    /// The peer has taken the own offer, and so can answer: asks again for the
    /// confirmation that it could not give before.
    pub(super) fn confirm_awaited(&mut self, cx: &mut Context<'_>) {
        let Some(tx) = self.tx.as_ref().filter(|_| !cx.has(Defect::NoConfirm)) else {
            return;
        };
        for lane in tx.awaited().collect::<Vec<_>>() {
            self.send_probe(cx, lane);
        }
    }

    /// A probe of this name was answered: frames on its lane arrive.
    pub(super) fn note_confirmed(&mut self, cx: &mut Context<'_>, probe: ProbeName) {
        let Some(tx) = &mut self.tx else { return };
        if !tx.has_sent(probe) {
            return;
        }
        let Some(lane) = tx.lane_mut(probe.lane) else {
            return;
        };
        if lane.reach == Reach::None {
            return;
        }
        lane.reach = Reach::Confirmed;
        lane.overdue = false;
        if std::mem::take(&mut lane.held) {
            cx.core.act(Action::AllowData {
                peer: self.index,
                lane: probe.lane,
                allowed: true,
            });
        }
    }

    /// Repeats confirms, and holds data back from an SA that nobody confirms.
    pub(super) fn tx_timer(&mut self, cx: &mut Context<'_>) {
        let Some(tx) = &mut self.tx else { return };
        if tx.deadline().is_none_or(|deadline| deadline > cx.now) {
            return;
        }
        if tx.repeats > 0 {
            tx.repeats -= 1;
            tx.next_confirm = cx.now + CONFIRM_INTERVAL;
            return self.confirm_awaited(cx);
        }
        let mut late = Vec::new();
        for (index, lane) in (0..=u8::MAX).zip(&mut tx.lanes) {
            if lane.is_pending() && lane.awaited_since + CONFIRM_LIMIT <= cx.now {
                lane.overdue = true;
                lane.held = true;
                late.push(index.to_string());
            }
        }
        let which = if late.len() == tx.lanes.len() {
            String::new()
        } else {
            format!(" on lane {}", late.join(", "))
        };
        let text = format!(
            "node {} did not confirm its new keys{which} within {} s; data to it{which} is \
             dropped until it does",
            self.node,
            CONFIRM_LIMIT.as_secs()
        );
        self.hold_data(cx);
        cx.note(EventKind::Unconfirmed, self.node, text);
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

    /// Every worker and map holds the SA of this epoch: whichever slot waits
    /// for it sends its message.
    pub(super) fn on_installed(&mut self, cx: &mut Context<'_>, epoch: Epoch) {
        self.note_offered(epoch, cx.now);
        self.initiator_installed(cx, epoch);
        self.responder_installed(cx, epoch);
    }

    /// With rekeying by time off, and the next phase ready, the keys go on
    /// without a message; otherwise fresh ones are asked for.
    pub(super) fn on_budget_low(&mut self, cx: &mut Context<'_>, next_ready: bool) {
        if next_ready && cx.core.settings.rekey_interval.is_none() {
            return;
        }
        let text = format!("the lane to node {} nears its budget; rekeying", self.node);
        cx.note_rarely(EventKind::BudgetLow, self.node, text);
        self.start_at = Some(cx.now);
    }

    pub(super) fn on_budget_spent(&mut self, cx: &mut Context<'_>) {
        let text = format!(
            "the lane to node {} has spent its budget and stopped; frames to it are dropped \
             until a rekey completes, or the peer is known to be ready for the next phase",
            self.node
        );
        cx.note_rarely(EventKind::BudgetSpent, self.node, text);
        self.start_at = Some(cx.now);
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

    /// Whether an offer of the peer fits this node; counts and notes if not.
    pub(super) fn allows(&self, cx: &mut Context<'_>, offer: &Offer) -> bool {
        let settings = &cx.core.settings;
        let allowed = settings.suites.contains(&offer.suite)
            && offer.spis.len() == settings.lanes.len()
            && offer.budget > 0;
        if !allowed {
            cx.core.counts.add(Count::Refused);
            let text = format!(
                "node {} offers {} with {} lanes, which this node does not allow; compare \
                 [crypto] suites in both configurations",
                self.node,
                offer.suite.name(),
                offer.spis.len()
            );
            cx.note_rarely(EventKind::Incompatible, self.node, text);
        }
        allowed
    }
}

impl RxSa {
    fn retire_at(&mut self, until: Instant) {
        match self.state {
            // A grace that runs is not prolonged, but it may be cut.
            RxState::Grace { until: present } => {
                self.state = RxState::Grace {
                    until: present.min(until),
                };
            }
            _ => self.state = RxState::Grace { until },
        }
    }
}

/// How long a superseded SA still opens: twice the interval, 1 to 10 s.
fn grace(interval: Option<Duration>) -> Duration {
    let (low, high) = GRACE;
    interval.map_or(high, |interval| interval.saturating_mul(2).clamp(low, high))
}

fn lanes(spis: &[Spi]) -> impl Iterator<Item = (LaneIndex, Spi)> {
    (0..=u8::MAX).map(LaneIndex).zip(spis.iter().copied())
}

/// The sum of the suites' codes, as it travels.
pub(super) fn suite_sum(suites: &[Suite]) -> u16 {
    suites.iter().fold(0, |sum, suite| sum | suite.code())
}

/// The first of `own`, best first, that is in the sum of codes `theirs`.
pub(super) fn common_suite(own: &[Suite], theirs: u16) -> Option<Suite> {
    own.iter().copied().find(|suite| suite.code() & theirs != 0)
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

    #[test]
    fn suites_meet_in_the_owners_order() {
        let own = [Suite::Aes128Gcm, Suite::Aes256Gcm];
        assert_eq!(
            common_suite(&own, suite_sum(&Suite::ALL)),
            Some(Suite::Aes128Gcm)
        );
        assert_eq!(common_suite(&own, Suite::ChaCha20Poly1305.code()), None);
    }
}
