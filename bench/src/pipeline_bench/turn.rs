//! The burst that goes round: plaintext, sealed, plaintext, by the pipelines
//! and by the cipher alone. Imports `chunks`, `burst_times`, `sys`.

use std::time::{Duration, Instant};

use tipsec_dataplane::aead::{Aead, Nonce};
use tipsec_dataplane::bearer::FrameMemory;
use tipsec_dataplane::burst::{BURST, Burst};
use tipsec_dataplane::command::{Budget, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::counters::WorkerCounters;
use tipsec_dataplane::frame::{PAYLOAD_OFFSET, frame_start};
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OuterHeader};
use tipsec_dataplane::payload::Payload;
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::rx::{Opened, open_burst};
use tipsec_dataplane::sa::{RxLane, RxShared, TxLane};
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::table::{RxTable, TxTable};
use tipsec_dataplane::tx::{Plain, Sealed, seal_burst};
use tipsec_xdp::wire::{DEFAULT_ETHERTYPE, ETH_HEADER_LEN, HEADER_LEN, TAG_LEN};

use super::Outcome;
use crate::burst_times::BurstTimes;
use crate::chunks::{Chunk, Chunks};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::sys::alloc::allocations;

/// Bytes of a frame that are not plaintext.
const OVERHEAD: usize = ETH_HEADER_LEN + HEADER_LEN + TAG_LEN;
const LEFT: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const RIGHT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PEER: PeerIndex = PeerIndex(0);
const SPI: Spi = match Spi::new(1) {
    Some(spi) => spi,
    None => unreachable!(),
};
const NODE: NodeId = match NodeId::new(1) {
    Some(node) => node,
    None => unreachable!(),
};
/// Turns before any counts.
const WARM_UP: u64 = 100;
/// Turns between two looks at the clock and the interrupt flag.
const A_LOOK: usize = 16;

/// See the module.
pub(super) struct Turn<A: Aead> {
    secret: LaneSecret,
    key: A::Key,
    memory: Chunks,
    frames: [Chunk; BURST],
    /// Bytes of a plaintext.
    plaintext_len: usize,
    encapsulation: Encapsulation,
    tx: TxTable<A>,
    rx: RxTable<A>,
    counters: WorkerCounters,
    /// Turns so far; packet numbers follow from it.
    turns: u64,
    plain: Burst<Plain<Chunk>>,
    sealed: Burst<Sealed<Chunk>>,
    received: Burst<Chunk>,
    opened: Burst<Opened<Chunk>>,
}

fn failed(what: &str, detail: impl Into<String>) -> Error {
    Error::Failed {
        what: what.into(),
        detail: detail.into(),
    }
}

impl<A: Aead> Turn<A> {
    /// Frames of `length` bytes on the wire, 64 of them.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub(super) fn new(suite: Suite, length: usize) -> Result<Self> {
        let secret = LaneSecret::new(suite, [0x5a; 32], [0xa5; 12]);
        let key = A::key(&secret);
        let mut memory = Chunks::new(64, ETH_HEADER_LEN);
        let plaintext_len = length - OVERHEAD;
        let mut frames = Vec::with_capacity(BURST);
        for _ in 0..BURST {
            let Some(mut frame) = memory.allocate() else {
                break;
            };
            if let Some(first) = memory.room_mut(&mut frame).get_mut(PAYLOAD_OFFSET) {
                *first = Payload::Message.encode();
            }
            let start = frame_start(ETH_HEADER_LEN);
            memory.set_extent(&mut frame, start, start + length);
            frames.push(frame);
        }
        let frames = frames
            .try_into()
            .map_err(|_| failed("measure", "less than a burst of chunks"))?;
        let (tx, rx) = tables(&secret)?;
        Ok(Self {
            secret,
            key,
            memory,
            frames,
            plaintext_len,
            encapsulation: Encapsulation::ethernet(RIGHT, DEFAULT_ETHERTYPE, None),
            tx,
            rx,
            counters: WorkerCounters::new(1),
            turns: 0,
            plain: Burst::new(),
            sealed: Burst::new(),
            received: Burst::new(),
            opened: Burst::new(),
        })
    }

    /// Turns for `duration`.
    ///
    /// # Errors
    /// [`Error::Failed`] if a frame is lost, [`Error::Interrupted`].
    pub(super) fn sample(&mut self, duration: Duration) -> Result<Outcome> {
        let mut pipeline = [BurstTimes::new(), BurstTimes::new()];
        let mut aead = [BurstTimes::new(), BurstTimes::new()];
        let (mut measured, mut allocated) = (0u64, 0);
        for _ in 0..WARM_UP {
            self.pipelines()?;
            self.bare()?;
        }
        let start = Instant::now();
        while start.elapsed() < duration {
            interrupt::check()?;
            for _ in 0..A_LOOK {
                let before = allocations();
                let [seal, open] = self.pipelines()?;
                allocated += allocations() - before;
                pipeline[0].add(seal);
                pipeline[1].add(open);
                let [seal, open] = self.bare()?;
                aead[0].add(seal);
                aead[1].add(open);
                measured += BURST as u64;
            }
        }
        let figures = |times: [BurstTimes; 2]| -> Option<[f64; 2]> {
            let [seal, open] = times.map(|times| times.per_frame(BURST));
            Some([seal?, open?])
        };
        let (Some(pipeline), Some(aead)) = (figures(pipeline), figures(aead)) else {
            return Err(failed("measure", "not one burst in the time of a sample"));
        };
        Ok(Outcome {
            pipeline,
            aead,
            allocations: allocated as f64 / measured as f64,
        })
    }

    /// Once through both pipelines: how long each took.
    fn pipelines(&mut self) -> Result<[Duration; 2]> {
        // A lane without a further key ends with its phase; long before that
        // comes the next one.
        if self
            .turns
            .is_multiple_of(PhaseBits::PROTOCOL.numbers() / BURST as u64 / 2)
        {
            (self.tx, self.rx) = tables(&self.secret)?;
        }
        self.turns += 1;
        for frame in self.frames {
            self.plain
                .push(Plain::data(frame, PEER, self.plaintext_len));
        }
        let start = Instant::now();
        seal_burst(
            &mut self.tx,
            &mut self.memory,
            &mut self.plain,
            &mut self.sealed,
            &self.counters,
            |_| (),
        );
        let seal = start.elapsed();
        let sealed = self.sealed.len();
        self.sealed.clear();
        self.received.extend(self.frames);
        let start = Instant::now();
        open_burst(
            &mut self.rx,
            &self.encapsulation,
            &mut self.memory,
            &mut self.received,
            &mut self.opened,
            &self.counters,
            |_| (),
        );
        let open = start.elapsed();
        let opened = self.opened.len();
        self.opened.clear();
        if (sealed, opened) != (BURST, BURST) {
            let counts = format!("{sealed} of {BURST} frames sealed, {opened} opened");
            return Err(failed("measure the pipelines", counts));
        }
        Ok([seal, open])
    }

    /// The same frames sealed and opened by the cipher alone.
    fn bare(&mut self) -> Result<[Duration; 2]> {
        let Self {
            frames,
            memory,
            key,
            secret,
            ..
        } = self;
        let header = [0x10; HEADER_LEN];
        let first = self.turns * BURST as u64;
        let len = self.plaintext_len;
        let mut broken = 0;
        let start = Instant::now();
        for (frame, n) in frames.iter_mut().zip(first..) {
            let nonce = Nonce::new(secret.iv(), n);
            if let Some(place) = sealed_part(memory, frame, len)
                && let Some((payload, tag)) = place.split_last_chunk_mut::<TAG_LEN>()
            {
                *tag = A::seal(key, nonce, &header, payload);
            }
        }
        let seal = start.elapsed();
        let start = Instant::now();
        for (frame, n) in frames.iter_mut().zip(first..) {
            let nonce = Nonce::new(secret.iv(), n);
            let opened = sealed_part(memory, frame, len)
                .is_some_and(|sealed| A::open(key, nonce, &header, sealed).is_ok());
            broken += usize::from(!opened);
        }
        let open = start.elapsed();
        if broken > 0 {
            let what = format!("open what {} has sealed", A::NAME);
            return Err(failed(&what, format!("{broken} tags do not match")));
        }
        Ok([seal, open])
    }
}

