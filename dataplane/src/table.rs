//! SA tables: receiving lanes by SPI (direct index), sending lanes by peer.
//!
//! Of fixed size from construction; nothing here allocates per frame. One
//! worker owns one of each. Imports `sa`, phases and ids.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::aead::Aead;
use crate::command::PhaseSpec;
use crate::counters::TxDrop;
use crate::ids::{Epoch, NodeId, PeerIndex, Spi};
use crate::outer::OuterHeader;
use crate::phase::{Phase, StageRefused};
use crate::sa::{Class, RxLane, TxLane};
use crate::sys;

/// Why a lane was not installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InstallRefused {
    /// Its index lies outside the table.
    #[error("no room in the SA table for {what} {index}: the table has {size} entries")]
    OutOfRange {
        /// "SPI index" or "peer".
        what: &'static str,
        /// The index asked for.
        index: usize,
        /// Entries of the table.
        size: usize,
    },
    /// Another lane holds the place; remove it first.
    #[error("SPI {0} holds the place of the new lane: remove it first")]
    Occupied(Spi),
    /// The very same SA was installed before: its counter is never reset.
    #[error("the SA with SPI {0} was installed before")]
    InstalledBefore(Spi),
}

/// Receiving lanes, by the index part of their SPI.
pub struct RxTable<A: Aead> {
    slots: Box<[Option<RxLane<A>>]>,
    lanes: usize,
}

impl<A: Aead> RxTable<A> {
    /// A table for SPIs with an index below `size`; 128 bytes each, lane
    /// included, so that a lookup waits for no pointer.
    pub fn new(size: usize) -> Self {
        Self {
            slots: std::iter::repeat_with(|| None).take(size).collect(),
            lanes: 0,
        }
    }

    /// Opens `lane`'s frames from now on.
    ///
    /// # Errors
    /// [`InstallRefused`]; the refused lane is wiped, the table unchanged.
    pub fn insert(&mut self, lane: RxLane<A>) -> Result<(), InstallRefused> {
        let spi = lane.spi();
        let size = self.slots.len();
        let Some(slot) = self.slots.get_mut(spi.index()) else {
            return Err(InstallRefused::OutOfRange {
                what: "SPI index",
                index: spi.index(),
                size,
            });
        };
        match slot {
            Some(present) if present.spi() == spi => Err(InstallRefused::InstalledBefore(spi)),
            Some(present) => Err(InstallRefused::Occupied(present.spi())),
            None => {
                *slot = Some(lane);
                self.lanes += 1;
                Ok(())
            }
        }
    }

    /// Forgets and wipes a lane; false if there is none with exactly this SPI.
    pub fn remove(&mut self, spi: Spi) -> bool {
        let Some(slot) = self.slots.get_mut(spi.index()) else {
            return false;
        };
        if slot.as_ref().is_none_or(|lane| lane.spi() != spi) {
            return false;
        }
        *slot = None;
        self.lanes -= 1;
        true
    }

    /// Gives a lane the key of its next phase.
    ///
    /// # Errors
    /// [`StageRefused`]; then nothing is changed.
    pub fn stage(&mut self, phase: &PhaseSpec) -> Result<(), StageRefused> {
        let lane = self.lane_mut(phase.spi);
        lane.ok_or(StageRefused::NoLane(phase.spi))?.stage(phase)
    }

    /// Starts to load the lane that this SPI may name into the cache. Touches
    /// nothing, not even the table.
    #[inline]
    pub fn prefetch(&self, spi: Spi) {
        if let Some(slot) = self.slots.get(spi.index()) {
            sys::prefetch(slot);
        }
    }

    /// The lane with exactly this SPI: index and generation.
    #[inline]
    pub fn lane(&self, spi: Spi) -> Option<&RxLane<A>> {
        let lane = self.slots.get(spi.index())?.as_ref()?;
        (lane.spi() == spi).then_some(lane)
    }

    /// The lane with exactly this SPI, to open frames with.
    #[inline]
    pub fn lane_mut(&mut self, spi: Spi) -> Option<&mut RxLane<A>> {
        let lane = self.slots.get_mut(spi.index())?.as_mut()?;
        (lane.spi() == spi).then_some(lane)
    }

    /// Lanes installed.
    pub fn len(&self) -> usize {
        self.lanes
    }

    /// Whether no lane is installed.
    pub fn is_empty(&self) -> bool {
        self.lanes == 0
    }
}

