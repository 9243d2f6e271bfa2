//! What a machine wants done, done; and held against the properties that one node
//! can break alone.

use std::collections::BTreeSet;

use tipsec_dataplane::command::{RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::ids::{Epoch, PeerIndex};

use super::{Effects, Node, Receiving, Sending, place_of, place_of_address};
use crate::frame::MessageType;
use crate::machine::{Action, Destination, Input};
use crate::sim::explore::book::{Book, Content, Issued, hash_of, key_of, secret_of};
use crate::sim::explore::property::{Property, Wrong};

/// Most receiving SAs of a pair.
const RX_SAS_MAX: usize = 16;

impl Node {
    pub(super) fn act(
        &mut self,
        book: &mut Book,
        action: Action,
        out: &mut Effects,
    ) -> Result<(), Wrong> {
        match action {
            Action::Send { to, frame } => self.send(book, to, frame, out)?,
            Action::InstallRx { token, lanes } => {
                out.installs_rx = true;
                let spis = lanes.iter().map(|lane| lane.spi).collect();
                for lane in &lanes {
                    self.install_rx(book, lane)?;
                }
                self.installing.push_back((token, spis));
            }
            Action::RemoveRx { token, spis } => {
                out.removes_rx = true;
                for spi in spis {
                    if self.receiving.remove(&spi).is_none() {
                        let text = format!("node {} removes {spi}, which is not there", self.place);
                        return Err((Property::InstalledOnce, text));
                    }
                }
                self.input(Input::Removed(token));
            }
            Action::InstallTx { peer, lanes, .. } => {
                out.installs_tx = true;
                for lane in &lanes {
                    self.install_tx(book, peer, lane)?;
                }
            }
            Action::RemoveTx { peer } => {
                self.sending.remove(&peer);
            }
            Action::AllowData { peer, allowed, .. } => {
                if let Some(lane) = self.sending.get_mut(&peer) {
                    lane.is_open = allowed;
                }
            }
            Action::SendProbe { peer, probe, .. } => {
                if let Some(lane) = self.sending.get_mut(&peer) {
                    let to = place_of(lane.to);
                    let frame = lane.seal(self.place, Content::Request(probe.id));
                    out.frames.push((to, frame));
                }
            }
            // No lane comes near its budget here.
            Action::StageRx { .. } | Action::StageTx { .. } | Action::AllowPhase { .. } => {}
            Action::ListPeer { .. } | Action::UnlistPeer { .. } => {}
        }
        Ok(())
    }

    fn send(
        &mut self,
        book: &mut Book,
        to: Destination,
        bytes: Vec<u8>,
        out: &mut Effects,
    ) -> Result<(), Wrong> {
        let content = hash_of(&bytes);
        let Some(id) = book.enter(self.place, bytes) else {
            return Ok(());
        };
        let Destination::Node(_, address) = to else {
            out.beacon = Some(id);
            return Ok(());
        };
        let Some(to) = place_of_address(address) else {
            return Ok(());
        };
        out.messages.push((to, id));
        let message = book.message(id);
        let kind = match message.kind {
            MessageType::M1 => 1,
            MessageType::M2 => 2,
            MessageType::M3 => 3,
            MessageType::Beacon | MessageType::Hello => return Ok(()),
        };
        let name = (kind, message.exchange);
        if *self.sealed.entry(name).or_insert(content) != content {
            let text = format!("node {} sent another {}", self.place, message.name());
            return Err((Property::MessageOnce, text));
        }
        let offer = message.epoch;
        let mut lanes = self.receiving.values();
        let is_offered = |lane: &Receiving| place_of(lane.from) == to && lane.epoch == offer;
        let is_ready = lanes.any(|lane| is_offered(lane) && lane.is_installed);
        if kind != 1 && !is_ready {
            let text = format!(
                "{} leaves node {}, which does not hold the SA that it offers",
                message.name(),
                self.place
            );
            return Err((Property::OfferInstalled, text));
        }
        Ok(())
    }

    fn install_rx(&mut self, book: &mut Book, lane: &RxLaneSpec) -> Result<(), Wrong> {
        let key = key_of(&lane.secret, lane.epoch);
        let issued = Issued {
            issuer: (self.place, self.life),
            sender: place_of(lane.node),
            epoch: lane.epoch,
        };
        let is_again = !self.opened_with.insert(secret_of(&lane.secret));
        let receiving = Receiving {
            peer: lane.peer,
            from: lane.node,
            epoch: lane.epoch,
            key,
            is_installed: false,
            has_opened: false,
            taken: BTreeSet::new(),
        };
        let former = self.receiving.insert(lane.spi, receiving);
        if is_again || former.is_some() || !book.issue(key, issued) {
            let text = format!("node {} installs {} again", self.place, lane.spi);
            return Err((Property::InstalledOnce, text));
        }
        let of_pair = self.receiving.values().filter(|one| one.from == lane.node);
        let sas: BTreeSet<Epoch> = of_pair.map(|one| one.epoch).collect();
        if sas.len() > RX_SAS_MAX {
            let text = format!(
                "node {} has {} of node {}",
                self.place,
                sas.len(),
                lane.node
            );
            return Err((Property::Bounded, text));
        }
        Ok(())
    }

    fn install_tx(&mut self, book: &Book, peer: PeerIndex, lane: &TxLaneSpec) -> Result<(), Wrong> {
        let key = key_of(&lane.secret, lane.epoch);
        let who = format!(
            "node {}, sending to node {}",
            self.place,
            place_of(lane.node)
        );
        let issued = book.issued(key);
        let Some(issued) = issued.filter(|issued| {
            (issued.issuer.0, issued.sender, issued.epoch)
                == (place_of(lane.node), self.place, lane.epoch)
        }) else {
            let text = format!("{who}, installs a key that was not issued for that");
            return Err((Property::BothNames, text));
        };
        if !self.sealed_with.insert(secret_of(&lane.secret)) {
            let text = format!("{who}, installs a key again");
            return Err((Property::NonceOnce, text));
        }
        let sending = Sending {
            to: lane.node,
            spi: lane.spi,
            key,
            epoch: lane.epoch,
            next: 0,
            is_open: true,
        };
        let Some(former) = self.sending.insert(peer, sending) else {
            return Ok(());
        };
        let same_life = book.issued(former.key).map(|one| one.issuer) == Some(issued.issuer);
        if same_life && former.epoch >= lane.epoch {
            let text = format!("{who}, goes from epoch {} to {}", former.epoch, lane.epoch);
            return Err((Property::EpochGrows, text));
        }
        Ok(())
    }
}