/// Plaintext or ciphertext, and the tag behind it.
#[inline]
fn sealed_part<'a>(
    memory: &'a mut Chunks,
    frame: &'a mut Chunk,
    len: usize,
) -> Option<&'a mut [u8]> {
    let room = memory.room_mut(frame);
    room.get_mut(PAYLOAD_OFFSET..PAYLOAD_OFFSET + len + TAG_LEN)
}

/// One lane each way.
fn tables<A: Aead>(secret: &LaneSecret) -> Result<(TxTable<A>, RxTable<A>)> {
    let refused = |error| failed("install a lane", format!("{error}"));
    let mut tx = TxTable::new(1);
    let path = OuterHeader::ethernet(LEFT, RIGHT, DEFAULT_ETHERTYPE, None);
    tx.set_path(PEER, Some(path));
    tx.install(TxLane::new(TxLaneSpec {
        spi: SPI,
        peer: PEER,
        node: NODE,
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: secret.duplicate(),
        next: None,
        phase_bits: PhaseBits::PROTOCOL,
        budget: Budget {
            soft: u64::MAX,
            hard: u64::MAX,
        },
    }))
    .map_err(refused)?;
    let mut rx = RxTable::new(2);
    rx.insert(RxLane::new(RxLaneSpec {
        spi: SPI,
        peer: PEER,
        node: NODE,
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: secret.duplicate(),
        next: None,
        phase_bits: PhaseBits::PROTOCOL,
        shared: RxShared::of_single_lane(u64::MAX),
    }))
    .map_err(refused)?;
    Ok((tx, rx))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire_bench::NullCipher;

    #[test]
    fn frames_go_round_and_allocate_nothing() {
        let mut turn = Turn::<NullCipher>::new(Suite::Aes256Gcm, 256).unwrap();
        let outcome = turn.sample(Duration::from_millis(5)).unwrap();
        assert_eq!(outcome.allocations, 0.0);
        assert!(turn.turns > WARM_UP);
        let peer = turn.counters.peer(PEER);
        let frames = turn.turns * BURST as u64;
        assert_eq!(peer.sealed_frames.value(), frames);
        assert_eq!(peer.opened_frames.value(), frames);
        assert_eq!(peer.opened_bytes.value(), frames * (256 - OVERHEAD as u64));
    }

    #[test]
    fn a_lost_frame_ends_the_measurement() {
        let mut turn = Turn::<NullCipher>::new(Suite::Aes256Gcm, 64).unwrap();
        turn.pipelines().unwrap();
        assert!(turn.rx.remove(SPI));
        let error = turn.pipelines().unwrap_err().to_string();
        assert!(error.contains("0 opened"), "{error}");
    }
}
