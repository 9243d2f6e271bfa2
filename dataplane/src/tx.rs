//! The send pipeline: prefetch, then lookup → number → seal in place → outer
//! header.
//!
//! A [`Plain`] goes in, a [`Sealed`] comes out, and only this module makes one:
//! nothing that was not sealed can reach a bearer. Imports `table`, `sa`,
//! `frame` and the bearer's memory trait; never a bearer.

use tipsec_xdp::wire::{HEADER_LEN, TAG_LEN};

use crate::aead::Aead;
use crate::bearer::FrameMemory;
use crate::burst::Burst;
use crate::command::Event;
use crate::counters::{TxDrop, WorkerCounters};
use crate::frame::{PAYLOAD_OFFSET, frame_start};
use crate::ids::PeerIndex;
use crate::outer::{OUTER_LEN_MAX, OuterHeader};
use crate::sa::{BudgetStep, SealRefused, TxLane};
use crate::table::{Class, TxTable};

/// A frame that has been sealed: the only thing that a bearer sends.
pub struct Sealed<F> {
    frame: F,
    peer: PeerIndex,
}

impl<F> Sealed<F> {
    /// For whom it was sealed; to count it if the link loses it.
    pub fn peer(&self) -> PeerIndex {
        self.peer
    }

    /// The token, for a bearer that sends it.
    pub(crate) fn into_frame(self) -> F {
        self.frame
    }
}

/// A frame whose plaintext, payload byte included, lies in its memory at
/// [`PAYLOAD_OFFSET`].
pub struct Plain<F> {
    frame: F,
    to: PeerIndex,
    len: usize,
    class: Class,
}

impl<F> Plain<F> {
    /// `len` bytes of data for a peer.
    pub fn data(frame: F, to: PeerIndex, len: usize) -> Self {
        Self {
            frame,
            to,
            len,
            class: Class::Data,
        }
    }

    /// A probe of `len` bytes, which a lane that is not confirmed carries too.
    pub fn probe(frame: F, to: PeerIndex, len: usize) -> Self {
        Self {
            frame,
            to,
            len,
            class: Class::Probe,
        }
    }

    /// For whom it is.
    pub fn peer(&self) -> PeerIndex {
        self.to
    }

    /// Gives the token back, unsealed.
    pub fn into_frame(self) -> F {
        self.frame
    }
}

/// Seals frames from the front of `plain` as long as `sealed` has room; what
/// does not fit stays in `plain`. A frame that cannot be sealed is counted
/// with its reason at its peer, and its memory released. `events` gets
/// [`Event::BudgetLow`] and [`Event::BudgetSpent`], each once a lane.
pub fn seal_burst<A: Aead, M: FrameMemory>(
    table: &mut TxTable<A>,
    memory: &mut M,
    plain: &mut Burst<Plain<M::Frame>>,
    sealed: &mut Burst<Sealed<M::Frame>>,
    counters: &WorkerCounters,
    mut events: impl FnMut(Event),
) {
    let count = plain.len().min(sealed.remaining_capacity());
    // Side by side, so that the cache misses of many peers overlap: each
    // entry's lane, then each lane's key.
    for item in &plain[..count] {
        table.prefetch(item.to);
        counters.prefetch(item.to);
    }
    for item in &plain[..count] {
        if let Some(lane) = table.lane(item.to) {
            lane.prefetch();
        }
    }
    for mut item in plain.drain(..count) {
        let peer_counters = counters.peer(item.to);
        let result = table.ready(item.to, item.class).and_then(|(lane, path)| {
            let result = seal_one(lane, path, memory, &mut item);
            tell_budget(lane, &mut events);
            result
        });
        match result {
            Ok(()) => {
                peer_counters.sealed_frames.add(1);
                peer_counters.sealed_bytes.add(item.len as u64);
                sealed.push(Sealed {
                    frame: item.frame,
                    peer: item.to,
                });
            }
            Err(reason) => {
                peer_counters.tx_drop(reason, 1);
                memory.release(item.frame);
            }
        }
    }
}

/// Seals one frame in its memory and marks its extent.
#[inline]
fn seal_one<A: Aead, M: FrameMemory>(
    lane: &mut TxLane<A>,
    path: &OuterHeader,
    memory: &mut M,
    plain: &mut Plain<M::Frame>,
) -> Result<(), TxDrop> {
    if plain.len == 0 {
        return Err(TxDrop::TooShort);
    }
    let room = memory.room_mut(&mut plain.frame);
    let (before, payload) = room
        .split_at_mut_checked(PAYLOAD_OFFSET)
        .ok_or(TxDrop::TooLong)?;
    let (payload, after) = payload
        .split_at_mut_checked(plain.len)
        .ok_or(TxDrop::TooLong)?;
    let tag_room: &mut [u8; TAG_LEN] = after.first_chunk_mut().ok_or(TxDrop::TooLong)?;
    let parts = lane.seal(payload).map_err(|refused| match refused {
        SealRefused::BudgetSpent => TxDrop::BudgetSpent,
        SealRefused::BadLength => TxDrop::TooLong,
    })?;
    *tag_room = parts.tag;
    // `before` is PAYLOAD_OFFSET bytes long, so both chunks exist.
    if let Some((before, header)) = before.split_last_chunk_mut::<HEADER_LEN>() {
        *header = parts.header;
        if let Some(outer) = before.last_chunk_mut::<OUTER_LEN_MAX>() {
            path.write(outer, HEADER_LEN + plain.len + TAG_LEN);
        }
    }
    let end = PAYLOAD_OFFSET + plain.len + TAG_LEN;
    memory.set_extent(&mut plain.frame, frame_start(path.len()), end);
    Ok(())
}

#[inline]
fn tell_budget<A: Aead>(lane: &mut TxLane<A>, events: &mut impl FnMut(Event)) {
    let Some(step) = lane.budget_step() else {
        return;
    };
    let (peer, epoch) = (lane.peer(), lane.epoch());
    events(match step {
        BudgetStep::Low => Event::BudgetLow { peer, epoch },
        BudgetStep::Spent => Event::BudgetSpent { peer, epoch },
    });
}
