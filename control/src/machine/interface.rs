//! What goes into the machine and what comes out.

use std::time::Duration;

use tipsec_dataplane::command::{PhaseSpec, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::ids::{Incarnation, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::payload::Probe;
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::secret::Suite;

use crate::address::{Address, Addresses, Network};
use crate::cluster::ClusterName;
use crate::derive::MasterRing;
use crate::evictions::Evictions;

/// What one node is; the interval and the addresses may change in the life of
/// the process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// This life of it: random, drawn at start.
    pub incarnation: Incarnation,
    /// The cluster's name: enters every derivation.
    pub cluster: ClusterName,
    /// Where this node receives.
    pub addresses: Addresses,
    /// The network of each sending worker's NIC: 1 to
    /// [`crate::message::MAX_LANES`] of them. Lane `i` is worker `i`.
    pub lanes: Vec<Network>,
    /// Suites allowed, best first; at least one.
    pub suites: Vec<Suite>,
    /// `None` = off: this node starts no rekey on its own.
    pub rekey_interval: Option<Duration>,
    /// Silence after which a link is down.
    pub link_tolerance: Duration,
    /// Packets plus AES blocks a lane may seal in one phase.
    pub budget: u64,
    /// Where phases begin in packet numbers: [`PhaseBits::PROTOCOL`], or less in
    /// simulations.
    pub phase_bits: PhaseBits,
    /// Failed opens, over all its lanes and all workers, after which a
    /// receiving SA stops (RFC 9001, 6.6).
    pub failed_opens_limit: u64,
    /// Most peers, the size of every worker's tables.
    pub max_peers: u16,
    /// Most receiving lanes, the size of every worker's SA table.
    pub spi_slots: u32,
}

impl Settings {
    /// How many lanes this node has, as it travels.
    pub(super) fn lane_count(&self) -> u8 {
        u8::try_from(self.lanes.len()).unwrap_or(u8::MAX)
    }
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
        /// The network that it came by: answers go the same way.
        network: Network,
        /// The outer source address: for reports only, it proves nothing.
        source: Address,
    },
    /// Every worker has acknowledged, and every map holds, the lanes of
    /// [`Action::InstallRx`]; or every worker has the key of
    /// [`Action::StageRx`].
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
    /// A sending lane passed the soft budget of its phase.
    BudgetLow {
        /// To whom.
        peer: PeerIndex,
        /// Whether it may enter its next phase when the rest is spent.
        next_ready: bool,
    },
    /// A sending lane went on in this phase.
    PhaseEntered {
        /// To whom.
        peer: PeerIndex,
        /// Which.
        spi: Spi,
        /// The phase.
        phase: Phase,
    },
    /// A receiving lane opened its first frame of this phase, at some worker.
    PhaseOpened {
        /// Whose.
        peer: PeerIndex,
        /// Which.
        spi: Spi,
        /// The phase.
        phase: Phase,
    },
    /// A sending lane reached its hard budget and has stopped.
    BudgetSpent {
        /// To whom.
        peer: PeerIndex,
    },
    /// A receiving SA reached its limit of failed opens and has stopped.
    OpenLimit {
        /// Whose.
        peer: PeerIndex,
        /// Which.
        spi: Spi,
    },
    /// The NIC queue of one of this node's lanes is gone for good.
    LaneLost(LaneIndex),
    /// This node receives elsewhere from now on: every peer is told.
    SetAddresses(Addresses),
    /// The node holds these master keys from now on: what was made under any
    /// other is wiped.
    SetMasters(MasterRing),
    /// These nodes are refused from now on, and no others.
    SetEvictions(Evictions),
    /// The operator set the rekey interval.
    SetRekeyInterval(Option<Duration>),
    /// The operator asks for fresh keys now.
    RekeyNow,
}

/// Where a control frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// To everybody on a network.
    Group(Network),
    /// To one node.
    Node(Network, Address),
}

/// What is to be done, in order.
pub enum Action {
    /// Send a control frame, from its Tipsec header on.
    Send {
        /// Where, and by which network.
        to: Destination,
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
    /// Give every worker the key of a receiving lane's next phase, then say
    /// [`Input::Installed`].
    StageRx {
        /// Names the completion.
        token: Token,
        /// Lane, phase and key; goes to every worker.
        phase: PhaseSpec,
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
        to: Addresses,
        /// The lanes.
        lanes: Vec<TxLaneSpec>,
    },
    /// Give a worker the key of its sending lane's next phase.
    StageTx {
        /// To whom.
        peer: PeerIndex,
        /// On which lane.
        lane: LaneIndex,
        /// Lane, phase and key.
        phase: PhaseSpec,
    },
    /// Let a sending lane go on in phases up to this one.
    AllowPhase {
        /// To whom.
        peer: PeerIndex,
        /// On which lane.
        lane: LaneIndex,
        /// Its SPI.
        spi: Spi,
        /// The phase.
        phase: Phase,
    },
    /// Wipe the sending lanes to a peer.
    RemoveTx {
        /// To whom.
        peer: PeerIndex,
    },
    /// Let data on a lane through to a peer, or hold it.
    AllowData {
        /// To whom.
        peer: PeerIndex,
        /// On which lane.
        lane: LaneIndex,
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
