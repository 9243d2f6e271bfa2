//! One reading of every counter of a running cluster, at a moment when none of
//! them moved. Imports `accounts`, `capture`, `cluster`, `counts`.

use std::collections::BTreeMap;
use std::time::Duration;

use tipsec_control::admin::{LinkState, PeerReport};

use crate::accounts::{Counts, Cut, NodeBook, PeerBook};
use crate::admin::AdminClient;
use crate::capture::Capture;
use crate::cluster::Cluster;
use crate::counts::device_drops;
use crate::daemon::TAP;
use crate::error::Result;
use crate::topology::BEARER;
use crate::wait::{self, Look};

/// Counters have to stand still for two readings within this time. Links are
/// probed every 375 ms at least, so there are gaps.
const QUIET_WITHIN: Duration = Duration::from_secs(30);

/// Reads all counters of all running nodes twice, and again until both readings
/// agree: then no frame was under way between them, and the second is of one
/// moment although it was not taken in one.
///
/// # Errors
/// [`crate::Error::Timeout`] with what keeps moving; those of a daemon that does
/// not answer.
pub fn take(cluster: &mut Cluster, capture: &mut Capture) -> Result<Cut> {
    take_calm(cluster, capture, Duration::from_millis(1))
}

/// The same with the least time between the two readings that agree, at most
/// 20 ms: a frame that is under way for longer would be in neither.
///
/// # Errors
/// As [`take`].
pub fn take_calm(cluster: &mut Cluster, capture: &mut Capture, calm: Duration) -> Result<Cut> {
    let mut cut = steady_for(calm, || read(cluster, capture))?;
    // These only name losses, so it does not matter that they are read later.
    for node in &cluster.nodes {
        let port = &cluster.topology.ports[node.port];
        let book = cut.nodes.entry(node.id).or_default();
        book.bearer = device_drops(&port.namespace, BEARER)?;
        book.port = device_drops(&cluster.topology.hub, &port.device)?;
        // A node that does not run has none.
        book.tap = device_drops(&port.namespace, TAP).unwrap_or_default();
    }
    Ok(cut)
}

/// The second of two readings in turn that agree.
///
/// # Errors
/// [`crate::Error::Timeout`] with what keeps moving; those of `read`.
pub(crate) fn steady(read: impl FnMut() -> Result<Cut>) -> Result<Cut> {
    steady_for(Duration::from_millis(1), read)
}

fn steady_for(calm: Duration, mut read: impl FnMut() -> Result<Cut>) -> Result<Cut> {
    let mut last = read()?;
    std::thread::sleep(calm);
    wait::until("all counters to stand still", QUIET_WITHIN, calm, || {
        let next = read()?;
        if next == last {
            return Ok(Look::Done(next));
        }
        let moved = what_moved(&last, &next);
        last = next;
        Ok(Look::NotYet(moved))
    })
}

fn read(cluster: &mut Cluster, capture: &mut Capture) -> Result<Cut> {
    let mut cut = Cut::default();
    for index in cluster.running() {
        let book = read_node(cluster.admin(index)?)?;
        cut.nodes.insert(cluster.nodes[index].id, book);
    }
    for ((from, to), count) in capture.pairs()? {
        let id = |port: usize| cluster.nodes.iter().find(|node| node.port == port);
        if let (Some(from), Some(to)) = (id(from), id(to)) {
            cut.wire.insert((from.id, to.id), count);
        }
    }
    Ok(cut)
}

/// What one daemon counts; the kernel's counts are left at 0.
///
/// # Errors
/// Those of a daemon that does not answer.
pub(crate) fn read_node(admin: &mut AdminClient) -> Result<NodeBook> {
    let peers = admin.peers()?.peers;
    let status = admin.status()?;
    let mut workers = Counts::new();
    for worker in &status.workers {
        for (reason, frames) in &worker.drops {
            *workers.entry(reason.clone()).or_default() += frames;
        }
    }
    Ok(NodeBook {
        incarnation: status.incarnation,
        peers: peers.into_iter().map(peer_book).collect::<BTreeMap<_, _>>(),
        workers,
        xdp: status.xdp,
        xsk: status.xsk,
        ..NodeBook::default()
    })
}

fn peer_book(peer: PeerReport) -> (u32, PeerBook) {
    let book = PeerBook {
        up: peer.link == LinkState::Up,
        rekeys: peer.rekeys,
        sealed: peer.sealed_frames,
        opened: peer.opened_frames,
        drops: peer.drops,
    };
    (peer.node, book)
}

fn what_moved(before: &Cut, after: &Cut) -> String {
    let mut moved = Vec::new();
    for (id, node) in &after.nodes {
        let Some(was) = before.nodes.get(id) else {
            continue;
        };
        for (peer, book) in &node.peers {
            let (sealed, opened) = was
                .peers
                .get(peer)
                .map_or((0, 0), |was| (was.sealed, was.opened));
            if (book.sealed, book.opened) != (sealed, opened) {
                moved.push(format!(
                    "node {id} with {peer}: sealed {sealed} -> {}, opened {opened} -> {}",
                    book.sealed, book.opened
                ));
            }
        }
        if node.xdp != was.xdp {
            moved.push(format!("XDP counters of node {id}"));
        }
    }
    moved.join("; ")
}

/// Rekeys so far: the sum over all nodes and peers, and the smallest count of a
/// pair that has a link.
///
/// # Errors
/// Those of a daemon that does not answer.
pub fn rekeys(cluster: &mut Cluster) -> Result<BTreeMap<(u32, u32), u64>> {
    let mut counts = BTreeMap::new();
    for index in cluster.running() {
        let id = cluster.nodes[index].id;
        for peer in cluster.admin(index)?.peers()?.peers {
            counts.insert((id, peer.node), peer.rekeys);
        }
    }
    Ok(counts)
}
