//! What this node offers, and what it takes of a peer's offer.

use tipsec_dataplane::ids::{Epoch, LaneIndex, Spi};
use tipsec_dataplane::secret::Suite;
use zeroize::Zeroize;

use super::peer::Peer;
use super::rx::MAX_RX_SAS;
use super::spi_pool::Rank;
use super::{Context, Count, EventKind};
use crate::derive::Sek;
use crate::frame::BARE;
use crate::message::Offer;

impl Peer {
    /// Draws an offer for what the peer sends. `None` if too many SAs of the
    /// pair are alive, or SPIs are out.
    pub(super) fn draw_offer(
        &mut self,
        cx: &mut Context<'_>,
        suite: Suite,
        peer_lanes: u8,
        chain: u64,
    ) -> Option<Offer> {
        if self.rx.len() >= MAX_RX_SAS {
            return None;
        }
        let rank = match chain {
            BARE => Rank::Stranger,
            _ => Rank::Known,
        };
        let count = usize::from(peer_lanes);
        let spis = cx.core.spis.allocate(count, rank, cx.now)?;
        let mut secret = [0; 32];
        cx.random.fill(&mut secret);
        let sek = Sek::new(secret);
        secret.zeroize();
        let epoch = self.next_epoch;
        self.next_epoch = Epoch(epoch.0.checked_add(1)?);
        let settings = &cx.core.settings;
        Some(Offer {
            epoch,
            suite,
            suites: suite_sum(&settings.suites),
            lanes: settings.lane_count(),
            rekey_interval: settings.rekey_interval,
            budget: settings.budget,
            addresses: settings.addresses,
            holdings: cx.holdings(),
            sek,
            spis,
        })
    }

    /// Whether an offer of the peer fits this node; counts and notes if not.
    pub(super) fn allows(&self, cx: &mut Context<'_>, offer: &Offer) -> bool {
        let settings = &cx.core.settings;
        let allowed = settings.suites.contains(&offer.suite)
            && offer.spis.len() == settings.lanes.len()
            && offer.budget > 0;
        if !allowed {
            cx.core.counts.add(Count::Refused);
            let text = format!(
                "node {} offers {} with {} lanes, which this node does not allow; compare \
                 [crypto] suites in both configurations",
                self.node,
                offer.suite.name(),
                offer.spis.len()
            );
            cx.note_rarely(EventKind::Incompatible, self.node, text);
        }
        allowed
    }

    /// Every worker and map holds the SA of this epoch: whichever slot waits
    /// for it sends its message.
    pub(super) fn on_installed(&mut self, cx: &mut Context<'_>, epoch: Epoch) {
        self.note_offered(epoch, cx.now);
        self.initiator_installed(cx, epoch);
        self.responder_installed(cx, epoch);
    }
}

/// The lanes of an offer: lane `i` is sent on the SPI at `i`.
pub(super) fn lanes(spis: &[Spi]) -> impl Iterator<Item = (LaneIndex, Spi)> {
    (0..=u8::MAX).map(LaneIndex).zip(spis.iter().copied())
}

/// The sum of the suites' codes, as it travels.
pub(super) fn suite_sum(suites: &[Suite]) -> u16 {
    suites.iter().fold(0, |sum, suite| sum | suite.code())
}

/// The first of `own`, best first, that is in the sum of codes `theirs`.
pub(super) fn common_suite(own: &[Suite], theirs: u16) -> Option<Suite> {
    own.iter().copied().find(|suite| suite.code() & theirs != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_meet_in_the_owners_order() {
        let own = [Suite::Aes128Gcm, Suite::Aes256Gcm];
        assert_eq!(
            common_suite(&own, suite_sum(&Suite::ALL)),
            Some(Suite::Aes128Gcm)
        );
        assert_eq!(common_suite(&own, Suite::ChaCha20Poly1305.code()), None);
    }
}
