//! What the keys of one SA come from, for as long as it lives: phases are
//! derived when they are needed. Never leaves the control thread.

use tipsec_dataplane::ids::{Incarnation, LaneIndex, NodeId, Spi};
use tipsec_dataplane::phase::Phase;
use tipsec_dataplane::secret::{LaneSecret, Suite};

use crate::cluster::ClusterName;
use crate::derive::{LaneBinding, Sek};
use crate::message::Offer;

/// One end of a direction.
pub(super) type End = (NodeId, Incarnation);

/// The SEK of one SA, and what its lanes' keys are bound to. Wiped when
/// dropped.
pub(super) struct SaKeys {
    sek: Sek,
    handshake_hash: [u8; 32],
    suite: Suite,
    cluster: ClusterName,
    sender: End,
    receiver: End,
}

// The rest is constant, or stands in the SA.
#[cfg(feature = "sim")]
super::digest::parts!(
    SaKeys: sek, handshake_hash; not suite, cluster, sender, receiver
);

impl SaKeys {
    /// Of the SA of an offer.
    pub(super) fn new(
        offer: &Offer,
        handshake_hash: &[u8; 32],
        cluster: &ClusterName,
        sender: End,
        receiver: End,
    ) -> Self {
        Self {
            sek: offer.sek.duplicate(),
            handshake_hash: *handshake_hash,
            suite: offer.suite,
            cluster: cluster.clone(),
            sender,
            receiver,
        }
    }

    /// Key and IV of one lane in one phase.
    pub(super) fn derive(&self, lane: LaneIndex, spi: Spi, phase: Phase) -> LaneSecret {
        let binding = LaneBinding {
            handshake_hash: &self.handshake_hash,
            suite: self.suite,
            cluster: &self.cluster,
            sender: self.sender,
            receiver: self.receiver,
            spi,
            lane,
            phase,
        };
        binding.derive(&self.sek)
    }

    /// The same of the phase after, if there is one.
    pub(super) fn derive_next(&self, lane: LaneIndex, spi: Spi, of: Phase) -> Option<LaneSecret> {
        Some(self.derive(lane, spi, of.next()?))
    }
}

#[cfg(test)]
impl SaKeys {
    pub(super) fn for_test() -> Self {
        let end = |id| (NodeId::new(id).unwrap(), Incarnation(u64::from(id)));
        Self {
            sek: Sek::new([0; 32]),
            handshake_hash: [0; 32],
            suite: Suite::Aes256Gcm,
            cluster: "test".parse().unwrap(),
            sender: end(1),
            receiver: end(2),
        }
    }
}
