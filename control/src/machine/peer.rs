//! What is known of one peer; the rules are in the sibling modules.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tipsec_dataplane::ids::{Epoch, Incarnation, MasterId, NodeId, PeerIndex};

use super::bucket::Bucket;
use super::chain::Chains;
use super::initiator::InitiatorSlot;
use super::link::Link;
use super::responder::ResponderSlot;
use super::rotation::{After, Known};
use super::rx::RxSa;
use super::suspicion::Suspicion;
use super::tx::TxSa;
use super::{Action, Context};
use crate::address::{Addresses, Network};
use crate::time::Instant;

/// New bare m1 of one peer: 10 a second, 10 at once. Hellos likewise, and chained
/// m1 that the peer wrote.
const HANDSHAKE_BUCKET: Bucket = Bucket::new(Duration::from_millis(100), 10);

/// One peer.
pub(super) struct Peer {
    pub(super) index: PeerIndex,
    pub(super) node: NodeId,
    /// Where it receives: from a proven message, never from an outer header.
    pub(super) addresses: Option<Addresses>,
    /// Networks of this node that it has no address on, as far as was told.
    pub(super) pathless: BTreeSet<Network>,
    /// The life of it that the present SAs are with.
    pub(super) incarnation: Option<Incarnation>,
    /// The life of it that a beacon or hello named: whom to address an m1 to.
    pub(super) target: Option<Incarnation>,
    pub(super) initiator: InitiatorSlot,
    pub(super) responder: ResponderSlot,
    /// SAs for what the peer sends, oldest first.
    pub(super) rx: Vec<RxSa>,
    /// SA for what is sent to the peer.
    pub(super) tx: Option<TxSa>,
    /// Epoch of the next offer.
    pub(super) next_epoch: Epoch,
    pub(super) link: Link,
    pub(super) suspicion: Suspicion,
    /// With the life of it that [`Self::incarnation`] names.
    pub(super) chains: Chains,
    /// When to start the next exchange.
    pub(super) start_at: Option<Instant>,
    /// The operator asked for fresh keys, and no exchange has begun since.
    pub(super) rekey_asked: bool,
    pub(super) beacon_heard: Option<Instant>,
    /// Counter of the newest m1 of each life of the peer that was seen, the
    /// newest life last: what an outsider repeats is never fresh.
    pub(super) m1_seen: VecDeque<(Incarnation, u64)>,
    /// The peer's rekey interval, once it has said.
    pub(super) interval: Option<Option<Duration>>,
    pub(super) m1_bucket: Bucket,
    pub(super) chained_m1_bucket: Bucket,
    pub(super) hello_bucket: Bucket,
    /// The exchange whose m3 was last accepted.
    pub(super) last_completed: Option<u64>,
    /// Exchanges completed with this life of the peer, the first included.
    pub(super) exchanges: u64,
    /// When the last one was.
    pub(super) keys_since: Option<Instant>,
    /// When the present ones will be old.
    pub(super) old_at: Option<Instant>,
    /// The master keys that it says it holds.
    pub(super) known: Option<Known>,
    /// Those of our own that it has proved to hold, in any of its lives.
    pub(super) proven: BTreeSet<MasterId>,
    /// When to rekey because the SAs are not under the key that they should be.
    pub(super) rotate_at: Option<Instant>,
}

#[cfg(feature = "sim")]
super::digest::parts!(
    Peer: index, node, addresses, pathless, incarnation, target, initiator, responder, rx, tx,
    next_epoch, link, suspicion, chains, start_at, rekey_asked, beacon_heard, m1_seen, interval,
    m1_bucket, chained_m1_bucket, hello_bucket, last_completed, exchanges, keys_since, old_at, known, proven,
    rotate_at
);

impl Peer {
    pub(super) fn new(index: PeerIndex, node: NodeId, now: Instant) -> Self {
        Self {
            index,
            node,
            addresses: None,
            pathless: BTreeSet::new(),
            incarnation: None,
            target: None,
            initiator: InitiatorSlot::Idle,
            responder: ResponderSlot::Idle,
            rx: Vec::new(),
            tx: None,
            next_epoch: Epoch(1),
            link: Link::new(now),
            suspicion: Suspicion::default(),
            chains: Chains::default(),
            start_at: None,
            rekey_asked: false,
            beacon_heard: None,
            m1_seen: VecDeque::new(),
            interval: None,
            m1_bucket: HANDSHAKE_BUCKET,
            chained_m1_bucket: HANDSHAKE_BUCKET,
            hello_bucket: HANDSHAKE_BUCKET,
            last_completed: None,
            exchanges: 0,
            keys_since: None,
            old_at: None,
            known: None,
            proven: BTreeSet::new(),
            rotate_at: None,
        }
    }

