//! The books: every frame that was sealed was opened, or somebody says why
//! not. Pure arithmetic on two readings ([`Cut`]) of all counters. Imports
//! `counts` for its record, and nothing that does anything.
//!
//! A frame from node *i* to node *j* passes three places that count
//! independently: *i*'s worker (sealed), the bridge port of *i* (on the wire),
//! *j*'s worker (opened, or refused with a reason). What one place has and the
//! next has not must be named by a counter between them:
//!
//! | between | named by |
//! |---|---|
//! | sealed → wire | `tx_link_lost`; `tx dropped` of the bearer; `rx dropped` of the port. One loss shows in several of them, so the largest counts |
//! | wire → opened | drops of the port's queue and `tx dropped` of the port; the XDP program's reasons and the AF_XDP socket's losses, or `rx dropped` of the bearer, which holds both; the worker's own reasons |
//!
//! A process that was killed takes its counters with it. The wire does not
//! forget: what it sealed is then checked from the wire on, and what was sent
//! to it up to the wire.

use std::collections::BTreeMap;

use serde::Serialize;
use tipsec_dataplane::counters::{RxDrop, TxDrop};
use tipsec_xdp::Reason;

use crate::counts::DeviceDrops;

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// What one node counts about one peer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerBook {
    /// Whether the link is up.
    pub up: bool,
    /// Times that keys were replaced.
    pub rekeys: u64,
    /// Frames sealed to it.
    pub sealed: u64,
    /// Frames of it that opened.
    pub opened: u64,
    /// Frames to and from it that were dropped, by reason.
    pub drops: Counts,
}

/// Everything that is counted at one node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeBook {
    /// Which life of its process.
    pub incarnation: String,
    /// By peer.
    pub peers: BTreeMap<u32, PeerBook>,
    /// Dropped by workers, of whatever peer or none.
    pub workers: Counts,
    /// Of the XDP program.
    pub xdp: Counts,
    /// Of the AF_XDP socket.
    pub xsk: Counts,
    /// Of its tap device: frames that no worker took, so never sealed.
    pub tap: DeviceDrops,
    /// Of its network device.
    pub bearer: DeviceDrops,
    /// Of the bridge's port at the other end of its cable.
    pub port: DeviceDrops,
}

/// One reading of all counters, at a moment when none moved.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cut {
    /// By node.
    pub nodes: BTreeMap<u32, NodeBook>,
    /// Data frames on the wire, by sender and receiver.
    pub wire: BTreeMap<(u32, u32), u64>,
}

/// One direction of one pair.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PairBalance {
    /// Who seals.
    pub from: u32,
    /// Who opens.
    pub to: u32,
    /// Frames sealed; none if that process was killed in between.
    pub sealed: Option<u64>,
    /// Frames seen on the wire.
    pub wire: u64,
    /// Frames opened; none if that process was killed in between.
    pub opened: Option<u64>,
    /// Frames that arrived and were refused, by reason.
    pub refused: Counts,
}

/// Frames lost for a reason that has to do with keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KeyLoss {
    /// Who counts them.
    pub node: u32,
    /// Whose frames, where that is known.
    pub peer: Option<u32>,
    /// The reason's name.
    pub reason: String,
    /// How many.
    pub frames: u64,
}

/// The balance between two readings.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Balance {
    /// Every direction of every pair.
    pub pairs: Vec<PairBalance>,
    /// Frames sealed by processes that lived throughout.
    pub sealed: u64,
    /// Frames opened by processes that lived throughout.
    pub opened: u64,
    /// Frames lost or refused, by the name of the counter that says so.
    pub lost: Counts,
    /// Frames that no counter explains, in words; empty is good.
    pub unaccounted: Vec<String>,
    /// How many frames these are, lost or out of nowhere.
    pub unaccounted_frames: u64,
    /// Must be empty.
    pub key_losses: Vec<KeyLoss>,
    /// Frames to and from a process that was killed in between; expected.
    pub key_losses_of_killed: Vec<KeyLoss>,
    /// Data frames on the wire towards a killed process that nobody opened or
    /// may have opened in its earlier life.
    pub sent_to_killed: u64,
}

