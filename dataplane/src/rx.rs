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
use crate::burst::Burst;
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

/// Why a frame stops, and whose it is if that is known.
#[derive(Clone, Copy)]
struct Refusal {
    peer: Option<PeerIndex>,
    reason: RxDrop,
}

impl Refusal {
    fn of_nobody(reason: RxDrop) -> Self {
        Self { peer: None, reason }
    }

    fn of(peer: PeerIndex, reason: RxDrop) -> Self {
        Self {
            peer: Some(peer),
            reason,
        }
    }

    #[cold]
    fn count(self, counters: &WorkerCounters) {
        match self.peer {
            Some(peer) => counters.peer(peer).rx_drop(self.reason),
            None => counters.nobody.rx_drop(self.reason),
        }
    }
}

/// A frame that nothing speaks against so far: small, so that a burst of them
/// stays in the first cache.
#[derive(Clone, Copy)]
struct Admitted {
    header: DataHeader,
    /// The payload byte, once it is open.
    payload: u8,
}

type Candidate = Result<Admitted, Refusal>;

/// Opens received frames from the front of `received` as long as `opened` has
/// room; what does not fit stays in `received`. `events` gets
/// [`Event::FirstOpen`] and [`Event::OpenLimit`], each once a lane.
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

    // Headers. Touches each frame's first line once, and asks for its lane's.
    let mut burst: Burst<Candidate> = Burst::new();
    for frame in &mut received[..count] {
        let header = read_header(encapsulation, memory, frame);
        if let Ok(header) = &header {
            table.prefetch(header.spi);
        }
        let admitted = |header| Admitted { header, payload: 0 };
        burst.push(header.map(admitted).map_err(Refusal::of_nobody));
    }

    // Lookups side by side, so that their cache misses overlap, and the replay
    // check, which spares an attacker's copies the cipher.
    for candidate in &mut burst {
        if let Ok(frame) = candidate
            && let Err(refusal) = admit(table, &frame.header, counters)
        {
            *candidate = Err(refusal);
        }
    }

    // The cipher.
    for (frame, candidate) in received.iter_mut().zip(&mut burst) {
        if let Ok(admitted) = candidate {
            let bytes = memory.segment_mut(frame, 0);
            match open_one(table, bytes, outer_len, &admitted.header, &mut events) {
                Ok(payload) => admitted.payload = payload,
                Err(refusal) => *candidate = Err(refusal),
            }
        }
    }

    commit(table, &mut burst);

    #[allow(clippy::cast_possible_truncation)] // at most 66 + 16
    let start = (outer_len + HEADER_LEN) as u16;
    for (frame, candidate) in received.drain(..count).zip(&burst) {
        match candidate.and_then(|admitted| account(table, &admitted, counters, &mut events)) {
            Ok(seen) => opened.push(Opened {
                frame,
                node: seen.node,
                spi: seen.spi,
                peer: seen.peer,
                start,
                len: seen.len,
                payload: seen.payload,
            }),
            Err(refusal) => {
                refusal.count(counters);
                memory.release(frame);
            }
        }
    }
}

/// Checks everything that needs no key.
#[inline]
fn read_header<M: FrameMemory>(
    encapsulation: &Encapsulation,
    memory: &mut M,
    frame: &mut M::Frame,
) -> Result<DataHeader, RxDrop> {
    if frame.segments() != 1 {
        return Err(RxDrop::Fragmented);
    }
    let bytes = memory.segment_mut(frame, 0);
    let (outer, rest) = bytes
        .split_at_checked(encapsulation.outer_len())
        .ok_or(RxDrop::Malformed)?;
    if !encapsulation.is_for_us(outer) {
        return Err(RxDrop::Malformed);
    }
    let (bytes, rest) = rest
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(RxDrop::Malformed)?;
    DataHeader::decode(bytes, rest.len()).ok_or(RxDrop::Malformed)
}

