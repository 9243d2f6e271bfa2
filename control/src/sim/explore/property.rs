//! What must hold in every state that is reached.

use std::fmt;

macro_rules! properties {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $text:literal;)+) => {
        /// Something that every way has to keep.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Property { $($(#[$doc])* $variant,)+ }

        impl Property {
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

properties! {
    /// Numbers of a lane start at 0 and only grow, so a key must not come twice.
    NonceOnce = "nonce-once", "no key is installed for sending twice, so no (key, nonce) seals twice";
    /// A Noise key would seal two messages under one nonce.
    MessageOnce = "message-once", "a handshake message is sealed once, and repeated byte for byte";
    /// Of receiving lanes.
    InstalledOnce = "installed-once", "no receiving lane is installed twice, and none that is not there is removed";
    /// Of senders.
    EpochGrows = "epoch-grows", "the epoch of a sending SA never goes down within an incarnation of the peer";
    /// Of m2 and m3.
    OfferInstalled = "offer-installed", "an offer leaves only when every worker has its receiving SA";
    /// Of sender and receiver.
    BothNames = "both-names", "a node seals only with keys that the peer it names issued, to this node";
    /// While both call the link up.
    ReceiverReady = "receiver-ready", "what may carry data is installed at the receiver, while both ends call the link up";
    /// Of data.
    NothingLost = "nothing-lost", "no frame is refused within 0.9 s between nodes that are up all that time";
    /// Of receiving SAs.
    Bounded = "bounded", "at most 16 receiving SAs a pair";
    /// From here on.
    Converges = "converges", "without further faults every pair is up, with data both ways and the keys that were asked for";
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A property that does not hold, and how.
pub(super) type Wrong = (Property, String);
