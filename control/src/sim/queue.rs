//! What is going to happen, in order of time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::rc::Rc;

use tipsec_dataplane::command::{Event, PhaseSpec};

use super::ledger::Serial;
use crate::address::{Address, Network};
use crate::machine::Token;
use crate::time::Instant;

/// A frame on a network.
#[derive(Clone)]
pub(super) struct Frame {
    pub(super) content: Content,
    /// A control frame from its Tipsec header on, a data frame with its outer
    /// header.
    pub(super) bytes: Rc<[u8]>,
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Control,
    /// Data with a payload of this number, as it was sealed.
    Data(Serial),
    /// A probe, or anything that an attacker or a flipped bit has made.
    Other,
}

impl Content {
    /// What the ledger takes a copy for: a payload is counted once.
    pub(super) fn of_copy(self) -> Self {
        match self {
            Self::Control => Self::Control,
            Self::Data(_) | Self::Other => Self::Other,
        }
    }
}

/// One thing that happens at a node. What belongs to a life of a node does not
/// happen to another; what is on the wire does.
pub(super) enum Happening {
    Arrive {
        frame: Frame,
        network: Network,
        source: Address,
    },
    /// A worker wakes up and does what it was told.
    Drain {
        life: u64,
        worker: usize,
    },
    /// A worker is given the key of a lane's next phase.
    Stage {
        life: u64,
        worker: usize,
        token: Token,
        phase: Rc<PhaseSpec>,
    },
    /// The control thread hears of something.
    Event {
        life: u64,
        event: Event,
    },
    Installed {
        life: u64,
        token: Token,
    },
    Removed {
        life: u64,
        token: Token,
    },
}

impl Happening {
    /// The life of the node that it belongs to, if any.
    pub(super) fn life(&self) -> Option<u64> {
        match self {
            Self::Arrive { .. } => None,
            Self::Drain { life, .. }
            | Self::Stage { life, .. }
            | Self::Event { life, .. }
            | Self::Installed { life, .. }
            | Self::Removed { life, .. } => Some(*life),
        }
    }
}

struct Due {
    at: Instant,
    order: u64,
    place: usize,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Happenings by time; of those at one time, the one that was queued first.
#[derive(Default)]
pub(super) struct Queue {
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, place: usize, what: Happening) {
        self.order += 1;
        self.due.push(Reverse(Due {
            at,
            order: self.order,
            place,
            what,
        }));
    }

    /// When something happens next.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse(due)| due.at)
    }

    /// The next thing that has happened by `now`, and where.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(usize, Happening)> {
        if self.next_at()? > now {
            return None;
        }
        self.due.pop().map(|Reverse(due)| (due.place, due.what))
    }
}
