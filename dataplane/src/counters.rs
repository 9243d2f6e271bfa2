//! Counts, each written by one thread and read by any.
//!
//! A failure on the hot path is a count with a reason and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::PeerIndex;
use crate::sys;

/// A counter with a single writer: an increment is a load, an add and a
/// store, none of them locked.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this; a second writer would
    /// lose counts, never memory safety.
    pub fn add(&self, n: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(n), Ordering::Relaxed);
    }

    /// The value, from any thread.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Why a received frame was not delivered.
    RxDrop {
        /// Not a data frame of this version, or cut short.
        Malformed = "rx_malformed",
        /// Spread over several buffers and not joined: no room was free, or it
        /// is longer than the interface's MTU allows.
        Fragmented = "rx_fragmented",
        /// No lane has this SPI.
        UnknownSpi = "rx_unknown_spi",
        /// Of a phase whose key the lane does not have: long over, or not begun.
        UnknownPhase = "rx_unknown_phase",
        /// Seen before, or older than the window.
        Replayed = "rx_replayed",
        /// The tag does not match.
        OpenFailed = "rx_open_failed",
        /// The SA reached its integrity limit and opens nothing more.
        OpenLimit = "rx_open_limit",
        /// Authentic, but its plaintext has no meaning here.
        BadPayload = "rx_bad_payload",
        /// A message, and nobody takes messages, or nobody had taken it when
        /// its memory went with the device.
        NoReceiver = "rx_no_receiver",
        /// The tap device took no more.
        TapFull = "rx_tap_full",
        /// The tap device is gone or down, or there is none.
        TapDown = "rx_tap_down",
    }
}

reasons! {
    /// Why a frame was not sent.
    TxDrop {
        /// No SA with its destination.
        NoKey = "tx_no_key",
        /// No way to its destination is known: no route, or no answer from the
        /// next station.
        NoPath = "tx_no_path",
        /// A probe for which there is no SA: before the first one with a peer
        /// is complete, or after it was wiped. Who asked asks again.
        ProbeUnanswered = "tx_probe_unanswered",
        /// The lane spent its budget, and neither the next SA nor leave to enter
        /// the next phase is there yet.
        BudgetSpent = "tx_budget_spent",
        /// Its destination address belongs to no node.
        UnknownDestination = "tx_unknown_destination",
        /// Group frames over their rate.
        GroupLimited = "tx_group_limited",
        /// No free frame memory for a further copy.
        NoMemory = "tx_no_memory",
        /// Longer than the bearer carries.
        TooLong = "tx_too_long",
        /// Too short to be an Ethernet frame.
        TooShort = "tx_too_short",
        /// The host wants it cut, or its checksum filled, where the frame has
        /// no such place.
        BadOffload = "tx_bad_offload",
        /// The NIC lost it after it was sealed (EBUSY, device gone).
        LinkLost = "tx_link_lost",
    }
}

impl RxDrop {
    /// Whether the frame was lost for a reason that has to do with keys.
    pub const fn is_key_related(self) -> bool {
        matches!(
            self,
            Self::UnknownSpi
                | Self::UnknownPhase
                | Self::Replayed
                | Self::OpenFailed
                | Self::OpenLimit
        )
    }
}

impl TxDrop {
    /// Whether the frame was lost for a reason that has to do with keys.
    pub const fn is_key_related(self) -> bool {
        matches!(self, Self::NoKey | Self::BudgetSpent)
    }
}

/// Counts of one peer at one worker. What every frame is counted in stands first
/// and shares a cache line.
#[derive(Default, Debug)]
#[repr(C, align(64))]
pub struct PeerCounters {
    /// Frames sealed for the peer, probes included.
    pub sealed_frames: Counter,
    /// Plaintext bytes in them.
    pub sealed_bytes: Counter,
    /// Frames of the peer that opened and passed the window.
    pub opened_frames: Counter,
    /// Plaintext bytes in them.
    pub opened_bytes: Counter,
    rx: [Counter; RxDrop::ALL.len()],
    tx: [Counter; TxDrop::ALL.len()],
}

