//! This node's own lanes, as far as the machine cares: which can reach a peer,
//! which of them the peer has confirmed, and which to probe.
//!
//! Lane `i` is worker `i`, one queue of one NIC. It reaches a peer if its NIC
//! is there and the peer has an address on the NIC's network. A lane that
//! nobody confirms is held by itself: the others carry on.

use tipsec_dataplane::ids::LaneIndex;

#[cfg(feature = "sim")]
use super::digest::{Digester, Part};
use super::peer::Peer;
use super::tx::TxSa;
use super::{Action, Context, Core, EventKind};
use crate::address::{Addresses, Network};
use crate::time::Instant;

/// Whether frames of a sending lane arrive, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// They cannot: its NIC is gone, or the peer is not on its network.
    None,
    /// No probe on it was answered since the SA was installed.
    Awaited,
    /// One was.
    Confirmed,
}

/// One lane of a sending SA.
#[derive(Clone, Copy, Debug)]
pub(super) struct TxLane {
    pub(super) reach: Reach,
    /// Since when its confirmation is awaited: a rekey does not start this
    /// anew, or frequent ones would hide that a lane is dead.
    pub(super) awaited_since: Instant,
    /// The operator knows that nobody confirms it.
    pub(super) overdue: bool,
    /// Carries probes only: of the first SA with a life of the peer until it
    /// is confirmed, and of any SA when it stays unconfirmed for too long.
    pub(super) held: bool,
}

impl TxLane {
    /// Whether its confirmation is missing and nobody was told yet.
    pub(super) fn is_pending(&self) -> bool {
        self.reach == Reach::Awaited && !self.overdue
    }
}

#[cfg(feature = "sim")]
super::digest::parts!(enum Reach: None, Awaited, Confirmed);

#[cfg(feature = "sim")]
impl Part for TxLane {
    fn put(&self, into: &mut Digester) {
        let Self {
            reach,
            awaited_since,
            overdue,
            held,
        } = self;
        reach.put(into);
        into.value(&(overdue, held));
        // Since when a confirmation has been awaited that came is nobody's concern.
        if *reach == Reach::Awaited {
            awaited_since.put(into);
        }
    }
}

/// A probe's number within this node, and the lane that it left by: what the
/// id of a probe says to the node that asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ProbeName {
    pub(super) number: u64,
    pub(super) lane: LaneIndex,
}

impl ProbeName {
    pub(super) fn to_id(self) -> u64 {
        self.number << 8 | u64::from(self.lane.0)
    }

    pub(super) fn from_id(id: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // the lowest byte
        let lane = LaneIndex(id as u8);
        Self {
            number: id >> 8,
            lane,
        }
    }
}

impl Core {
    /// Every lane of this node, and the network of its NIC.
    pub(super) fn own_lanes(&self) -> impl Iterator<Item = (LaneIndex, Network)> + '_ {
        (0..=u8::MAX)
            .map(LaneIndex)
            .zip(self.settings.lanes.iter().copied())
    }

    /// Whether the NIC of a lane is still there.
    pub(super) fn has_bearer(&self, lane: LaneIndex) -> bool {
        !self.lost_lanes.contains(&lane)
    }
}

impl TxSa {
    /// Lanes that can reach the peer.
    pub(super) fn reachable(&self) -> impl Iterator<Item = LaneIndex> + '_ {
        self.lanes_that(|lane| lane.reach != Reach::None)
    }

    /// Lanes that the peer has yet to confirm.
    pub(super) fn awaited(&self) -> impl Iterator<Item = LaneIndex> + '_ {
        self.lanes_that(|lane| lane.reach == Reach::Awaited)
    }

    fn lanes_that(&self, is: impl Fn(&TxLane) -> bool) -> impl Iterator<Item = LaneIndex> {
        let numbered = (0..=u8::MAX).map(LaneIndex).zip(&self.lanes);
        numbered.filter_map(move |(index, lane)| is(lane).then_some(index))
    }

    pub(super) fn lane_mut(&mut self, lane: LaneIndex) -> Option<&mut TxLane> {
        self.lanes.get_mut(usize::from(lane.0))
    }

    /// The lane after `last` whose turn it is to be probed: of those that are
    /// not confirmed, if there are any, else of all that reach the peer.
    pub(super) fn next_in_turn(&self, last: LaneIndex) -> Option<LaneIndex> {
        let after = |lanes: &mut dyn Iterator<Item = LaneIndex>| {
            let mut first = None;
            for lane in lanes {
                if lane > last {
                    return Some(lane);
                }
                first = first.or(Some(lane));
            }
            first
        };
        after(&mut self.awaited()).or_else(|| after(&mut self.reachable()))
    }
}

impl Peer {
    /// Says once for each network that lanes on it have no way to this peer.
    pub(super) fn note_pathless(&mut self, cx: &mut Context<'_>, theirs: &Addresses) {
        for network in Network::all() {
            let ours = cx.core.settings.lanes.contains(&network);
            if !ours || theirs.on(network).is_some() {
                self.pathless.remove(&network);
            } else if self.pathless.insert(network) {
                let text = format!(
                    "node {} has no address on network {network}: what this node's bearers there \
                     have for it is dropped; give it a bearer on that network, or compare \
                     'network' in both configurations",
                    self.node
                );
                cx.note(EventKind::NoPath, self.node, text);
            }
        }
    }

    /// The NIC of a lane is gone: nothing is expected of that lane any more.
    pub(super) fn on_lane_lost(&mut self, cx: &mut Context<'_>, lost: LaneIndex) {
        let Some(lane) = self.tx.as_mut().and_then(|tx| tx.lane_mut(lost)) else {
            return;
        };
        lane.reach = Reach::None;
        lane.overdue = false;
        // Nothing confirms it any more: let the worker say what became of data.
        if std::mem::take(&mut lane.held) {
            cx.core.act(Action::AllowData {
                peer: self.index,
                lane: lost,
                allowed: true,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_told_apart_by_number_and_lane() {
        for (number, lane) in [(0, 0), (1, 31), (u64::MAX >> 8, 255)] {
            let name = ProbeName {
                number,
                lane: LaneIndex(lane),
            };
            assert_eq!(ProbeName::from_id(name.to_id()), name);
        }
    }

    #[test]
    fn unconfirmed_lanes_are_probed_before_the_others() {
        let turns = |reach: &[Reach]| {
            let tx = TxSa::for_test(reach);
            let mut turn = LaneIndex(0);
            std::iter::from_fn(|| {
                turn = tx.next_in_turn(turn)?;
                Some(turn.0)
            })
            .take(4)
            .collect::<Vec<_>>()
        };
        use Reach::{Awaited, Confirmed, None};
        assert_eq!(turns(&[Confirmed]), [0, 0, 0, 0]);
        assert_eq!(turns(&[Confirmed, Confirmed, Confirmed]), [1, 2, 0, 1]);
        assert_eq!(turns(&[Confirmed, None, Confirmed]), [2, 0, 2, 0]);
        assert_eq!(turns(&[Awaited, Confirmed, Awaited]), [2, 0, 2, 0]);
        assert_eq!(turns(&[None, None]), [0; 0]);
    }
}
