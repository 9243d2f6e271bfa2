//! The receive pipeline, in passes over a burst: read all headers → look all
//! SPIs up → replay check → open in place → commit the window.
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

/// Bytes of an Ethernet frame's two addresses.
const ADDRESSES_LEN: usize = 12;

/// A frame that opened, is no replay, and whose payload kind is known.
pub struct Opened<F> {
    frame: F,
    peer: PeerIndex,
    node: NodeId,
    spi: Spi,
    payload: Payload,
    plaintext: Range<usize>,
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
        self.plaintext.clone()
    }

    /// The plaintext, payload byte included; never empty.
    pub fn plaintext_mut<'a, M: FrameMemory<Frame = F>>(
        &'a mut self,
        memory: &'a mut M,
    ) -> &'a mut [u8] {
        let range = self.plaintext.clone();
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
        let inner = self.plaintext.start + 1;
        if self.plaintext.end < inner + 2 {
            return None;
        }
        let range = inner - ADDRESSES_LEN..self.plaintext.end;
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

/// A frame on its way through the passes: small, so that a burst of them stays
/// in the first cache.
#[derive(Clone, Copy)]
enum Candidate {
    /// Nothing speaks against it so far.
    Admitted(DataHeader),
    Refused(Refusal),
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
}

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

    // Pass 1: headers. Touches each frame's first line once.
    let mut burst: Burst<Candidate> = Burst::new();
    for frame in &mut received[..count] {
        burst.push(match read_header(encapsulation, memory, frame) {
            Ok(header) => Candidate::Admitted(header),
            Err(reason) => Candidate::Refused(Refusal::of_nobody(reason)),
        });
    }

    // Pass 2 and 3: lookups side by side, so that their cache misses overlap,
    // and the replay check, which spares an attacker's copies the cipher.
    for candidate in &mut burst {
        if let Candidate::Admitted(header) = candidate
            && let Err(refusal) = admit(table, header)
        {
            *candidate = Candidate::Refused(refusal);
        }
    }

    let outer_len = encapsulation.outer_len();
    // Pass 4 and 5: open, commit, hand on. Two copies of one frame in a burst
    // both come this far; the second loses at commit.
    for (mut frame, candidate) in received.drain(..count).zip(&burst) {
        let outcome = match candidate {
            Candidate::Admitted(header) => {
                let bytes = memory.segment_mut(&mut frame, 0);
                open_one(table, bytes, outer_len, header, counters, &mut events)
            }
            Candidate::Refused(refusal) => Err(*refusal),
        };
        match outcome {
            Ok(seen) => opened.push(Opened {
                frame,
                peer: seen.peer,
                node: seen.node,
                spi: seen.spi,
                payload: seen.payload,
                plaintext: seen.plaintext,
            }),
            Err(refusal) => {
                match refusal.peer {
                    Some(peer) => counters.peer(peer).rx_drop(refusal.reason),
                    None => counters.nobody.rx_drop(refusal.reason),
                }
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
fn admit<A: Aead>(table: &RxTable<A>, header: &DataHeader) -> Result<(), Refusal> {
    let lane = table
        .lane(header.spi)
        .ok_or(Refusal::of_nobody(RxDrop::UnknownSpi))?;
    lane.check(header.packet_number)
        .map_err(|refused| Refusal::of(lane.peer(), refused.into()))
}

/// What [`open_one`] found, to be joined with the frame's token.
struct Seen {
    peer: PeerIndex,
    node: NodeId,
    spi: Spi,
    payload: Payload,
    plaintext: Range<usize>,
}

/// Opens the frame in `bytes`, of which `outer_len` are the outer header.
#[inline]
fn open_one<A: Aead>(
    table: &mut RxTable<A>,
    bytes: &mut [u8],
    outer_len: usize,
    header: &DataHeader,
    counters: &WorkerCounters,
    events: &mut impl FnMut(Event),
) -> Result<Seen, Refusal> {
    let lane = table
        .lane_mut(header.spi)
        .ok_or(Refusal::of_nobody(RxDrop::UnknownSpi))?;
    let (peer, node, spi) = (lane.peer(), lane.node(), lane.spi());
    let (aad, rest) = bytes
        .get_mut(outer_len..)
        .and_then(|bytes| bytes.split_first_chunk_mut::<HEADER_LEN>())
        .ok_or(Refusal::of(peer, RxDrop::Malformed))?;
    let sealed = rest
        .get_mut(..usize::from(header.length))
        .ok_or(Refusal::of(peer, RxDrop::Malformed))?;
    let result = lane.open(aad, header.packet_number, sealed);
    if lane.limit_reached() {
        events(Event::OpenLimit { peer, spi });
    }
    result.map_err(|refused| Refusal::of(peer, refused.into()))?;
    if lane.first_open() {
        events(Event::FirstOpen { peer, spi });
    }
    let len = usize::from(header.length) - TAG_LEN;
    let peer_counters = counters.peer(peer);
    peer_counters.opened_frames.add(1);
    peer_counters.opened_bytes.add(len as u64);
    let payload = sealed
        .first()
        .and_then(|&byte| Payload::decode(byte))
        .ok_or(Refusal::of(peer, RxDrop::BadPayload))?;
    Ok(Seen {
        peer,
        node,
        spi,
        payload,
        plaintext: outer_len + HEADER_LEN..outer_len + HEADER_LEN + len,
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
