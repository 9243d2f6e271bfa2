//! The ways to all peers from all workers, kept right while routes,
//! neighbours and interfaces change. Says what changed; the hub tells the
//! workers. Imports `link` and `routes`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use tipsec_dataplane::ids::{LaneIndex, PeerIndex};
use tipsec_dataplane::outer::OuterHeader;

use super::link::{Link, Way};
use super::routes::{Change, Destination, Routes, RoutesError};
use crate::address::{Addresses, Network};

/// A way that is other than it was.
pub struct Path {
    /// From which worker.
    pub worker: usize,
    /// To whom.
    pub peer: PeerIndex,
    /// How frames go there now; `None`: they don't.
    pub header: Option<OuterHeader>,
}

/// Ways from every worker to every peer that has told where it receives.
pub struct Paths {
    routes: Routes,
    /// The NIC of each worker.
    links: Vec<(Network, Link)>,
    peers: BTreeMap<PeerIndex, Addresses>,
}

impl Paths {
    /// No peers yet; `links` are the workers' NICs, in the workers' order.
    pub fn new(routes: Routes, links: Vec<(Network, Link)>) -> Self {
        Self {
            routes,
            links,
            peers: BTreeMap::new(),
        }
    }

    /// What interfaces are like.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Asks the kernel for a new MTU in bytes of an interface.
    ///
    /// # Errors
    /// [`RoutesError::Ask`].
    pub fn set_mtu(&mut self, ifindex: u32, mtu: u32) -> Result<(), RoutesError> {
        self.routes.set_mtu(ifindex, mtu)
    }

    /// Follows the ways to a peer that receives at these addresses, and tells
    /// them for every worker.
    pub fn set_peer(&mut self, peer: PeerIndex, to: &Addresses) -> Vec<Path> {
        if self.peers.insert(peer, *to).as_ref() != Some(to) {
            for destination in self.destinations_of(to) {
                if let Err(error) = self.routes.watch(destination) {
                    tracing::warn!("{error}");
                }
            }
            self.unwatch_unused();
        }
        self.paths_to(peer, to)
    }

    /// Forgets a peer.
    pub fn remove_peer(&mut self, peer: PeerIndex) {
        self.peers.remove(&peer);
        self.unwatch_unused();
    }

    /// What the kernel has to tell, and the ways that changed by it.
    pub fn process(&mut self) -> (Vec<Change>, Vec<Path>) {
        let changes = self.routes.process();
        let mut moved = BTreeSet::new();
        for change in &changes {
            if let Change::NextHop(destination) = change {
                moved.insert(*destination);
            }
        }
        let mut paths = Vec::new();
        if !moved.is_empty() {
            for (&peer, to) in &self.peers {
                if self.destinations_of(to).any(|way| moved.contains(&way)) {
                    paths.extend(self.paths_to(peer, to));
                }
            }
        }
        (changes, paths)
    }

    fn ways<'a>(
        &'a self,
        to: &'a Addresses,
    ) -> impl Iterator<Item = (usize, &'a Link, Option<Way>)> {
        let links = self.links.iter().enumerate();
        links.map(|(worker, (network, link))| {
            let way = to.on(*network).and_then(|to| link.way_to(to));
            (worker, link, way)
        })
    }

    fn destinations_of(&self, to: &Addresses) -> impl Iterator<Item = Destination> + use<> {
        let ways: BTreeSet<Destination> = self
            .ways(to)
            .filter_map(|(_, _, way)| match way {
                Some(Way::Routed(destination, _)) => Some(destination),
                _ => None,
            })
            .collect();
        ways.into_iter()
    }

    fn paths_to(&self, peer: PeerIndex, to: &Addresses) -> Vec<Path> {
        self.ways(to)
            .map(|(worker, link, way)| {
                // A node has no more than 32.
                let lane = LaneIndex(u8::try_from(worker).unwrap_or(u8::MAX));
                let next_hop = |destination| self.routes.next_hop(destination);
                let header = way.and_then(|way| link.header(lane, way, next_hop));
                Path {
                    worker,
                    peer,
                    header,
                }
            })
            .collect()
    }

    fn unwatch_unused(&mut self) {
        let used: BTreeSet<Destination> = self
            .peers
            .values()
            .flat_map(|to| self.destinations_of(to))
            .collect();
        for destination in self.routes.watched() {
            if !used.contains(&destination) {
                self.routes.unwatch(destination);
            }
        }
    }
}

impl AsFd for Paths {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.routes.as_fd()
    }
}
