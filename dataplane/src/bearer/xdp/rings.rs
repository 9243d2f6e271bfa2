//! The four rings of a socket.
//!
//! Imports `umem`, which knows who owns what is put in and taken out.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, TxQueue};

use super::umem::{CHUNK_DATA_LEN, Room, Umem};
use crate::burst::{BURST, Burst};

/// Fill, completion, RX and TX ring, and the socket that they keep open.
pub(super) struct Rings {
    fill: FillQueue,
    completion: CompQueue,
    rx: RxQueue,
    tx: TxQueue,
    /// Entries of the fill ring.
    fill_len: usize,
    /// Entries of the TX ring.
    tx_len: usize,
    /// For each entry of the TX ring whether a frame ends there; empty if
    /// every one does.
    tx_ends: Box<[bool]>,
    /// Entries ever put into the TX ring, as far as `tx_ends` has them.
    tx_produced: usize,
    /// What was last taken out of a ring: kept, since to make an empty one for
    /// each look costs more than to look.
    taken: Box<[FrameDesc; BURST]>,
}

/// One descriptor of the RX ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Received {
    pub(super) chunk: u32,
    /// In the chunk's room.
    pub(super) start: u16,
    pub(super) end: u16,
    /// The frame goes on in the next descriptor.
    pub(super) goes_on: bool,
}

impl Rings {
    /// The rings of a new socket, of which fill and TX ring have these numbers
    /// of entries; with `multi_buffer`, a frame may take several of them.
    pub(super) fn new(
        (fill, completion): (FillQueue, CompQueue),
        (rx, tx): (RxQueue, TxQueue),
        (fill_len, tx_len): (usize, usize),
        multi_buffer: bool,
    ) -> Self {
        let ends = if multi_buffer { tx_len } else { 0 };
        Self {
            fill,
            completion,
            rx,
            tx,
            fill_len,
            tx_len,
            tx_ends: vec![false; ends].into(),
            tx_produced: 0,
            taken: Box::new([FrameDesc::default(); BURST]),
        }
    }

    /// The socket.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the queues keep the socket open as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Lends free chunks to the kernel: all of them (at most a burst), or none
    /// if the ring has no room.
    pub(super) fn fill(&mut self, umem: &mut Umem, chunks: &[u32]) -> usize {
        let mut descriptors = Burst::<FrameDesc>::new();
        if (self.fill.nb_free_exact() as usize) < chunks.len() {
            return 0;
        }
        for &chunk in chunks {
            match umem.descriptor(chunk) {
                Some(descriptor) if umem.lend(chunk) => descriptors.push(descriptor),
                _ => {}
            }
        }
        // SAFETY: the descriptors are of the UMEM that this ring belongs to,
        // and `lend` took each chunk out of everybody else's hands.
        unsafe { self.fill.produce(&descriptors) };
        chunks.len()
    }

    /// Entries of the fill ring that the kernel has not taken.
    pub(super) fn fill_entries(&mut self) -> usize {
        self.fill_len
            .saturating_sub(self.fill.nb_free_exact() as usize)
    }

    /// Whether the kernel waits to be told that the fill ring has entries.
    pub(super) fn fill_needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    /// Takes up to `limit` descriptors of received frames.
    pub(super) fn received(&mut self, room: Room, limit: usize, frames: &mut Burst<Received>) {
        let taken = &mut self.taken[..limit.min(BURST)];
        // SAFETY: the ring's socket and UMEM live as long as `self`; what it
        // yields is not accessed before `Umem::receive` finds that it was lent.
        let count = unsafe { self.rx.consume(taken) };
        for descriptor in &taken[..count] {
            let (chunk, start) = room.locate(descriptor.addr());
            let end = start + descriptor.lengths().data();
            // Outside its room: an empty frame, which the pipeline counts as
            // malformed.
            let (start, end) = if end <= room.len() {
                (start, end)
            } else {
                (0, 0)
            };
            // A room is shorter than a chunk, 4096 bytes.
            #[allow(clippy::cast_possible_truncation)]
            frames.push(Received {
                chunk,
                start: start as u16,
                end: end as u16,
                goes_on: descriptor.has_more_frames(),
            });
        }
    }

    /// Free entries of the TX ring.
    pub(super) fn transmit_free(&mut self) -> usize {
        self.tx.nb_free_exact() as usize
    }

    /// Entries of the TX ring that the kernel has not taken.
    pub(super) fn unsent(&mut self) -> usize {
        self.tx_len.saturating_sub(self.transmit_free())
    }

    /// Frames that the kernel has not taken, or not all of.
    pub(super) fn unsent_frames(&mut self) -> usize {
        let entries = self.unsent();
        if self.tx_ends.is_empty() {
            return entries;
        }
        let len = self.tx_ends.len();
        (self.tx_produced - entries..self.tx_produced)
            .filter(|entry| self.tx_ends[entry % len])
            .count()
    }

    /// Puts frames (first chunk and length in bytes) into the TX ring, which
    /// must have room for all of their chunks.
    pub(super) fn transmit(&mut self, umem: &Umem, frames: &[(u32, u16)]) {
        let mut descriptors = Burst::<FrameDesc>::new();
        for &(chunk, length) in frames {
            let length = usize::from(length);
            let parts = Umem::parts(length);
            if descriptors.remaining_capacity() < parts {
                self.produce(&descriptors);
                descriptors.clear();
            }
            for (part, chunk) in (0..parts).zip(chunk..) {
                let bytes = (length - part * CHUNK_DATA_LEN).min(CHUNK_DATA_LEN);
                let goes_on = part + 1 < parts;
                descriptors.extend(umem.descriptor_to_send(chunk, bytes, goes_on));
            }
        }
        self.produce(&descriptors);
    }

    fn produce(&mut self, descriptors: &[FrameDesc]) {
        // SAFETY: the descriptors are of the UMEM that this ring belongs to,
        // and `Umem::send` took each chunk from its token.
        let produced = unsafe { self.tx.produce(descriptors) };
        debug_assert_eq!(produced, descriptors.len(), "room was asked for before");
        if !self.tx_ends.is_empty() {
            let len = self.tx_ends.len();
            for descriptor in descriptors {
                self.tx_ends[self.tx_produced % len] = !descriptor.has_more_frames();
                self.tx_produced += 1;
            }
        }
    }

    /// Whether the kernel waits to be told that the TX ring has entries.
    pub(super) fn transmit_needs_wakeup(&self) -> bool {
        self.tx.needs_wakeup()
    }

    /// Chunks that the kernel has sent, at most a burst.
    pub(super) fn completed(&mut self, room: Room, chunks: &mut Burst<u32>) {
        // SAFETY: as in `received`; `Umem::take_back` checks each.
        let count = unsafe { self.completion.consume(&mut self.taken[..]) };
        for descriptor in &self.taken[..count] {
            chunks.push(room.locate(descriptor.addr()).0);
        }
    }
}
