//! What carries frames: one (NIC, queue) by AF_XDP, or memory in tests.
//!
//! The pipelines see only these traits, statically dispatched.

use std::os::fd::BorrowedFd;

use crate::burst::Burst;
use crate::tx::Sealed;

pub mod memory;
#[cfg(feature = "io")]
pub mod xdp;

/// A place in frame memory that holds one frame. Owned, never copied: who has
/// the token has the memory, and gives it back by [`FrameMemory::release`] or
/// by sending it.
pub trait FrameToken: Sized {
    /// Buffers that the frame is spread over, in order; at least 1.
    fn segments(&self) -> usize;
}

/// Access to the memory behind tokens.
pub trait FrameMemory {
    /// The token type.
    type Frame: FrameToken;

    /// Takes an empty frame, or `None` if none is free.
    fn allocate(&mut self) -> Option<Self::Frame>;

    /// Gives a frame back.
    fn release(&mut self, frame: Self::Frame);

    /// The received bytes of a segment, from the outer header on.
    fn segment_mut<'a>(&'a mut self, frame: &'a mut Self::Frame, index: usize) -> &'a mut [u8];

    /// The whole writable room of a single-segment frame: for an allocated
    /// frame at least [`crate::frame::PAYLOAD_OFFSET`] bytes and the largest
    /// frame of the bearer behind it.
    fn room_mut<'a>(&'a mut self, frame: &'a mut Self::Frame) -> &'a mut [u8];

    /// Where in the room a received frame's first byte lies, and its length.
    fn extent(&self, frame: &Self::Frame) -> (usize, usize);

    /// Says which part of the room is the frame to send: `start..end`.
    fn set_extent(&mut self, frame: &mut Self::Frame, start: usize, end: usize);
}

/// What became of a call to [`Bearer::transmit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Transmitted {
    /// Frames that the bearer took.
    pub accepted: usize,
    /// Frames known to be lost after they were accepted, now or earlier.
    pub lost: usize,
}

/// Why a bearer can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// The device was deleted or its queue taken away (ENXIO).
    #[error("the network device of this bearer is gone")]
    DeviceGone,
    /// Anything else that the kernel refused.
    #[error("the kernel refused to {what}")]
    Io {
        /// The call, as a verb.
        what: &'static str,
        /// Its error.
        source: std::io::Error,
    },
}

/// Carries frames of one queue.
pub trait Bearer: FrameMemory {
    /// Appends received frames to `burst`, as many as there are and fit, and
    /// refills the fill ring.
    ///
    /// # Errors
    /// [`BearerError`] if the bearer is no longer usable.
    fn receive(&mut self, burst: &mut Burst<Self::Frame>) -> Result<(), BearerError>;

    /// How many more frames may be sent now: bounded by frames in flight, not
    /// by memory alone, because a deep queue costs throughput and latency.
    fn transmit_room(&mut self) -> usize;

    /// Takes frames from the front of `burst` and sends them; what it does not
    /// take stays. Kicks the kernel where needed: once, not per frame.
    ///
    /// # Errors
    /// [`BearerError`] if the bearer is no longer usable.
    fn transmit(
        &mut self,
        burst: &mut Burst<Sealed<Self::Frame>>,
    ) -> Result<Transmitted, BearerError>;

    /// Frames that [`Self::transmit`] accepted and the kernel has not taken
    /// yet: another call, with an empty burst, offers them again. Once the
    /// bearer has failed, frames that are lost with it and were not yet said
    /// to be.
    fn unsent(&mut self) -> usize {
        0
    }

    /// Looks whether the bearer still works; a system call, for when a worker
    /// has heard nothing for long, since a deleted device makes no sound.
    ///
    /// # Errors
    /// [`BearerError`] if the bearer is no longer usable.
    fn check(&mut self) -> Result<(), BearerError> {
        Ok(())
    }

    /// Readable when frames have arrived.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;
}
