//! Rules that a simulation breaks on purpose, to show that it would notice.
//!
//! Without the feature `sim` nothing can be broken, and the compiler removes
//! every question about it.

#[cfg(feature = "sim")]
use super::Machine;
use super::{Context, Core};

/// One rule broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub))] // seen by the simulator alone
pub enum Defect {
    /// m2 leaves before its SA is installed.
    OfferBeforeInstall,
    /// A sending SA is replaced by one of a lower epoch.
    LowerEpoch,
    /// A superseded receiving SA has no grace.
    NoGrace,
    /// Whoever m1 names is believed before it has proven anything.
    TrustedM1,
    /// Of two that start at once, the higher id gives up when m1 arrives.
    TieBreakOnM1,
    /// New SAs are not confirmed unless there is data.
    NoConfirm,
    /// A repeated m1 is answered anew instead of by the stored m2.
    ResealedM2,
    /// The counter of m1 is not looked at.
    StaleM1,
    /// A phase is reported when it has opened, and not when every worker has the
    /// key of the next.
    EarlyReport,
    /// Nothing follows from a change of the master keys.
    NoRotation,
}

impl Core {
    /// Whether a rule is broken on purpose.
    #[cfg(feature = "sim")]
    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    #[cfg(not(feature = "sim"))]
    #[allow(clippy::unused_self)]
    const fn has(&self, _: Defect) -> bool {
        false
    }
}

impl Context<'_> {
    /// [`Core::has`].
    pub(super) fn has(&self, defect: Defect) -> bool {
        self.core.has(defect)
    }
}

#[cfg(feature = "sim")]
impl Machine {
    /// From now on it has this defect.
    pub fn plant(&mut self, defect: Defect) {
        self.core.defect = Some(defect);
    }
}
