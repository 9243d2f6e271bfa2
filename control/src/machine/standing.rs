//! Where an exchange with a peer stands, for whoever explores it.

use tipsec_dataplane::ids::NodeId;

use super::Machine;
use super::initiator::InitiatorSlot;
use super::responder::ResponderSlot;

/// The two slots of a peer, by the names of docs/protocol.md.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Standing {
    /// `Idle`, `I1` or `I2`.
    pub initiator: &'static str,
    /// `Idle` or `R1`.
    pub responder: &'static str,
}

impl Machine {
    /// The slots of a peer; both are idle of one that is not known.
    pub fn standing(&self, node: NodeId) -> Standing {
        let mut standing = Standing {
            initiator: "Idle",
            responder: "Idle",
        };
        if let Some(peer) = self.peers.iter().find(|peer| peer.node == node) {
            standing.initiator = match peer.initiator {
                InitiatorSlot::Idle => "Idle",
                InitiatorSlot::Started(_) => "I1",
                InitiatorSlot::Offered(_) => "I2",
            };
            standing.responder = match peer.responder {
                ResponderSlot::Idle => "Idle",
                ResponderSlot::Answered(_) => "R1",
            };
        }
        standing
    }
}
