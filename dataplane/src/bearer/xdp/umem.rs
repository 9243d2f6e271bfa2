//! Frame memory: one mapping, cut into chunks, each with exactly one owner.
//!
//! The kernel knows chunks of a page. A bearer whose frames may be longer has
//! *wide rooms* as well: runs of neighbouring chunks at the end of the mapping,
//! each with one token, so that a frame of several buffers lies in one piece
//! for the cipher. Imports the layout of frames and the hint to the caches.

#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::{self, NonNull};
use std::slice;

use xsk_rs::umem::frame::FrameDesc;

use crate::frame::frame_start;
use crate::sys::demote::Demotion;

/// Bytes of a chunk: a page, so that headroom, frame and tail fit.
pub(super) const CHUNK_LEN: usize = 4096;

/// Where in a chunk the kernel writes a frame and sends from
/// (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM: usize = 256;

/// Most bytes of a frame in one chunk, received or to send.
pub(super) const CHUNK_DATA_LEN: usize = CHUNK_LEN - KERNEL_HEADROOM;

/// `XDP_PKT_CONTD` (linux/if_xdp.h): the frame goes on in the next descriptor.
const CONTINUED: u32 = 1;

/// Where rooms lie in their chunks: so that what the kernel writes and sends,
/// the outer header first, ends where the Tipsec header begins
/// ([`frame_start`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    /// In the chunk.
    start: usize,
    /// In the room.
    frame_start: usize,
}

impl Room {
    /// The room for frames with an outer header of `outer_len` bytes.
    pub(super) const fn of(outer_len: usize) -> Self {
        let frame_start = frame_start(outer_len);
        Self {
            start: KERNEL_HEADROOM - frame_start,
            frame_start,
        }
    }

    /// Where in the room a frame starts.
    pub(super) const fn frame_start(self) -> usize {
        self.frame_start
    }

    /// The length in bytes of the room of a single chunk.
    pub(super) const fn len(self) -> usize {
        CHUNK_LEN - self.start
    }

    /// The chunk that an address of a descriptor lies in, and where in its room.
    pub(super) fn locate(self, address: usize) -> (u32, usize) {
        let chunk = u32::try_from(address / CHUNK_LEN).unwrap_or(u32::MAX);
        (chunk, (address % CHUNK_LEN).saturating_sub(self.start))
    }
}

/// How the mapping is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// Chunks that are rooms of their own; they come first.
    pub(super) chunks: u32,
    /// Wide rooms behind them.
    pub(super) wide_rooms: u32,
    /// Chunks of a wide room.
    pub(super) wide_chunks: u32,
}

impl Layout {
    /// All chunks that are used.
    pub(super) const fn total(self) -> u32 {
        self.chunks + self.wide_rooms * self.wide_chunks
    }

    /// First chunks of the wide rooms, by which they go.
    pub(super) fn wide_heads(self) -> impl DoubleEndedIterator<Item = u32> {
        (0..self.wide_rooms).map(move |room| self.chunks + room * self.wide_chunks)
    }

    /// Whether a chunk belongs to a wide room.
    #[inline]
    pub(super) const fn is_wide(self, chunk: u32) -> bool {
        chunk >= self.chunks
    }

    /// The first chunk of the room that `chunk` belongs to.
    #[inline]
    const fn head_of(self, chunk: u32) -> u32 {
        match self.is_wide(chunk) {
            true => chunk - (chunk - self.chunks) % self.wide_chunks,
            false => chunk,
        }
    }

    /// The chunks of the room that `chunk` belongs to.
    #[inline]
    fn run(self, chunk: u32) -> Range<usize> {
        let head = self.head_of(chunk) as usize;
        match self.is_wide(chunk) {
            true => head..head + self.wide_chunks as usize,
            false => head..head + 1,
        }
    }
}

/// Who may touch a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    /// Nobody: its room is in a free list, or waits for the rest of it.
    Free,
    /// The holder of its room's token.
    Token,
    /// The kernel, to receive into.
    Lent,
    /// The kernel, to send from.
    Sending,
}

/// What it means that the kernel has sent a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TakenBack {
    /// It was not being sent.
    Stranger,
    /// Other chunks of its room are still being sent.
    Part,
    /// The room is free again: its first chunk.
    Room(u32),
}