impl PeerCounters {
    /// Counts a frame from the peer that was not delivered.
    pub fn rx_drop(&self, reason: RxDrop) {
        self.rx[reason as usize].add(1);
    }

    /// Counts `frames` from the peer that were lost together.
    pub fn rx_drop_joined(&self, reason: RxDrop, frames: u64) {
        self.rx[reason as usize].add(frames);
    }

    /// Counts `frames` for the peer that were not sent.
    pub fn tx_drop(&self, reason: TxDrop, frames: u64) {
        self.tx[reason as usize].add(frames);
    }

    /// Drops of received frames.
    pub fn rx_drops(&self, reason: RxDrop) -> u64 {
        self.rx[reason as usize].value()
    }

    /// Drops of frames to send.
    pub fn tx_drops(&self, reason: TxDrop) -> u64 {
        self.tx[reason as usize].value()
    }
}

/// All counts of one worker: per peer, and of what belongs to no peer.
#[derive(Debug)]
pub struct WorkerCounters {
    peers: Box<[PeerCounters]>,
    /// Frames whose peer is not known.
    pub nobody: PeerCounters,
    /// Passes of the worker's loop.
    pub passes: Counter,
    /// Times it slept in `poll`.
    pub sleeps: Counter,
    /// Frames received from the bearer, whatever became of them.
    pub received_frames: Counter,
    /// Frames handed to the bearer.
    pub transmitted_frames: Counter,
    /// Probes begun, requests and replies, whatever became of them: what is
    /// sealed beside data.
    pub probes_begun: Counter,
    /// Probes opened and understood, requests and replies.
    pub probes_taken: Counter,
    /// Frames read from the tap; a large one is cut into several.
    pub tap_reads: Counter,
    /// Frames that the tap took; a large one was joined from several.
    pub tap_writes: Counter,
    /// Events that found no room on their way to the control thread.
    pub events_lost: Counter,
    /// Lanes that a table refused: installed before, or no place for them.
    pub installs_refused: Counter,
}

impl WorkerCounters {
    /// Counters for peers `0..peers`, all zero.
    pub fn new(peers: usize) -> Self {
        Self {
            peers: (0..peers).map(|_| PeerCounters::default()).collect(),
            nobody: PeerCounters::default(),
            passes: Counter::default(),
            sleeps: Counter::default(),
            received_frames: Counter::default(),
            transmitted_frames: Counter::default(),
            probes_begun: Counter::default(),
            probes_taken: Counter::default(),
            tap_reads: Counter::default(),
            tap_writes: Counter::default(),
            events_lost: Counter::default(),
            installs_refused: Counter::default(),
        }
    }

    /// Starts to load what each frame of a peer is counted in.
    pub(crate) fn prefetch(&self, peer: PeerIndex) {
        if let Some(counters) = self.peers.get(usize::from(peer.0)) {
            sys::prefetch(&counters.sealed_frames);
        }
    }

    /// The counters of `peer`, or of nobody if the index is out of range.
    pub fn peer(&self, peer: PeerIndex) -> &PeerCounters {
        self.peers.get(usize::from(peer.0)).unwrap_or(&self.nobody)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_index_their_counters() {
        for (index, reason) in RxDrop::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        let counters = WorkerCounters::new(2);
        counters.peer(PeerIndex(1)).rx_drop(RxDrop::Replayed);
        counters.peer(PeerIndex(7)).tx_drop(TxDrop::NoKey, 3);
        assert_eq!(counters.peer(PeerIndex(1)).rx_drops(RxDrop::Replayed), 1);
        assert_eq!(counters.peer(PeerIndex(0)).rx_drops(RxDrop::Replayed), 0);
        assert_eq!(counters.nobody.tx_drops(TxDrop::NoKey), 3, "out of range");
    }
}
