//! Deliberate defects, and for each a history that shows it: whoever changes
//! the simulator or the protocol sees whether it still would.
//!
//! docs/simulator.md has the list as a table; a test holds it to this file.

use std::collections::BTreeMap;

use tipsec_dataplane::command::TxLaneSpec;
use tipsec_dataplane::ids::PeerIndex;
use tipsec_dataplane::secret::LaneSecret;

use super::Universe;
use super::invariant::{Invariant, Violation};
use super::scenario::{self, Mode, Plan};
use crate::address::Addresses;
use crate::frame::{ControlFrame, MessageType};
use crate::machine::Defect;

mod scripts;

/// One thing that is wrong with every node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mutant {
    /// In the key machine.
    Machine(Defect),
    /// "Installed" is said when the first worker has answered.
    FirstAnswer,
    /// An m2 that arrives again has its sending SA installed again.
    DuplicateM2,
    /// A packet number counts as seen before its frame has opened.
    WindowFirst,
    /// Each worker has a replay window of its own.
    WindowPerWorker,
    /// A process that starts again has its former keys, with counters at zero.
    CounterReset,
    /// A process that starts again draws what its predecessor drew.
    RandomRollback,
}

/// How a mutant is shown.
#[derive(Clone, Copy)]
pub enum Shown {
    /// By a history that is drawn from this seed.
    Seed(Mode, u64),
    /// By a history of its own.
    Script(fn(&mut Universe)),
}

/// A mutant, and what shows it.
pub struct Entry {
    /// What is wrong.
    pub mutant: Mutant,
    /// Name on the command line and in docs/simulator.md.
    pub name: &'static str,
    /// What shows it.
    pub shown: Shown,
    /// What breaks.
    pub breaks: Invariant,
}

/// Every mutant.
pub const CATALOGUE: &[Entry] = &[
    entry(
        "offer-before-install",
        Mutant::Machine(Defect::OfferBeforeInstall),
        Shown::Seed(Mode::Liveness, 1),
        Invariant::NothingLost,
    ),
    entry(
        "install-before-answers",
        Mutant::FirstAnswer,
        Shown::Script(scripts::slow_workers),
        Invariant::NothingLost,
    ),
    entry(
        "lower-epoch",
        Mutant::Machine(Defect::LowerEpoch),
        Shown::Script(scripts::crossing_rekeys),
        Invariant::NothingLost,
    ),
    entry(
        "window-first",
        Mutant::WindowFirst,
        Shown::Seed(Mode::Liveness, 1),
        Invariant::NothingLost,
    ),
    entry(
        "window-per-worker",
        Mutant::WindowPerWorker,
        Shown::Seed(Mode::Liveness, 0),
        Invariant::DeliveredOnce,
    ),
    entry(
        "counter-reset",
        Mutant::CounterReset,
        Shown::Seed(Mode::Liveness, 0),
        Invariant::NonceOnce,
    ),
    entry(
        "random-rollback",
        Mutant::RandomRollback,
        Shown::Seed(Mode::Liveness, 1),
        Invariant::AllUp,
    ),
    entry(
        "duplicate-m2",
        Mutant::DuplicateM2,
        Shown::Seed(Mode::Liveness, 2),
        Invariant::InstalledOnce,
    ),
    entry(
        "no-grace",
        Mutant::Machine(Defect::NoGrace),
        Shown::Seed(Mode::Liveness, 3),
        Invariant::NothingLost,
    ),
    entry(
        "trusted-m1",
        Mutant::Machine(Defect::TrustedM1),
        Shown::Script(scripts::m1_of_a_former_life),
        Invariant::NothingLost,
    ),
    entry(
        "tie-break",
        Mutant::Machine(Defect::TieBreakOnM1),
        Shown::Script(scripts::m1_that_comes_late),
        Invariant::FreshKeys,
    ),
    entry(
        "no-confirm",
        Mutant::Machine(Defect::NoConfirm),
        Shown::Seed(Mode::Liveness, 4),
        Invariant::DataBothWays,
    ),
    entry(
        "resealed-m2",
        Mutant::Machine(Defect::ResealedM2),
        Shown::Seed(Mode::Liveness, 1),
        Invariant::MessageOnce,
    ),
    entry(
        "stale-m1",
        Mutant::Machine(Defect::StaleM1),
        Shown::Seed(Mode::Liveness, 1),
        Invariant::MessageOnce,
    ),
    entry(
        "early-report",
        Mutant::Machine(Defect::EarlyReport),
        Shown::Seed(Mode::Liveness, 22),
        Invariant::BothNames,
    ),
    entry(
        "no-rotation",
        Mutant::Machine(Defect::NoRotation),
        Shown::Seed(Mode::Liveness, 131),
        Invariant::ActiveKey,
    ),
];

