//! How much the machine holds, for the simulator to hold against its bounds.

use super::Machine;

/// Counts of what could grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Peers.
    pub peers: usize,
    /// Completions that are waited for.
    pub pending: usize,
    /// Actions that nobody has taken yet.
    pub actions: usize,
    /// Events kept.
    pub journal: usize,
    /// Claims of other master keys.
    pub claims: usize,
    /// Lives remembered of one peer, at most.
    pub lives: usize,
}

impl Machine {
    /// What it holds now.
    pub fn sizes(&self) -> Sizes {
        let lives = self.peers.iter().map(|peer| peer.m1_seen.len());
        Sizes {
            peers: self.peers.len(),
            pending: self.core.pending.len(),
            actions: self.core.actions.len(),
            journal: self.core.journal.len(),
            claims: self.claims.len(),
            lives: lives.max().unwrap_or(0),
        }
    }
}
