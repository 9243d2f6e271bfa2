//! A lane's keys: a sending lane owns its counter, a receiving lane shares its
//! window. Nothing here can be copied or printed.
//!
//! Imports the AEAD seam, ids, the window and the specs of `command`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tipsec_xdp::wire::{HEADER_LEN, TAG_LEN};

use crate::aead::{Aead, Nonce, blocks};
use crate::command::{Budget, RxLaneSpec, TxLaneSpec};
use crate::frame::DataHeader;
use crate::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use crate::window::{Block, Window};

/// A phase is the upper part of a packet number, from this bit on. Each phase
/// has a key of its own; so far a lane has the first phase's only.
pub const PHASE_BITS: u32 = 32;

/// Largest plaintext of a frame in bytes, payload byte included: what the
/// header's length field can describe, less the tag.
pub const MAX_PLAINTEXT_LEN: usize = u16::MAX as usize - TAG_LEN;

/// Why a lane sealed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealRefused {
    /// The budget of packets plus AES blocks is spent.
    #[error("the lane's budget is spent: it needs the next SA")]
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

/// A step of a lane's life that is told to the control plane, each once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BudgetStep {
    /// The soft budget is passed.
    Low,
    /// The hard budget is reached.
    Spent,
}

/// One sending worker's share of an SA. Sole owner of its packet numbers: they
/// start at 0 when the lane is built, only grow, and end with the lane.
pub struct TxLane<A: Aead> {
    /// Of all lanes of the process, this one.
    serial: u64,
    key: A::Key,
    iv: [u8; 12],
    next_packet_number: u64,
    spent: u64,
    budget: Budget,
    stopped: bool,
    low_told: bool,
    spent_told: bool,
    spi: Spi,
    peer: PeerIndex,
    node: NodeId,
    epoch: Epoch,
    lane: LaneIndex,
}

impl<A: Aead> TxLane<A> {
    /// Builds the key schedule; wipes the specification's copy of the secret.
    pub fn new(spec: TxLaneSpec) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            // 2^64 lanes outlast any process.
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            key: A::key(&spec.secret),
            iv: *spec.secret.iv(),
            next_packet_number: 0,
            spent: 0,
            budget: spec.budget,
            stopped: false,
            low_told: false,
            spent_told: false,
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
    pub fn number(&mut self, plaintext_len: usize) -> Result<Numbered, SealRefused> {
        if plaintext_len == 0 || plaintext_len > MAX_PLAINTEXT_LEN {
            return Err(SealRefused::BadLength);
        }
        let length = u16::try_from(plaintext_len + TAG_LEN).map_err(|_| SealRefused::BadLength)?;
        let packet_number = self.take_number(1 + blocks(plaintext_len))?;
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
        let nonce = Nonce::new(&self.iv, number.header.packet_number);
        Ok(A::seal(&self.key, nonce, header, plaintext))
    }

    /// Starts to load the key into the cache.
    #[inline]
    pub fn prefetch_key(&self) {
        A::prefetch(&self.key);
    }

    /// Charges `cost` (packets plus AES blocks) and takes a packet number.
    #[inline]
    fn take_number(&mut self, cost: u64) -> Result<u64, SealRefused> {
        let spent = self.spent.saturating_add(cost);
        let over = spent > self.budget.hard || self.next_packet_number >> PHASE_BITS != 0;
        if over || self.stopped {
            // Not even a smaller frame may pass from here on: "spent" is told
            // once, and then it must stay true.
            self.stopped = true;
            return Err(SealRefused::BudgetSpent);
        }
        let packet_number = self.next_packet_number;
        self.next_packet_number += 1;
        self.spent = spent;
        Ok(packet_number)
    }

    /// What the control plane must be told about the budget and was not yet.
    #[inline]
    pub fn budget_step(&mut self) -> Option<BudgetStep> {
        if self.stopped && !self.spent_told {
            self.low_told = true;
            self.spent_told = true;
            return Some(BudgetStep::Spent);
        }
        if self.spent >= self.budget.soft && !self.low_told {
            self.low_told = true;
            return Some(BudgetStep::Low);
        }
        None
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

    /// The number that the next frame gets; as many were given out before.
    pub fn next_packet_number(&self) -> u64 {
        self.next_packet_number
    }

    /// Tells one SA's lane from every other without keeping a secret: the IV
    /// comes out of the same derivation as the key.
    pub(crate) fn identity(&self) -> (Spi, Epoch, [u8; 12]) {
        (self.spi, self.epoch, self.iv)
    }
}

/// Why a lane delivered nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenRefused {
    /// Seen before, or older than the window.
    #[error("a packet number that was seen before or is too old")]
    Replayed,
    /// The tag does not match.
    #[error("the tag does not match")]
    BadTag,
    /// The limit of failed opens is reached: the lane opens nothing more.
    #[error("the lane's limit of failed opens is reached")]
    Limit,
}

