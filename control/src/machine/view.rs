//! What the machine shows of its peers.

use std::time::Duration;

use tipsec_dataplane::ids::{Epoch, Incarnation, MasterId, NodeId, PeerIndex};
use tipsec_dataplane::phase::Phase;

use super::rx::RxSa;
use super::{CLAIM_LIFE, LinkState, Machine};
use crate::address::Addresses;
use crate::masters::Masters;
use crate::time::Instant;

/// One peer, or one stranger who names another master key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerView {
    /// Its node id.
    pub node: NodeId,
    /// Its place in the workers' tables; `None` for a stranger.
    pub index: Option<PeerIndex>,
    /// Link state.
    pub link: LinkState,
    /// For how long.
    pub since: Duration,
    /// The life of it that the SAs are with.
    pub incarnation: Option<Incarnation>,
    /// The master key that the SAs were made under.
    pub master: Option<MasterId>,
    /// Whether it is evicted under the active master key.
    pub evicted: bool,
    /// The master keys that it says it holds.
    pub holdings: Option<Masters<MasterId>>,
    /// Another master key that somebody in its name claims; unverified.
    pub claimed_master: Option<MasterId>,
    /// Where it receives.
    pub addresses: Option<Addresses>,
    /// Epoch of the sending SA.
    pub tx_epoch: Option<Epoch>,
    /// Highest epoch of the receiving SAs.
    pub rx_epoch: Option<Epoch>,
    /// Highest phase of the sending SA's lanes.
    pub tx_phase: Option<Phase>,
    /// Highest phase that opened of the newest receiving SA's lanes.
    pub rx_phase: Option<Phase>,
    /// Time since the last completed exchange.
    pub key_age: Option<Duration>,
    /// Exchanges completed after the first, with this life of the peer.
    pub rekeys: u64,
}

fn newest(sas: &[RxSa]) -> Option<&RxSa> {
    sas.iter().max_by_key(|sa| sa.epoch)
}

impl Machine {
    /// Every peer and every stranger, by node id.
    pub fn peers(&self, now: Instant) -> Vec<PeerView> {
        let claims = || {
            self.claims
                .iter()
                .filter(|(_, (_, seen))| now.since(*seen) < CLAIM_LIFE)
                .map(|(&node, &(master, _))| (node, master))
        };
        let active = self.master();
        let is_evicted = |node| active.is_some_and(|id| self.evictions().refuses(node, id));
        let mut views: Vec<PeerView> = self
            .peers
            .iter()
            .map(|peer| PeerView {
                node: peer.node,
                index: Some(peer.index),
                link: peer.link.state(),
                since: now.since(peer.link.since()),
                incarnation: peer.incarnation,
                master: peer.tx.as_ref().map(|tx| tx.master),
                evicted: is_evicted(peer.node),
                holdings: peer.known.as_ref().map(|known| known.holdings.masters),
                claimed_master: claims()
                    .find(|(node, _)| *node == peer.node)
                    .map(|(_, m)| m),
                addresses: peer.addresses,
                tx_epoch: peer.tx.as_ref().map(|tx| tx.epoch),
                rx_epoch: newest(&peer.rx).map(|sa| sa.epoch),
                tx_phase: peer.tx.as_ref().map(|tx| tx.phases.highest()),
                rx_phase: newest(&peer.rx).map(|sa| sa.phases.highest()),
                key_age: peer.keys_since.map(|since| now.since(since)),
                rekeys: peer.exchanges.saturating_sub(1),
            })
            .collect();
        for (node, master) in claims() {
            if views.iter().all(|view| view.node != node) {
                views.push(PeerView {
                    node,
                    index: None,
                    link: LinkState::Connecting,
                    since: Duration::ZERO,
                    incarnation: None,
                    master: None,
                    evicted: is_evicted(node),
                    holdings: None,
                    claimed_master: Some(master),
                    addresses: None,
                    tx_epoch: None,
                    rx_epoch: None,
                    tx_phase: None,
                    rx_phase: None,
                    key_age: None,
                    rekeys: 0,
                });
            }
        }
        views.sort_by_key(|view| view.node);
        views
    }
}
