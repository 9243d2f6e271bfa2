//! What must hold at every step, and what is said when it does not.

use std::fmt;

use crate::time::Instant;

macro_rules! invariants {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $text:literal;)+) => {
        /// Something that every history has to keep.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Invariant { $($(#[$doc])* $variant,)+ }

        impl Invariant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it says.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

invariants! {
    /// Over all lives of all nodes.
    NonceOnce = "nonce-once", "no (key, nonce) seals twice in the life of the universe";
    /// Of a handshake: its key would seal two messages under one nonce.
    MessageOnce = "message-once", "a handshake message is sealed once, and repeated byte for byte";
    /// Neither a receiving nor a sending lane.
    InstalledOnce = "installed-once", "no lane is installed twice, and none that is not there is removed";
    /// Whatever the network copies, and wherever an attacker injects.
    DeliveredOnce = "delivered-once", "no payload is delivered twice";
    /// The payload says who sealed it for whom.
    TrueSender = "true-sender", "no payload is delivered to another than its receiver, or from another than its sender";
    /// Of sender and receiver.
    BothNames = "both-names", "a node seals only with keys that the peer it names issued, to this node";
    /// The network, an outage or a restart may take frames; a key may not.
    NothingLost = "nothing-lost", "no frame is lost between nodes that are up but by the network";
    /// Of tables and queues.
    Bounded = "bounded", "memory stays within its bounds";
    /// Or the simulation would stand still.
    Progress = "progress", "a timer that has fired is set to a later time";
    /// In the end, when faults have stopped.
    AllUp = "all-up", "after the faults stop, every pair is up within the bound";
    /// In the end, when all pairs are up.
    DataBothWays = "data-both-ways", "between pairs that are up in a calm network, all data arrives";
    /// In the end, a minute after all nodes hold the same.
    ActiveKey = "active-key", "when all nodes hold the same master keys, every pair comes under the active one";
    /// In the end: by interval, and on request.
    FreshKeys = "fresh-keys", "a pair that is to rekey has fresh keys, by interval and on request";
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An invariant that broke.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// When, on the universe's clock.
    pub at: Instant,
    /// Where and how.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            invariant,
            at,
            detail,
        } = self;
        write!(
            f,
            "at {at} '{invariant}' broke ({}): {detail}",
            invariant.text()
        )
    }
}
