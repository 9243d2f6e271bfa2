//! The receive pipeline, in passes over a burst: read all headers → look all
//! SPIs up → replay check → open in place → commit the windows → hand on.
//!
//! A frame that fails anywhere is counted with its reason and its memory
//! released; the burst goes on. The XDP program has checked most of this
//! before, but nothing here relies on it. Only this module makes an
//! [`Opened`]. Imports `table`, `sa`, `frame` and the bearer's memory trait;
//! never a bearer.

use std::ops::Range;

use tipsec_xdp::wire::{HEADER_LEN, TAG_LEN};

use crate::aead::Aead;
use crate::bearer::{FrameMemory, FrameToken};
use crate::burst::{Ahead, Burst};
use crate::command::Event;
use crate::counters::{RxDrop, WorkerCounters};
use crate::frame::DataHeader;
use crate::ids::{NodeId, PeerIndex, Spi};
use crate::mac::MacAddr;
use crate::outer::Encapsulation;
use crate::payload::Payload;
use crate::sa::OpenRefused;
use crate::table::RxTable;
use crate::window::Block;

/// Bytes of an Ethernet frame's two addresses.
const ADDRESSES_LEN: usize = 12;

/// A frame that opened, is no replay, and whose payload kind is known.
pub struct Opened<F> {
    frame: F,
    node: NodeId,
    spi: Spi,
    peer: PeerIndex,
    /// Where the plaintext starts in the first segment, and its length.
    start: u16,
    len: u16,
    payload: Payload,
}

impl<F> Opened<F> {
    /// Who sealed it.
    pub fn peer(&self) -> PeerIndex {
        self.peer
    }

    /// The same, as the node's own id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The lane that opened it.
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// What it is.
    pub fn payload(&self) -> Payload {
        self.payload
    }

    /// Where the plaintext, payload byte included, lies in the frame's first
    /// segment.
    pub fn plaintext_range(&self) -> Range<usize> {
        let start = usize::from(self.start);
        start..start + usize::from(self.len)
    }

    /// The plaintext, payload byte included; never empty.
    pub fn plaintext_mut<'a, M: FrameMemory<Frame = F>>(
        &'a mut self,
        memory: &'a mut M,
    ) -> &'a mut [u8] {
        let range = self.plaintext_range();
        memory
            .segment_mut(&mut self.frame, 0)
            .get_mut(range)
            .unwrap_or_default()
    }

    /// The Ethernet frame for the tap of node `own`, its addresses rebuilt in
    /// place from the SA over the header and the payload byte: a sender cannot
    /// claim another node's. `None` if the payload is no tap frame or has no
    /// EtherType.
    pub fn tap_frame_mut<'a, M: FrameMemory<Frame = F>>(
        &'a mut self,
        memory: &'a mut M,
        own: NodeId,
    ) -> Option<&'a mut [u8]> {
        let Payload::Tap { group, .. } = self.payload else {
            return None;
        };
        // The payload byte's successor is the inner EtherType (2 bytes).
        let plaintext = self.plaintext_range();
        let inner = plaintext.start + 1;
        if plaintext.end < inner + 2 {
            return None;
        }
        let range = inner - ADDRESSES_LEN..plaintext.end;
        let tap_frame = memory.segment_mut(&mut self.frame, 0).get_mut(range)?;
        let (destination, rest) = tap_frame.split_first_chunk_mut::<6>()?;
        *destination = match group {
            true => MacAddr::BROADCAST.0,
            false => MacAddr::of_tap(own).0,
        };
        *rest.first_chunk_mut::<6>()? = MacAddr::of_tap(self.node).0;
        Some(tap_frame)
    }

    /// The token, to release or to answer in.
    pub fn into_frame(self) -> F {
        self.frame
    }
}

/// A frame that nothing speaks against so far: small, so that a burst of them
/// stays in the first cache, and with all that is left to say once its lane has
/// opened it, so that no later pass looks the lane up for every frame again.
struct Admitted {
    header: DataHeader,
    /// The lane's, once it is found.
    node: NodeId,
    peer: PeerIndex,
    /// The payload byte, once it is open.
    payload: u8,
}

impl Admitted {
    /// Bytes of the plaintext.
    #[inline]
    fn len(&self) -> u16 {
        // A header's length exceeds a tag's.
        #[allow(clippy::cast_possible_truncation)]
        let tag = TAG_LEN as u16;
        self.header.length - tag
    }
}

