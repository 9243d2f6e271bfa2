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
mod tests {
    use super::*;
    use crate::aead::AnyAead;
    use crate::secret::{LaneSecret, Suite};
    use crate::window::{LAP, PACKET_NUMBERS};

    const UNBOUNDED: Budget = Budget {
        soft: u64::MAX,
        hard: u64::MAX,
    };

    fn secret(phase: u8) -> LaneSecret {
        LaneSecret::new(Suite::Aes256Gcm, [1 + phase; 32], [2 + phase; 12])
    }

    fn spi() -> Spi {
        Spi::new(7).unwrap()
    }

    fn lane_of(bits: PhaseBits, budget: Budget, next: Option<LaneSecret>) -> TxLane<AnyAead> {
        TxLane::new(TxLaneSpec {
            spi: spi(),
            peer: PeerIndex(0),
            node: NodeId::new(2).unwrap(),
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: secret(0),
            next,
            phase_bits: bits,
            budget,
        })
    }

    fn tx_lane(budget: Budget) -> TxLane<AnyAead> {
        lane_of(PhaseBits::PROTOCOL, budget, None)
    }

    fn stage(phase: u32) -> PhaseSpec {
        PhaseSpec {
            spi: spi(),
            phase: Phase(phase),
            secret: secret(u8::try_from(phase % 200).unwrap()),
        }
    }

    /// One frame at once: its header and tag.
    fn seal(
        lane: &mut TxLane<AnyAead>,
        plaintext: &mut [u8],
    ) -> Result<([u8; HEADER_LEN], [u8; TAG_LEN]), SealRefused> {
        let number = lane.number(plaintext.len(), Class::Data)?;
        let header = number.header();
        Ok((header, lane.seal(number, &header, plaintext).unwrap()))
    }

    #[test]
    fn budget_counts_packets_and_blocks() {
        // A packet of 33 bytes costs 1 + 3.
        let mut lane = tx_lane(Budget { soft: 8, hard: 14 });
        let mut payload = [0; 33];
        let mut steps = Vec::new();
        for _ in 0..3 {
            assert!(seal(&mut lane, &mut payload).is_ok());
            steps.push(lane.budget_step());
        }
        let low = BudgetStep::Low { next_ready: false };
        assert_eq!(steps, [None, Some(low), None]);
        // 12 are spent; data may spend 13, which is too few for this packet.
        payload.fill(0x11);
        for expected in [Some(BudgetStep::Spent), None] {
            let refused = seal(&mut lane, &mut payload).err();
            assert_eq!(refused, Some(SealRefused::BudgetSpent));
            assert_eq!(lane.budget_step(), expected);
        }
        assert_eq!(payload, [0x11; 33], "a refused payload is untouched");
        // What would fit is refused too: spent is final.
        assert!(seal(&mut lane, &mut [0; 1]).is_err());
        assert_eq!(lane.next_packet_number(), 3, "a refusal takes no number");
    }

    #[test]
    fn a_number_seals_for_its_own_lane_and_length_only() {
        // The same names, as after a peer's restart.
        let (mut lane, other) = (tx_lane(UNBOUNDED), tx_lane(UNBOUNDED));
        let mut plaintext = [0x11; 20];
        let number = lane.number(20, Class::Data).unwrap();
        let header = number.header();
        let result = lane.seal(number, &header, &mut plaintext[..19]);
        assert_eq!(result, Err(ForeignNumber), "length");
        let number = lane.number(20, Class::Data).unwrap();
        let header = number.header();
        let result = other.seal(number, &header, &mut plaintext);
        assert_eq!(result, Err(ForeignNumber), "lane");
        assert_eq!(plaintext, [0x11; 20], "untouched");
        assert_eq!(lane.next_packet_number(), 2, "not given back");
        assert_eq!(
            seal(&mut lane, &mut plaintext).unwrap().0[8..],
            [0, 0, 0, 0, 0, 0, 0, 2]
        );
    }

    #[test]
    fn lane_ends_with_its_phase() {
        let mut lane = tx_lane(UNBOUNDED);
        lane.next_packet_number = (1 << 32) - 1;
        assert!(seal(&mut lane, &mut [0; 1]).is_ok());
        let refused = seal(&mut lane, &mut [0; 1]).err();
        assert_eq!(refused, Some(SealRefused::BudgetSpent));
        assert_eq!(lane.budget_step(), Some(BudgetStep::Spent));
    }

