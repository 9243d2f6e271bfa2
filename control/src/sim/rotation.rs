//! Steps of a rotation of the master key, as operators take them node by node.

use super::master;
use crate::derive::MasterRing;
use crate::masters::Masters;

/// How far a node has come. Two nodes whose steps are neighbours share a key
/// that both would use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) enum Step {
    /// It holds the old key.
    #[default]
    Old,
    /// It takes the new one too.
    Staged,
    /// It uses the new one, and takes the old one too.
    Activated,
    /// It holds the new one.
    Retired,
}

impl Step {
    /// The one after.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Old => Some(Self::Staged),
            Self::Staged => Some(Self::Activated),
            Self::Activated => Some(Self::Retired),
            Self::Retired => None,
        }
    }

    /// The keys of a node that has come so far.
    pub(super) fn ring(self) -> MasterRing {
        let [old, new] = [1, 2].map(master);
        match self {
            Self::Old => Masters::only(old),
            Self::Staged => Masters::new(old, Some(new), None),
            Self::Activated => Masters::new(new, None, Some(old)),
            Self::Retired => Masters::only(new),
        }
    }
}
