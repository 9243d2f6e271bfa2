//! What the program and its loader agree on: the configuration, the maps' names
//! and sizes, the counters, the buckets' rates, and a hash over all of it.
//! Imports `wire`, `gate` and `bucket`.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::bucket::Bucket;
use crate::gate::GateKey;
use crate::wire::{self, Kind};

/// The program's name in the object (and, cut to 15 bytes, in the kernel).
pub const PROGRAM: &str = "tipsec_xdp";

/// Array\[1\] of [`Config`]: written before the program is attached.
pub const MAP_CONFIG: &str = "CONFIG";
/// Array\[[`SPIS_LEN`] unless resized\] of u32: the SPIs this node has issued.
/// Index = [`wire::spi_index`], value = the full SPI, 0 = none.
pub const MAP_SPIS: &str = "SPIS";
/// XSKMAP\[[`XSKS_LEN`]\], key = receive queue index.
pub const MAP_XSKS: &str = "XSKS";
/// Hash: master id u64 → [`GateKey`], the masters this node holds.
pub const MAP_GATES: &str = "GATES";
/// Hash: node id u32 → [`Buckets`]; userspace inserts full ones for each peer.
pub const MAP_PEER_BUCKETS: &str = "PEER_BUCKETS";
/// Array\[2\] of [`Buckets`]: [`SHARED_UNLISTED`], [`SHARED_UNKNOWN_MASTER`].
pub const MAP_SHARED_BUCKETS: &str = "SHARED_BUCKETS";
/// LRU hash: gate u64 → bucket state u64 ns, of control frames that were seen
/// lately and whose gate matched: what is repeated too often ends here.
pub const MAP_REPEATS: &str = "REPEATS";
/// Per-CPU array\[[`COUNTERS_LEN`]\] of u64, indexed by counter.
pub const MAP_COUNTERS: &str = "COUNTERS";
/// The read-only section that holds [`LAYOUT_HASH`] as one u64. Loaders see it
/// as an array map of this name with one value of 8 bytes.
pub const MAP_LAYOUT: &str = ".rodata.layout";

/// Entries of [`MAP_SPIS`] unless the loader resizes it, at most 2^20.
pub const SPIS_LEN: usize = 65_536;
/// Entries of [`MAP_XSKS`]: receive queues of one interface.
pub const XSKS_LEN: usize = 64;
/// Entries of [`MAP_GATES`]: master keys held at once.
pub const GATES_LEN: usize = 8;
/// Entries of [`MAP_PEER_BUCKETS`]: listed peers.
pub const PEER_BUCKETS_LEN: usize = 4096;
/// Entries of [`MAP_SHARED_BUCKETS`].
pub const SHARED_BUCKETS_LEN: usize = 2;
/// Index of the bucket that members outside [`MAP_PEER_BUCKETS`] share.
pub const SHARED_UNLISTED: u32 = 0;
/// Index of the bucket of frames that name a master not held.
pub const SHARED_UNKNOWN_MASTER: u32 = 1;

/// Entries of [`MAP_REPEATS`], some 80 bytes each. Who wants to be forgotten
/// needs as many frames that were recorded and still pass the gate.
pub const REPEATS_LEN: usize = 16_384;

/// States of a pair of buckets in ns, 0 = full: handshakes' and beacons', so that
/// neither can take the other's share.
pub type Buckets = [u64; 2];

/// Which of [`Buckets`] a kind of control frame takes from.
#[inline(always)]
pub const fn bucket_of(kind: Kind) -> usize {
    matches!(kind, Kind::Beacon) as usize
}

/// Each listed peer, for each kind: 100 control frames a second, 100 at once.
pub const BUCKET_PEER: Bucket = Bucket::new(100, 100);
/// All unlisted members together, for each kind: 500 a second, 500 at once.
pub const BUCKET_UNLISTED: Bucket = Bucket::new(500, 500);
/// All frames under an unknown master together, for each kind: 10 a second, for
/// diagnosis.
pub const BUCKET_UNKNOWN_MASTER: Bucket = Bucket::new(10, 10);
/// One and the same control frame. A message is repeated byte for byte, at most
/// eight times in the 5 s of an exchange, and a beacon each second.
pub const BUCKET_REPEAT: Bucket = Bucket::new(2, 8);

/// What carries frames to one bearer behind Ethernet header and tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Nothing else: the Tipsec header follows.
    Ethernet {
        /// The EtherType that is ours; below 0x0600 the program claims nothing.
        ethertype: u16,
    },
    /// IPv4 and UDP.
    Udp4 {
        /// The bearer's own address.
        address: Ipv4Addr,
        /// The UDP port that is ours; never 0.
        port: u16,
    },
    /// IPv6 and UDP.
    Udp6 {
        /// The bearer's own address.
        address: Ipv6Addr,
        /// The UDP port that is ours; never 0.
        port: u16,
    },
}

