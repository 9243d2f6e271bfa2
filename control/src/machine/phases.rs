//! Phases of lanes (docs/protocol.md, "Phases").
//!
//! | event                                 | what follows                          |
//! |---------------------------------------|---------------------------------------|
//! | our lane went on in phase p           | its worker gets the key of p + 1      |
//! | an answer says that p was opened      | our lane may go on in p + 1           |
//! | the peer's lane opened phase p        | after a grace every worker gets p + 1 |
//! | every worker has p + 1                | answers say that p was opened         |
//!
//! So a lane holds two keys at a time, and its sender enters no phase that a
//! worker of the receiver has no key of.

use std::sync::Arc;
use std::time::Duration;

use tipsec_dataplane::command::PhaseSpec;
use tipsec_dataplane::ids::{LaneIndex, Spi};
use tipsec_dataplane::phase::Phase;
use tipsec_dataplane::sa::RxShared;

use super::lanes::ProbeName;
use super::peer::Peer;
use super::sa_keys::SaKeys;
use super::{Action, Context, Count, Defect, EventKind, Pending};
use crate::time::Instant;

/// What is late of a phase still opens for so long after the next has begun.
const PHASE_GRACE: Duration = Duration::from_secs(1);

/// A lane that this node sends on.
struct TxPhase {
    spi: Spi,
    /// Where it is.
    entered: Phase,
    /// Up to where it may go.
    allowed: Phase,
}

/// The lanes of a sending SA.
pub(super) struct TxPhases {
    keys: SaKeys,
    lanes: Vec<TxPhase>,
}

#[cfg(feature = "sim")]
super::digest::parts!(TxPhase: spi, entered, allowed);

#[cfg(feature = "sim")]
super::digest::parts!(TxPhases: keys, lanes);

impl TxPhases {
    /// Each lane is in its first phase, and has the key of the second.
    pub(super) fn new(keys: SaKeys, spis: &[Spi]) -> Self {
        let lane = |&spi: &Spi| TxPhase {
            spi,
            entered: Phase::FIRST,
            allowed: Phase::FIRST,
        };
        Self {
            keys,
            lanes: spis.iter().map(lane).collect(),
        }
    }

    /// The highest that a lane is in.
    pub(super) fn highest(&self) -> Phase {
        let entered = self.lanes.iter().map(|lane| lane.entered);
        entered.max().unwrap_or(Phase::FIRST)
    }
}

/// A lane that this node receives on.
struct RxPhase {
    spi: Spi,
    shared: Arc<RxShared>,
    /// The highest phase that opened, at whichever worker.
    opened: Phase,
    /// When the key after it goes to the workers.
    stage_at: Option<Instant>,
}

/// The lanes of a receiving SA.
pub(super) struct RxPhases {
    keys: SaKeys,
    lanes: Vec<RxPhase>,
    /// The first `stage_at`: asked after every step of the machine.
    deadline: Option<Instant>,
}

// What workers share is theirs.
#[cfg(feature = "sim")]
super::digest::parts!(RxPhase: spi, opened, stage_at; not shared);

#[cfg(feature = "sim")]
super::digest::parts!(RxPhases: keys, lanes, deadline);

impl RxPhases {
    /// Each lane has the keys of the first two phases.
    pub(super) fn new(keys: SaKeys, lanes: impl Iterator<Item = (Spi, Arc<RxShared>)>) -> Self {
        let lane = |(spi, shared)| RxPhase {
            spi,
            shared,
            opened: Phase::FIRST,
            stage_at: None,
        };
        Self {
            keys,
            lanes: lanes.map(lane).collect(),
            deadline: None,
        }
    }

    fn lane_mut(&mut self, spi: Spi) -> Option<&mut RxPhase> {
        self.lanes.iter_mut().find(|lane| lane.spi == spi)
    }

    /// Nothing late could arrive for so long.
    pub(super) fn allow_for_standstill(&mut self, lost: Duration) {
        for at in self
            .lanes
            .iter_mut()
            .filter_map(|lane| lane.stage_at.as_mut())
        {
            *at = *at + lost;
        }
        self.set_deadline();
    }

    fn set_deadline(&mut self) {
        self.deadline = self.lanes.iter().filter_map(|lane| lane.stage_at).min();
    }

