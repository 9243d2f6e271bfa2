//! Frame memory: one mapping, cut into chunks, each with exactly one owner.
//!
//! Imports nothing from this crate but the layout of frames.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::slice;

use xsk_rs::umem::frame::FrameDesc;

use crate::frame::frame_start;

/// Bytes of a chunk: a page, so that headroom, frame and tail fit.
pub(super) const CHUNK_LEN: usize = 4096;

/// Where in a chunk the kernel writes a frame and sends from
/// (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM: usize = 256;

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

    /// Its length in bytes.
    pub(super) const fn len(self) -> usize {
        CHUNK_LEN - self.start
    }

    /// The chunk that an address of a descriptor lies in, and where in its room.
    pub(super) fn locate(self, address: usize) -> (u32, usize) {
        let chunk = u32::try_from(address / CHUNK_LEN).unwrap_or(u32::MAX);
        (chunk, (address % CHUNK_LEN).saturating_sub(self.start))
    }
}

/// Who may touch a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    /// Nobody: it is in the free list.
    Free,
    /// The holder of its token.
    Token,
    /// The kernel, to receive into.
    Lent,
    /// The kernel, to send from.
    Sending,
}

/// The mapping, and who owns each chunk of it.
pub(super) struct Umem {
    base: NonNull<u8>,
    descriptors: Box<[FrameDesc]>,
    owners: Box<[Owner]>,
    room: Room,
    /// Keeps the mapping.
    umem: xsk_rs::Umem,
}

// SAFETY: `base` points into the mapping that `umem` owns and shares with the
// kernel alone; nothing about it belongs to a thread.
unsafe impl Send for Umem {}

impl Umem {
    /// Takes a new UMEM of [`CHUNK_LEN`] chunks without extra headroom.
    pub(super) fn new(umem: xsk_rs::Umem, descriptors: Vec<FrameDesc>, room: Room) -> Self {
        let mut first = FrameDesc::default();
        // SAFETY: the default descriptor names offset 0 of this UMEM, whose
        // first chunk nobody else accesses yet: no ring has been given it.
        let mut chunk = unsafe { umem.data_mut(&mut first) };
        chunk.cursor().set_pos(CHUNK_LEN);
        let base = NonNull::from(chunk.contents_mut()).cast();
        Self {
            base,
            owners: vec![Owner::Free; descriptors.len()].into(),
            descriptors: descriptors.into(),
            room,
            umem,
        }
    }

    /// How its rooms lie.
    pub(super) fn room(&self) -> Room {
        self.room
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

    /// A free chunk gets a token.
    pub(super) fn hand_out(&mut self, chunk: u32) {
        let free = self.change(chunk, Owner::Free, Owner::Token);
        assert!(free, "chunk {chunk} of the free list is owned");
    }

    /// A token is given up; false if there was none.
    pub(super) fn give_back(&mut self, chunk: u32) -> bool {
        self.change(chunk, Owner::Token, Owner::Free)
    }

    /// A free chunk is given to the kernel to receive into.
    pub(super) fn lend(&mut self, chunk: u32) -> bool {
        self.change(chunk, Owner::Free, Owner::Lent)
    }

    /// A received chunk gets a token; false if it was not lent.
    pub(super) fn receive(&mut self, chunk: u32) -> bool {
        self.change(chunk, Owner::Lent, Owner::Token)
    }

    /// A token's chunk is given to the kernel to send from.
    pub(super) fn send(&mut self, chunk: u32) {
        let owned = self.change(chunk, Owner::Token, Owner::Sending);
        assert!(owned, "chunk {chunk} is sent without its token");
    }

    /// The kernel has sent it; false if it was not being sent.
    pub(super) fn take_back(&mut self, chunk: u32) -> bool {
        self.change(chunk, Owner::Sending, Owner::Free)
    }

    /// The room of a chunk that a token owns.
    pub(super) fn room_mut(&mut self, chunk: u32) -> &mut [u8] {
        let index = chunk as usize;
        assert_eq!(self.owners.get(index), Some(&Owner::Token), "chunk {chunk}");
        // SAFETY: `index` is a chunk of the mapping (it has an owner), so the
        // room lies inside; the mapping lives as long as `self.umem`. The
        // kernel does not touch a chunk in a token's hands, only one token
        // exists for it, and `&mut self` excludes a second slice.
        unsafe {
            let start = self.base.as_ptr().add(index * CHUNK_LEN + self.room.start);
            slice::from_raw_parts_mut(start, self.room.len())
        }
    }

    /// The descriptor of a chunk for the fill ring.
    pub(super) fn descriptor(&self, chunk: u32) -> Option<FrameDesc> {
        self.descriptors.get(chunk as usize).copied()
    }

    /// The descriptor of a chunk that holds a frame of `length` bytes to send.
    pub(super) fn descriptor_to_send(&self, chunk: u32, length: u16) -> Option<FrameDesc> {
        let mut descriptor = self.descriptor(chunk)?;
        // SAFETY: the descriptor is this UMEM's; the chunk is neither lent nor
        // in a ring yet, and no slice of it is alive: a token's slices borrow
        // the bearer, which is borrowed by this call.
        let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
        data.cursor().set_pos(usize::from(length));
        Some(descriptor)
    }
}

#[cfg(test)]
mod tests {
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
}
