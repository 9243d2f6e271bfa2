//! The bearer's frame memory as the pipelines see it: rooms and their tokens.
//!
//! Imports `umem` by way of the bearer.

use super::XdpBearer;
use crate::bearer::{FrameMemory, FrameToken};

/// A room of one bearer's UMEM and the frame in it.
pub struct XdpFrame {
    /// Its first chunk.
    pub(super) chunk: u32,
    /// In the room.
    pub(super) start: u16,
    pub(super) end: u16,
    pub(super) bearer: u32,
    /// Buffers that it arrived in and that were not joined; only the first is
    /// behind this token then.
    pub(super) segments: u8,
}

impl FrameToken for XdpFrame {
    fn segments(&self) -> usize {
        usize::from(self.segments)
    }
}

impl XdpBearer {
    /// The token of a received frame in one piece.
    #[inline]
    pub(super) fn token(&self, chunk: u32, start: u16, end: u16) -> XdpFrame {
        XdpFrame {
            chunk,
            start,
            end,
            bearer: self.id,
            segments: 1,
        }
    }

    /// The chunk of a token, which must be one of this bearer's.
    #[inline]
    pub(super) fn chunk_of(&self, frame: &XdpFrame) -> u32 {
        // A token of another bearer would give two owners to one chunk.
        assert_eq!(frame.bearer, self.id, "frame token of another bearer");
        frame.chunk
    }

    /// Puts a room that nobody owns where it is taken from again.
    #[inline]
    pub(super) fn put_back(&mut self, chunk: u32) {
        if self.umem.layout().is_wide(chunk) {
            self.wide_free.push(chunk);
        } else {
            self.free.push(chunk);
        }
    }
}

impl FrameMemory for XdpBearer {
    type Frame = XdpFrame;

    fn allocate(&mut self) -> Option<XdpFrame> {
        // Who allocates does not say how long the frame will be.
        let chunk = if self.multi_buffer {
            self.wide_free.pop()?
        } else {
            self.free.pop()?
        };
        self.umem.hand_out(chunk);
        Some(self.token(chunk, 0, 0))
    }

    fn release(&mut self, frame: XdpFrame) {
        let chunk = self.chunk_of(&frame);
        if self.umem.give_back(chunk) {
            self.put_back(chunk);
        }
    }

    fn segment_mut<'a>(&'a mut self, frame: &'a mut XdpFrame, index: usize) -> &'a mut [u8] {
        let extent = usize::from(frame.start)..usize::from(frame.end);
        if index > 0 {
            return &mut [];
        }
        self.room_mut(frame).get_mut(extent).unwrap_or_default()
    }

    fn room_mut<'a>(&'a mut self, frame: &'a mut XdpFrame) -> &'a mut [u8] {
        let chunk = self.chunk_of(frame);
        self.umem.room_mut(chunk)
    }

    fn extent(&self, frame: &XdpFrame) -> (usize, usize) {
        (
            usize::from(frame.start),
            usize::from(frame.end - frame.start),
        )
    }

    fn set_extent(&mut self, frame: &mut XdpFrame, start: usize, end: usize) {
        let frame_start = self.umem.room().frame_start();
        let room = self.room_mut(frame);
        let mut range = start..end.min(room.len()).max(start.min(room.len()));
        if start != frame_start && range.start < range.end {
            // Sockets send from one place in a chunk (xsk-rs fixes it). Frames
            // of the encapsulation that this bearer is for are there already.
            let length = range.len().min(room.len() - frame_start);
            room.copy_within(range.start..range.start + length, frame_start);
            range = frame_start..frame_start + length;
        }
        // A room is of a few chunks of 4096 bytes.
        #[allow(clippy::cast_possible_truncation)]
        {
            frame.start = range.start as u16;
            frame.end = range.end as u16;
        }
    }
}
