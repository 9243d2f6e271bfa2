//! The receiving lane: keys, the shared window, the limit of failed opens.

use std::sync::Arc;

use tipsec_xdp::wire::HEADER_LEN;
// For the documentation.
#[cfg(doc)]
use tipsec_xdp::wire::TAG_LEN;

use super::RxShared;
use crate::aead::{Aead, Nonce};
use crate::command::{PhaseSpec, RxLaneSpec};
use crate::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use crate::phase::{Phase, PhaseBits, PhaseKey, StageRefused};
use crate::window::Block;

/// Why a lane delivered nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenRefused {
    /// Of a phase whose key the lane does not have: long over, or not begun.
    #[error("a packet number of a phase that is over or has not begun")]
    UnknownPhase,
    /// Seen before, or older than the window.
    #[error("a packet number that was seen before or is too old")]
    Replayed,
    /// The tag does not match.
    #[error("the tag does not match")]
    BadTag,
    /// The SA's limit of failed opens is reached: the lane opens nothing more.
    #[error("the SA's limit of failed opens is reached")]
    Limit,
}

/// A lane that a worker opens frames of. Every worker that the lane's frames
/// may reach has one, with its own key schedules; they share the window. As the
/// table has them in one piece, each starts with a cache line of its own.
#[repr(align(64))]
pub struct RxLane<A: Aead> {
    /// Of the highest phase that opened at this worker.
    current: PhaseKey<A>,
    /// The next phase's key, or the former's for its late frames. Apart, since
    /// nearly no frame needs it.
    other: Option<Box<PhaseKey<A>>>,
    shared: Arc<RxShared>,
    spi: Spi,
    peer: PeerIndex,
    node: NodeId,
    epoch: Epoch,
    lane: LaneIndex,
    phase_bits: PhaseBits,
    /// The limit of failed opens is reached, as far as this worker knows.
    stopped: bool,
    limit_told: bool,
    opened_any: bool,
    first_open_told: bool,
    phase_untold: bool,
}

impl<A: Aead> RxLane<A> {
    /// Builds the key schedules; wipes the specification's copy of the secrets.
    pub fn new(spec: RxLaneSpec) -> Self {
        Self {
            current: PhaseKey::new(Phase::FIRST, &spec.secret),
            other: PhaseKey::second(spec.next.as_ref()),
            shared: spec.shared,
            spi: spec.spi,
            peer: spec.peer,
            node: spec.node,
            epoch: spec.epoch,
            lane: spec.lane,
            phase_bits: spec.phase_bits,
            stopped: false,
            limit_told: false,
            opened_any: false,
            first_open_told: false,
            phase_untold: false,
        }
    }

    /// Whether a frame with this number is worth opening. Changes nothing.
    ///
    /// # Errors
    /// [`OpenRefused::UnknownPhase`], [`OpenRefused::Replayed`].
    #[inline]
    pub fn check(&self, packet_number: u64) -> Result<(), OpenRefused> {
        if !self.phase_bits.holds(self.current.phase, packet_number) {
            self.other_key(packet_number)?;
        }
        if !self.shared.window().check(packet_number) {
            return Err(OpenRefused::Replayed);
        }
        Ok(())
    }

