//! A node from outside: its name, and what others have to know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Node, Receiving, Sending, place_of};
use crate::machine::{Digest, Digester, LinkState, PeerView};
use crate::sim::explore::book::{Book, Key, Place};

/// What others have to know of a node, without its machine. Times from the moment
/// of the last stimulus.
pub(in crate::sim::explore) struct Summary {
    pub(in crate::sim::explore) life: u8,
    /// To the next timer; less than none if it is overdue.
    pub(in crate::sim::explore) deadline: Option<(bool, Duration)>,
    pub(in crate::sim::explore) is_installing: bool,
    /// By place of the receiver: key, life of it, whether data may flow.
    pub(in crate::sim::explore) sending: BTreeMap<Place, (Key, u8, bool)>,
    /// Keys that open here.
    pub(in crate::sim::explore) opens: BTreeSet<Key>,
    /// By place: how long the link has been up.
    pub(in crate::sim::explore) up: BTreeMap<Place, Duration>,
    /// Whether it has had keys with anybody.
    pub(in crate::sim::explore) has_peer: bool,
}

impl Node {
    /// Names everything that decides what it will do.
    pub(in crate::sim::explore) fn digest(&self) -> Digest {
        let mut digester = Digester::new(self.now);
        let Self {
            place,
            life,
            now: _,
            machine,
            draws,
            receiving,
            sending,
            installing,
            opened_with,
            sealed_with,
            sealed,
            asked_at,
        } = self;
        digester.value(&(place, life, draws.taken(), installing));
        digester.value(&(opened_with, sealed_with, sealed));
        for (spi, lane) in receiving {
            let Receiving {
                peer,
                from,
                epoch,
                key,
                is_installed,
                has_opened,
                taken,
            } = lane;
            digester.value(&(spi, peer, from, epoch, key, is_installed, has_opened, taken));
        }
        for (peer, lane) in sending {
            let Sending {
                to,
                spi,
                key,
                epoch,
                next,
                is_open,
            } = lane;
            digester.value(&(peer, to, spi, key, epoch, next, is_open));
        }
        // Whether the keys with each peer are as fresh as was asked for.
        if let Some(at) = *asked_at {
            let asked = self.now.since(at);
            let is_fresh = |view: &PeerView| view.key_age.is_some_and(|age| age <= asked);
            let views = machine.peers(self.now);
            let fresh: Vec<bool> = views.iter().map(is_fresh).collect();
            digester.value(&fresh);
        }
        machine.put_into(&mut digester);
        digester.finish()
    }

    /// What others have to know of it.
    pub(in crate::sim::explore) fn summary(&self, book: &Book) -> Summary {
        let views = self.machine.peers(self.now);
        let is_up = |view: &&PeerView| view.link == LinkState::Up;
        let ups = views.iter().filter(is_up);
        let lanes = self.sending.values().map(|lane| {
            let life = book.issued(lane.key).map_or(0, |issued| issued.issuer.1);
            (place_of(lane.to), (lane.key, life, lane.is_open))
        });
        let installed = self.receiving.values().filter(|lane| lane.is_installed);
        Summary {
            life: self.life,
            deadline: self.machine.next_deadline().map(|at| {
                let is_overdue = at < self.now;
                let distance = at.since(self.now).max(self.now.since(at));
                (is_overdue, distance)
            }),
            is_installing: !self.installing.is_empty(),
            sending: lanes.collect(),
            opens: installed.map(|lane| lane.key).collect(),
            up: ups.map(|view| (place_of(view.node), view.since)).collect(),
            has_peer: views.iter().any(|view| view.incarnation.is_some()),
        }
    }
}