/// The mapping, and who owns each chunk of it.
pub(super) struct Umem {
    base: NonNull<u8>,
    descriptors: Box<[FrameDesc]>,
    owners: Box<[Owner]>,
    /// Bytes of each chunk that this core may have in its caches, from where
    /// the kernel writes on: of the longest frame since it was last lent.
    touched: Box<[u16]>,
    /// Takes what is lent out of this core's caches before.
    demotion: Option<Demotion>,
    room: Room,
    layout: Layout,
    /// Keeps the mapping.
    umem: xsk_rs::Umem,
}

// SAFETY: `base` points into the mapping that `umem` owns and shares with the
// kernel alone; nothing about it belongs to a thread.
unsafe impl Send for Umem {}

impl Umem {
    /// Takes a new UMEM of [`CHUNK_LEN`] chunks without extra headroom, at
    /// least as many as `layout` has.
    pub(super) fn new(
        umem: xsk_rs::Umem,
        descriptors: Vec<FrameDesc>,
        room: Room,
        layout: Layout,
    ) -> Self {
        assert!(descriptors.len() >= layout.total() as usize);
        let mut first = FrameDesc::default();
        // SAFETY: the default descriptor names offset 0 of this UMEM, whose
        // first chunk nobody else accesses yet: no ring has been given it.
        let mut chunk = unsafe { umem.data_mut(&mut first) };
        chunk.cursor().set_pos(CHUNK_LEN);
        let base = NonNull::from(chunk.contents_mut()).cast();
        Self {
            base,
            owners: vec![Owner::Free; layout.total() as usize].into(),
            touched: vec![0; layout.total() as usize].into(),
            demotion: None,
            descriptors: descriptors.into(),
            room,
            layout,
            umem,
        }
    }