    /// The key of a number that is not of the current phase.
    #[cold]
    fn other_key(&self, packet_number: u64) -> Result<&PhaseKey<A>, OpenRefused> {
        let other = self.other.as_deref();
        other
            .filter(|other| self.phase_bits.holds(other.phase, packet_number))
            .ok_or(OpenRefused::UnknownPhase)
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
        if self.stopped {
            return Err(OpenRefused::Limit);
        }
        let key = match self.phase_bits.holds(self.current.phase, packet_number) {
            true => &self.current,
            false => self.other_key(packet_number)?,
        };
        let nonce = Nonce::new(&key.iv, packet_number);
        if A::open(&key.key, nonce, header, sealed).is_err() {
            // Others learn of the limit when they fail themselves: so all fail
            // no more often than the limit and once each, and a frame that
            // opens reads no counter.
            self.stopped = self.shared.failed_opens().add();
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
        let fresh = self.shared.window().commit_block(block, mask);
        if fresh != 0 {
            self.opened_any = true;
            if !self.phase_bits.holds(self.current.phase, block.lap_start()) {
                self.note_phase(self.phase_bits.phase_of(block.lap_start()));
            }
        }
        fresh
    }

    /// A frame of another phase than the current one was opened and is fresh:
    /// if it is the next, that is the current one from now on. Only here, since
    /// a forged frame must not change anything.
    #[cold]
    fn note_phase(&mut self, phase: Phase) {
        if let Some(other) = &mut self.other
            && other.phase == phase
            && phase > self.current.phase
        {
            std::mem::swap(&mut self.current, other);
            self.phase_untold = true;
        }
    }

    /// Takes a phase's key, the next one's, and wipes that of the phase before
    /// the last. A worker that has not seen the last phase itself learns here
    /// that others have.
    ///
    /// # Errors
    /// [`StageRefused::OutOfTurn`]; then the lane is unchanged.
    pub fn stage(&mut self, spec: &PhaseSpec) -> Result<(), StageRefused> {
        let refused = Err(StageRefused::OutOfTurn(spec.phase));
        let held = self.other.as_ref().map(|other| other.phase);
        let newest = held.map_or(self.current.phase, |held| held.max(self.current.phase));
        if !spec.phase.follows(newest) {
            return refused;
        }
        let staged = Box::new(PhaseKey::new(spec.phase, &spec.secret));
        if let Some(next) = self.other.replace(staged)
            && next.phase > self.current.phase
        {
            self.current = *next;
        }
        Ok(())
    }

    /// Starts to load what [`Self::check`] and [`Self::commit`] need for this
    /// number into the cache.
    #[inline]
    pub fn prefetch_window(&self, packet_number: u64) {
        self.shared.window().prefetch(packet_number);
    }

    /// Starts to load the current phase's key into the cache.
    #[inline]
    pub fn prefetch_key(&self) {
        A::prefetch(&self.current.key);
    }

    /// True once, after the lane has opened its first frame at this worker.
    #[inline]
    pub fn first_open(&mut self) -> bool {
        let first = self.opened_any && !self.first_open_told;
        self.first_open_told |= first;
        first
    }

    /// A phase that opened at this worker for the first time, once each.
    #[inline]
    pub fn phase_opened(&mut self) -> Option<Phase> {
        std::mem::take(&mut self.phase_untold).then_some(self.current.phase)
    }

    /// True once, after the lane has reached the limit of failed opens.
    #[inline]
    pub fn limit_reached(&mut self) -> bool {
        let reached = self.stopped && !self.limit_told;
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

    /// What all workers share of it.
    pub fn shared(&self) -> &RxShared {
        &self.shared
    }
}

#[cfg(test)]
mod tests {
    use tipsec_xdp::wire::TAG_LEN;

    use super::super::FailedOpens;
    use super::*;
    use crate::aead::AnyAead;
    use crate::frame::DataHeader;
    use crate::secret::{LaneSecret, Suite};

    const BITS: PhaseBits = PhaseBits::PROTOCOL;

    fn spi() -> Spi {
        Spi::new(7).unwrap()
    }

    fn secret(phase: u32) -> LaneSecret {
        let n = u8::try_from(phase).unwrap();
        LaneSecret::new(Suite::Aes256Gcm, [1 + n; 32], [2 + n; 12])
    }

    fn shared(limit: u64) -> Arc<RxShared> {
        Arc::new(RxShared::new(Arc::new(FailedOpens::new(limit))))
    }

    /// The lane at one worker.
    fn rx_lane(shared: &Arc<RxShared>) -> RxLane<AnyAead> {
        RxLane::new(RxLaneSpec {
            spi: spi(),
            peer: PeerIndex(0),
            node: NodeId::new(1).unwrap(),
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: secret(0),
            next: Some(secret(1)),
            phase_bits: BITS,
            shared: Arc::clone(shared),
        })
    }

    fn stage(phase: u32) -> PhaseSpec {
        PhaseSpec {
            spi: spi(),
            phase: Phase(phase),
            secret: secret(phase),
        }
    }

    type Frame = ([u8; HEADER_LEN], u64, [u8; 4 + TAG_LEN]);

    /// A frame of four fives.
    fn frame(packet_number: u64) -> Frame {
        let header = DataHeader {
            spi: spi(),
            packet_number,
            length: 20,
        }
        .encode();
        let phase = BITS.phase_of(packet_number);
        let key = PhaseKey::<AnyAead>::new(phase, &secret(phase.0));
        let mut sealed = [5; 4 + TAG_LEN];
        let nonce = Nonce::new(&key.iv, packet_number);
        let tag = AnyAead::seal(&key.key, nonce, &header, &mut sealed[..4]);
        sealed[4..].copy_from_slice(&tag);
        (header, packet_number, sealed)
    }

    fn forged(packet_number: u64) -> Frame {
        let mut frame = frame(packet_number);
        frame.2[0] ^= 1;
        frame
    }

    /// What the pipeline does with a frame.
    fn arrive(lane: &mut RxLane<AnyAead>, frame: Frame) -> Result<(), OpenRefused> {
        let (header, number, mut sealed) = frame;
        lane.check(number)?;
        lane.open(&header, number, &mut sealed)?;
        assert_eq!(sealed[..4], [5; 4]);
        let (block, bit) = Block::of(number).unwrap();
        match lane.commit(block, bit) {
            0 => Err(OpenRefused::Replayed),
            _ => Ok(()),
        }
    }

    const fn in_phase(phase: u64, n: u64) -> u64 {
        (phase << 32) + n
    }

    #[test]
    fn lane_fits_a_cache_line() {
        let beyond_pointer = size_of::<<AnyAead as Aead>::Key>() - 8;
        assert_eq!(
            size_of::<RxLane<AnyAead>>(),
            (64 + beyond_pointer).next_multiple_of(64)
        );
    }

    #[test]
    fn window_is_shared_and_moves_only_after_an_open() {
        let shared = shared(10);
        let (mut here, mut there) = (rx_lane(&shared), rx_lane(&shared));
        let (header, number, sealed) = frame(0);
        let (block, bit) = Block::of(0).unwrap();
        let (_, _, mut broken) = forged(0);
        let refused = here.open(&header, number, &mut broken);
        assert_eq!(refused, Err(OpenRefused::BadTag));
        assert_eq!(broken[..4], [0; 4], "no plaintext is left");
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
        let mut copy = sealed;
        assert_eq!(there.open(&header, 0, &mut copy), Ok(()));
        assert_eq!(there.commit(block, bit), 0);
        assert!(!there.first_open());
        assert_eq!(shared.failed_opens().count(), 1);
    }

    #[test]
    fn both_phases_open_and_the_next_is_told_once() {
        let mut lane = rx_lane(&shared(10));
        assert_eq!(arrive(&mut lane, frame(5)), Ok(()));
        assert_eq!(lane.phase_opened(), None);
        assert_eq!(arrive(&mut lane, frame(in_phase(1, 32))), Ok(()));
        assert_eq!(lane.phase_opened(), Some(Phase(1)));
        // Late ones of the phase before, and copies across the change.
        assert_eq!(arrive(&mut lane, frame(7)), Ok(()));
        for copy in [5, 7, in_phase(1, 32)] {
            assert_eq!(arrive(&mut lane, frame(copy)), Err(OpenRefused::Replayed));
        }
        assert_eq!(arrive(&mut lane, frame(in_phase(1, 33))), Ok(()));
        assert_eq!(lane.phase_opened(), None);
        assert_eq!(
            arrive(&mut lane, frame(in_phase(2, 64))),
            Err(OpenRefused::UnknownPhase)
        );
    }

    #[test]
    fn a_frame_of_the_next_phase_that_fails_changes_nothing() {
        let mut lane = rx_lane(&shared(10));
        assert_eq!(
            arrive(&mut lane, forged(in_phase(1, 0))),
            Err(OpenRefused::BadTag)
        );
        assert_eq!(lane.phase_opened(), None);
        assert_eq!(lane.current.phase, Phase(0));
        // Nor does one that opens and is not fresh.
        let (header, number, mut sealed) = frame(in_phase(1, 0));
        let (block, bit) = Block::of(number).unwrap();
        assert_eq!(lane.shared.window().commit_block(block, bit), bit);
        assert_eq!(lane.open(&header, number, &mut sealed), Ok(()));
        assert_eq!(lane.commit(block, bit), 0);
        assert_eq!(lane.current.phase, Phase(0));
    }

    #[test]
    fn staging_follows_the_highest_phase_and_wipes_the_lowest() {
        let shared = shared(10);
        let (mut active, mut idle) = (rx_lane(&shared), rx_lane(&shared));
        assert_eq!(arrive(&mut active, frame(in_phase(1, 0))), Ok(()));
        assert_eq!(active.phase_opened(), Some(Phase(1)));
        for lane in [&mut active, &mut idle] {
            for phase in [0, 1, 3] {
                let refused = Err(StageRefused::OutOfTurn(Phase(phase)));
                assert_eq!(lane.stage(&stage(phase)), refused);
            }
            assert_eq!(lane.stage(&stage(2)), Ok(()));
            assert!(lane.stage(&stage(2)).is_err(), "once");
            // Also at the worker that has seen nothing of phase 1.
            assert_eq!(lane.check(1), Err(OpenRefused::UnknownPhase));
            assert_eq!(lane.current.phase, Phase(1));
        }
        assert_eq!(idle.phase_opened(), None, "not its own to tell");
        assert_eq!(arrive(&mut idle, frame(in_phase(1, 1))), Ok(()));
        assert_eq!(arrive(&mut idle, frame(in_phase(2, 32))), Ok(()));
        assert_eq!(idle.phase_opened(), Some(Phase(2)));
        assert_eq!(arrive(&mut active, frame(in_phase(1, 3))), Ok(()));
        assert_eq!(active.phase_opened(), None);
    }

    #[test]
    fn late_frames_keep_their_place_in_the_window() {
        // As a sender jumps: at the same place of the lap.
        let next = 40 * crate::window::LAP + 70;
        let mut lane = rx_lane(&shared(10));
        for n in 0..2000 {
            let number = BITS.entry(Phase(1), next) + n;
            assert_eq!(arrive(&mut lane, frame(number)), Ok(()));
        }
        for late in next - 100..next {
            assert_eq!(arrive(&mut lane, frame(late)), Ok(()), "{late}");
        }
    }

    #[test]
    fn the_limit_of_failed_opens_is_the_sas() {
        let shared = shared(3);
        let mut workers = [rx_lane(&shared), rx_lane(&shared), rx_lane(&shared)];
        let mut failed = 0;
        for turn in 0..30 {
            let worker = &mut workers[turn % 3];
            failed += u64::from(arrive(worker, forged(0)) == Err(OpenRefused::BadTag));
        }
        assert_eq!(failed, 3 + 2, "the others learn by failing once");
        assert_eq!(shared.failed_opens().count(), failed);
        for worker in &mut workers {
            assert_eq!(arrive(worker, frame(0)), Err(OpenRefused::Limit));
            assert!(worker.limit_reached() && !worker.limit_reached());
        }
    }
}
