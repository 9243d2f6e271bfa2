//! Sending SAs: installed over one of a lower epoch, confirmed lane by lane.
//!
//! A sender installs only a higher epoch than it has.
//! (docs/protocol.md, "Install and retire")

use std::time::Duration;

use tipsec_dataplane::command::{Budget, TxLaneSpec};
use tipsec_dataplane::ids::{Epoch, Incarnation, LaneIndex, MasterId};
use tipsec_dataplane::phase::Phase;

#[cfg(feature = "sim")]
use super::digest::{Digester, Part};
use super::lanes::{ProbeName, Reach, TxLane};
use super::offers::lanes;
use super::peer::Peer;
use super::phases::TxPhases;
use super::sa_keys::SaKeys;
use super::{Action, Context, Defect, EventKind};
use crate::address::{Addresses, Network};
use crate::message::Offer;
use crate::time::Instant;

/// A new sending SA that nobody confirms carries no data after this.
const CONFIRM_LIMIT: Duration = Duration::from_secs(5);
/// Confirms are repeated this often, at this distance.
const CONFIRM_REPEATS: u8 = 3;
const CONFIRM_INTERVAL: Duration = Duration::from_millis(50);

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
}