    /// Whether its place may be given to another.
    pub(super) fn is_forgettable(&self) -> bool {
        !self.link.is_up() && matches!(self.initiator, InitiatorSlot::Idle)
    }

    /// Drops everything that has to do with keys.
    pub(super) fn wipe(&mut self, cx: &mut Context<'_>) {
        self.initiator = InitiatorSlot::Idle;
        self.responder = ResponderSlot::Idle;
        self.suspicion = Suspicion::default();
        self.forget_chains();
        for sa in std::mem::take(&mut self.rx) {
            sa.remove(cx);
        }
        if self.tx.take().is_some() {
            cx.core.act(Action::RemoveTx { peer: self.index });
        }
        self.incarnation = None;
        self.target = None;
        self.start_at = None;
        self.rekey_asked = false;
        self.rotate_at = None;
        self.last_completed = None;
        self.exchanges = 0;
        self.keys_since = None;
        self.old_at = None;
        self.link_down(cx, "its keys were wiped");
    }

    /// The responder or initiator proved to be this life of the peer: what
    /// belongs to another life ends.
    pub(super) fn adopt(&mut self, cx: &mut Context<'_>, incarnation: Incarnation) {
        self.target = Some(incarnation);
        if self.incarnation == Some(incarnation) {
            return;
        }
        if self.incarnation.is_some() {
            let text = format!("node {} is a new process", self.node);
            cx.note(super::EventKind::PeerRestarted, self.node, text);
        }
        if let Some(former) = self.incarnation.replace(incarnation)
            && !self.is_former_life(former)
        {
            self.saw_m1(former, 0);
        }
        // Whatever claim was being looked into is settled.
        self.suspicion = Suspicion::default();
        self.forget_chains();
        self.exchanges = 0;
        self.last_completed = None;
        self.initiator.forget_others(incarnation);
        self.responder.forget_others(incarnation);
        self.retire_other_incarnations(cx.now, incarnation);
    }

    /// An exchange with this life of the peer is complete on this side.
    pub(super) fn completed(&mut self, cx: &mut Context<'_>) {
        cx.core.counts.add(super::Count::Completed);
        if self.exchanges > 0 {
            cx.core.counts.add(super::Count::Rekeyed);
        }
        self.exchanges += 1;
        self.has_new_keys(cx);
    }

    /// The next rekey is due an interval from now.
    pub(super) fn has_new_keys(&mut self, cx: &mut Context<'_>) {
        self.keys_since = Some(cx.now);
        self.watch_age(cx);
        self.schedule_rekey(cx);
        self.rotate_if_owed(cx, After::Exchange);
    }

    /// The smaller of the pair's intervals; `None` if neither has one.
    pub(super) fn pair_interval(&self, cx: &Context<'_>) -> Option<Duration> {
        let theirs = self.interval.flatten();
        cx.core
            .settings
            .rekey_interval
            .into_iter()
            .chain(theirs)
            .min()
    }

    /// Sets when this node starts the next exchange: the lower id at 0.9–1.0
    /// times the interval, the higher at 1.1–1.2 as backup. The pair's smaller
    /// interval rules; `off` means "don't start". An exchange that was under
    /// way when the operator asked for fresh keys has not made them.
    pub(super) fn schedule_rekey(&mut self, cx: &mut Context<'_>) {
        if self.rekey_asked {
            return self.start_soon(cx);
        }
        let Some(since) = self.keys_since else { return };
        let own = cx.core.settings.rekey_interval;
        let Some(interval) = own.and_then(|_| self.pair_interval(cx)) else {
            self.start_at = None;
            return;
        };
        let (low, high) = if cx.core.settings.node < self.node {
            (0.9, 1.0)
        } else {
            (1.1, 1.2)
        };
        let wait = cx
            .random
            .between(interval.mul_f64(low), interval.mul_f64(high));
        // One that is overdue (a shorter interval was set) starts soon, but not
        // in step with all the others.
        let soon = cx
            .random
            .between(Duration::ZERO, Duration::from_millis(100));
        self.start_at = Some((since + wait).max(cx.now + soon));
    }

    /// Starts an exchange in a moment: spread a little, so that a thousand
    /// pairs do not start in step.
    pub(super) fn start_soon(&mut self, cx: &mut Context<'_>) {
        let spread = cx
            .random
            .between(Duration::ZERO, Duration::from_millis(100));
        self.start_at = Some(cx.now + spread);
    }
}
