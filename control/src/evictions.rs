//! Which nodes are refused under which master keys (ADR 0019). Who was evicted
//! still has the keys that it had; so an eviction lasts as long as any of those is
//! held here, and a key that comes later is free of it. Imports `masters`.

use std::collections::{BTreeMap, BTreeSet};

use tipsec_dataplane::ids::{MasterId, NodeId};

use crate::masters::Masters;

/// Nodes that can be evicted under one key at once.
pub const EVICTED_MAX: usize = 256;

/// There are [`EVICTED_MAX`] already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{EVICTED_MAX} nodes are evicted already, and more are not remembered: rotate the master key, \
     which shuts all of them out, and evict none that does not get the new one"
)]
pub struct TooMany;

/// Nodes by the public id of the key that they are refused under.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Evictions(BTreeMap<MasterId, BTreeSet<NodeId>>);

impl Evictions {
    /// Refuses the node under these keys, and says whether that is new.
    ///
    /// # Errors
    /// [`TooMany`]; nothing has changed.
    pub fn evict(&mut self, node: NodeId, masters: &Masters<MasterId>) -> Result<bool, TooMany> {
        let missing = |(_, master): &(_, &MasterId)| !self.refuses(node, **master);
        let new: Vec<MasterId> = masters.iter().filter(missing).map(|(_, id)| *id).collect();
        let is_full = |id: &MasterId| self.0.get(id).is_some_and(|of| of.len() >= EVICTED_MAX);
        if new.iter().any(is_full) {
            return Err(TooMany);
        }
        for master in &new {
            self.add(*master, node);
        }
        Ok(!new.is_empty())
    }

    /// Refuses the node under this key.
    pub(crate) fn add(&mut self, master: MasterId, node: NodeId) {
        self.0.entry(master).or_default().insert(node);
    }

    /// Takes the node back, and says whether it was refused under any key.
    pub fn readmit(&mut self, node: NodeId) -> bool {
        let before = self.clone();
        self.0.retain(|_, nodes| {
            nodes.remove(&node);
            !nodes.is_empty()
        });
        *self != before
    }

    /// Forgets keys that are not held any more.
    pub fn keep_those_of(&mut self, masters: &Masters<MasterId>) {
        self.0.retain(|id, _| masters.role_of(*id).is_some());
    }

    /// Whether the node is refused under this key.
    pub fn refuses(&self, node: NodeId, master: MasterId) -> bool {
        self.0
            .get(&master)
            .is_some_and(|nodes| nodes.contains(&node))
    }

    /// Whether some node that was evicted has this key: who holds it is not
    /// believed to be anybody for that alone.
    pub fn taints(&self, master: MasterId) -> bool {
        self.0.contains_key(&master)
    }

    /// Every node that is refused under any key.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        self.0.values().flatten().copied().collect()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (MasterId, NodeId)> {
        let of_key = |(id, nodes): (&MasterId, &BTreeSet<NodeId>)| {
            let id = *id;
            nodes
                .iter()
                .map(move |node| (id, *node))
                .collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: MasterId = MasterId(1);
    const NEW: MasterId = MasterId(2);

    fn node(id: u32) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn an_eviction_ends_with_the_keys_that_the_node_had() {
        let mut evictions = Evictions::default();
        assert_eq!(evictions.evict(node(4), &Masters::only(OLD)), Ok(true));
        assert_eq!(evictions.evict(node(4), &Masters::only(OLD)), Ok(false));
        let rotating = Masters::new(NEW, None, Some(OLD));
        evictions.keep_those_of(&rotating);
        assert!(evictions.refuses(node(4), OLD) && !evictions.refuses(node(5), OLD));
        assert!(!evictions.refuses(node(4), NEW) && !evictions.taints(NEW));
        evictions.keep_those_of(&Masters::only(NEW));
        assert_eq!(evictions, Evictions::default());
    }

    #[test]
    fn every_key_that_is_held_is_tainted() {
        let mut evictions = Evictions::default();
        let held = Masters::new(OLD, Some(NEW), None);
        evictions.evict(node(4), &held).unwrap();
        assert!(evictions.taints(OLD) && evictions.taints(NEW));
        assert_eq!(evictions.nodes(), BTreeSet::from([node(4)]));
        assert_eq!(evictions.iter().count(), 2);
        assert!(evictions.readmit(node(4)) && !evictions.readmit(node(4)));
        assert!(!evictions.taints(OLD));
    }

    #[test]
    fn one_too_many_changes_nothing() {
        let mut evictions = Evictions::default();
        for id in 1..=256 {
            evictions.evict(node(id), &Masters::only(OLD)).unwrap();
        }
        let full = evictions.clone();
        let held = Masters::new(NEW, None, Some(OLD));
        assert_eq!(evictions.evict(node(257), &held), Err(TooMany));
        assert_eq!(evictions, full);
        assert_eq!(evictions.evict(node(256), &Masters::only(OLD)), Ok(false));
    }
}