    fn number_of(header: [u8; HEADER_LEN]) -> u64 {
        u64::from_be_bytes(header[8..].try_into().unwrap())
    }

    #[test]
    fn spent_budget_jumps_to_the_next_phase() {
        // Each frame costs 2: three of them a phase.
        let budget = Budget { soft: 4, hard: 7 };
        let mut lane = lane_of(PhaseBits::PROTOCOL, budget, Some(secret(1)));
        let mut numbers = Vec::new();
        let mut steps = Vec::new();
        for phase in 1..4 {
            lane.allow_phase(Phase(phase));
            for _ in 0..3 {
                numbers.push(number_of(seal(&mut lane, &mut [0; 1]).unwrap().0));
                steps.extend(lane.budget_step());
            }
            if phase > 1 {
                assert_eq!(lane.stage(&stage(phase)), Ok(()));
            }
        }
        let expected = [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|n| ((n / 3) << 32) + n / 3 * 32 + n % 3);
        assert_eq!(numbers, expected);
        let low = |next_ready| BudgetStep::Low { next_ready };
        let entered = |phase| BudgetStep::Entered(Phase(phase));
        // In the later phases the next key came after the soft budget.
        let expected = [low(true), entered(1), low(false), entered(2), low(false)];
        assert_eq!(steps, expected);
    }

    #[test]
    fn next_phase_needs_its_key_and_leave() {
        let budget = Budget { soft: 2, hard: 2 };
        for (has_key, allowed) in [(false, false), (true, false), (false, true)] {
            let next = has_key.then(|| secret(1));
            let mut lane = lane_of(PhaseBits::PROTOCOL, budget, next);
            lane.allow_phase(Phase(u32::from(allowed)));
            assert!(seal(&mut lane, &mut [0; 1]).is_ok());
            assert_eq!(
                lane.budget_step(),
                Some(BudgetStep::Low { next_ready: false })
            );
            for expected in [Some(BudgetStep::Spent), None] {
                assert!(seal(&mut lane, &mut [0; 1]).is_err());
                assert_eq!(lane.budget_step(), expected);
            }
            assert_eq!((lane.phase(), lane.next_packet_number), (Phase(0), 1));
            // What was missing comes late: the lane goes on.
            lane.allow_phase(Phase(1));
            assert_eq!(lane.stage(&stage(1)).is_ok(), !has_key);
            let (header, _) = seal(&mut lane, &mut [0; 1]).unwrap();
            assert_eq!(number_of(header), (1 << 32) + 32);
            assert_eq!(lane.budget_step(), Some(BudgetStep::Entered(Phase(1))));
        }
    }

    #[test]
    fn a_lane_that_has_stopped_still_carries_probes() {
        let budget = Budget { soft: 12, hard: 16 };
        let mut lane = lane_of(PhaseBits::PROTOCOL, budget, Some(secret(1)));
        assert_eq!(budget.data_limit(), 14);
        let cheap = |lane: &mut TxLane<AnyAead>, class| lane.number(1, class).is_ok();
        for _ in 0..7 {
            assert!(cheap(&mut lane, Class::Data));
        }
        assert!(!cheap(&mut lane, Class::Data));
        assert_eq!(lane.budget_step(), Some(BudgetStep::Spent));
        assert!(cheap(&mut lane, Class::Probe), "this much is kept for them");
        assert!(!cheap(&mut lane, Class::Probe) && !cheap(&mut lane, Class::Data));
        assert_eq!(lane.budget_step(), None);
        lane.allow_phase(Phase(1));
        assert!(cheap(&mut lane, Class::Probe) && cheap(&mut lane, Class::Data));
        assert_eq!(lane.phase(), Phase(1));
    }

    #[test]
    fn a_frame_that_fits_no_budget_uses_up_no_phase() {
        let budget = Budget { soft: 4, hard: 4 };
        let mut lane = lane_of(PhaseBits::PROTOCOL, budget, Some(secret(1)));
        lane.allow_phase(Phase(9));
        assert!(seal(&mut lane, &mut [0; 100]).is_err());
        assert_eq!(lane.budget_step(), Some(BudgetStep::Spent));
        assert_eq!(lane.phase(), Phase(0));
        assert!(seal(&mut lane, &mut [0; 1]).is_ok());
        assert_eq!(lane.phase(), Phase(1), "the stop of phase 0 is final");
    }

