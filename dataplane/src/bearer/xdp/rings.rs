//! The four rings of a socket.
//!
//! Imports `umem`, which knows who owns what is put in and taken out.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, TxQueue};

use super::umem::{Room, Umem};
use crate::burst::{BURST, Burst};

/// Fill, completion, RX and TX ring, and the socket that they keep open.
pub(super) struct Rings {
    pub(super) fill: FillQueue,
    pub(super) completion: CompQueue,
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
    /// Entries of the TX ring.
    pub(super) tx_len: usize,
}

impl Rings {
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

    /// Whether the kernel waits to be told that the fill ring has entries.
    pub(super) fn fill_needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    /// Takes up to `limit` received frames: chunk, start and end in its room.
    pub(super) fn received(
        &mut self,
        room: Room,
        limit: usize,
        frames: &mut Burst<(u32, u16, u16)>,
    ) {
        let mut descriptors = [FrameDesc::default(); BURST];
        // SAFETY: the ring's socket and UMEM live as long as `self`; what it
        // yields is not accessed before `Umem::receive` finds that it was lent.
        let count = unsafe { self.rx.consume(&mut descriptors[..limit.min(BURST)]) };
        for descriptor in &descriptors[..count] {
            let (chunk, start) = room.locate(descriptor.addr());
            let end = start + descriptor.lengths().data();
            // Outside its room (or one of several buffers, which nobody asked
            // for): an empty frame, which the pipeline counts as malformed.
            let sound = end <= room.len() && !descriptor.has_more_frames();
            let (start, end) = if sound { (start, end) } else { (0, 0) };
            // A room is shorter than a chunk, 4096 bytes.
            #[allow(clippy::cast_possible_truncation)]
            frames.push((chunk, start as u16, end as u16));
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

    /// Puts frames (chunk and length in bytes) into the TX ring, which must
    /// have room for all of them.
    pub(super) fn transmit(&mut self, umem: &Umem, frames: &[(u32, u16)]) {
        let mut descriptors = Burst::<FrameDesc>::new();
        for &(chunk, length) in frames {
            descriptors.extend(umem.descriptor_to_send(chunk, length));
        }
        // SAFETY: the descriptors are of the UMEM that this ring belongs to,
        // and `Umem::send` took each chunk from its token.
        let produced = unsafe { self.tx.produce(&descriptors) };
        debug_assert_eq!(produced, frames.len(), "room was asked for before");
    }

    /// Whether the kernel waits to be told that the TX ring has entries.
    pub(super) fn transmit_needs_wakeup(&self) -> bool {
        self.tx.needs_wakeup()
    }

    /// Chunks that the kernel has sent, at most a burst.
    pub(super) fn completed(&mut self, room: Room, chunks: &mut Burst<u32>) {
        let mut descriptors = [FrameDesc::default(); BURST];
        // SAFETY: as in `received`; `Umem::take_back` checks each.
        let count = unsafe { self.completion.consume(&mut descriptors) };
        for descriptor in &descriptors[..count] {
            chunks.push(room.locate(descriptor.addr()).0);
        }
    }
}