/// Finds the lane and asks its window.
#[inline]
fn admit<A: Aead>(
    table: &RxTable<A>,
    header: &DataHeader,
    counters: &WorkerCounters,
) -> Result<(), Refusal> {
    let lane = table
        .lane(header.spi)
        .ok_or(Refusal::of_nobody(RxDrop::UnknownSpi))?;
    lane.prefetch();
    counters.prefetch(lane.peer());
    lane.check(header.packet_number)
        .map_err(|refused| Refusal::of(lane.peer(), refused.into()))
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
) -> Result<u8, Refusal> {
    let lane = table
        .lane_mut(header.spi)
        .ok_or(Refusal::of_nobody(RxDrop::UnknownSpi))?;
    let peer = lane.peer();
    let (aad, sealed) = bytes
        .get_mut(outer_len..)
        .and_then(|bytes| bytes.split_first_chunk_mut::<HEADER_LEN>())
        .and_then(|(aad, rest)| Some((aad, rest.get_mut(..usize::from(header.length))?)))
        .ok_or(Refusal::of(peer, RxDrop::Malformed))?;
    let result = lane.open(aad, header.packet_number, sealed);
    if result.is_err() && lane.limit_reached() {
        events(Event::OpenLimit {
            peer,
            spi: header.spi,
        });
    }
    result.map_err(|refused| Refusal::of(peer, refused.into()))?;
    // A header's length exceeds a tag's, so there is one.
    sealed
        .first()
        .copied()
        .ok_or(Refusal::of(peer, RxDrop::Malformed))
}

/// Numbers of one lane and block that are committed together.
struct Run {
    spi: Spi,
    block: Block,
    mask: u32,
    /// Its first frame's place in the burst.
    first: usize,
}

/// Marks the numbers of all frames that opened, neighbours of one block at
/// once. Two copies of one frame in a burst both come this far; the second
/// loses here.
#[inline]
fn commit<A: Aead>(table: &mut RxTable<A>, burst: &mut Burst<Candidate>) {
    let mut run: Option<Run> = None;
    for at in 0..burst.len() {
        let Ok(Admitted { header, .. }) = &burst[at] else {
            continue;
        };
        // A number out of range was refused by the check.
        let Some((block, bit)) = Block::of(header.packet_number) else {
            continue;
        };
        let spi = header.spi;
        match &mut run {
            Some(run) if run.spi == spi && run.block == block && run.mask & bit == 0 => {
                run.mask |= bit;
            }
            _ => {
                let next = Run {
                    spi,
                    block,
                    mask: bit,
                    first: at,
                };
                if let Some(run) = run.replace(next) {
                    commit_run(table, &mut burst[..at], &run);
                }
            }
        }
    }
    if let Some(run) = run {
        commit_run(table, burst, &run);
    }
}

/// Commits a run, and refuses those of its frames that came before: `burst`
/// ends with its last frame.
#[inline]
fn commit_run<A: Aead>(table: &mut RxTable<A>, burst: &mut [Candidate], run: &Run) {
    let Some(lane) = table.lane_mut(run.spi) else {
        return;
    };
    let fresh = lane.commit(run.block, run.mask);
    if fresh == run.mask {
        return;
    }
    let refusal = Refusal::of(lane.peer(), RxDrop::Replayed);
    for candidate in &mut burst[run.first..] {
        // Others than the run's own among them have been refused already.
        if let Ok(admitted) = candidate
            && Block::of(admitted.header.packet_number).is_some_and(|(_, bit)| fresh & bit == 0)
        {
            *candidate = Err(refusal);
        }
    }
}

/// What [`Opened`] says beside the frame's token.
struct Seen {
    node: NodeId,
    spi: Spi,
    peer: PeerIndex,
    len: u16,
    payload: Payload,
}

/// Counts a frame that is authentic and no replay, and reads what it is.
#[inline]
fn account<A: Aead>(
    table: &mut RxTable<A>,
    admitted: &Admitted,
    counters: &WorkerCounters,
    events: &mut impl FnMut(Event),
) -> Result<Seen, Refusal> {
    let DataHeader { spi, length, .. } = admitted.header;
    let lane = table
        .lane_mut(spi)
        .ok_or(Refusal::of_nobody(RxDrop::UnknownSpi))?;
    let (peer, node) = (lane.peer(), lane.node());
    if lane.first_open() {
        events(Event::FirstOpen { peer, spi });
    }
    #[allow(clippy::cast_possible_truncation)] // a header's length exceeds a tag's
    let len = length - TAG_LEN as u16;
    let peer_counters = counters.peer(peer);
    peer_counters.opened_frames.add(1);
    peer_counters.opened_bytes.add(len.into());
    let payload = Payload::decode(admitted.payload).ok_or(Refusal::of(peer, RxDrop::BadPayload))?;
    Ok(Seen {
        node,
        spi,
        peer,
        len,
        payload,
    })
}

impl From<OpenRefused> for RxDrop {
    fn from(refused: OpenRefused) -> Self {
        match refused {
            OpenRefused::Replayed => Self::Replayed,
            OpenRefused::BadTag => Self::OpenFailed,
            OpenRefused::Limit => Self::OpenLimit,
        }
    }
}