/// What the table knows of one peer.
struct TxPeer<A: Aead> {
    lane: Option<Box<TxLane<A>>>,
    data_allowed: bool,
    path: Option<OuterHeader>,
    node: Option<NodeId>,
    /// The SA installed last, also after its removal.
    last: Option<(Spi, Epoch, [u8; 12])>,
}

/// Node ids come from our own configuration and tap, so nobody can choose them
/// to collide; one multiplication spreads them (Fibonacci hashing).
#[derive(Default)]
struct NodeHasher(u64);

impl Hasher for NodeHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        let mixed = (self.0 ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

type NodeMap = HashMap<NodeId, PeerIndex, BuildHasherDefault<NodeHasher>>;

/// Sending lanes, by peer, and peers by node.
pub struct TxTable<A: Aead> {
    peers: Box<[TxPeer<A>]>,
    by_node: NodeMap,
    /// Peers that have a lane, in no order; for group frames.
    with_lane: Vec<PeerIndex>,
}

impl<A: Aead> TxTable<A> {
    /// A table for peers with an index below `peers`.
    pub fn new(peers: usize) -> Self {
        Self {
            peers: std::iter::repeat_with(|| TxPeer {
                lane: None,
                data_allowed: false,
                path: None,
                node: None,
                last: None,
            })
            .take(peers)
            .collect(),
            by_node: NodeMap::with_capacity_and_hasher(peers, BuildHasherDefault::default()),
            with_lane: Vec::with_capacity(peers),
        }
    }

    /// Seals on `lane` from now on, data included; its predecessor is wiped.
    ///
    /// Which epoch succeeds which is the control plane's to decide (a new
    /// incarnation starts over); the table only sees to it that an SA is
    /// installed once, so that no counter is ever reset.
    ///
    /// # Errors
    /// [`InstallRefused`]; the refused lane is wiped, the table unchanged.
    pub fn install(&mut self, lane: TxLane<A>) -> Result<(), InstallRefused> {
        let index = lane.peer();
        let size = self.peers.len();
        let Some(peer) = self.peers.get_mut(usize::from(index.0)) else {
            return Err(InstallRefused::OutOfRange {
                what: "peer",
                index: usize::from(index.0),
                size,
            });
        };
        if peer.last == Some(lane.identity()) {
            return Err(InstallRefused::InstalledBefore(lane.spi()));
        }
        peer.last = Some(lane.identity());
        if let Some(former) = peer.node.replace(lane.node())
            && former != lane.node()
            && self.by_node.get(&former) == Some(&index)
        {
            self.by_node.remove(&former);
        }
        self.by_node.insert(lane.node(), index);
        if peer.lane.is_none() {
            self.with_lane.push(index);
        }
        peer.data_allowed = true;
        peer.lane = Some(Box::new(lane));
        Ok(())
    }

    /// Forgets and wipes the lane to a peer; false if there is none. The peer
    /// stays known by its node, so that frames to it count as its own.
    pub fn remove(&mut self, peer: PeerIndex) -> bool {
        let Some(entry) = self.peers.get_mut(usize::from(peer.0)) else {
            return false;
        };
        entry.data_allowed = false;
        self.with_lane.retain(|&other| other != peer);
        entry.lane.take().is_some()
    }

    /// Gives the lane to a peer the key of its next phase.
    ///
    /// # Errors
    /// [`StageRefused`], also if the lane is another by now; then nothing is
    /// changed.
    pub fn stage(&mut self, peer: PeerIndex, phase: &PhaseSpec) -> Result<(), StageRefused> {
        let lane = self.lane_mut(peer);
        lane.ok_or(StageRefused::NoLane(phase.spi))?.stage(phase)
    }

    /// Lets the lane to a peer go on in phases up to `phase`, if it is still
    /// the one with this SPI.
    pub fn allow_phase(&mut self, peer: PeerIndex, spi: Spi, phase: Phase) {
        if let Some(lane) = self.lane_mut(peer).filter(|lane| lane.spi() == spi) {
            lane.allow_phase(phase);
        }
    }

    fn lane_mut(&mut self, peer: PeerIndex) -> Option<&mut TxLane<A>> {
        self.peers.get_mut(usize::from(peer.0))?.lane.as_deref_mut()
    }

    /// Lets data be sealed for a peer, or only probes. Installing a lane
    /// allows data.
    pub fn allow_data(&mut self, peer: PeerIndex, allowed: bool) {
        if let Some(entry) = self.peers.get_mut(usize::from(peer.0)) {
            entry.data_allowed = allowed && entry.lane.is_some();
        }
    }

    /// Starts to load a peer's lane into the cache.
    #[inline]
    pub fn prefetch(&self, peer: PeerIndex) {
        let entry = self.peers.get(usize::from(peer.0));
        if let Some(lane) = entry.and_then(|entry| entry.lane.as_deref()) {
            sys::prefetch(lane);
        }
    }

    /// What is sealed for a peer goes this way from now on, or nowhere.
    pub fn set_path(&mut self, peer: PeerIndex, path: Option<OuterHeader>) {
        if let Some(entry) = self.peers.get_mut(usize::from(peer.0)) {
            entry.path = path;
        }
    }

    /// The lane to a peer, to seal with, and the way of its frames; for data
    /// only if it may carry more than probes.
    ///
    /// # Errors
    /// The reason to count.
    #[inline]
    pub fn ready(
        &mut self,
        peer: PeerIndex,
        class: Class,
    ) -> Result<(&mut TxLane<A>, &OuterHeader), TxDrop> {
        let entry = self.peers.get_mut(usize::from(peer.0));
        let keyless = match class {
            Class::Data => TxDrop::NoKey,
            Class::Probe => TxDrop::ProbeUnanswered,
        };
        let entry = entry.ok_or(keyless)?;
        if class == Class::Data && !entry.data_allowed {
            return Err(keyless);
        }
        let lane = entry.lane.as_deref_mut().ok_or(keyless)?;
        let path = entry.path.as_ref().ok_or(TxDrop::NoPath)?;
        Ok((lane, path))
    }

    /// The lane to a peer.
    pub fn lane(&self, peer: PeerIndex) -> Option<&TxLane<A>> {
        self.peers.get(usize::from(peer.0))?.lane.as_deref()
    }

    /// The peer that a node is, if a lane to it was ever installed.
    #[inline]
    pub fn peer_of(&self, node: NodeId) -> Option<PeerIndex> {
        self.by_node.get(&node).copied()
    }

    /// Peers that data may be sealed for: the members of a group frame.
    pub fn data_peers(&self) -> impl Iterator<Item = PeerIndex> + '_ {
        self.with_lane.iter().copied().filter(|peer| {
            self.peers
                .get(usize::from(peer.0))
                .is_some_and(|entry| entry.data_allowed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::AnyAead;
    use crate::command::{Budget, RxLaneSpec, TxLaneSpec};
    use crate::ids::LaneIndex;
    use crate::mac::MacAddr;
    use crate::phase::PhaseBits;
    use crate::sa::RxShared;
    use crate::secret::{LaneSecret, Suite};

    fn node(id: u32) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn rx(spi: Spi) -> RxLane<AnyAead> {
        RxLane::new(RxLaneSpec {
            spi,
            peer: PeerIndex(0),
            node: node(1),
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: LaneSecret::new(Suite::Aes256Gcm, [1; 32], [2; 12]),
            next: None,
            phase_bits: PhaseBits::PROTOCOL,
            shared: RxShared::of_single_lane(1),
        })
    }

    fn tx(peer: u16, id: u32, epoch: u32, iv: u8) -> TxLane<AnyAead> {
        TxLane::new(TxLaneSpec {
            spi: Spi::new(7).unwrap(),
            peer: PeerIndex(peer),
            node: node(id),
            epoch: Epoch(epoch),
            lane: LaneIndex(0),
            secret: LaneSecret::new(Suite::Aes256Gcm, [iv; 32], [iv; 12]),
            next: None,
            phase_bits: PhaseBits::PROTOCOL,
            budget: Budget {
                soft: u64::MAX,
                hard: u64::MAX,
            },
        })
    }

    #[test]
    fn whole_spi_is_compared() {
        let mut table = RxTable::new(4);
        let [old, new] = [1, 2].map(|generation| Spi::from_parts(3, generation).unwrap());
        assert_eq!(table.insert(rx(old)), Ok(()));
        assert!(table.lane(old).is_some() && table.lane(new).is_none());
        assert_eq!(table.insert(rx(new)), Err(InstallRefused::Occupied(old)));
        assert_eq!(
            table.insert(rx(old)),
            Err(InstallRefused::InstalledBefore(old))
        );
        assert!(!table.remove(new) && table.len() == 1);
        assert!(table.remove(old) && !table.remove(old) && table.is_empty());
        assert_eq!(table.insert(rx(new)), Ok(()));
        assert!(table.lane_mut(new).is_some() && table.lane_mut(old).is_none());
        let outside = Spi::from_parts(4, 0).unwrap();
        assert!(table.lane(outside).is_none() && !table.remove(outside));
        assert!(matches!(
            table.insert(rx(outside)),
            Err(InstallRefused::OutOfRange { index: 4, .. })
        ));
    }

    #[test]
    fn an_sa_is_installed_once() {
        let mut table = TxTable::new(2);
        let spi = Spi::new(7).unwrap();
        let refused = Err(InstallRefused::InstalledBefore(spi));
        assert_eq!(table.install(tx(0, 5, 1, 1)), Ok(()));
        assert_eq!(table.install(tx(0, 5, 1, 1)), refused);
        assert!(table.remove(PeerIndex(0)));
        assert_eq!(table.install(tx(0, 5, 1, 1)), refused, "after removal");
        // A peer that restarted begins with the same SPI and epoch, but its
        // keys are others.
        assert_eq!(table.install(tx(0, 5, 1, 2)), Ok(()));
        assert!(matches!(
            table.install(tx(2, 6, 1, 3)),
            Err(InstallRefused::OutOfRange { index: 2, .. })
        ));
    }

    #[test]
    fn data_needs_a_path_a_lane_and_leave() {
        let mut table = TxTable::new(2);
        let peer = PeerIndex(1);
        let refusals = |table: &mut TxTable<AnyAead>| {
            [Class::Data, Class::Probe].map(|class| table.ready(peer, class).err())
        };
        let keyless = [Some(TxDrop::NoKey), Some(TxDrop::ProbeUnanswered)];
        table.allow_data(peer, true);
        assert_eq!(refusals(&mut table), keyless, "no lane yet");
        table.install(tx(1, 5, 1, 1)).unwrap();
        assert_eq!(refusals(&mut table), [Some(TxDrop::NoPath); 2]);
        let path = OuterHeader::ethernet(MacAddr([2; 6]), MacAddr([4; 6]), 0x88b5, None);
        table.set_path(peer, Some(path));
        assert_eq!(refusals(&mut table), [None; 2]);
        assert_eq!(table.data_peers().collect::<Vec<_>>(), [peer]);
        table.allow_data(peer, false);
        assert_eq!(refusals(&mut table), [Some(TxDrop::NoKey), None]);
        assert_eq!(table.data_peers().count(), 0);
        table.install(tx(1, 5, 2, 2)).unwrap();
        assert_eq!(refusals(&mut table), [None; 2], "a new SA starts allowed");
        assert_eq!(table.data_peers().count(), 1, "listed once");
        table.set_path(peer, None);
        assert_eq!(refusals(&mut table), [Some(TxDrop::NoPath); 2]);
        assert!(table.remove(peer) && !table.remove(peer));
        assert_eq!(refusals(&mut table), keyless);
        table.allow_data(peer, true);
        assert_eq!(table.data_peers().count(), 0);
    }

    #[test]
    fn nodes_map_to_their_latest_index() {
        let mut table = TxTable::new(300);
        for index in 0..300u16 {
            let lane = tx(index, 1000 + u32::from(index), 1, 1);
            table.install(lane).unwrap();
        }
        for index in 0..300u16 {
            let found = table.peer_of(node(1000 + u32::from(index)));
            assert_eq!(found, Some(PeerIndex(index)));
        }
        assert_eq!(table.peer_of(node(999)), None);
        // An index that was given to another node forgets the former one.
        table.install(tx(4, 77, 1, 2)).unwrap();
        assert_eq!(table.peer_of(node(77)), Some(PeerIndex(4)));
        assert_eq!(table.peer_of(node(1004)), None);
        // A node that moved to another index is not forgotten with the old one.
        table.install(tx(5, 77, 1, 2)).unwrap();
        table.install(tx(4, 78, 1, 3)).unwrap();
        assert_eq!(table.peer_of(node(77)), Some(PeerIndex(5)));
        assert!(table.remove(PeerIndex(5)));
        assert_eq!(table.peer_of(node(77)), Some(PeerIndex(5)), "known, no key");
    }
}
