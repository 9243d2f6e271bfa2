//! What happened, for the operator: a bounded list, newest last.

use std::collections::VecDeque;
use std::time::Duration;

use tipsec_dataplane::ids::NodeId;

use crate::time::Instant;

/// Events kept; the oldest goes first.
const CAPACITY: usize = 1024;
/// The same rare event is noted once in this time.
const RARELY: Duration = Duration::from_secs(10);

/// And events of one rare kind so many times in it, over all nodes.
const RARE_KIND_MAX: usize = 8;

/// What kind of event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// The daemon serves.
    Started,
    /// A link came up.
    LinkUp,
    /// A link went down.
    LinkDown,
    /// A peer came back as a new process.
    PeerRestarted,
    /// An exchange got no answer.
    ExchangeTimeout,
    /// A pair that is up has had the same keys for too long.
    KeysOld,
    /// The peer answered, but nothing that both allow.
    Incompatible,
    /// A new SA was not confirmed in time and carries no data.
    Unconfirmed,
    /// A peer is not on a network that this node is on.
    NoPath,
    /// Two nodes run under one id, or somebody poses as a live peer.
    DuplicateNode,
    /// Somebody answers as a live peer without what the last exchange left.
    ChainLost,
    /// A node names another master key.
    OtherMaster,
    /// A sending lane nears its budget.
    BudgetLow,
    /// A sending lane went on in its next phase.
    PhaseEntered,
    /// A sending lane has stopped.
    BudgetSpent,
    /// A receiving SA has stopped.
    OpenLimit,
    /// An exchange under the previous master key with a peer that has the
    /// active one.
    OlderMaster,
    /// The master key was set.
    MasterSet,
    /// The next master key was staged.
    MasterStaged,
    /// The staged master key is the active one now.
    MasterActivated,
    /// The previous master key was forgotten.
    MasterRetired,
    /// The operator put a node out.
    NodeEvicted,
    /// An eviction has ended.
    NodeReadmitted,
    /// A node that is out still starts exchanges.
    EvictedCalls,
    /// A first exchange waits until another master key is active.
    AwaitsMaster,
    /// The keyring's newest file is damaged.
    KeyringDamaged,
    /// The rekey interval was set.
    IntervalSet,
    /// A bearer or a worker failed.
    BearerLost,
    /// A bearer's interface went down or up, or has another MTU or address.
    BearerChanged,
}

impl EventKind {
    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::LinkUp => "link-up",
            Self::LinkDown => "link-down",
            Self::PeerRestarted => "peer-restarted",
            Self::ExchangeTimeout => "exchange-timeout",
            Self::KeysOld => "keys-old",
            Self::Incompatible => "incompatible",
            Self::Unconfirmed => "unconfirmed",
            Self::NoPath => "no-path",
            Self::DuplicateNode => "duplicate-node",
            Self::ChainLost => "chain-lost",
            Self::OtherMaster => "other-master",
            Self::BudgetLow => "budget-low",
            Self::PhaseEntered => "phase-entered",
            Self::BudgetSpent => "budget-spent",
            Self::OpenLimit => "open-limit",
            Self::OlderMaster => "older-master",
            Self::MasterSet => "master-set",
            Self::MasterStaged => "master-staged",
            Self::MasterActivated => "master-activated",
            Self::MasterRetired => "master-retired",
            Self::NodeEvicted => "node-evicted",
            Self::NodeReadmitted => "node-readmitted",
            Self::EvictedCalls => "evicted-calls",
            Self::AwaitsMaster => "awaits-master",
            Self::KeyringDamaged => "keyring-damaged",
            Self::IntervalSet => "interval-set",
            Self::BearerLost => "bearer-lost",
            Self::BearerChanged => "bearer-changed",
        }
    }
}

/// One event.
#[derive(Clone, Debug)]
pub struct EventRecord {
    /// Grows by one an event, from 1.
    pub seq: u64,
    /// When.
    pub at: Instant,
    /// What.
    pub kind: EventKind,
    /// Which peer it is about.
    pub node: Option<NodeId>,
    /// For people.
    pub text: String,
}

/// The list.
#[derive(Default, Debug)]
pub struct Journal {
    events: VecDeque<EventRecord>,
    next_seq: u64,
}

impl Journal {
    pub(super) fn note(
        &mut self,
        at: Instant,
        kind: EventKind,
        node: Option<NodeId>,
        text: String,
    ) {
        if self.events.len() == CAPACITY {
            self.events.pop_front();
        }
        self.next_seq += 1;
        self.events.push_back(EventRecord {
            seq: self.next_seq,
            at,
            kind,
            node,
            text,
        });
    }

    /// Notes an event unless the same was noted a short time ago: what a
    /// stranger can cause must not push everything else out.
    pub(super) fn note_rarely(
        &mut self,
        at: Instant,
        kind: EventKind,
        node: Option<NodeId>,
        text: String,
    ) {
        let recent = || {
            let recent = self.events.iter().rev();
            recent
                .take_while(|event| at.since(event.at) < RARELY)
                .filter(|event| event.kind == kind)
        };
        if recent().count() < RARE_KIND_MAX && recent().all(|event| event.node != node) {
            self.note(at, kind, node, text);
        }
    }

    /// Events kept.
    #[cfg(feature = "sim")]
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Events after the one numbered `after` (0 = all that are kept).
    pub fn after(&self, after: u64) -> impl Iterator<Item = &EventRecord> {
        self.events.iter().filter(move |event| event.seq > after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_numbered() {
        let mut journal = Journal::default();
        let now = Instant::default();
        for n in 0..CAPACITY + 5 {
            journal.note(now, EventKind::LinkUp, None, n.to_string());
        }
        assert_eq!(journal.after(0).count(), CAPACITY);
        assert_eq!(journal.after(0).next().unwrap().seq, 6);
        assert_eq!(journal.after(CAPACITY as u64 + 4).count(), 1);
    }

    #[test]
    fn rare_events_are_noted_once_in_a_while() {
        let mut journal = Journal::default();
        let mut now = Instant::since_boot(Duration::from_secs(100));
        for _ in 0..5 {
            journal.note_rarely(now, EventKind::DuplicateNode, None, String::new());
        }
        now = now + RARELY;
        journal.note_rarely(now, EventKind::DuplicateNode, None, String::new());
        assert_eq!(journal.after(0).count(), 2);
    }
}
