//! Frame memory without a NIC, laid out as the AF_XDP bearer lays out its own:
//! chunks of 4,096 bytes on page boundaries, frames behind the kernel's 256
//! bytes of headroom, a free list that hands out what came back last. Pure.
//! Imports nothing of the harness.

use tipsec_dataplane::bearer::{FrameMemory, FrameToken};
use tipsec_dataplane::frame::frame_start;

/// Bytes of a chunk, and what its address is a multiple of.
const CHUNK_LEN: usize = 4096;
/// Where in a chunk the kernel writes a frame (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;

/// Token of one chunk. Unlike a real bearer's it can be copied, so that one
/// burst of frames goes through the pipelines again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Chunk {
    index: u32,
    /// Where the frame lies in the room.
    start: u16,
    end: u16,
}

impl FrameToken for Chunk {
    fn segments(&self) -> usize {
        1
    }
}

/// The memory.
pub(crate) struct Chunks {
    memory: Box<[u8]>,
    /// Of the first chunk.
    base: usize,
    /// Of a room in its chunk.
    room_start: usize,
    free: Vec<u32>,
}

impl Chunks {
    /// `count` chunks for frames with an outer header of `outer_len` bytes.
    pub(crate) fn new(count: u32, outer_len: usize) -> Self {
        // One more, to start on a page wherever the allocator begins.
        let memory = vec![0; (count as usize + 1) * CHUNK_LEN].into_boxed_slice();
        let base = memory.as_ptr().align_offset(CHUNK_LEN).min(CHUNK_LEN);
        Self {
            memory,
            base,
            room_start: HEADROOM - frame_start(outer_len),
            free: (0..count).rev().collect(),
        }
    }
}

impl FrameMemory for Chunks {
    type Frame = Chunk;

    fn allocate(&mut self) -> Option<Chunk> {
        let index = self.free.pop()?;
        Some(Chunk {
            index,
            start: 0,
            end: 0,
        })
    }

    fn release(&mut self, frame: Chunk) {
        self.free.push(frame.index);
    }

    #[inline]
    fn segment_mut<'a>(&'a mut self, frame: &'a mut Chunk, index: usize) -> &'a mut [u8] {
        let extent = match index {
            0 => usize::from(frame.start)..usize::from(frame.end),
            _ => 0..0,
        };
        self.room_mut(frame).get_mut(extent).unwrap_or_default()
    }

    #[inline]
    fn room_mut<'a>(&'a mut self, frame: &'a mut Chunk) -> &'a mut [u8] {
        let chunk = self.base + frame.index as usize * CHUNK_LEN;
        self.memory
            .get_mut(chunk + self.room_start..chunk + CHUNK_LEN)
            .unwrap_or_default()
    }

    fn extent(&self, frame: &Chunk) -> (usize, usize) {
        (frame.start.into(), usize::from(frame.end - frame.start))
    }

    #[inline]
    fn set_extent(&mut self, frame: &mut Chunk, start: usize, end: usize) {
        debug_assert!(start <= end && end <= CHUNK_LEN);
        #[allow(clippy::cast_possible_truncation)] // within a chunk
        let (start, end) = (start as u16, end as u16);
        (frame.start, frame.end) = (start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTER_LEN: usize = 14;

    #[test]
    fn frames_lie_where_the_kernel_puts_them() {
        let mut chunks = Chunks::new(3, OUTER_LEN);
        for _ in 0..3 {
            let mut chunk = chunks.allocate().unwrap();
            let start = frame_start(OUTER_LEN);
            chunks.set_extent(&mut chunk, start, start + 64);
            assert_eq!(chunks.extent(&chunk), (start, 64));
            let frame = chunks.segment_mut(&mut chunk, 0);
            assert_eq!(frame.len(), 64);
            assert_eq!(frame.as_ptr() as usize % CHUNK_LEN, HEADROOM);
            assert!(chunks.segment_mut(&mut chunk, 1).is_empty());
        }
        assert!(chunks.allocate().is_none());
    }

    #[test]
    fn the_chunk_that_came_back_last_goes_first() {
        let mut chunks = Chunks::new(2, OUTER_LEN);
        let [first, second] = [(); 2].map(|()| chunks.allocate().unwrap());
        chunks.release(second);
        chunks.release(first);
        assert_eq!(chunks.allocate(), Some(first));
    }
}