    /// How its rooms lie.
    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// Its size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.descriptors.len() as u64 * CHUNK_LEN as u64
    }

    /// From now on chunks leave this core's caches when they are lent, if there
    /// is a way.
    pub(super) fn demote_lent(&mut self, demotion: Option<Demotion>) {
        self.demotion = demotion;
    }

    /// Whether what is lent leaves this core's caches before.
    pub(super) fn demotes(&self) -> bool {
        self.demotion.is_some()
    }

    /// How it is cut.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    fn change(&mut self, chunk: u32, from: Owner, to: Owner) -> bool {
        match self.owners.get_mut(chunk as usize) {
            Some(owner) if *owner == from => {
                *owner = to;
                true
            }
            _ => false,
        }
    }

    /// Changes all chunks of the room that `head` is the first of; false, and
    /// nothing changed, if one of them is not `from`.
    fn change_room(&mut self, head: u32, from: Owner, to: Owner) -> bool {
        let run = self.layout.run(head);
        match self.owners.get_mut(run.clone()) {
            Some(owners) if run.start == head as usize && owners.iter().all(|o| *o == from) => {
                owners.fill(to);
                true
            }
            _ => false,
        }
    }

    /// A free room, single or wide, gets a token.
    pub(super) fn hand_out(&mut self, head: u32) {
        let free = self.change_room(head, Owner::Free, Owner::Token);
        assert!(free, "chunk {head} of the free list is owned");
    }

    /// A room's token is given up; false if there was none.
    pub(super) fn give_back(&mut self, head: u32) -> bool {
        self.change_room(head, Owner::Token, Owner::Free)
    }

    /// A free single chunk is given to the kernel to receive into.
    pub(super) fn lend(&mut self, chunk: u32) -> bool {
        let lent = !self.layout.is_wide(chunk) && self.change(chunk, Owner::Free, Owner::Lent);
        if let (true, Some(demotion)) = (lent, self.demotion) {
            let at = chunk as usize;
            let start = self.base.as_ptr().addr() + at * CHUNK_LEN + KERNEL_HEADROOM;
            demotion.demote_at(start, usize::from(self.touched[at]));
        }
        lent
    }

    /// A chunk in which a frame of `len` bytes was received gets a token; false
    /// if it was not lent.
    pub(super) fn receive(&mut self, chunk: u32, len: u16) -> bool {
        let lent = self.change(chunk, Owner::Lent, Owner::Token);
        if lent {
            self.touched[chunk as usize] = len;
        }
        lent
    }

    /// The first `parts` chunks of a token's room, with a frame of `len` bytes,
    /// are given to the kernel to send from.
    pub(super) fn send(&mut self, head: u32, parts: usize, len: u16) {
        let run = self.layout.run(head);
        let sound = (1..=run.len()).contains(&parts);
        let owned = sound && self.change_room(head, Owner::Token, Owner::Free);
        assert!(owned, "chunk {head} is sent without its token");
        self.touched[run.start] = self.touched[run.start].max(len);
        self.owners[run.start..run.start + parts].fill(Owner::Sending);
    }

    /// The kernel has sent a chunk.
    pub(super) fn take_back(&mut self, chunk: u32) -> TakenBack {
        if !self.change(chunk, Owner::Sending, Owner::Free) {
            return TakenBack::Stranger;
        }
        if !self.layout.is_wide(chunk) {
            return TakenBack::Room(chunk);
        }
        let owners = &self.owners[self.layout.run(chunk)];
        match owners.iter().all(|o| *o == Owner::Free) {
            true => TakenBack::Room(self.layout.head_of(chunk)),
            false => TakenBack::Part,
        }
    }

    /// The room that a token owns.
    #[inline]
    pub(super) fn room_mut(&mut self, head: u32) -> &mut [u8] {
        let run = self.layout.run(head);
        let index = head as usize;
        assert_eq!(self.owners.get(index), Some(&Owner::Token), "chunk {head}");
        assert_eq!(run.start, index, "chunk {head} is inside a room");
        let len = self.room.len() + (run.len() - 1) * CHUNK_LEN;
        // SAFETY: the run's chunks are of the mapping (they have owners), so
        // the room lies inside; the mapping lives as long as `self.umem`. All
        // chunks of a room change owner together, so the kernel touches none
        // of them while a token has it; only one token exists for it, and
        // `&mut self` excludes a second slice.
        unsafe {
            let start = self.base.as_ptr().add(index * CHUNK_LEN + self.room.start);
            slice::from_raw_parts_mut(start, len)
        }
    }

    /// Copies bytes of one token's room into another's, at `to_start`.
    pub(super) fn copy(&mut self, from: u32, bytes: Range<usize>, to: u32, to_start: usize) {
        assert_ne!(from, to, "one room");
        let source = self.room_mut(from).get(bytes).unwrap_or_default();
        let (source, len) = (source.as_ptr(), source.len());
        let target = &mut self.room_mut(to)[to_start..to_start + len];
        // SAFETY: `source` is `len` bytes of a room that a token owns, `target`
        // as many of another room, so they do not overlap; the mapping does
        // not move.
        unsafe { ptr::copy_nonoverlapping(source, target.as_mut_ptr(), len) }
    }

    /// How many chunks a frame of `len` bytes takes to send.
    #[inline]
    pub(super) const fn parts(len: usize) -> usize {
        if len <= CHUNK_DATA_LEN {
            return 1;
        }
        len.div_ceil(CHUNK_DATA_LEN)
    }

    /// Spreads a frame of `len` bytes that lies in one piece at the frame start
    /// of a wide room over the places that its chunks are sent from; returns
    /// how many. The first chunk's part lies where it is sent from.
    pub(super) fn spread(&mut self, head: u32, len: usize) -> usize {
        let parts = Self::parts(len);
        let frame_start = self.room.frame_start;
        let room = self.room_mut(head);
        // Each part moves up, by a headroom more than the one before it: the
        // last goes first.
        for part in (1..parts).rev() {
            let end = len.min((part + 1) * CHUNK_DATA_LEN);
            let bytes = frame_start + part * CHUNK_DATA_LEN..frame_start + end;
            room.copy_within(bytes, frame_start + part * CHUNK_LEN);
        }
        parts
    }

    /// The descriptor of a chunk for the fill ring.
    pub(super) fn descriptor(&self, chunk: u32) -> Option<FrameDesc> {
        self.descriptors.get(chunk as usize).copied()
    }

    /// The descriptor of a chunk that holds `length` bytes to send, and whether
    /// the frame goes on in the next chunk.
    pub(super) fn descriptor_to_send(
        &self,
        chunk: u32,
        length: usize,
        goes_on: bool,
    ) -> Option<FrameDesc> {
        let mut descriptor = self.descriptor(chunk)?;
        // SAFETY: the descriptor is this UMEM's; the chunk is neither lent nor
        // in a ring yet, and no slice of it is alive: a token's slices borrow
        // the bearer, which is borrowed by this call.
        let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
        data.cursor().set_pos(length);
        if goes_on {
            descriptor.set_options(CONTINUED);
        }
        Some(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use xsk_rs::config::UmemConfig;

    use super::*;
    use crate::frame::PAYLOAD_OFFSET;

    #[test]
    fn addresses_name_chunk_and_place() {
        for outer_len in [14, 18, 42, 66] {
            let room = Room::of(outer_len);
            let start = room.frame_start();
            assert_eq!(start + outer_len + 16, PAYLOAD_OFFSET);
            assert_eq!(room.locate(256), (0, start));
            assert_eq!(room.locate(3 * CHUNK_LEN + 256), (3, start));
            assert_eq!(room.locate(2 * CHUNK_LEN - 1), (1, room.len() - 1));
            assert_eq!(room.locate(usize::MAX).0, u32::MAX);
        }
    }

    #[test]
    fn chunks_know_their_room() {
        let layout = Layout {
            chunks: 4,
            wide_rooms: 2,
            wide_chunks: 3,
        };
        assert_eq!(layout.total(), 10);
        assert_eq!(layout.wide_heads().collect::<Vec<_>>(), [4, 7]);
        assert_eq!(layout.run(3), 3..4);
        assert_eq!([4, 5, 6].map(|c| layout.run(c)), [4..7, 4..7, 4..7]);
        assert_eq!([7, 9].map(|c| layout.run(c)), [7..10, 7..10]);
    }

    /// A UMEM of 4 chunks and 2 wide rooms; `None` where the process may not
    /// open AF_XDP sockets.
    fn umem() -> Option<Umem> {
        let layout = Layout {
            chunks: 4,
            wide_rooms: 2,
            wide_chunks: 3,
        };
        let config = UmemConfig::default();
        let chunks = NonZeroU32::new(layout.total()).unwrap();
        match xsk_rs::Umem::new(config, chunks, false) {
            Ok((umem, descriptors)) => {
                let mut umem = Umem::new(umem, descriptors, Room::of(14), layout);
                umem.demote_lent(Demotion::find());
                Some(umem)
            }
            Err(error) => {
                println!("SKIPPED (needs CAP_NET_RAW): {error}");
                None
            }
        }
    }

    #[test]
    fn wide_room_is_one_room_and_comes_back_whole() {
        let Some(mut umem) = umem() else { return };
        umem.hand_out(4);
        let room = umem.room_mut(4);
        assert_eq!(room.len(), 3 * CHUNK_LEN - umem.room.start);
        umem.send(4, 2, 5000);
        assert_eq!(umem.take_back(6), TakenBack::Stranger, "not sent");
        assert_eq!(umem.take_back(5), TakenBack::Part);
        assert_eq!(umem.take_back(5), TakenBack::Stranger, "twice");
        assert_eq!(umem.take_back(4), TakenBack::Room(4));
        umem.hand_out(4);
        assert!(umem.give_back(4) && !umem.give_back(4));
        assert!(
            !umem.lend(4) && umem.lend(0),
            "the kernel gets single chunks"
        );
        assert!(umem.receive(0, 60) && !umem.receive(0, 60));
        umem.send(0, 1, 60);
        assert_eq!(umem.take_back(0), TakenBack::Room(0));
    }

    #[test]
    fn longest_frame_since_a_chunk_was_lent_is_known() {
        let Some(mut umem) = umem() else { return };
        assert!(umem.lend(0) && umem.receive(0, 1400));
        umem.send(0, 1, 60);
        assert_eq!(umem.take_back(0), TakenBack::Room(0));
        assert_eq!(umem.touched[0], 1400);
        assert!(umem.lend(0) && umem.receive(0, 80));
        assert_eq!(umem.touched[0], 80);
    }

    #[test]
    #[should_panic(expected = "without its token")]
    fn more_chunks_than_a_room_has_are_not_sent() {
        let Some(mut umem) = umem() else {
            panic!("without its token: skipped")
        };
        umem.hand_out(0);
        umem.send(0, 2, 5000);
    }

    #[test]
    fn frame_is_spread_and_joined_again() {
        let Some(mut umem) = umem() else { return };
        let frame_start = umem.room.frame_start;
        for len in [1, 3840, 3841, 7680, 7681, 9000, 11520] {
            umem.hand_out(4);
            umem.hand_out(7);
            let frame: Vec<u8> = (0..len)
                .map(|i: usize| (i % 251).to_le_bytes()[0])
                .collect();
            umem.room_mut(4)[frame_start..frame_start + len].copy_from_slice(&frame);
            let parts = umem.spread(4, len);
            assert_eq!(parts, len.div_ceil(3840));
            let mut at = frame_start;
            for part in 0..parts {
                let bytes = (len - part * 3840).min(3840);
                let from = frame_start + part * CHUNK_LEN;
                umem.copy(4, from..from + bytes, 7, at);
                at += bytes;
            }
            assert!(umem.room_mut(7)[frame_start..at] == frame, "{len}");
            assert!(umem.give_back(4) && umem.give_back(7));
        }
    }
}
