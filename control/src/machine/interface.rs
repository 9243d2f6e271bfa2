//! What goes into the machine and what comes out.

use std::sync::Arc;
use std::time::Duration;

use tipsec_dataplane::command::{RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::ids::{Incarnation, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::payload::Probe;
use tipsec_dataplane::secret::Suite;

use crate::cluster::ClusterName;
use crate::derive::ClusterKeys;

/// What one node is, fixed for the life of the process but for the interval.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// This life of it: random, drawn at start.
    pub incarnation: Incarnation,
    /// The cluster's name: enters every derivation.
    pub cluster: ClusterName,
    /// Where this node receives.
    pub address: MacAddr,
    /// This node's sending workers, 1 to [`crate::message::MAX_LANES`].
    pub lanes: u8,
    /// Suites allowed, best first; at least one.
    pub suites: Vec<Suite>,
    /// `None` = off: this node starts no rekey on its own.
    pub rekey_interval: Option<Duration>,
    /// Silence after which a link is down.
    pub link_tolerance: Duration,
    /// Packets plus AES blocks a lane may seal in one phase.
    pub budget: u64,
    /// Failed opens after which a receiving lane stops (RFC 9001, 6.6).
    pub failed_opens_limit: u64,
    /// Most peers, the size of every worker's tables.
    pub max_peers: u16,
    /// Most receiving lanes, the size of every worker's SA table.
    pub spi_slots: u32,
}

/// Names an [`Action`] whose completion is reported back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// What happened.
pub enum Input<'a> {
    /// Time has passed; see [`super::Machine::next_deadline`].
    Timer,
    /// A control frame arrived, from its Tipsec header on.
    Frame {
        /// Its bytes; padding may follow.
        bytes: &'a [u8],
        /// The outer source address: for reports only, it proves nothing.
        source: MacAddr,
    },
    /// Every worker has acknowledged, and every map holds, the lanes of
    /// [`Action::InstallRx`].
    Installed(Token),
    /// Every map and worker has forgotten the lanes of [`Action::RemoveRx`].
    Removed(Token),
    /// A lane opened its first frame.
    FirstOpen {
        /// Whose.
        peer: PeerIndex,
        /// Which.
        spi: Spi,
    },
    /// A probe's answer arrived.
    ProbeReply {
        /// Whose.
        peer: PeerIndex,
        /// What it says.
        probe: Probe,
    },
    /// Frames of the peer have opened since the last time this was said.
    Activity {
        /// Whose.
        peer: PeerIndex,
    },
    /// A sending lane passed its soft budget.
    BudgetLow {
        /// To whom.
        peer: PeerIndex,
    },
    /// A sending lane reached its hard budget and has stopped.
    BudgetSpent {
        /// To whom.
        peer: PeerIndex,
    },
    /// A receiving lane reached its limit of failed opens and has stopped.
    OpenLimit {
        /// Whose.
        peer: PeerIndex,
        /// Which.
        spi: Spi,
    },
    /// The operator set the master key.
    SetMaster(Arc<ClusterKeys>),
    /// The operator set the rekey interval.
    SetRekeyInterval(Option<Duration>),
    /// The operator asks for fresh keys now.
    RekeyNow,
}

/// What is to be done, in order.
pub enum Action {
    /// Send a control frame, from its Tipsec header on.
    Send {
        /// Outer destination; the group's address for a beacon.
        to: MacAddr,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Install receiving lanes at every worker and in every map, then say
    /// [`Input::Installed`].
    InstallRx {
        /// Names the completion.
        token: Token,
        /// The lanes; each goes to every worker.
        lanes: Vec<RxLaneSpec>,
    },
    /// Withdraw lanes, from the maps first, then say [`Input::Removed`].
    RemoveRx {
        /// Names the completion.
        token: Token,
        /// The lanes.
        spis: Vec<Spi>,
    },
    /// Install sending lanes, each at the worker with its index.
    InstallTx {
        /// To whom.
        peer: PeerIndex,
        /// Where the peer receives, as it says in its offer.
        to: MacAddr,
        /// The lanes.
        lanes: Vec<TxLaneSpec>,
    },
    /// Wipe the sending lanes to a peer.
    RemoveTx {
        /// To whom.
        peer: PeerIndex,
    },
    /// Let data through to a peer, or hold it.
    AllowData {
        /// To whom.
        peer: PeerIndex,
        /// Whether data may be sealed.
        allowed: bool,
    },
    /// Send a probe on a lane.
    SendProbe {
        /// To whom.
        peer: PeerIndex,
        /// On which lane.
        lane: LaneIndex,
        /// What.
        probe: Probe,
    },
    /// Give a proven peer its own token bucket in the driver.
    ListPeer {
        /// Which.
        node: NodeId,
    },
    /// Take it away from one that was forgotten.
    UnlistPeer {
        /// Which.
        node: NodeId,
    },
}