/// One node on one interface, as the program sees it. Layout shared with the
/// kernel: native byte order, no padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// The interface's own MAC: frames of ours to others are dropped.
    pub own_mac: [u8; 6],
    /// The EtherType that is ours, or IPv4's or IPv6's; below 0x0600 the
    /// program claims nothing.
    pub ethertype: u16,
    /// The 802.1Q VLAN id (1 to 4094) that our frames carry; 0 = untagged.
    pub vlan: u16,
    /// The UDP port that is ours; 0: frames lie straight in Ethernet.
    pub port: u16,
    /// This node's id: handshakes to others are dropped. Never 0.
    pub node_id: u32,
    /// The bearer's own IP address, IPv4 in the first 4 bytes; zero without UDP.
    pub own_ip: [u8; 16],
}

impl Config {
    /// Size in bytes in the map.
    pub const LEN: usize = 32;

    /// A configuration; see the fields for ranges, which the caller checks.
    pub const fn new(own_mac: [u8; 6], carrier: Carrier, vlan: u16, node_id: u32) -> Config {
        let (ethertype, port, own_ip) = match carrier {
            Carrier::Ethernet { ethertype } => (ethertype, 0, [0; 16]),
            Carrier::Udp4 { address, port } => {
                let [a, b, c, d] = address.octets();
                let own_ip = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                (wire::ETHERTYPE_IPV4, port, own_ip)
            }
            Carrier::Udp6 { address, port } => (wire::ETHERTYPE_IPV6, port, address.octets()),
        };
        Config {
            own_mac,
            ethertype,
            vlan,
            port,
            node_id,
            own_ip,
        }
    }

    /// The bytes to write to [`MAP_CONFIG`], in this machine's order.
    pub fn to_bytes(self) -> [u8; Config::LEN] {
        let mut bytes = [0; Config::LEN];
        bytes[0..6].copy_from_slice(&self.own_mac);
        bytes[6..8].copy_from_slice(&self.ethertype.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.vlan.to_ne_bytes());
        bytes[10..12].copy_from_slice(&self.port.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.node_id.to_ne_bytes());
        bytes[16..32].copy_from_slice(&self.own_ip);
        bytes
    }

    /// What [`Config::to_bytes`] wrote.
    pub fn from_bytes(bytes: [u8; Config::LEN]) -> Config {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, own_ip @ ..] = bytes;
        Config {
            own_mac: [a, b, c, d, e, f],
            ethertype: u16::from_ne_bytes([g, h]),
            vlan: u16::from_ne_bytes([i, j]),
            port: u16::from_ne_bytes([k, l]),
            node_id: u32::from_ne_bytes([m, n, o, p]),
            own_ip,
        }
    }
}

/// Why a frame was accepted: the first counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Accept {
    /// Not a Tipsec frame: passed to the kernel.
    NotOurs = 0,
    /// Data with a known SPI: handed to the queue's AF_XDP socket.
    Data = 1,
    /// Control frame with a valid gate: passed to the control thread.
    Control = 2,
    /// Control frame under a master not held: passed for diagnosis only.
    UnknownMaster = 3,
}

/// Why a frame was dropped: the counters after [`Accept`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Reason {
    /// Destination MAC neither ours nor the group's (the group takes beacons
    /// only), or a handshake to another node id.
    NotForUs = 4,
    /// Source MAC is our own.
    Reflected = 5,
    /// A version this code does not speak.
    BadVersion = 6,
    /// Shorter than its header or its length field says, a length that the kind
    /// does not allow, or lengths of IP, UDP and ours that contradict each other.
    BadLength = 7,
    /// Unknown kind or message type, reserved bits set, SPI or sender 0,
    /// group source, the first of several IP fragments.
    Malformed = 8,
    /// Data with an SPI that this node has not issued or has withdrawn.
    UnknownSpi = 9,
    /// Data for a queue that has no socket.
    NoSocket = 10,
    /// Control frame under a held master whose gate does not match.
    BadGate = 11,
    /// Control frame over its token bucket's rate.
    Flooded = 12,
    /// Control frame that was seen too often lately: a replay.
    Repeated = 13,
}

impl Accept {
    /// Index into [`MAP_COUNTERS`] and [`COUNTER_NAMES`].
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        self as u32
    }
}

impl Reason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Reason; 10] = [
        Reason::NotForUs,
        Reason::Reflected,
        Reason::BadVersion,
        Reason::BadLength,
        Reason::Malformed,
        Reason::UnknownSpi,
        Reason::NoSocket,
        Reason::BadGate,
        Reason::Flooded,
        Reason::Repeated,
    ];

    /// Index into [`MAP_COUNTERS`] and [`COUNTER_NAMES`].
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        self as u32
    }

    /// The counter's name.
    pub const fn name(self) -> &'static str {
        COUNTER_NAMES[self as usize]
    }
}

