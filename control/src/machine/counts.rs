//! What became of control frames.

use std::collections::BTreeMap;

macro_rules! counts {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// A fate of a control frame or an exchange, or a step in the life of
        /// keys.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Count { $($(#[$doc])* $variant,)+ }

        impl Count {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

counts! {
    /// Not the shape of a control frame.
    Malformed = "malformed",
    /// Under a master key that this node does not hold.
    ForeignMaster = "foreign_master",
    /// A beacon or an exchange under the previous master key from a peer that has
    /// proved to hold the active one.
    OlderMaster = "older_master",
    /// The HMAC does not match.
    BadMac = "bad_mac",
    /// To another node.
    NotForUs = "not_for_us",
    /// Our own frame came back.
    Reflected = "reflected",
    /// Another node uses our id.
    DuplicateNode = "duplicate_node",
    /// The peer table is full of live peers.
    NoRoom = "no_room",
    /// Authentic, but its content makes no sense or is not allowed here.
    Refused = "refused",
    /// A frame to a node with which this one shares no network: not sent.
    NoNetwork = "no_common_network",
    /// Does not belong to any exchange that is under way.
    Stale = "stale",
    /// More often than the peer may.
    RateLimited = "rate_limited",
    /// A message seen before, answered with what was answered before.
    Repeated = "repeated",
    /// Exchanges started by this node.
    Started = "exchanges_started",
    /// Messages sent again because no answer came.
    Retransmitted = "retransmitted",
    /// Exchanges completed, by either side.
    Completed = "exchanges_completed",
    /// Exchanges completed that replaced keys of the same life of a peer.
    Rekeyed = "rekeys_completed",
    /// Phases that sending lanes of this node went on in.
    PhaseEntered = "phases_entered",
    /// Exchanges given up after 5 s.
    TimedOut = "exchanges_timed_out",
    /// Hellos sent.
    HelloSent = "hellos_sent",
    /// Bare m1 or beacon of another incarnation while the peer was alive.
    Impostor = "impostor",
    /// From a node that is evicted.
    Evicted = "evicted",
    /// A first exchange that waits for another master key, since an evicted node
    /// has this one: not begun, or not answered.
    AwaitsMaster = "awaits_master",
}

/// All counts.
#[derive(Default, Debug)]
pub struct Counts([u64; Count::ALL.len()]);

impl Counts {
    pub(super) fn add(&mut self, count: Count) {
        self.0[count as usize] += 1;
    }

    /// One count.
    pub fn value(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// All of them by name.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        Count::ALL
            .iter()
            .map(|&c| (c.name().to_owned(), self.value(c)))
            .collect()
    }
}
