//! The change of master keys: which key an exchange is under, what peers say
//! that they hold, and the way of every pair to the newest key that both hold.
//!
//! A node takes exchanges under every key that it holds, with one exception: a
//! peer that has completed an exchange under the active key is not taken, nor
//! called, under the previous one. Whoever holds only that, perhaps because it
//! leaked, cannot lead two nodes back to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tipsec_dataplane::ids::{Incarnation, MasterId, NodeId};

use super::beacon::Beaconing;
use super::initiator::InitiatorSlot;
use super::peer::Peer;
use super::responder::ResponderSlot;
use super::rx::{GRACE, RxSa, RxState};
use super::{Action, Context, Count, Defect, EventKind, Machine};
use crate::derive::{ClusterKeys, MasterRing};
use crate::masters::Role;
use crate::message::Holdings;
use crate::time::{Instant, Random};

/// Rekeys for another key are spread over this, the lower node id's; the
/// higher one follows as backup. With the retries of an exchange that is lost,
/// every pair is done within 60 s.
const SPREAD: Duration = Duration::from_secs(20);
/// After an exchange that was under way under the other key, and from try to
/// try.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(6));

/// What a peer has said of its keys.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) holdings: Holdings,
    /// Which life of it.
    incarnation: Incarnation,
    /// The key that it was said under.
    under: MasterId,
}

#[cfg(feature = "sim")]
super::digest::parts!(Known: holdings, incarnation, under);

/// What makes a rekey for another key due.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// This node's or the peer's keys changed: many pairs at once.
    Change,
    /// An exchange that ended under another key than it should: one pair.
    Exchange,
}

/// A peer that a key cannot be taken from without loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dependent {
    /// Who.
    pub node: NodeId,
    /// Whether its link is up.
    pub is_up: bool,
    /// Whether it says that it holds another of this node's keys; if so, only
    /// a rekey is missing.
    pub holds_other: bool,
}

impl Context<'_> {
    /// What this node tells its peers of its keys.
    pub(super) fn holdings(&self) -> Holdings {
        Holdings {
            change: self.core.holdings_change,
            masters: self.masters.ids(),
        }
    }
}

impl Machine {
    /// Takes the keys that the node holds from now on. What was made under a
    /// key that is not among them is wiped, superseded SAs within a second; pairs move to the newest key that
    /// both hold.
    pub(super) fn on_masters(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
        masters: MasterRing,
    ) {
        let ids = masters.ids();
        if self.masters() == Some(ids) {
            return;
        }
        self.note_masters(now, &masters);
        self.core.masters = Some(masters);
        self.core.holdings_change += 1;
        self.claims
            .retain(|_, (claimed, _)| ids.role_of(*claimed).is_none());
        // Peers learn of it at once.
        self.beaconing = Beaconing::starting(now);
        self.each_peer(now, random, |peer, cx| {
            peer.drop_what_is_not_shared(cx);
            peer.rotate_if_owed(cx, After::Change);
        });
    }

    fn note_masters(&mut self, now: Instant, new: &MasterRing) {
        let (active, old) = (*new.ids().active(), self.masters());
        let mut note = |kind, text| self.core.journal.note(now, kind, None, text);
        let Some(old) = old else {
            return note(EventKind::MasterSet, format!("master key {active} set"));
        };
        let former = *old.active();
        if former != active && new.role_of(former) == Some(Role::Previous) {
            let text = format!(
                "master key {active} is active, {former} is the previous one; every pair that can \
                 is rekeyed within 60 s"
            );
            note(EventKind::MasterActivated, text);
        } else if former != active {
            let text = format!("master key {active} replaces {former}; every SA starts anew");
            note(EventKind::MasterSet, text);
        }
        let is_new = |staged: &&Arc<ClusterKeys>| old.role_of(staged.id()).is_none();
        if let Some(staged) = new.staged().filter(is_new) {
            let text = format!("master key {} staged; {active} stays active", staged.id());
            note(EventKind::MasterStaged, text);
        }
        let retired = old.previous().filter(|id| new.role_of(**id).is_none());
        if let Some(retired) = retired {
            let text =
                format!("master key {retired} retired: no exchange under it is taken any more");
            note(EventKind::MasterRetired, text);
        }
    }

    /// Peers that could not be reached without this key, or whose present SAs
    /// were made under it.
    pub fn dependents(&self, master: MasterId) -> Vec<Dependent> {
        let Some(ids) = self.masters() else {
            return Vec::new();
        };
        let is_evicted = |peer: &&Peer| self.evictions().refuses(peer.node, master);
        let dependent = |peer: &Peer| {
            let others = ids.iter().map(|(_, id)| *id).filter(|id| *id != master);
            let holds_other = others.into_iter().any(|id| peer.holds(id));
            let known = peer.known.is_some();
            let is_up = peer.link.is_up();
            let depends = if is_up {
                peer.has_sa_under(master)
            } else {
                known && !holds_other
            };
            depends.then_some(Dependent {
                node: peer.node,
                is_up,
                holds_other,
            })
        };
        let peers = self.peers.iter().filter(|peer| !is_evicted(peer));
        peers.filter_map(dependent).collect()
    }
}

