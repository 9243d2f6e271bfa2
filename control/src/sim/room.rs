//! Frame memory with room for one frame: what passes through a simulated
//! worker passes alone.

use tipsec_dataplane::bearer::{FrameMemory, FrameToken};
use tipsec_dataplane::frame::PAYLOAD_OFFSET;

/// Longest plaintext of a simulated frame, in bytes.
pub(super) const MAX_PLAINTEXT: usize = 112;
/// Room behind it, for the tag.
const TAG_ROOM: usize = 16;
const SIZE: usize = PAYLOAD_OFFSET + MAX_PLAINTEXT + TAG_ROOM;

/// The frame.
pub(super) struct TheFrame;

impl FrameToken for TheFrame {
    fn segments(&self) -> usize {
        1
    }
}

/// The room.
pub(super) struct Room {
    bytes: [u8; SIZE],
    start: usize,
    end: usize,
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; SIZE],
            start: 0,
            end: 0,
        }
    }

    /// Puts a received frame in; false if it is longer than any that a node
    /// here sends.
    pub(super) fn receive(&mut self, frame: &[u8]) -> bool {
        let Some(place) = self.bytes.get_mut(..frame.len()) else {
            return false;
        };
        place.copy_from_slice(frame);
        (self.start, self.end) = (0, frame.len());
        true
    }

    /// Puts a plaintext where it is sealed; false if it does not fit.
    pub(super) fn write(&mut self, plaintext: &[u8]) -> bool {
        let end = PAYLOAD_OFFSET + plaintext.len();
        match self.bytes.get_mut(PAYLOAD_OFFSET..end) {
            Some(place) if plaintext.len() <= MAX_PLAINTEXT => {
                place.copy_from_slice(plaintext);
                true
            }
            _ => false,
        }
    }

    /// The frame's bytes, outer header to tag.
    pub(super) fn frame(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }
}

impl FrameMemory for Room {
    type Frame = TheFrame;

    fn allocate(&mut self) -> Option<TheFrame> {
        Some(TheFrame)
    }

    fn release(&mut self, _: TheFrame) {}

    fn segment_mut<'a>(&'a mut self, _: &'a mut TheFrame, index: usize) -> &'a mut [u8] {
        let extent = match index {
            0 => self.start..self.end,
            _ => 0..0,
        };
        self.bytes.get_mut(extent).unwrap_or_default()
    }

    fn room_mut<'a>(&'a mut self, _: &'a mut TheFrame) -> &'a mut [u8] {
        &mut self.bytes
    }

    fn extent(&self, _: &TheFrame) -> (usize, usize) {
        (self.start, self.end - self.start)
    }

    fn set_extent(&mut self, _: &mut TheFrame, start: usize, end: usize) {
        (self.start, self.end) = (start, end);
    }
}