    #[test]
    fn keys_are_staged_in_turn_and_once() {
        let budget = Budget { soft: 2, hard: 2 };
        let mut lane = lane_of(PhaseBits::PROTOCOL, budget, Some(secret(1)));
        let refused = |phase| Err(StageRefused::OutOfTurn(Phase(phase)));
        for phase in [0, 1, 2, 3] {
            assert_eq!(lane.stage(&stage(phase)), refused(phase));
        }
        lane.allow_phase(Phase(1));
        for _ in 0..2 {
            assert!(seal(&mut lane, &mut [0; 1]).is_ok());
        }
        for phase in [0, 1, 3] {
            assert_eq!(lane.stage(&stage(phase)), refused(phase));
        }
        let foreign = PhaseSpec {
            spi: Spi::new(8).unwrap(),
            ..stage(2)
        };
        assert_eq!(lane.stage(&foreign), Err(StageRefused::NoLane(foreign.spi)));
        assert_eq!(lane.stage(&stage(2)), Ok(()));
        assert_eq!(lane.stage(&stage(2)), refused(2));
    }

    #[test]
    fn numbers_taken_before_the_jump_seal_with_their_own_key() {
        let budget = Budget { soft: 2, hard: 2 };
        let mut lane = lane_of(PhaseBits::PROTOCOL, budget, Some(secret(1)));
        lane.allow_phase(Phase(1));
        let numbers = [1, 1].map(|len| lane.number(len, Class::Data).unwrap());
        assert_eq!(lane.phase(), Phase(1));
        for (number, phase) in numbers.into_iter().zip([0, 1]) {
            let header = number.header();
            let tag = lane.seal(number, &header, &mut [0x77]).unwrap();
            let key = PhaseKey::<AnyAead>::new(Phase(phase.into()), &secret(phase));
            let nonce = Nonce::new(&key.iv, number_of(header));
            let expected = AnyAead::seal(&key.key, nonce, &header, &mut [0x77]);
            assert_eq!(tag, expected, "phase {phase}");
        }
    }

    #[test]
    fn numbers_of_a_phase_run_out_too() {
        let bits = PhaseBits::new(PhaseBits::MIN).unwrap();
        let mut lane = lane_of(bits, UNBOUNDED, Some(secret(1)));
        let end = bits.end_of(Phase(0)).unwrap();
        for n in 0..end {
            assert_eq!(number_of(lane.number(1, Class::Probe).unwrap().header()), n);
        }
        assert!(lane.number(1, Class::Probe).is_err());
        lane.allow_phase(Phase(1));
        let (header, _) = seal(&mut lane, &mut [0; 1]).unwrap();
        assert_eq!(number_of(header), end, "no number is skipped");
    }

    #[test]
    fn the_last_phase_has_no_next() {
        let bits = PhaseBits::PROTOCOL;
        let mut lane = lane_of(bits, Budget { soft: 2, hard: 2 }, None);
        let last = Phase(u32::try_from(PACKET_NUMBERS >> 32).unwrap() - 1);
        lane.current.phase = last;
        lane.next_packet_number = bits.entry(last, LAP - 1);
        lane.allow_phase(Phase(u32::MAX));
        assert_eq!(lane.stage(&stage(last.0 + 1)), Ok(()), "nobody enters it");
        assert!(seal(&mut lane, &mut [0; 1]).is_ok());
        assert!(seal(&mut lane, &mut [0; 1]).is_err());
        assert_eq!(lane.budget_step(), Some(BudgetStep::Spent));
        assert_eq!(lane.phase(), last);
    }

    #[test]
    fn plaintext_length_has_limits() {
        let mut lane = tx_lane(UNBOUNDED);
        let mut payload = vec![0; MAX_PLAINTEXT_LEN + 1];
        for len in [0, MAX_PLAINTEXT_LEN + 1] {
            let refused = seal(&mut lane, &mut payload[..len]).err();
            assert_eq!(refused, Some(SealRefused::BadLength), "{len}");
        }
        assert_eq!(lane.next_packet_number(), 0);
        let (header, _) = seal(&mut lane, &mut payload[..MAX_PLAINTEXT_LEN]).unwrap();
        assert_eq!(header[2..4], [0xff, 0xff]);
    }
}