/// A lane that a worker opens frames of. Every worker that the lane's frames
/// may reach has one, with its own key schedule; they share the window. As the
/// table has them in one piece, each starts with a cache line of its own.
#[repr(align(64))]
pub struct RxLane<A: Aead> {
    key: A::Key,
    iv: [u8; 12],
    window: Arc<Window>,
    spi: Spi,
    peer: PeerIndex,
    node: NodeId,
    failed_opens: u64,
    failed_opens_limit: u64,
    limit_told: bool,
    opened_any: bool,
    first_open_told: bool,
    highest_phase: u32,
    epoch: Epoch,
    lane: LaneIndex,
}

impl<A: Aead> RxLane<A> {
    /// Builds the key schedule; wipes the specification's copy of the secret.
    pub fn new(spec: RxLaneSpec) -> Self {
        Self {
            key: A::key(&spec.secret),
            iv: *spec.secret.iv(),
            window: spec.window,
            spi: spec.spi,
            peer: spec.peer,
            node: spec.node,
            failed_opens: 0,
            failed_opens_limit: spec.failed_opens_limit,
            limit_told: false,
            opened_any: false,
            first_open_told: false,
            highest_phase: 0,
            epoch: spec.epoch,
            lane: spec.lane,
        }
    }

    /// Whether a frame with this number is worth opening. Changes nothing.
    #[inline]
    pub fn check(&self, packet_number: u64) -> Result<(), OpenRefused> {
        if !self.window.check(packet_number) {
            return Err(OpenRefused::Replayed);
        }
        Ok(())
    }

    /// Starts to load what [`Self::check`] and [`Self::commit`] need for this
    /// number into the cache.
    #[inline]
    pub fn prefetch_window(&self, packet_number: u64) {
        self.window.prefetch(packet_number);
    }

    /// Decrypts `sealed` (ciphertext and tag) in place; the plaintext is
    /// [`TAG_LEN`] bytes shorter. It is authentic, and may still be a copy of a
    /// frame that was opened before: only [`Self::commit`] tells.
    ///
    /// # Errors
    /// [`OpenRefused`]; then nothing may be delivered, and no plaintext is in
    /// `sealed`.
    #[inline]
    pub fn open(
        &mut self,
        header: &[u8; HEADER_LEN],
        packet_number: u64,
        sealed: &mut [u8],
    ) -> Result<(), OpenRefused> {
        if self.failed_opens >= self.failed_opens_limit {
            return Err(OpenRefused::Limit);
        }
        let nonce = Nonce::new(&self.iv, packet_number);
        if A::open(&self.key, nonce, header, sealed).is_err() {
            self.failed_opens += 1;
            return Err(OpenRefused::BadTag);
        }
        Ok(())
    }

    /// Marks numbers of a block, whose frames this lane has opened, as seen;
    /// returns those that had not been seen. Only their frames may be
    /// delivered.
    #[inline]
    #[must_use]
    pub fn commit(&mut self, block: Block, mask: u32) -> u32 {
        let fresh = self.window.commit_block(block, mask);
        if fresh != 0 {
            self.opened_any = true;
            self.highest_phase = self.highest_phase.max(block.phase(PHASE_BITS));
        }
        fresh
    }

    /// Starts to load the key into the cache.
    #[inline]
    pub fn prefetch_key(&self) {
        A::prefetch(&self.key);
    }

    /// True once, after the lane has opened its first frame at this worker.
    #[inline]
    pub fn first_open(&mut self) -> bool {
        let first = self.opened_any && !self.first_open_told;
        self.first_open_told |= first;
        first
    }

    /// True once, after the lane has reached its limit of failed opens.
    #[inline]
    pub fn limit_reached(&mut self) -> bool {
        let reached = self.failed_opens >= self.failed_opens_limit && !self.limit_told;
        self.limit_told |= reached;
        reached
    }

    /// Our name for the lane.
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Whose frames it opens.
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

    /// Which of the sender's workers.
    pub fn lane(&self) -> LaneIndex {
        self.lane
    }

    /// Frames that did not open, at this worker.
    pub fn failed_opens(&self) -> u64 {
        self.failed_opens
    }

