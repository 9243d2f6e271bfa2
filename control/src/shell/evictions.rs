//! The operator puts nodes out and takes them back: each step is stored before it
//! is used, so that a node that starts anew refuses whom it refused.

use std::collections::BTreeMap;

use tipsec_dataplane::ids::NodeId;

use super::masters::{ids_report, no_master_key};
use super::node::Node;
use crate::admin::{ErrorCode, EvictedReport, EvictionReport, Failure, Reply, Response};
use crate::evictions::{Evictions, TooMany};
use crate::machine::Input;

impl From<TooMany> for Failure {
    fn from(error: TooMany) -> Self {
        Self::new(ErrorCode::Conflict, error.to_string())
    }
}

impl Node {
    /// Refuses these nodes from now on, and no others.
    pub fn use_evictions(&mut self, evictions: Evictions) {
        self.input(Input::SetEvictions(evictions));
    }

    pub(super) fn evict(&mut self, node: u32) -> Response {
        let node = self.named(node)?;
        if node == self.machine.settings().node {
            let message = format!(
                "this is node {node} itself: evict it on the other nodes, and take it out of service \
                 here"
            );
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        let held = self.machine.masters().ok_or_else(no_master_key)?;
        let mut evictions = self.machine.evictions().clone();
        let changed = evictions.evict(node, &held)?;
        self.take_evictions(node, evictions, changed)
    }

    pub(super) fn readmit(&mut self, node: u32) -> Response {
        let node = self.named(node)?;
        let mut evictions = self.machine.evictions().clone();
        let changed = evictions.readmit(node);
        self.take_evictions(node, evictions, changed)
    }

    fn named(&self, node: u32) -> Result<NodeId, Failure> {
        let message = "a node id is a number from 1 to 4294967295";
        NodeId::new(node).ok_or_else(|| Failure::new(ErrorCode::BadRequest, message))
    }

    fn take_evictions(&mut self, node: NodeId, evictions: Evictions, changed: bool) -> Response {
        if changed {
            self.keyring.store_evictions(&evictions)?;
            self.use_evictions(evictions);
        }
        let held = self.machine.masters();
        Ok(Reply::Eviction(EvictionReport {
            changed,
            node: node.value(),
            evicted: self.evicted_reports(),
            masters: held.as_ref().map(ids_report).unwrap_or_default(),
        }))
    }

    /// An eviction ends with the last key that the node had.
    pub(super) fn end_evictions_of_retired_keys(&mut self) {
        let Some(held) = self.machine.masters() else {
            return;
        };
        let mut evictions = self.machine.evictions().clone();
        evictions.keep_those_of(&held);
        if evictions == *self.machine.evictions() {
            return;
        }
        // What stays on the disk names keys that nobody holds.
        if let Err(error) = self.keyring.store_evictions(&evictions) {
            tracing::warn!("the list of evicted nodes is not brought up to date: {error}");
        }
        self.use_evictions(evictions);
    }

    /// Every node that is out, and under which keys.
    pub(super) fn evicted_reports(&self) -> Vec<EvictedReport> {
        let mut under: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for (master, node) in self.machine.evictions().iter() {
            under.entry(node).or_default().push(master.to_string());
        }
        let report = |(node, master_ids): (NodeId, _)| EvictedReport {
            node: node.value(),
            master_ids,
        };
        under.into_iter().map(report).collect()
    }
}
