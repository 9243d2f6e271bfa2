//! The sending lane: keys, packet numbers, budget.

use std::sync::atomic::{AtomicU64, Ordering};

use tipsec_xdp::wire::{HEADER_LEN, TAG_LEN};

use super::MAX_PLAINTEXT_LEN;
use crate::aead::{Aead, Nonce, blocks};
use crate::command::{Budget, PhaseSpec, TxLaneSpec};
use crate::frame::DataHeader;
use crate::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use crate::phase::{Phase, PhaseBits, PhaseKey, StageRefused};

/// Why a lane sealed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealRefused {
    /// The budget of packets plus AES blocks is spent, and the next phase may
    /// not be entered yet.
    #[error("the lane's budget is spent: it needs the next phase or the next SA")]
    BudgetSpent,
    /// Empty, or longer than [`MAX_PLAINTEXT_LEN`].
    #[error("a plaintext of this length fits no frame")]
    BadLength,
}

/// A number of another lane, or for a plaintext of another length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the packet number was taken for another lane or another length")]
pub struct ForeignNumber;

/// A packet number that was taken for one plaintext, and that seals nothing
/// else: it cannot be copied, and [`TxLane::seal`] takes it away.
#[must_use = "a number that was taken is never given out again"]
pub struct Numbered {
    header: DataHeader,
    lane: u64,
}

impl Numbered {
    /// The frame's header as it travels.
    #[inline]
    pub fn header(&self) -> [u8; HEADER_LEN] {
        self.header.encode()
    }

    /// Bytes of the plaintext that it was taken for.
    #[inline]
    pub fn plaintext_len(&self) -> usize {
        usize::from(self.header.length) - TAG_LEN
    }
}

/// What a plaintext is, as far as the lane cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Needs an SA that the peer has confirmed.
    Data,
    /// Confirms one, and has a part of the budget to itself.
    Probe,
}

/// A step of a lane's life that is told to the control plane, each once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BudgetStep {
    /// The soft budget of the phase is passed.
    Low {
        /// Whether the next phase may be entered when the rest is spent.
        next_ready: bool,
    },
    /// The budget for data is spent, and there is no phase to go on in.
    Spent,
    /// The lane goes on in this phase.
    Entered(Phase),
}

/// A step that was taken and not told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Untold {
    Nothing,
    Spent,
    Entered,
}

/// One sending worker's share of an SA. Sole owner of its packet numbers: they
/// start at 0 when the lane is built, only grow, and end with the lane.
pub struct TxLane<A: Aead> {
    /// Of all lanes of the process, this one.
    serial: u64,
    current: PhaseKey<A>,
    next_packet_number: u64,
    /// Packets plus AES blocks in this phase.
    spent: u64,
    budget: Budget,
    /// The next phase's key; or the former's, with which numbers may have been
    /// taken in this pass, until the next one's takes its place.
    other: Option<Box<PhaseKey<A>>>,
    /// The highest phase that may be entered: the receiver has its key.
    allowed: Phase,
    phase_bits: PhaseBits,
    /// Data is, until the next phase.
    stopped: bool,
    low_told: bool,
    untold: Untold,
    spi: Spi,
    peer: PeerIndex,
    node: NodeId,
    epoch: Epoch,
    lane: LaneIndex,
}

