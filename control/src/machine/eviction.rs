//! Nodes that the operator has put out (ADR 0019): nothing is taken from them
//! under the keys that they had, and under those keys nobody is believed to be
//! anybody for holding the key alone. Pairs that are up build on their chains and
//! go on.

use std::collections::BTreeSet;

use tipsec_dataplane::ids::{MasterId, NodeId};

use super::initiator::InitiatorSlot;
use super::peer::Peer;
use super::{Action, Context, Count, EventKind, Machine};
use crate::evictions::Evictions;
use crate::frame::{BARE, ClearHeader, MessageType};
use crate::time::{Instant, Random};

/// Who is out, and for whom the operator has been told that it tries.
#[derive(Default)]
pub(super) struct Evicted {
    list: Evictions,
    told: BTreeSet<NodeId>,
}

#[cfg(feature = "sim")]
impl super::digest::Part for Evicted {
    fn put(&self, into: &mut super::digest::Digester) {
        let Self { list, told: _ } = self;
        for pair in list.iter() {
            into.value(&pair);
        }
    }
}

impl Context<'_> {
    /// Whether nothing is taken from the node under this key.
    pub(super) fn refuses(&self, node: NodeId, master: MasterId) -> bool {
        self.core.evicted.list.refuses(node, master)
    }

    /// Whether an exchange proves too little: it builds on a key alone that a node
    /// which was evicted has, too.
    pub(super) fn proves_too_little(&self, master: MasterId, chain: u64) -> bool {
        chain == BARE && self.core.evicted.list.taints(master)
    }
}

impl Machine {
    /// Takes who is evicted from now on. What was made with them under the keys
    /// that they have is wiped, and bare exchanges under those keys end.
    pub(super) fn on_evictions(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
        evictions: Evictions,
    ) {
        let new = Evicted {
            list: evictions,
            told: BTreeSet::new(),
        };
        let old = std::mem::replace(&mut self.core.evicted, new).list;
        let (before, after) = (old.nodes(), self.core.evicted.list.nodes());
        let mut note = |kind, node, text| self.core.journal.note(now, kind, Some(node), text);
        for &node in after.difference(&before) {
            let text = format!(
                "node {node} is evicted: refused under every master key held here; first exchanges \
                 of all nodes wait until another key is active"
            );
            note(EventKind::NodeEvicted, node, text);
        }
        for &node in before.difference(&after) {
            let text = format!("node {node} is evicted no more");
            note(EventKind::NodeReadmitted, node, text);
        }
        self.each_peer(now, random, |peer, cx| {
            peer.drop_what_is_not_shared(cx);
            peer.end_bare_exchanges(cx);
            if after.contains(&peer.node) && !before.contains(&peer.node) {
                cx.core.act(Action::UnlistPeer { node: peer.node });
            }
        });
    }

    /// Whether a frame that is authentic is refused for its sender. The operator
    /// is told once that it still tries.
    pub(super) fn is_of_evicted(&mut self, now: Instant, header: &ClearHeader) -> bool {
        let (node, master) = (header.sender, header.master);
        if !self.core.evicted.list.refuses(node, master) {
            return false;
        }
        self.core.counts.add(Count::Evicted);
        if header.message != MessageType::Beacon && self.core.evicted.told.insert(node) {
            let text = format!(
                "node {node}, which is evicted, still calls under master key {master}: refused; this \
                 is said once"
            );
            let kind = EventKind::EvictedCalls;
            self.core.journal.note(now, kind, Some(node), text);
        }
        true
    }

    /// Who is evicted.
    pub fn evictions(&self) -> &Evictions {
        &self.core.evicted.list
    }
}

impl Peer {
    /// Says why an exchange is not begun or answered.
    pub(super) fn await_master(&self, cx: &mut Context<'_>, master: MasterId) {
        cx.core.counts.add(Count::AwaitsMaster);
        let text = format!(
            "node {} needs a first exchange, and a node that was evicted could pose as it: none is \
             made under master key {master}. 'master stage' a new key on every node but those \
             evicted, then 'master activate' it",
            self.node
        );
        cx.note_rarely(EventKind::AwaitsMaster, self.node, text);
    }

    /// Ends exchanges under way that prove too little.
    fn end_bare_exchanges(&mut self, cx: &mut Context<'_>) {
        let name = self.initiator.name();
        if name.is_some_and(|name| cx.proves_too_little(name.master, name.chain)) {
            self.initiator = InitiatorSlot::Idle;
        }
        let name = self.responder.name();
        if name.is_some_and(|name| cx.proves_too_little(name.master, name.chain)) {
            self.withdraw_answer(cx);
        }
    }
}
