//! The send pipeline, in passes over a burst: prefetch → lookup, number, headers
//! → seal in place.
//!
//! A [`Plain`] goes in, a [`Sealed`] comes out, and only this module makes one:
//! nothing that was not sealed can reach a bearer. Imports `table`, `sa`,
//! `frame` and the bearer's memory trait; never a bearer.

use tipsec_xdp::wire::{HEADER_LEN, TAG_LEN};

use crate::aead::Aead;
use crate::bearer::FrameMemory;
use crate::burst::{Ahead, Burst};
use crate::command::Event;
use crate::counters::{TxDrop, WorkerCounters};
use crate::frame::{PAYLOAD_OFFSET, frame_start};
use crate::ids::PeerIndex;
use crate::outer::{OUTER_LEN_MAX, OuterHeader};
use crate::sa::{BudgetStep, Class, Numbered, SealRefused, TxLane};
use crate::table::TxTable;

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
    let mut keys = prefetch(table, counters, &plain[..count]);

    // Numbers and headers. The cipher reads its header back from the frame
    // much later, when the stores are done: read at once it would wait for
    // them, and for all the ciphertext that was stored before them.
    let mut numbers: Burst<Option<Numbered>> = Burst::new();
    for item in &mut plain[..count] {
        let number = table.ready(item.to, item.class).and_then(|(lane, path)| {
            let number = write_headers(lane, path, memory, item);
            tell_budget(lane, &mut events);
            number
        });
        match number {
            Ok(number) => numbers.push(Some(number)),
            Err(reason) => {
                counters.peer(item.to).tx_drop(reason, 1);
                numbers.push(None);
            }
        }
    }

    // The cipher.
    for (at, (mut item, number)) in plain.drain(..count).zip(numbers).enumerate() {
        keys.reach(at, |peer| {
            if let Some(lane) = table.lane(peer) {
                lane.prefetch_key();
            }
        });
        let Some(number) = number else {
            memory.release(item.frame);
            continue;
        };
        let lane = table.lane(item.to).ok_or(TxDrop::NoKey);
        let result = lane.and_then(|lane| seal_one(lane, memory, &mut item, number));
        let peer_counters = counters.peer(item.to);
        if let Err(reason) = result {
            peer_counters.tx_drop(reason, 1);
            memory.release(item.frame);
            continue;
        }
        peer_counters.sealed_frames.add(1);
        peer_counters.sealed_bytes.add(item.len as u64);
        sealed.push(Sealed {
            frame: item.frame,
            peer: item.to,
        });
    }
}

/// Side by side, so that the cache misses of many peers overlap. Returns whose
/// keys are needed when.
#[inline]
fn prefetch<A: Aead, F>(
    table: &TxTable<A>,
    counters: &WorkerCounters,
    plain: &[Plain<F>],
) -> Ahead<PeerIndex> {
    let mut keys = Ahead::new();
    for (at, item) in plain.iter().enumerate() {
        if keys.note(at, item.to) {
            table.prefetch(item.to);
            counters.prefetch(item.to);
        }
    }
    keys
}

/// The parts of a frame's memory that sealing writes.
struct Parts<'a> {
    /// Room for the outer header, which ends here.
    outer: &'a mut [u8; OUTER_LEN_MAX],
    header: &'a mut [u8; HEADER_LEN],
    plaintext: &'a mut [u8],
    tag: &'a mut [u8; TAG_LEN],
}

impl<'a> Parts<'a> {
    /// `None` if a plaintext of `len` bytes does not fit.
    #[inline]
    fn of(room: &'a mut [u8], len: usize) -> Option<Self> {
        let (before, rest) = room.split_first_chunk_mut::<PAYLOAD_OFFSET>()?;
        let (before, header) = before.split_last_chunk_mut::<HEADER_LEN>()?;
        let outer = before.last_chunk_mut::<OUTER_LEN_MAX>()?;
        let (plaintext, after) = rest.split_at_mut_checked(len)?;
        Some(Self {
            outer,
            header,
            plaintext,
            tag: after.first_chunk_mut()?,
        })
    }
}

/// Takes a number for one frame, writes what stands before the plaintext, and
/// marks the frame's extent.
#[inline]
fn write_headers<A: Aead, M: FrameMemory>(
    lane: &mut TxLane<A>,
    path: &OuterHeader,
    memory: &mut M,
    plain: &mut Plain<M::Frame>,
) -> Result<Numbered, TxDrop> {
    if plain.len == 0 {
        return Err(TxDrop::TooShort);
    }
    let parts = Parts::of(memory.room_mut(&mut plain.frame), plain.len).ok_or(TxDrop::TooLong)?;
    let number = lane.number(plain.len, plain.class);
    let number = number.map_err(|refused| match refused {
        SealRefused::BudgetSpent => TxDrop::BudgetSpent,
        SealRefused::BadLength => TxDrop::TooLong,
    })?;
    *parts.header = number.header();
    path.write(parts.outer, HEADER_LEN + plain.len + TAG_LEN);
    let end = PAYLOAD_OFFSET + plain.len + TAG_LEN;
    memory.set_extent(&mut plain.frame, frame_start(path.len()), end);
    Ok(number)
}

/// Seals one frame, whose header is written, in its memory.
#[inline]
fn seal_one<A: Aead, M: FrameMemory>(
    lane: &TxLane<A>,
    memory: &mut M,
    plain: &mut Plain<M::Frame>,
    number: Numbered,
) -> Result<(), TxDrop> {
    // It fitted when the header was written, and the lane is still the same.
    let parts = Parts::of(memory.room_mut(&mut plain.frame), plain.len).ok_or(TxDrop::TooLong)?;
    let tag = lane.seal(number, parts.header, parts.plaintext);
    *parts.tag = tag.map_err(|_| TxDrop::NoKey)?;
    Ok(())
}

#[inline]
fn tell_budget<A: Aead>(lane: &mut TxLane<A>, events: &mut impl FnMut(Event)) {
    let Some(step) = lane.budget_step() else {
        return;
    };
    let (peer, epoch, spi) = (lane.peer(), lane.epoch(), lane.spi());
    events(match step {
        BudgetStep::Low { next_ready } => Event::BudgetLow {
            peer,
            epoch,
            next_ready,
        },
        BudgetStep::Spent => Event::BudgetSpent { peer, epoch },
        BudgetStep::Entered(phase) => Event::PhaseEntered { peer, spi, phase },
    });
}