/// Number of counters.
pub const COUNTERS_LEN: usize = 14;
/// The counters' names, by index. Every frame counts in exactly one.
pub const COUNTER_NAMES: [&str; COUNTERS_LEN] = [
    "not_ours",
    "data",
    "control",
    "unknown_master",
    "not_for_us",
    "reflected",
    "bad_version",
    "bad_length",
    "malformed",
    "unknown_spi",
    "no_socket",
    "bad_gate",
    "flooded",
    "repeated",
];

/// A hash over everything that program and loader must agree on. The loader
/// compares it with [`MAP_LAYOUT`]'s value before it attaches, so that an
/// object of another build is refused and not misread.
pub const LAYOUT_HASH: u64 = layout_hash();

const fn layout_hash() -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash = hash.text(env!("CARGO_PKG_VERSION")).text(PROGRAM);
    let maps = [
        (MAP_CONFIG, size_of::<Config>(), 1),
        (MAP_SPIS, 4, SPIS_LEN),
        (MAP_XSKS, 4, XSKS_LEN),
        (MAP_GATES, size_of::<GateKey>(), GATES_LEN),
        (MAP_PEER_BUCKETS, size_of::<Buckets>(), PEER_BUCKETS_LEN),
        (MAP_SHARED_BUCKETS, size_of::<Buckets>(), SHARED_BUCKETS_LEN),
        (MAP_REPEATS, 8, REPEATS_LEN),
        (MAP_COUNTERS, 8, COUNTERS_LEN),
    ];
    let mut i = 0;
    while i < maps.len() {
        let (name, value_len, entries) = maps[i];
        hash = hash
            .text(name)
            .number(value_len as u64)
            .number(entries as u64);
        i += 1;
    }
    let mut i = 0;
    while i < COUNTERS_LEN {
        hash = hash.text(COUNTER_NAMES[i]);
        i += 1;
    }
    hash.number(wire::VERSION as u64)
        .number(wire::SPI_INDEX_BITS as u64)
        .number(wire::CLEAR_HEADER_LEN as u64)
        .bytes(&wire::GROUP_MAC)
        .bytes(&wire::GROUP_IPV4.octets())
        .bytes(&wire::GROUP_IPV6.octets())
        .0
}

/// FNV-1a, 64 bit: enough to notice a difference, and computable at compile time.
struct Fnv(u64);

impl Fnv {
    const fn byte(self, byte: u8) -> Fnv {
        Fnv((self.0 ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3))
    }

    const fn bytes(mut self, bytes: &[u8]) -> Fnv {
        let mut i = 0;
        while i < bytes.len() {
            self = self.byte(bytes[i]);
            i += 1;
        }
        self
    }

    const fn text(self, text: &str) -> Fnv {
        // Ends the text, so that ("ab", "c") and ("a", "bc") differ.
        self.bytes(text.as_bytes()).byte(0xFF)
    }

    const fn number(self, number: u64) -> Fnv {
        self.bytes(&number.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_sizes_they_claim() {
        assert_eq!(size_of::<Config>(), Config::LEN);
        assert_eq!(size_of::<GateKey>(), GateKey::LEN);
    }

    #[test]
    fn config_survives_its_bytes() {
        let carriers = [
            Carrier::Ethernet { ethertype: 0x88B5 },
            Carrier::Udp4 {
                address: Ipv4Addr::new(10, 20, 30, 40),
                port: 6119,
            },
            Carrier::Udp6 {
                address: "fd00:1:2:3:4:5:6:7".parse().unwrap(),
                port: 0xFFFE,
            },
        ];
        for carrier in carriers {
            let config = Config::new([2, 3, 4, 5, 6, 7], carrier, 4094, 0xDEAD_BEEF);
            assert_eq!(Config::from_bytes(config.to_bytes()), config);
        }
    }

    #[test]
    fn counters_are_dense_and_named() {
        let accepts = [
            (Accept::NotOurs, "not_ours"),
            (Accept::Data, "data"),
            (Accept::Control, "control"),
            (Accept::UnknownMaster, "unknown_master"),
        ];
        for (i, (accept, name)) in accepts.into_iter().enumerate() {
            assert_eq!(accept.counter() as usize, i);
            assert_eq!(COUNTER_NAMES[i], name);
        }
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.counter() as usize, i + accepts.len());
        }
        assert_eq!(accepts.len() + Reason::ALL.len(), COUNTERS_LEN);
        assert_eq!(Reason::Repeated.name(), "repeated");
    }
}