    /// The highest that opened on a lane.
    pub(super) fn highest(&self) -> Phase {
        let opened = self.lanes.iter().map(|lane| lane.opened);
        opened.max().unwrap_or(Phase::FIRST)
    }
}

impl Peer {
    /// A lane of this node went on in a phase: its worker has no further key.
    pub(super) fn on_phase_entered(&mut self, cx: &mut Context<'_>, spi: Spi, phase: Phase) {
        let Some(tx) = &mut self.tx else { return };
        let TxPhases { keys, lanes } = &mut tx.phases;
        let mut numbered = (0..=u8::MAX).map(LaneIndex).zip(lanes);
        let Some((index, lane)) = numbered.find(|(_, lane)| lane.spi == spi) else {
            return;
        };
        if phase <= lane.entered {
            return;
        }
        lane.entered = phase;
        cx.core.counts.add(Count::PhaseEntered);
        let text = format!(
            "lane {} to node {} went on in phase {phase} of its keys, since no rekey came before \
             their budget was spent",
            index.0, self.node
        );
        cx.note_rarely(EventKind::PhaseEntered, self.node, text);
        let Some(next) = phase.next() else { return };
        cx.core.act(Action::StageTx {
            peer: self.index,
            lane: index,
            phase: PhaseSpec {
                spi,
                phase: next,
                secret: keys.derive(index, spi, next),
            },
        });
    }

    /// The answer to this probe says which phase the peer has opened on its
    /// lane: one more may be entered.
    pub(super) fn note_reported(
        &mut self,
        cx: &mut Context<'_>,
        probe: ProbeName,
        reported: Phase,
    ) {
        let Some(tx) = self.tx.as_mut().filter(|tx| tx.has_sent(probe)) else {
            return;
        };
        let lane = tx.phases.lanes.get_mut(usize::from(probe.lane.0));
        let (Some(lane), Some(next)) = (lane, reported.next()) else {
            return;
        };
        if next <= lane.allowed {
            return;
        }
        lane.allowed = next;
        cx.core.act(Action::AllowPhase {
            peer: self.index,
            lane: probe.lane,
            spi: lane.spi,
            phase: next,
        });
    }

    /// A worker opened the first frame of a phase of the peer's lane.
    pub(super) fn on_phase_opened(&mut self, cx: &mut Context<'_>, spi: Spi, phase: Phase) {
        for phases in self.rx.iter_mut().map(|sa| &mut sa.phases) {
            if let Some(lane) = phases.lane_mut(spi)
                && phase > lane.opened
            {
                lane.opened = phase;
                lane.stage_at = Some(cx.now + PHASE_GRACE);
                if cx.has(Defect::EarlyReport) {
                    lane.shared.report_phase(phase);
                }
                phases.set_deadline();
            }
        }
    }

    /// When a key is to be staged.
    pub(super) fn phase_deadline(&self) -> Option<Instant> {
        self.rx.iter().filter_map(|sa| sa.phases.deadline).min()
    }

    /// Stages keys whose time has come: nothing is late any more that they
    /// take the place of.
    pub(super) fn phase_timer(&mut self, cx: &mut Context<'_>) {
        let is_due = |phases: &&mut RxPhases| phases.deadline.is_some_and(|at| at <= cx.now);
        let due = self.rx.iter_mut().map(|sa| &mut sa.phases).filter(is_due);
        for phases in due {
            let RxPhases { keys, lanes, .. } = &mut *phases;
            for (index, lane) in (0..=u8::MAX).map(LaneIndex).zip(lanes) {
                if lane.stage_at.is_none_or(|at| at > cx.now) {
                    continue;
                }
                lane.stage_at = None;
                let Some(next) = lane.opened.next() else {
                    continue;
                };
                let pending = Pending::Staged(self.index, lane.spi, lane.opened);
                let token = cx.core.token(pending);
                cx.core.act(Action::StageRx {
                    token,
                    phase: PhaseSpec {
                        spi: lane.spi,
                        phase: next,
                        secret: keys.derive(index, lane.spi, next),
                    },
                });
            }
            phases.set_deadline();
        }
    }

    /// Every worker has the key after `opened`: the peer may know.
    pub(super) fn on_staged(&mut self, spi: Spi, opened: Phase) {
        let mut lanes = self.rx.iter_mut().filter_map(|sa| sa.phases.lane_mut(spi));
        if let Some(lane) = lanes.next() {
            lane.shared.report_phase(opened);
        }
    }
}