impl<A: Aead> TxLane<A> {
    /// Builds the key schedules; wipes the specification's copy of the secrets.
    pub fn new(spec: TxLaneSpec) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            // 2^64 lanes outlast any process.
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            current: PhaseKey::new(Phase::FIRST, &spec.secret),
            next_packet_number: 0,
            spent: 0,
            budget: spec.budget,
            other: PhaseKey::second(spec.next.as_ref()),
            allowed: Phase::FIRST,
            phase_bits: spec.phase_bits,
            stopped: false,
            low_told: false,
            untold: Untold::Nothing,
            spi: spec.spi,
            peer: spec.peer,
            node: spec.node,
            epoch: spec.epoch,
            lane: spec.lane,
        }
    }

    /// Takes the next packet number for a plaintext of `plaintext_len` bytes.
    ///
    /// It is not given back, whatever becomes of the frame: a number that may
    /// have sealed something never seals anything else.
    ///
    /// # Errors
    /// [`SealRefused`]; then no number was taken.
    #[inline]
    pub fn number(&mut self, plaintext_len: usize, class: Class) -> Result<Numbered, SealRefused> {
        if plaintext_len == 0 || plaintext_len > MAX_PLAINTEXT_LEN {
            return Err(SealRefused::BadLength);
        }
        let length = u16::try_from(plaintext_len + TAG_LEN).map_err(|_| SealRefused::BadLength)?;
        let packet_number = self.take_number(1 + blocks(plaintext_len), class)?;
        Ok(Numbered {
            header: DataHeader {
                spi: self.spi,
                packet_number,
                length,
            },
            lane: self.serial,
        })
    }

    /// Seals `plaintext` in place under a number that this lane gave out;
    /// returns the tag. `header` is [`Numbered::header`], best read back from
    /// the frame that it was written to a while ago: what was stored just now
    /// in two halves keeps the cipher waiting that loads it as one.
    ///
    /// # Errors
    /// [`ForeignNumber`]; then `plaintext` is unchanged.
    #[inline]
    pub fn seal(
        &self,
        number: Numbered,
        header: &[u8; HEADER_LEN],
        plaintext: &mut [u8],
    ) -> Result<[u8; TAG_LEN], ForeignNumber> {
        if number.lane != self.serial || number.plaintext_len() != plaintext.len() {
            return Err(ForeignNumber);
        }
        let packet_number = number.header.packet_number;
        let key = match self.phase_bits.holds(self.current.phase, packet_number) {
            true => &self.current,
            false => self.former_key(packet_number).ok_or(ForeignNumber)?,
        };
        let nonce = Nonce::new(&key.iv, packet_number);
        Ok(A::seal(&key.key, nonce, header, plaintext))
    }

    /// The key of a number that was taken just before the phase changed.
    #[cold]
    fn former_key(&self, packet_number: u64) -> Option<&PhaseKey<A>> {
        let other = self.other.as_deref()?;
        let holds = self.phase_bits.holds(other.phase, packet_number);
        holds.then_some(other)
    }

    /// Starts to load the current phase's key into the cache.
    #[inline]
    pub fn prefetch_key(&self) {
        A::prefetch(&self.current.key);
    }

    /// Charges `cost` (packets plus AES blocks) and takes a packet number.
    #[inline]
    fn take_number(&mut self, cost: u64, class: Class) -> Result<u64, SealRefused> {
        let spent = self.spent.saturating_add(cost);
        let over = match class {
            Class::Data => spent > self.budget.data_limit() || self.stopped,
            Class::Probe => spent > self.budget.hard,
        };
        let packet_number = self.next_packet_number;
        let in_phase = self.phase_bits.holds(self.current.phase, packet_number);
        if over || !in_phase {
            return self.take_number_of_next_phase(cost);
        }
        self.next_packet_number += 1;
        self.spent = spent;
        Ok(packet_number)
    }

    /// Jumps to the next phase, or stops. Not even a smaller frame of data
    /// passes in a phase that is over: "spent" is told once, and then it must
    /// stay true until there is a phase to go on in.
    #[cold]
    fn take_number_of_next_phase(&mut self, cost: u64) -> Result<u64, SealRefused> {
        // What costs more than a whole budget fits no phase: it must not use
        // one up either.
        if cost > self.budget.data_limit() || !self.enter_next_phase() {
            if !self.stopped {
                self.stopped = true;
                self.low_told = true;
                self.untold = Untold::Spent;
            }
            return Err(SealRefused::BudgetSpent);
        }
        let packet_number = self.next_packet_number;
        self.next_packet_number += 1;
        self.spent = cost;
        Ok(packet_number)
    }

    /// Whether the next phase may be entered: its key is there, the receiver
    /// has it too, and the window has room for it.
    fn next_ready(&self) -> bool {
        self.other.as_ref().is_some_and(|next| {
            next.phase.follows(self.current.phase)
                && next.phase <= self.allowed
                && self.phase_bits.end_of(next.phase).is_some()
        })
    }

    /// The packet number jumps; what is sealed next is the first to be charged.
    /// False if the lane has to stay where it is.
    fn enter_next_phase(&mut self) -> bool {
        let ready = self.next_ready();
        let Some(next) = self.other.as_mut().filter(|_| ready) else {
            return false;
        };
        std::mem::swap(&mut self.current, next);
        let phase = self.current.phase;
        self.next_packet_number = self.phase_bits.entry(phase, self.next_packet_number);
        self.stopped = false;
        self.low_told = false;
        self.untold = Untold::Entered;
        true
    }

    /// Takes the next phase's key, and wipes the former's.
    ///
    /// # Errors
    /// [`StageRefused`]; then the lane is unchanged.
    pub fn stage(&mut self, spec: &PhaseSpec) -> Result<(), StageRefused> {
        if spec.spi != self.spi {
            return Err(StageRefused::NoLane(spec.spi));
        }
        let staged = self.other.as_ref().map(|other| other.phase);
        if !spec.phase.follows(self.current.phase) || staged == Some(spec.phase) {
            return Err(StageRefused::OutOfTurn(spec.phase));
        }
        self.other = Some(Box::new(PhaseKey::new(spec.phase, &spec.secret)));
        Ok(())
    }

    /// Lets the lane go on in phases up to `phase`: its receiver is known to
    /// hold their keys.
    pub fn allow_phase(&mut self, phase: Phase) {
        self.allowed = self.allowed.max(phase);
    }

    /// What the control plane must be told about the budget and was not yet.
    #[inline]
    pub fn budget_step(&mut self) -> Option<BudgetStep> {
        if self.untold != Untold::Nothing {
            return self.take_untold();
        }
        if self.spent >= self.budget.soft && !self.low_told {
            self.low_told = true;
            let next_ready = self.next_ready();
            return Some(BudgetStep::Low { next_ready });
        }
        None
    }

    #[cold]
    fn take_untold(&mut self) -> Option<BudgetStep> {
        match std::mem::replace(&mut self.untold, Untold::Nothing) {
            Untold::Nothing => None,
            Untold::Spent => Some(BudgetStep::Spent),
            Untold::Entered => Some(BudgetStep::Entered(self.current.phase)),
        }
    }

    /// The receiver's name for the lane.
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// To whom.
    pub fn peer(&self) -> PeerIndex {
        self.peer
    }

    /// The same, as the node's own id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Generation of the keys.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Which of our workers.
    pub fn lane(&self) -> LaneIndex {
        self.lane
    }

    /// The number that the next frame gets, unless the phase ends before.
    pub fn next_packet_number(&self) -> u64 {
        self.next_packet_number
    }

    /// The phase that the lane is in.
    pub fn phase(&self) -> Phase {
        self.current.phase
    }

    /// Tells one SA's lane from every other without keeping a secret: the IV
    /// comes out of the same derivation as the key. To be asked of a lane that
    /// is new: each phase has an IV of its own.
    pub(crate) fn identity(&self) -> (Spi, Epoch, [u8; 12]) {
        (self.spi, self.epoch, self.current.iv)
    }
}

#[cfg(test)]
mod tests;