/// Opens received frames from the front of `received` as long as `opened` has
/// room; what does not fit stays in `received`. `events` gets
/// [`Event::FirstOpen`] and [`Event::OpenLimit`], each once a lane, and
/// [`Event::PhaseOpened`] once a phase.
// The borrows end with the call, so a struct of them would only rename them.
#[allow(clippy::too_many_arguments)]
pub fn open_burst<A: Aead, M: FrameMemory>(
    table: &mut RxTable<A>,
    encapsulation: &Encapsulation,
    memory: &mut M,
    received: &mut Burst<M::Frame>,
    opened: &mut Burst<Opened<M::Frame>>,
    counters: &WorkerCounters,
    mut events: impl FnMut(Event),
) {
    let count = received.len().min(opened.remaining_capacity());

    let outer_len = encapsulation.outer_len();

    // Each pass counts what it refuses and leaves `None` in its place. Values
    // are written where they stay: what goes through memory in one piece right
    // after it was written in several keeps the processor waiting.

    // Headers. Touches each frame's first line once, and asks for its lane's,
    // unless a neighbour just did: asking costs as much again as needing it.
    let mut headers: Burst<Option<DataHeader>> = Burst::new();
    let mut asked = None;
    for frame in &mut received[..count] {
        match read_header(encapsulation, memory, frame) {
            Ok(header) => {
                if asked.replace(header.spi) != Some(header.spi) {
                    table.prefetch(header.spi);
                }
                headers.push(Some(header));
            }
            Err(reason) => {
                counters.nobody.rx_drop(reason);
                headers.push(None);
            }
        }
    }

    // What the lanes point to. A pass of its own, so that the misses of many
    // lanes overlap.
    let mut keys = Ahead::new();
    for (at, header) in headers.iter().enumerate() {
        if let Some(header) = header
            && keys.note(at, header.spi)
            && let Some(lane) = table.lane(header.spi)
        {
            lane.prefetch_window(header.packet_number);
            counters.prefetch(lane.peer());
        }
    }

    // Lookups, and the replay check, which spares an attacker's copies the
    // cipher.
    let mut burst: Burst<Option<Admitted>> = Burst::new();
    for header in headers {
        match header.and_then(|header| admit(table, header, counters)) {
            Some(admitted) => burst.push(Some(admitted)),
            None => burst.push(None),
        }
    }

    // The cipher.
    for (at, (frame, candidate)) in received.iter_mut().zip(&mut burst).enumerate() {
        keys.reach(at, |spi| {
            if let Some(lane) = table.lane(spi) {
                lane.prefetch_key();
            }
        });
        if let Some(admitted) = candidate {
            let bytes = memory.segment_mut(frame, 0);
            match open_one(table, bytes, outer_len, &admitted.header, &mut events) {
                Ok(payload) => admitted.payload = payload,
                Err(reason) => {
                    counters.peer(admitted.peer).rx_drop(reason);
                    *candidate = None;
                }
            }
        }
    }

    commit(table, &mut burst, counters, &mut events);

    #[allow(clippy::cast_possible_truncation)] // at most 66 + 16
    let start = (outer_len + HEADER_LEN) as u16;
    for (frame, candidate) in received.drain(..count).zip(&burst) {
        let Some(admitted) = candidate else {
            memory.release(frame);
            continue;
        };
        let Some(payload) = Payload::decode(admitted.payload) else {
            counters.peer(admitted.peer).rx_drop(RxDrop::BadPayload);
            memory.release(frame);
            continue;
        };
        opened.push(Opened {
            frame,
            node: admitted.node,
            spi: admitted.header.spi,
            peer: admitted.peer,
            start,
            len: admitted.len(),
            payload,
        });
    }
}

/// Checks everything that needs no key.
#[inline(always)]
fn read_header<M: FrameMemory>(
    encapsulation: &Encapsulation,
    memory: &mut M,
    frame: &mut M::Frame,
) -> Result<DataHeader, RxDrop> {
    if frame.segments() != 1 {
        return Err(RxDrop::Fragmented);
    }
    encapsulation
        .inner(memory.segment_mut(frame, 0))
        .and_then(|inner| inner.split_first_chunk())
        .and_then(|(header, rest)| DataHeader::decode(header, rest.len()))
        .ok_or(RxDrop::Malformed)
}

/// Finds the lane and asks its window. Counts what it refuses.
#[inline(always)]
fn admit<A: Aead>(
    table: &RxTable<A>,
    header: DataHeader,
    counters: &WorkerCounters,
) -> Option<Admitted> {
    let Some(lane) = table.lane(header.spi) else {
        counters.nobody.rx_drop(RxDrop::UnknownSpi);
        return None;
    };
    let peer = lane.peer();
    if let Err(refused) = lane.check(header.packet_number) {
        counters.peer(peer).rx_drop(refused.into());
        return None;
    }
    Some(Admitted {
        header,
        node: lane.node(),
        peer,
        payload: 0,
    })
}