impl RxSa {
    /// Whether the peer may still seal on it.
    fn is_in_use(&self) -> bool {
        !matches!(self.state, RxState::Grace { .. })
    }
}

impl Peer {
    /// Whether it is known to hold this key: it proved it or says so.
    fn holds(&self, master: MasterId) -> bool {
        let says = |known: &Known| known.holdings.masters.role_of(master).is_some();
        self.proven.contains(&master) || self.known.as_ref().is_some_and(says)
    }

    /// Whether it is up, and holds this key as far as it says.
    pub(super) fn is_up_and_holds(&self, master: MasterId) -> bool {
        self.link.is_up() && self.holds(master)
    }

    /// The key that the next exchange of this node with it is under; `None` if the
    /// peer is evicted under that.
    pub(super) fn keys_to_start_with<'a>(
        &self,
        cx: &'a Context<'_>,
    ) -> Option<&'a Arc<ClusterKeys>> {
        let newest = self.newest_in_common(&cx.masters);
        Some(newest).filter(|keys| !cx.refuses(self.node, keys.id()))
    }

    /// The newest key that both hold. The staged one counts only if the peer goes
    /// ahead.
    fn newest_in_common<'a>(&self, masters: &'a MasterRing) -> &'a Arc<ClusterKeys> {
        let active = masters.active();
        let Some(known) = &self.known else {
            return active;
        };
        let theirs = |keys: &Arc<ClusterKeys>| known.holdings.masters.role_of(keys.id());
        let is_ahead = |staged: &&Arc<ClusterKeys>| {
            matches!(theirs(staged), Some(Role::Active | Role::Previous))
        };
        if let Some(staged) = masters.staged().filter(is_ahead) {
            return staged;
        }
        if self.proven.contains(&active.id()) || theirs(active).is_some() {
            return active;
        }
        let others = masters.previous().into_iter().chain(masters.staged());
        let mut common = others.filter(|keys| theirs(keys).is_some());
        common.next().unwrap_or(active)
    }

    /// Whether an exchange under this key would lead the pair back: it is the
    /// previous one, and the peer has proved to hold the active one.
    pub(super) fn is_downgrade(&self, cx: &Context<'_>, master: MasterId) -> bool {
        cx.masters.role_of(master) == Some(Role::Previous)
            && self.proven.contains(&cx.masters.active().id())
    }

    pub(super) fn refuse_downgrade(&self, cx: &mut Context<'_>, master: MasterId) {
        cx.core.counts.add(Count::OlderMaster);
        let text = format!(
            "somebody starts an exchange as node {node} under the previous master key {master}, \
             although node {node} has used the active one, {}: refused. If node {node} has lost \
             its key, 'master stage' it there; 'master retire' here ends this for everybody",
            cx.masters.active().id(),
            node = self.node,
        );
        cx.note_rarely(EventKind::OlderMaster, self.node, text);
    }

    /// Whether this key is newer than the one of the sending SA. A claim under
    /// it to be another life of the peer is believed, since who holds the newer
    /// key is the better member.
    pub(super) fn outranks_sa(&self, cx: &Context<'_>, master: MasterId) -> bool {
        let tx = self.tx.as_ref();
        tx.is_some_and(|tx| cx.masters.role_of(master) > cx.masters.role_of(tx.master))
    }

    /// A peer said which keys it holds. What was said under an older key, or
    /// earlier under the same, does not count against what is known.
    pub(super) fn learn_holdings(
        &mut self,
        cx: &mut Context<'_>,
        holdings: &Holdings,
        incarnation: Incarnation,
        under: MasterId,
    ) {
        if self.is_former_life(incarnation) {
            return;
        }
        let rank = |id| cx.masters.role_of(id);
        let is_news = self.known.is_none_or(|known| {
            known.incarnation != incarnation
                || rank(under) > rank(known.under)
                || rank(under) == rank(known.under) && holdings.change > known.holdings.change
        });
        if is_news {
            self.known = Some(Known {
                holdings: *holdings,
                incarnation,
                under,
            });
            self.rotate_if_owed(cx, After::Change);
        }
    }

    /// The same inside an exchange that proves that the peer holds its key.
    pub(super) fn learn_from_exchange(
        &mut self,
        cx: &mut Context<'_>,
        holdings: &Holdings,
        incarnation: Incarnation,
        under: MasterId,
    ) {
        // At most as many as this node holds.
        self.proven.retain(|id| cx.masters.role_of(*id).is_some());
        self.proven.insert(under);
        self.learn_holdings(cx, holdings, incarnation, under);
    }

    /// Whether frames are sealed, here or there, under keys of this exchange.
    fn has_sa_under(&self, master: MasterId) -> bool {
        self.tx.as_ref().is_some_and(|tx| tx.master == master)
            || self
                .rx
                .iter()
                .any(|sa| sa.master == master && sa.is_in_use())
    }

    /// Whether the pair is up, and its SAs are under another key than those of
    /// an exchange that would start now.
    fn owes_rotation(&self, cx: &Context<'_>) -> bool {
        let Some(wanted) = self.keys_to_start_with(cx).map(|keys| keys.id()) else {
            return false;
        };
        let newest = self
            .rx
            .iter()
            .filter(|sa| sa.is_in_use())
            .max_by_key(|sa| sa.epoch);
        let is_other = |master: MasterId| master != wanted;
        self.link.is_up()
            && (self.tx.as_ref().is_some_and(|tx| is_other(tx.master))
                || newest.is_some_and(|sa| is_other(sa.master)))
    }

    /// Plans the rekey that brings the pair under the key that it should be
    /// under, unless it is planned or there.
    pub(super) fn rotate_if_owed(&mut self, cx: &mut Context<'_>, after: After) {
        if !self.owes_rotation(cx) || cx.has(Defect::NoRotation) {
            self.rotate_at = None;
        } else if self.rotate_at.is_none() {
            let is_lower = cx.core.settings.node < self.node;
            let (low, high) = match after {
                After::Exchange => AGAIN,
                After::Change if is_lower => (Duration::ZERO, SPREAD),
                After::Change => (SPREAD, 2 * SPREAD),
            };
            self.rotate_at = Some(cx.now + cx.random.between(low, high));
        }
    }

    pub(super) fn rotation_timer(&mut self, cx: &mut Context<'_>) {
        if self.rotate_at.is_some_and(|at| at <= cx.now) {
            self.rotate_at = None;
            // The peer may have done it meanwhile.
            if self.owes_rotation(cx) {
                self.start(cx);
                self.rotate_at = Some(cx.now + cx.random.between(AGAIN.0, AGAIN.1));
            }
        }
    }

    /// Wipes what was made under keys that the node does not hold any more, or that
    /// the peer is evicted under.
    pub(super) fn drop_what_is_not_shared(&mut self, cx: &mut Context<'_>) {
        let is_evicted = |id: &MasterId| cx.refuses(self.node, *id);
        let why = if cx.masters.ids().iter().any(|(_, id)| is_evicted(id)) {
            "it is evicted"
        } else {
            "its keys were made under a master key that is gone"
        };
        let held = cx.masters.ids();
        let held: BTreeSet<MasterId> = held.iter().map(|(_, id)| *id).collect();
        let shared: BTreeSet<MasterId> = held.into_iter().filter(|id| !is_evicted(id)).collect();
        let is_gone = |id: MasterId| !shared.contains(&id);
        self.proven.retain(|id| !is_gone(*id));
        let mut touched = false;
        if self
            .initiator
            .name()
            .is_some_and(|name| is_gone(name.master))
        {
            self.initiator = InitiatorSlot::Idle;
            touched = true;
        }
        if self
            .responder
            .name()
            .is_some_and(|name| is_gone(name.master))
        {
            self.responder = ResponderSlot::Idle;
            touched = true;
        }
        // What was sealed on a superseded SA may be under way, while what superseded it
        // stays.
        let stays = |sa: &&RxSa| sa.state == RxState::Live && !is_gone(sa.master);
        let live = self.rx.iter().filter(stays).max_by_key(|sa| sa.epoch);
        let live = live.map(|sa| (sa.incarnation, sa.epoch));
        let is_late = |sa: &RxSa| {
            let is_superseded =
                live.is_some_and(|(life, epoch)| sa.incarnation == life && sa.epoch < epoch);
            is_superseded && !sa.is_in_use() && !is_evicted(&sa.master)
        };
        for sa in self.rx.iter_mut().filter(|sa| is_gone(sa.master)) {
            if is_late(sa) {
                sa.retire_at(cx.now + GRACE.0);
            }
        }
        let gone = |sa: &mut RxSa| is_gone(sa.master) && !is_late(sa);
        let dropped: Vec<RxSa> = self.rx.extract_if(.., gone).collect();
        let mut in_use = dropped.iter().any(RxSa::is_in_use);
        touched |= !dropped.is_empty();
        for sa in dropped {
            sa.remove(cx);
        }
        if self.tx.take_if(|tx| is_gone(tx.master)).is_some() {
            (in_use, touched) = (true, true);
            cx.core.act(Action::RemoveTx { peer: self.index });
            self.link_down(cx, why);
        }
        if touched && self.tx.is_none() && self.rx.is_empty() {
            // The next beacon starts anew.
            self.wipe(cx);
        } else if in_use {
            self.start(cx);
        }
    }
}
