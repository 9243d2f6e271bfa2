//! What the daemon answers. Ids of 64 bits are hex text, because JSON readers
//! round numbers above 2^53. Imports nothing from this crate.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// State of the node that answers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of `tipsecd`.
    pub version: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Own node id.
    pub node: u32,
    /// This process's incarnation: 16 hex digits.
    pub incarnation: String,
    /// Time since the daemon started.
    pub uptime_ms: u64,
    /// Public id of the master key: 16 hex digits; none without a key.
    pub master_id: Option<String>,
    /// Rekey interval; none means off.
    pub rekey_interval_s: Option<u32>,
    /// Exchanges that replaced keys since start.
    pub rekeys_completed: u64,
    /// NIC queues that carry the cluster.
    pub bearers: Vec<BearerReport>,
    /// The device that applications use.
    pub tap: Option<TapReport>,
    /// Worker threads.
    pub workers: Vec<WorkerReport>,
    /// Frames that the XDP program dropped or passed, by reason.
    #[serde(default)]
    pub xdp: Counts,
    /// Statistics of the AF_XDP sockets (XDP_STATISTICS).
    #[serde(default)]
    pub xsk: Counts,
    /// Handshakes and beacons by what became of them.
    #[serde(default)]
    pub control: Counts,
}

/// One NIC queue.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BearerReport {
    /// Name of the NIC.
    pub interface: String,
    /// Its queue.
    pub queue: u32,
    /// Number of its worker among `workers`, which is also its lane.
    #[serde(default)]
    pub worker: u8,
    /// The operator's number of the network that the NIC is on.
    #[serde(default)]
    pub network: u8,
    /// Whether it is still there.
    #[serde(default)]
    pub state: BearerState,
    /// IP address and port that frames go to, with the UDP encapsulation.
    #[serde(default)]
    pub address: Option<String>,
    /// Core that its worker is pinned to, if any.
    pub core: Option<u32>,
    /// What it got: `zero-copy`, `native` or `generic`.
    pub mode: String,
    /// `ethernet` or `udp`.
    pub encapsulation: String,
    /// The VLAN that frames are tagged with, if any.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// MTU of the NIC in bytes.
    pub mtu: u32,
    /// Address of the NIC.
    pub mac: String,
    /// Most frames handed to the NIC and not yet sent.
    #[serde(default)]
    pub frames_in_flight: u32,
    /// Whether frame memory is of huge pages.
    #[serde(default)]
    pub huge_pages: bool,
    /// Whether frame memory leaves its worker's caches before another core
    /// fills it: on a veth with NAPI inline, if the processor can.
    #[serde(default)]
    pub cache_demotion: bool,
    /// Whether a frame may be spread over several buffers.
    #[serde(default)]
    pub multi_buffer: bool,
    /// Whether its worker polls the NIC itself.
    #[serde(default)]
    pub busy_poll: bool,
    /// Frames that the kernel takes in one call; `None`: its own default.
    #[serde(default)]
    pub tx_budget: Option<u32>,
    /// Crate that seals and opens.
    pub aead: String,
    /// Suite that is offered first.
    pub suite: String,
}

/// Whether a NIC queue is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BearerState {
    /// It is.
    #[default]
    Up,
    /// It was, and is gone for good: its lanes carry nothing.
    Lost,
    /// It is there, and this node's XDP program is not on it any more: nothing
    /// is received by it.
    Detached,
    /// A state of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl BearerState {
    /// The word for it, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Lost => "lost",
            Self::Detached => "detached",
            Self::Unknown => "unknown",
        }
    }
}

/// The tap device.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TapReport {
    /// Name of the device.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its address, derived from the node id.
    pub mac: String,
    /// IP addresses with prefix lengths.
    pub addresses: Vec<String>,
}

/// One worker thread.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Core that it is pinned to, if any.
    pub core: Option<u32>,
    /// Frames from the bearer.
    pub received_frames: u64,
    /// Frames to the bearer.
    pub transmitted_frames: u64,
    /// Times around its loop.
    pub passes: u64,
    /// Times it slept.
    pub sleeps: u64,
    /// Frames dropped by reason, over all peers.
    #[serde(default)]
    pub drops: Counts,
}

/// Whether a peer can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// Probes are answered.
    Up,
    /// They are not.
    #[default]
    Down,
    /// An exchange is under way and there was no link yet.
    Connecting,
    /// A state of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl LinkState {
    /// The word for it, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Connecting => "connecting",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Every peer, in order of node id.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PeersReport {
    /// Public id of this node's master key, to compare the peers' with.
    #[serde(default)]
    pub master_id: Option<String>,
    /// The peers.
    pub peers: Vec<PeerReport>,
}

/// Where a peer receives on one network.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AddressReport {
    /// The operator's number of the network.
    pub network: u8,
    /// The address.
    pub address: String,
}

