//! A second claimant to a live peer's name: probe the old SA before believing.
//!
//! Whoever holds the master key can write a bare m1 or a beacon in any node's
//! name. While the peer's present SA answers, the claim is refused and
//! reported; if it does not answer, the peer has restarted, or has lost what it
//! had. Frames of the
//! peer's former lives, which anybody can repeat, do not come this far: an m1
//! has a counter, and a beacon of a life that is known to be over is stale.

use std::time::Duration;

use tipsec_dataplane::ids::Incarnation;

use super::peer::Peer;
use super::{Context, Count, EventKind};
use crate::address::Network;
use crate::frame::ControlFrame;
use crate::time::Instant;

/// How long the old SA has to answer.
const PATIENCE: Duration = Duration::from_millis(200);
/// A refused incarnation is not looked at again for this long.
const REFUSAL: Duration = Duration::from_secs(1);

/// What is being found out.
#[derive(Default)]
pub(super) struct Suspicion {
    open: Option<Open>,
    refused: Option<(Incarnation, Instant)>,
}

struct Open {
    incarnation: Incarnation,
    probe: u64,
    until: Instant,
    /// The m1 to go on with if the old SA stays silent.
    m1: Option<(Vec<u8>, Network)>,
}

#[cfg(feature = "sim")]
super::digest::parts!(Suspicion: open, refused);

#[cfg(feature = "sim")]
super::digest::parts!(Open: incarnation, probe, until, m1);

impl Suspicion {
    /// No answer could be heard for so long.
    pub(super) fn allow_for_standstill(&mut self, lost: Duration) {
        if let Some(open) = &mut self.open {
            open.until = open.until + lost;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.until)
    }
}

impl Peer {
    /// Whether the peer is believed to be alive as another incarnation.
    pub(super) fn is_alive_as_other(&self, incarnation: Incarnation) -> bool {
        self.link.is_up()
            && self
                .tx
                .as_ref()
                .is_some_and(|tx| tx.incarnation != incarnation)
    }

    /// Whether the peer is believed to be alive in this life, and would build on
    /// what it has exchanged before.
    pub(super) fn is_alive_with_chain(&self, incarnation: Incarnation) -> bool {
        let tx = self.tx.as_ref();
        self.link.is_up() && self.has_chain() && tx.is_some_and(|tx| tx.incarnation == incarnation)
    }

    /// Somebody claims to be a new life of a live peer, or to be the peer without
    /// what only the peer has.
    pub(super) fn suspect(
        &mut self,
        cx: &mut Context<'_>,
        incarnation: Incarnation,
        m1: Option<(&ControlFrame<'_>, Network)>,
    ) {
        if self
            .suspicion
            .refused
            .is_some_and(|(who, until)| who == incarnation && cx.now < until)
        {
            return cx.core.counts.add(Count::Impostor);
        }
        let m1 = m1.map(|(frame, by)| (frame.to_bytes(), by));
        match &mut self.suspicion.open {
            Some(open) if open.incarnation == incarnation => {
                if m1.is_some() {
                    open.m1 = m1;
                }
            }
            // One claim at a time: whoever comes later repeats itself.
            Some(_) => {}
            None => {
                let probe = cx.core.next_probe;
                let until = cx.now + PATIENCE;
                self.suspicion.open = Some(Open {
                    incarnation,
                    probe,
                    until,
                    m1,
                });
                self.probe_every_lane(cx);
            }
        }
    }

    /// The old SA answered a probe: the claim is false.
    pub(super) fn suspicion_answered(&mut self, cx: &mut Context<'_>, probe: u64) {
        let Some(open) = self.suspicion.open.take_if(|open| probe >= open.probe) else {
            return;
        };
        self.suspicion.refused = Some((open.incarnation, cx.now + REFUSAL));
        cx.core.counts.add(Count::Impostor);
        let text = format!(
            "duplicate node or impostor: somebody else with the master key claims to be node {}, \
             which is up; look for a second node with this id",
            self.node
        );
        cx.note_rarely(EventKind::DuplicateNode, self.node, text);
    }

    pub(super) fn suspicion_timer(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let Some(open) = self.suspicion.open.take_if(|open| open.until <= now) else {
            return;
        };
        self.link_down(cx, "it does not answer and another process claims its name");
        self.target = Some(open.incarnation);
        let m1 = open.m1.as_ref();
        match m1.and_then(|(bytes, by)| Some((ControlFrame::decode(bytes)?, *by))) {
            Some((m1, by)) => self.accept_m1(cx, &m1, by),
            None => self.start(cx),
        }
    }
}
