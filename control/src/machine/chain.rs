//! The chain: each exchange of a pair that is up builds on a secret of an
//! earlier one, so that no third member can stand in for either.
//!
//! Both ends keep the last few: exchanges may cross, and the initiator cannot
//! know at once whether its m3 arrived. A responder takes any of them; an
//! initiator builds on the newest that the peer is known to have. A bare exchange
//! with a peer that is up is refused (`suspicion`), and none is started.
//! Chains belong to one life of the peer; they outlive its master keys.

use std::collections::VecDeque;
use std::time::Duration;

use tipsec_dataplane::ids::Epoch;

use zeroize::Zeroizing;

use super::initiator::EXCHANGE_LIMIT;
use super::peer::Peer;
use super::{Context, EventKind};
use crate::derive::{Chain, ClusterKeys};
use crate::frame::BARE;
use crate::time::Instant;

/// Chains kept: those of crossing exchanges, and of some whose end was lost.
const CHAINS_MAX: usize = 4;

/// Chains with the present life of a peer, oldest first.
#[derive(Default)]
pub(super) struct Chains {
    kept: VecDeque<Kept>,
    /// When the first one was made.
    since: Option<Instant>,
    /// The peer said that it does not hold the one that was built on.
    disowned: bool,
}

struct Kept {
    chain: Chain,
    /// Epoch of the own offer in its exchange: who seals under that has both
    /// offers, and so the chain.
    offered: Epoch,
    /// Whether the peer is known to hold it.
    is_shared: bool,
}

#[cfg(feature = "sim")]
super::digest::parts!(Chains: kept, since, disowned);

#[cfg(feature = "sim")]
super::digest::parts!(Kept: chain, offered, is_shared);

impl Chains {
    /// What crossed the first exchange may wait for so much longer.
    pub(super) fn allow_for_standstill(&mut self, lost: Duration) {
        self.since = self.since.map(|at| at + lost);
    }

    /// The newest that the peer is known to hold.
    fn newest(&self) -> Option<&Chain> {
        let shared = self.kept.iter().rev().find(|kept| kept.is_shared);
        shared.map(|kept| &kept.chain)
    }

    fn named(&self, id: u64) -> Option<&Chain> {
        let chains = self.kept.iter().map(|kept| &kept.chain);
        chains.into_iter().find(|chain| chain.id() == id)
    }

    /// Keeps one more. Who has to go is the oldest, but never the newest that is
    /// shared: exchanges whose end is lost must not use up what both hold.
    fn keep(&mut self, chain: Chain, offered: Epoch, is_shared: bool) {
        self.kept.push_back(Kept {
            chain,
            offered,
            is_shared,
        });
        if self.kept.len() > CHAINS_MAX {
            let newest = self.newest().map(Chain::id);
            let goes = |kept: &Kept| Some(kept.chain.id()) != newest;
            if let Some(at) = self.kept.iter().position(goes) {
                self.kept.remove(at);
            }
        }
    }

    /// Whether this is news.
    fn share(&mut self, offered: Epoch) -> bool {
        let unproven = |kept: &&mut Kept| kept.offered == offered && !kept.is_shared;
        let kept = self.kept.iter_mut().find(unproven);
        kept.map(|kept| kept.is_shared = true).is_some()
    }
}

impl Peer {
    /// Whether a live peer would build on a chain.
    pub(super) fn has_chain(&self) -> bool {
        self.chains.newest().is_some()
    }

    /// Whether a bare m1 may have left the peer before the first exchange was
    /// complete there: that exchange did what it was for.
    pub(super) fn may_have_crossed(&self, now: Instant) -> bool {
        let is_recent = |since: Instant| now.since(since) < EXCHANGE_LIMIT;
        self.chains.since.is_some_and(is_recent)
    }

    /// The chain id of an exchange that starts now, and its pre-shared key. Bare
    /// with another life of the peer, before the first exchange, and if the peer
    /// is down and says that it has lost the chain.
    pub(super) fn psk_to_start_with(&self, keys: &ClusterKeys) -> (u64, Zeroizing<[u8; 32]>) {
        let is_same_life = self.target == self.incarnation;
        let is_lost = self.chains.disowned && !self.link.is_up();
        match self.chains.newest() {
            Some(chain) if is_same_life && !is_lost => (chain.id(), chain.psk(keys.psk())),
            _ => (BARE, Zeroizing::new(*keys.psk())),
        }
    }

    /// The pre-shared key of the peer's exchange; `None` if it builds on a chain
    /// that is not held.
    pub(super) fn psk_of_chain(
        &self,
        keys: &ClusterKeys,
        chain: u64,
    ) -> Option<Zeroizing<[u8; 32]>> {
        match chain {
            BARE => Some(Zeroizing::new(*keys.psk())),
            id => self.chains.named(id).map(|chain| chain.psk(keys.psk())),
        }
    }

    /// Whether a hello may repeat this chain id: it is held, or there is none.
    pub(super) fn holds_chain(&self, id: u64) -> bool {
        id == BARE || self.chains.named(id).is_some()
    }

    /// An exchange gave this chain, in which this node offered the SA of this epoch.
    /// `is_shared`: the peer has it for certain.
    pub(super) fn keep_chain(
        &mut self,
        now: Instant,
        chain: Chain,
        offered: Epoch,
        is_shared: bool,
    ) {
        self.chains.keep(chain, offered, is_shared);
        self.chains.since.get_or_insert(now);
        if is_shared {
            self.chains.disowned = false;
        }
    }

    /// The peer seals under the own offer of this epoch, and so holds the chain of
    /// its exchange. Whether that was not known before.
    pub(super) fn chain_is_proven(&mut self, offered: Epoch) -> bool {
        let is_news = self.chains.share(offered);
        self.chains.disowned &= !is_news;
        is_news
    }

    /// A hello says that the peer, in its present life, does not hold the chain
    /// that was built on. Any member can write one: nothing comes of it while the
    /// peer is up.
    pub(super) fn chain_disowned(&mut self, cx: &mut Context<'_>) {
        self.chains.disowned = true;
        if self.link.is_up() {
            let text = format!(
                "somebody answers as node {} and does not hold the secret of its last exchange, \
                 although node {0} is up: an impostor, or node {0} has lost it and will be down \
                 shortly; exchanges with it go on building on that secret",
                self.node
            );
            cx.note_rarely(EventKind::ChainLost, self.node, text);
        }
    }

    /// Another life of the peer, or none.
    pub(super) fn forget_chains(&mut self) {
        self.chains = Chains::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::Sek;

    fn chain(number: u8) -> Chain {
        let [initiator, responder] = [Sek::new([1; 32]), Sek::new([2; 32])];
        Chain::of_exchange(&[number; 32], &initiator, &responder)
    }

    #[test]
    fn exchanges_that_never_end_do_not_push_out_what_both_hold() {
        let mut chains = Chains::default();
        chains.keep(chain(0), Epoch(0), true);
        for number in 1..20 {
            chains.keep(chain(number), Epoch(number.into()), false);
            assert_eq!(chains.newest().map(Chain::id), Some(chain(0).id()));
            assert!(chains.named(chain(number).id()).is_some());
            assert!(chains.kept.len() <= CHAINS_MAX);
        }
        assert!(chains.share(Epoch(19)));
        assert!(!chains.share(Epoch(19)), "no news");
        assert_eq!(chains.newest().map(Chain::id), Some(chain(19).id()));
        chains.keep(chain(20), Epoch(20), true);
        assert_eq!(chains.newest().map(Chain::id), Some(chain(20).id()));
        assert!(chains.named(chain(0).id()).is_none(), "the oldest went");
    }
}
