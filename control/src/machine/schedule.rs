//! Which peer is due when, so that time costs no more with a thousand peers than
//! the few that are due.

use std::collections::BTreeSet;

use tipsec_dataplane::ids::PeerIndex;

use crate::time::Instant;

/// The next deadline of each peer.
#[derive(Default)]
pub(super) struct Schedule {
    in_order: BTreeSet<(Instant, PeerIndex)>,
    /// By peer index: what stands in `in_order`.
    of_peer: Vec<Option<Instant>>,
}

impl Schedule {
    /// Notes when a peer wants attention next, in place of what was noted.
    pub(super) fn set(&mut self, peer: PeerIndex, at: Option<Instant>) {
        let index = usize::from(peer.0);
        if self.of_peer.len() <= index {
            self.of_peer.resize(index + 1, None);
        }
        let former = std::mem::replace(&mut self.of_peer[index], at);
        if former == at {
            return;
        }
        if let Some(former) = former {
            self.in_order.remove(&(former, peer));
        }
        if let Some(at) = at {
            self.in_order.insert((at, peer));
        }
    }

    /// When the first peer is due.
    pub(super) fn first(&self) -> Option<Instant> {
        self.in_order.first().map(|&(at, _)| at)
    }

    /// Peers that are due now, the longest overdue first.
    pub(super) fn due(&self, now: Instant) -> Vec<PeerIndex> {
        let due = self.in_order.iter().take_while(|&&(at, _)| at <= now);
        due.map(|&(_, peer)| peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_peer_stands_once_and_in_order() {
        let at = |s| Instant::default() + Duration::from_secs(s);
        let [a, b, c] = [0, 7, 3].map(PeerIndex);
        let mut schedule = Schedule::default();
        assert_eq!(schedule.first(), None);
        for (peer, s) in [(a, 5), (b, 3), (c, 9), (a, 2), (b, 3), (c, 3)] {
            schedule.set(peer, Some(at(s)));
        }
        assert_eq!(schedule.first(), Some(at(2)));
        assert_eq!(schedule.due(at(1)), []);
        assert_eq!(schedule.due(at(3)), [a, c, b]);
        schedule.set(a, None);
        assert_eq!(schedule.first(), Some(at(3)));
        for peer in [b, c] {
            schedule.set(peer, None);
        }
        assert_eq!((schedule.first(), schedule.in_order.len()), (None, 0));
    }
}