/// Decrypts one frame in place, of which `outer_len` bytes are the outer
/// header; returns the payload byte.
#[inline]
fn open_one<A: Aead>(
    table: &mut RxTable<A>,
    bytes: &mut [u8],
    outer_len: usize,
    header: &DataHeader,
    events: &mut impl FnMut(Event),
) -> Result<u8, RxDrop> {
    let lane = table.lane_mut(header.spi).ok_or(RxDrop::UnknownSpi)?;
    let (aad, sealed) = bytes
        .get_mut(outer_len..)
        .and_then(|bytes| bytes.split_first_chunk_mut::<HEADER_LEN>())
        .and_then(|(aad, rest)| Some((aad, rest.get_mut(..usize::from(header.length))?)))
        .ok_or(RxDrop::Malformed)?;
    let result = lane.open(aad, header.packet_number, sealed);
    if result.is_err() && lane.limit_reached() {
        events(Event::OpenLimit {
            peer: lane.peer(),
            spi: header.spi,
        });
    }
    result?;
    // A header's length exceeds a tag's, so there is one.
    sealed.first().copied().ok_or(RxDrop::Malformed)
}

/// Numbers of one lane and block that are committed together.
struct Run {
    spi: Spi,
    block: Block,
    mask: u32,
    /// Plaintext bytes of their frames.
    bytes: u64,
    /// Its first frame's place in the burst.
    first: usize,
}

/// Marks the numbers of all frames that opened, neighbours of one block at
/// once, and counts them. Two copies of one frame in a burst both come this
/// far; the second loses here.
#[inline]
fn commit<A: Aead>(
    table: &mut RxTable<A>,
    burst: &mut Burst<Option<Admitted>>,
    counters: &WorkerCounters,
    events: &mut impl FnMut(Event),
) {
    let mut run: Option<Run> = None;
    for at in 0..burst.len() {
        let Some(admitted) = &burst[at] else {
            continue;
        };
        // A number out of range was refused by the check.
        let Some((block, bit)) = Block::of(admitted.header.packet_number) else {
            continue;
        };
        let (spi, bytes) = (admitted.header.spi, u64::from(admitted.len()));
        match &mut run {
            Some(run) if run.spi == spi && run.block == block && run.mask & bit == 0 => {
                run.mask |= bit;
                run.bytes += bytes;
            }
            _ => {
                let next = Run {
                    spi,
                    block,
                    mask: bit,
                    bytes,
                    first: at,
                };
                if let Some(run) = run.replace(next) {
                    commit_run(table, &mut burst[..at], run, counters, events);
                }
            }
        }
    }
    if let Some(run) = run {
        commit_run(table, burst, run, counters, events);
    }
}

/// Commits a run, and refuses those of its frames that came before: `burst`
/// ends with its last frame.
fn commit_run<A: Aead>(
    table: &mut RxTable<A>,
    burst: &mut [Option<Admitted>],
    mut run: Run,
    counters: &WorkerCounters,
    events: &mut impl FnMut(Event),
) {
    let Some(lane) = table.lane_mut(run.spi) else {
        return;
    };
    let peer = lane.peer();
    let fresh = lane.commit(run.block, run.mask);
    if fresh != run.mask {
        for candidate in &mut burst[run.first..] {
            // Others than the run's own among them have been refused already.
            if let Some(admitted) = candidate
                && Block::of(admitted.header.packet_number).is_some_and(|(_, bit)| fresh & bit == 0)
            {
                run.bytes -= u64::from(admitted.len());
                counters.peer(peer).rx_drop(RxDrop::Replayed);
                *candidate = None;
            }
        }
    }
    let peer_counters = counters.peer(peer);
    peer_counters.opened_frames.add(fresh.count_ones().into());
    peer_counters.opened_bytes.add(run.bytes);
    if lane.first_open() {
        let spi = run.spi;
        events(Event::FirstOpen { peer, spi });
    }
    if let Some(phase) = lane.phase_opened() {
        let spi = run.spi;
        events(Event::PhaseOpened { peer, spi, phase });
    }
}

impl From<OpenRefused> for RxDrop {
    fn from(refused: OpenRefused) -> Self {
        match refused {
            OpenRefused::UnknownPhase => Self::UnknownPhase,
            OpenRefused::Replayed => Self::Replayed,
            OpenRefused::BadTag => Self::OpenFailed,
            OpenRefused::Limit => Self::OpenLimit,
        }
    }
}