    /// Highest phase of a frame that opened at this worker; for probes.
    pub fn highest_phase(&self) -> u32 {
        self.highest_phase
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::AnyAead;
    use crate::secret::{LaneSecret, Suite};

    fn tx_lane(budget: Budget) -> TxLane<AnyAead> {
        TxLane::new(TxLaneSpec {
            spi: Spi::new(7).unwrap(),
            peer: PeerIndex(0),
            node: NodeId::new(2).unwrap(),
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: LaneSecret::new(Suite::Aes256Gcm, [1; 32], [2; 12]),
            budget,
        })
    }

    /// One frame at once: its header and tag.
    fn seal(
        lane: &mut TxLane<AnyAead>,
        plaintext: &mut [u8],
    ) -> Result<([u8; HEADER_LEN], [u8; TAG_LEN]), SealRefused> {
        let number = lane.number(plaintext.len())?;
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
        assert_eq!(steps, [None, Some(BudgetStep::Low), None]);
        // 12 are spent; 2 are left, too few for this packet.
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
        let budget = Budget {
            soft: u64::MAX,
            hard: u64::MAX,
        };
        // The same names, as after a peer's restart.
        let (mut lane, other) = (tx_lane(budget), tx_lane(budget));
        let mut plaintext = [0x11; 20];
        let number = lane.number(20).unwrap();
        let header = number.header();
        let result = lane.seal(number, &header, &mut plaintext[..19]);
        assert_eq!(result, Err(ForeignNumber), "length");
        let number = lane.number(20).unwrap();
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
        let mut lane = tx_lane(Budget {
            soft: u64::MAX,
            hard: u64::MAX,
        });
        lane.next_packet_number = (1 << PHASE_BITS) - 1;
        assert!(seal(&mut lane, &mut [0; 1]).is_ok());
        let refused = seal(&mut lane, &mut [0; 1]).err();
        assert_eq!(refused, Some(SealRefused::BudgetSpent));
        assert_eq!(lane.budget_step(), Some(BudgetStep::Spent));
    }

    #[test]
    fn plaintext_length_has_limits() {
        let mut lane = tx_lane(Budget {
            soft: u64::MAX,
            hard: u64::MAX,
        });
        let mut payload = vec![0; MAX_PLAINTEXT_LEN + 1];
        for len in [0, MAX_PLAINTEXT_LEN + 1] {
            let refused = seal(&mut lane, &mut payload[..len]).err();
            assert_eq!(refused, Some(SealRefused::BadLength), "{len}");
        }
        assert_eq!(lane.next_packet_number(), 0);
        let (header, _) = seal(&mut lane, &mut payload[..MAX_PLAINTEXT_LEN]).unwrap();
        assert_eq!(header[2..4], [0xff, 0xff]);
    }

    #[test]
    fn window_is_shared_and_moves_only_after_an_open() {
        let window = Arc::new(Window::new());
        let rx_lane = || {
            RxLane::<AnyAead>::new(RxLaneSpec {
                spi: Spi::new(7).unwrap(),
                peer: PeerIndex(0),
                node: NodeId::new(1).unwrap(),
                epoch: Epoch(1),
                lane: LaneIndex(0),
                secret: LaneSecret::new(Suite::Aes256Gcm, [1; 32], [2; 12]),
                window: Arc::clone(&window),
                failed_opens_limit: 10,
            })
        };
        let (mut here, mut there) = (rx_lane(), rx_lane());
        let mut sealing = tx_lane(Budget {
            soft: u64::MAX,
            hard: u64::MAX,
        });
        let mut sealed = [5; 20];
        let (header, tag) = seal(&mut sealing, &mut sealed[..4]).unwrap();
        sealed[4..].copy_from_slice(&tag);

        let (block, bit) = Block::of(0).unwrap();
        let mut forged = sealed;
        forged[0] ^= 1;
        let refused = here.open(&header, 0, &mut forged);
        assert_eq!(refused, Err(OpenRefused::BadTag));
        assert_eq!(forged[..4], [0; 4], "no plaintext is left");
        assert!(!here.first_open());

        assert_eq!(there.check(0), Ok(()));
        let mut copy = sealed;
        assert_eq!(here.open(&header, 0, &mut copy), Ok(()));
        assert_eq!(copy[..4], [5; 4]);
        assert!(
            !here.first_open() && there.check(0).is_ok(),
            "not committed"
        );
        assert_eq!(here.commit(block, bit), bit);
        assert!(here.first_open() && !here.first_open());
        // The other worker knows at once, before and after opening.
        assert_eq!(there.check(0), Err(OpenRefused::Replayed));
        assert_eq!(there.open(&header, 0, &mut sealed), Ok(()));
        assert_eq!(there.commit(block, bit), 0);
        assert!(!there.first_open());
        assert_eq!((here.failed_opens(), there.failed_opens()), (1, 0));
    }
}