/// State of one peer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its node id.
    pub node: u32,
    /// Whether it can be reached.
    pub link: LinkState,
    /// How long the link has been so.
    pub since_ms: u64,
    /// Its incarnation: 16 hex digits; none before it was heard.
    pub incarnation: Option<String>,
    /// Master key that its last exchange was made under.
    pub master_id: Option<String>,
    /// Master key that frames in its name claim and this node doesn't hold.
    /// Nothing proves the claim.
    pub claimed_master_id: Option<String>,
    /// Whether it is evicted under this node's active master key.
    #[serde(default)]
    pub evicted: bool,
    /// Its addresses on the wire, by network.
    #[serde(default)]
    pub addresses: Vec<AddressReport>,
    /// Epoch of the keys that frames to it are sealed with.
    pub tx_epoch: Option<u32>,
    /// Epoch of the newest keys that opened a frame of it.
    pub rx_epoch: Option<u32>,
    /// Highest phase of the keys that frames to it are sealed with, over the
    /// lanes: 0 unless a budget was spent without a rekey.
    #[serde(default)]
    pub tx_phase: Option<u32>,
    /// Highest phase that opened of the keys with `rx_epoch`.
    #[serde(default)]
    pub rx_phase: Option<u32>,
    /// Age of the older of both.
    pub key_age_ms: Option<u64>,
    /// Times that keys were replaced.
    pub rekeys: u64,
    /// Frames sealed to it.
    pub sealed_frames: u64,
    /// Bytes of payload in them.
    pub sealed_bytes: u64,
    /// Frames opened from it.
    pub opened_frames: u64,
    /// Bytes of payload in them.
    pub opened_bytes: u64,
    /// Frames to or from it that were dropped, by reason; only what is not 0.
    #[serde(default)]
    pub drops: Counts,
}

/// What happened, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EventsReport {
    /// The events. A gap in their numbers means that some were forgotten.
    pub events: Vec<EventReport>,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EventReport {
    /// Its number, from 1 within one life of the daemon.
    pub seq: u64,
    /// How long ago.
    pub age_ms: u64,
    /// When, by the wall clock: RFC 3339, UTC. For display only.
    pub time: String,
    /// What kind, in kebab-case.
    pub kind: String,
    /// Node that it is about, if one.
    pub node: Option<u32>,
    /// For people.
    pub text: String,
}

/// The master key was taken and stored.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MasterReport {
    /// Its public id: 16 hex digits, the same on every node of the cluster.
    pub master_id: String,
    /// False if it was the master key already.
    pub changed: bool,
}

/// Public ids of master keys, by role: 16 hex digits each.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MasterIdsReport {
    /// The key that exchanges are started under; none without any key.
    pub active: Option<String>,
    /// The key that is active next.
    #[serde(default)]
    pub staged: Option<String>,
    /// The key that was active before and is not retired yet.
    #[serde(default)]
    pub previous: Option<String>,
}

/// A step of a rotation was taken and stored.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MasterStepReport {
    /// False if it had been taken before.
    pub changed: bool,
    /// What this node holds now.
    pub masters: MasterIdsReport,
    /// After `retire`: nodes that hold, as far as they have said, no key of
    /// this node any more.
    #[serde(default)]
    pub left_behind: Vec<u32>,
    /// Nodes that are evicted.
    #[serde(default)]
    pub evicted: Vec<EvictedReport>,
}

/// A node that is refused.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EvictedReport {
    /// Its node id.
    pub node: u32,
    /// Under these master keys.
    pub master_ids: Vec<String>,
}

/// A node was put out, or taken back, and this is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EvictionReport {
    /// False if it had been done before.
    pub changed: bool,
    /// The node.
    pub node: u32,
    /// All that are evicted now.
    pub evicted: Vec<EvictedReport>,
    /// What this node holds.
    pub masters: MasterIdsReport,
}

/// Master keys of this node and of its peers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MasterStatusReport {
    /// Own node id.
    pub node: u32,
    /// What this node holds.
    pub masters: MasterIdsReport,
    /// Why the keys are those of the keyring's older copy, if they are.
    #[serde(default)]
    pub keyring_damaged: Option<String>,
    /// Nodes that are evicted.
    #[serde(default)]
    pub evicted: Vec<EvictedReport>,
    /// Every peer, in order of node id.
    pub peers: Vec<MasterPeerReport>,
}

/// Master keys of one peer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MasterPeerReport {
    /// Its node id.
    pub node: u32,
    /// Whether it can be reached.
    pub link: LinkState,
    /// The key that the keys of frames to it were made under.
    pub sa_master_id: Option<String>,
    /// What it says it holds; none if it has said nothing yet.
    pub masters: Option<MasterIdsReport>,
    /// Master key that frames in its name claim and this node doesn't hold.
    /// Nothing proves the claim.
    #[serde(default)]
    pub claimed_master_id: Option<String>,
    /// Whether it is evicted under the active key.
    #[serde(default)]
    pub evicted: bool,
}

/// The rekey interval was taken.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RekeyIntervalReport {
    /// Seconds; none means off.
    pub interval_s: Option<u32>,
}

/// Exchanges were started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RekeyNowReport {
    /// Peers that an exchange was started with.
    pub started: u32,
}