const fn entry(name: &'static str, mutant: Mutant, shown: Shown, breaks: Invariant) -> Entry {
    Entry {
        mutant,
        name,
        shown,
        breaks,
    }
}

impl Entry {
    /// The history that shows it, with the mutant or, to see that nothing else
    /// breaks it, without.
    pub fn show(&self, mutant: Option<Mutant>) -> Option<Violation> {
        match self.shown {
            Shown::Seed(mode, seed) => {
                let plan = Plan {
                    seed,
                    nodes: None,
                    mode,
                    mutant,
                    trace: false,
                };
                scenario::run(&plan).violation
            }
            Shown::Script(script) => {
                let mut universe = Universe::new(1);
                universe.mutant = mutant;
                script(&mut universe);
                universe.broken().cloned()
            }
        }
    }
}

/// A sending SA that a mutant keeps a copy of.
type KeptSa = (PeerIndex, Addresses, Vec<TxLaneSpec>);

/// What mutants remember that they should not.
#[derive(Default)]
pub(super) struct Kept {
    /// Sending SAs of each place, by peer.
    sas: BTreeMap<(usize, PeerIndex), KeptSa>,
    /// m2 that were heard: place and exchange.
    m2s: Vec<(usize, u64)>,
}

impl Kept {
    pub(super) fn keep(
        &mut self,
        place: usize,
        peer: PeerIndex,
        to: &Addresses,
        lanes: &[TxLaneSpec],
        mutant: Option<Mutant>,
    ) {
        if matches!(mutant, Some(Mutant::CounterReset | Mutant::DuplicateM2)) {
            let sa = (peer, *to, lanes.iter().map(copy).collect());
            self.sas.insert((place, peer), sa);
        }
    }
}

fn copy(lane: &TxLaneSpec) -> TxLaneSpec {
    TxLaneSpec {
        spi: lane.spi,
        peer: lane.peer,
        node: lane.node,
        epoch: lane.epoch,
        lane: lane.lane,
        secret: lane.secret.duplicate(),
        next: lane.next.as_ref().map(LaneSecret::duplicate),
        phase_bits: lane.phase_bits,
        budget: lane.budget,
    }
}

impl Universe {
    /// A new process with the mutant [`Mutant::CounterReset`] installs what its
    /// predecessor had.
    pub(super) fn restore(&mut self, n: usize) {
        if self.mutant == Some(Mutant::CounterReset) {
            self.install_again(n, |_| true);
        }
    }

    fn install_again(&mut self, n: usize, which: impl Fn(&KeptSa) -> bool) {
        let Some(node) = &mut self.nodes[n] else {
            return;
        };
        let all = self.kept.sas.iter().filter(|((place, _), _)| *place == n);
        for (_, sa) in all.filter(|(_, sa)| which(sa)) {
            let (peer, to, lanes) = sa;
            node.set_paths(*peer, to);
            node.install_tx(lanes.iter().map(copy).collect());
        }
    }

    /// A node hears a control frame: with the mutant [`Mutant::DuplicateM2`] it
    /// installs again what a repeated m2 had it install.
    pub(super) fn note_m2(&mut self, n: usize, bytes: &[u8]) {
        if self.mutant != Some(Mutant::DuplicateM2) {
            return;
        }
        let Some(frame) = ControlFrame::decode(bytes) else {
            return;
        };
        let (header, own) = (frame.header(), self.nodes[n].as_ref().map(|node| node.id));
        if header.message != MessageType::M2 || header.receiver != own {
            return;
        }
        let name = (n, header.exchange);
        if self.kept.m2s.contains(&name) {
            let (sender, epoch) = (header.sender, header.epoch);
            self.install_again(n, |(_, _, lanes)| {
                lanes
                    .iter()
                    .all(|lane| (lane.node, lane.epoch) == (sender, epoch))
            });
        } else {
            self.kept.m2s.push(name);
        }
    }
}
