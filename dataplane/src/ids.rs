//! Names of things on the wire and in tables, each its own type.
//!
//! Imports nothing from this crate.

use std::fmt;
use std::num::NonZeroU32;

use tipsec_xdp::wire::SPI_INDEX_BITS;

/// A node of the cluster, chosen by the operator; never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(NonZeroU32);

impl NodeId {
    /// The node with this number, or `None` for 0.
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number as it travels.
    pub const fn value(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Security parameter index: names one receiving lane at the node that chose
/// it. Low [`SPI_INDEX_BITS`] bits are a table index, the rest a generation,
/// so that a late frame of a removed lane misses its successor. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Spi(NonZeroU32);

impl Spi {
    /// The SPI with this value, or `None` for 0.
    pub const fn new(spi: u32) -> Option<Self> {
        match NonZeroU32::new(spi) {
            Some(spi) => Some(Self(spi)),
            None => None,
        }
    }

    /// Joins a table index and a generation; `None` if the result would be 0
    /// or the index does not fit.
    pub const fn from_parts(index: u32, generation: u32) -> Option<Self> {
        if index >> SPI_INDEX_BITS != 0 {
            return None;
        }
        Self::new(generation << SPI_INDEX_BITS | index)
    }

    /// The value as it travels.
    pub const fn value(self) -> u32 {
        self.0.get()
    }

    /// Index into the receiver's tables.
    pub const fn index(self) -> usize {
        (self.0.get() & ((1 << SPI_INDEX_BITS) - 1)) as usize
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// One life of one node's process: 64 random bits drawn at start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which generation of keys: grows per direction and incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One sending worker's share of an SA.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LaneIndex(pub u8);

/// Dense index of a peer in every worker's tables, given by the control plane
/// and local to this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerIndex(pub u16);

/// Public name of a master key: 8 bytes derived from it and the cluster name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MasterId(pub u64);

impl fmt::Display for MasterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spi_splits_into_index_and_generation() {
        let spi = Spi::from_parts(5, 3).unwrap();
        assert_eq!(spi.index(), 5);
        assert_eq!(spi.value(), 3 << SPI_INDEX_BITS | 5);
        assert_eq!(Spi::from_parts(0, 0), None);
        assert_eq!(Spi::from_parts(1 << SPI_INDEX_BITS, 0), None);
    }
}