impl Balance {
    /// Takes in what [`compare`] found.
    fn accuse(&mut self, verdict: Option<(String, u64)>) {
        if let Some((words, frames)) = verdict {
            self.unaccounted.push(words);
            self.unaccounted_frames += frames;
        }
    }
}

/// Refused before or by opening, so not among the opened.
const REFUSED: [RxDrop; 6] = [
    RxDrop::Malformed,
    RxDrop::Fragmented,
    RxDrop::UnknownSpi,
    RxDrop::Replayed,
    RxDrop::OpenFailed,
    RxDrop::OpenLimit,
];
/// Losses of the AF_XDP socket; an empty fill ring is a cause of the first.
pub(crate) const XSK_LOSSES: [&str; 2] = ["rx_dropped", "rx_ring_full"];
/// Drops of the XDP program that may hit a data frame for this node.
pub(crate) const XDP_LOSSES: [Reason; 6] = [
    Reason::Reflected,
    Reason::BadVersion,
    Reason::BadLength,
    Reason::Malformed,
    Reason::UnknownSpi,
    Reason::NoSocket,
];

fn count(counts: &Counts, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

fn growth(before: &Counts, after: &Counts) -> Counts {
    after
        .iter()
        .map(|(name, value)| (name.clone(), value.saturating_sub(count(before, name))))
        .filter(|(_, grown)| *grown > 0)
        .collect()
}

fn device_growth(before: DeviceDrops, after: DeviceDrops) -> DeviceDrops {
    DeviceDrops {
        rx: after.rx.saturating_sub(before.rx),
        tx: after.tx.saturating_sub(before.tx),
        qdisc: after.qdisc.saturating_sub(before.qdisc),
    }
}

/// What grew at one node. Counters of a new process started at 0; those of
/// devices go on.
fn node_growth(before: &NodeBook, after: &NodeBook) -> NodeBook {
    let same_life = before.incarnation == after.incarnation;
    let empty = NodeBook::default();
    let start = if same_life { before } else { &empty };
    let no_peer = PeerBook::default();
    let peers = after.peers.iter().map(|(id, peer)| {
        let was = start.peers.get(id).unwrap_or(&no_peer);
        let grown = PeerBook {
            // Frames for want of a key count only where there was one.
            up: was.up && peer.up,
            rekeys: peer.rekeys.saturating_sub(was.rekeys),
            sealed: peer.sealed.saturating_sub(was.sealed),
            opened: peer.opened.saturating_sub(was.opened),
            drops: growth(&was.drops, &peer.drops),
        };
        (*id, grown)
    });
    NodeBook {
        incarnation: after.incarnation.clone(),
        peers: peers.collect(),
        workers: growth(&start.workers, &after.workers),
        xdp: growth(&start.xdp, &after.xdp),
        xsk: growth(&start.xsk, &after.xsk),
        tap: device_growth(if same_life { before.tap } else { empty.tap }, after.tap),
        bearer: device_growth(before.bearer, after.bearer),
        port: device_growth(before.port, after.port),
    }
}

/// Balances the books between two readings. `killed`: the node whose process
/// was killed and started again between them.
pub fn balance(before: &Cut, after: &Cut, killed: Option<u32>) -> Balance {
    let empty = NodeBook::default();
    let grown: BTreeMap<u32, NodeBook> = after
        .nodes
        .iter()
        .map(|(id, book)| {
            let was = before.nodes.get(id).unwrap_or(&empty);
            (*id, node_growth(was, book))
        })
        .collect();
    let mut result = Balance::default();
    for (&(from, to), &seen) in &after.wire {
        let was = before.wire.get(&(from, to)).copied().unwrap_or(0);
        if let Some(pair) = pair_balance(from, to, seen.saturating_sub(was), &grown, killed) {
            result.sealed += pair.sealed.unwrap_or(0);
            result.opened += pair.opened.unwrap_or(0);
            if pair.opened.is_none() {
                result.sent_to_killed += pair.wire;
            }
            result.pairs.push(pair);
        }
    }
    for (&id, node) in &grown {
        if killed != Some(id) {
            check_sender(id, node, &mut result);
            check_receiver(id, node, &mut result);
        }
        collect_losses(node, &mut result.lost);
        collect_key_losses(id, node, killed, &mut result);
    }
    result
}

fn pair_balance(
    from: u32,
    to: u32,
    wire: u64,
    grown: &BTreeMap<u32, NodeBook>,
    killed: Option<u32>,
) -> Option<PairBalance> {
    let sender = grown.get(&from)?.peers.get(&to);
    let receiver = grown.get(&to)?.peers.get(&from);
    let refused = receiver
        .map(|peer| {
            let mut drops = peer.drops.clone();
            drops.retain(|name, _| REFUSED.iter().any(|reason| reason.name() == name));
            drops
        })
        .unwrap_or_default();
    Some(PairBalance {
        from,
        to,
        sealed: (killed != Some(from)).then(|| sender.map_or(0, |peer| peer.sealed)),
        wire,
        opened: (killed != Some(to)).then(|| receiver.map_or(0, |peer| peer.opened)),
        refused,
    })
}

/// Sealed by this node, and on the wire.
fn check_sender(id: u32, node: &NodeBook, result: &mut Balance) {
    let pairs = || result.pairs.iter().filter(|pair| pair.from == id);
    let sealed: u64 = pairs().filter_map(|pair| pair.sealed).sum();
    let wire: u64 = pairs().map(|pair| pair.wire).sum();
    let link_lost = node
        .peers
        .values()
        .map(|peer| count(&peer.drops, TxDrop::LinkLost.name()))
        .sum::<u64>();
    let named = link_lost.max(node.bearer.tx).max(node.port.rx);
    let verdict = compare(
        &format!("node {id} sealed {sealed} frames, {wire} were on the wire"),
        sealed,
        wire,
        named,
    );
    result.accuse(verdict);
}

/// On the wire towards this node, and opened.
fn check_receiver(id: u32, node: &NodeBook, result: &mut Balance) {
    let pairs = || result.pairs.iter().filter(|pair| pair.to == id);
    let wire: u64 = pairs().map(|pair| pair.wire).sum();
    let opened: u64 = pairs().filter_map(|pair| pair.opened).sum();
    let refused: u64 = pairs().flat_map(|pair| pair.refused.values()).sum();
    let named = losses_before_worker(node) + refused_of_nobody(node);
    let verdict = compare(
        &format!(
            "{wire} frames were on the wire to node {id}, which opened {opened} and refused {refused}"
        ),
        wire,
        opened + refused,
        named,
    );
    result.accuse(verdict);
}

/// `came` out of one place, `arrived` at the next, `named` lost between them.
fn compare(what: &str, came: u64, arrived: u64, named: u64) -> Option<(String, u64)> {
    if arrived > came {
        let surplus = arrived - came;
        return Some((format!("{what}: {surplus} out of nowhere"), surplus));
    }
    let lost = came - arrived;
    let words = || format!("{what}: {lost} lost, counters between them name {named} of them");
    (lost > named).then(|| (words(), lost - named))
}

/// Named losses between the bridge and the worker of a node.
fn losses_before_worker(node: &NodeBook) -> u64 {
    let xdp: u64 = XDP_LOSSES
        .iter()
        .map(|reason| count(&node.xdp, reason.name()))
        .sum();
    let xsk: u64 = XSK_LOSSES.iter().map(|name| count(&node.xsk, name)).sum();
    // The device's own count holds both, and what was flooded to it.
    let flooded = count(&node.xdp, Reason::NotForUs.name());
    let device = node.bearer.rx.saturating_sub(flooded);
    node.port.qdisc + node.port.tx + device.max(xdp + xsk)
}

/// Frames that a worker refused and could not attribute to a peer: whatever
/// its sum has above that of its peers.
fn refused_of_nobody(node: &NodeBook) -> u64 {
    REFUSED
        .iter()
        .map(|reason| of_nobody(node, reason.name()))
        .sum()
}

fn of_nobody(node: &NodeBook, reason: &str) -> u64 {
    let of_peers: u64 = node
        .peers
        .values()
        .map(|peer| count(&peer.drops, reason))
        .sum();
    count(&node.workers, reason).saturating_sub(of_peers)
}

fn collect_losses(node: &NodeBook, lost: &mut Counts) {
    let mut add = |name: String, frames: u64| {
        if frames > 0 {
            *lost.entry(name).or_default() += frames;
        }
    };
    for peer in node.peers.values() {
        for (reason, frames) in &peer.drops {
            add(reason.clone(), *frames);
        }
    }
    // A worker counts other things beside, such as events.
    let frames = |name: &&String| name.starts_with("rx_") || name.starts_with("tx_");
    for reason in node.workers.keys().filter(frames) {
        add(reason.clone(), of_nobody(node, reason));
    }
    for reason in Reason::ALL {
        let name = reason.name();
        add(format!("xdp {name}"), count(&node.xdp, name));
    }
    for name in XSK_LOSSES {
        add(format!("xsk {name}"), count(&node.xsk, name));
    }
    add(
        "tap full, never sealed".into(),
        node.tap.tx + node.tap.qdisc,
    );
    add("bearer rx dropped".into(), node.bearer.rx);
    add("bearer tx dropped".into(), node.bearer.tx);
    add("bearer queue dropped".into(), node.bearer.qdisc);
    add("bridge port rx dropped".into(), node.port.rx);
    add("bridge port tx dropped".into(), node.port.tx);
    add("bridge port queue dropped".into(), node.port.qdisc);
}

fn is_key_reason(name: &str) -> bool {
    let rx = RxDrop::ALL.iter().find(|reason| reason.name() == name);
    let tx = TxDrop::ALL.iter().find(|reason| reason.name() == name);
    rx.is_some_and(|reason| reason.is_key_related())
        || tx.is_some_and(|reason| reason.is_key_related())
}

fn is_sending_reason(name: &str) -> bool {
    TxDrop::ALL.iter().any(|reason| reason.name() == name)
}

fn collect_key_losses(id: u32, node: &NodeBook, killed: Option<u32>, result: &mut Balance) {
    let mut add = |peer: Option<u32>, reason: &str, frames: u64| {
        if frames == 0 {
            return;
        }
        let loss = KeyLoss {
            node: id,
            peer,
            reason: reason.to_owned(),
            frames,
        };
        if killed.is_some() && (killed == Some(id) || killed == peer) {
            result.key_losses_of_killed.push(loss);
        } else {
            result.key_losses.push(loss);
        }
    };
    for (peer_id, peer) in &node.peers {
        for (reason, frames) in &peer.drops {
            // Without a link there is no key, and that is no fault.
            let expected = is_sending_reason(reason) && !peer.up && killed != Some(*peer_id);
            if is_key_reason(reason) && !expected {
                add(Some(*peer_id), reason, *frames);
            }
        }
    }
    for reason in REFUSED.iter().filter(|reason| reason.is_key_related()) {
        add(None, reason.name(), of_nobody(node, reason.name()));
    }
    let unknown = Reason::UnknownSpi.name();
    add(None, &format!("xdp {unknown}"), count(&node.xdp, unknown));
}

#[cfg(test)]
mod tests;
