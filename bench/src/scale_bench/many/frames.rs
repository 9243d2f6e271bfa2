//! The frame memory of one burst. Imports `chunks`.

use tipsec_dataplane::bearer::FrameMemory;
use tipsec_dataplane::burst::BURST;
use tipsec_dataplane::frame::{PAYLOAD_OFFSET, frame_start};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OUTER_LEN_MAX, OuterHeader};
use tipsec_dataplane::payload::Payload;
use tipsec_xdp::wire::{DEFAULT_ETHERTYPE, ETH_HEADER_LEN, HEADER_LEN, TAG_LEN};

use crate::chunks::{Chunk, Chunks};

/// Bytes of a frame that are not plaintext.
pub(super) const OVERHEAD: usize = ETH_HEADER_LEN + HEADER_LEN + TAG_LEN;
const LEFT: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const RIGHT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// The way of all frames.
pub(super) fn path() -> OuterHeader {
    OuterHeader::ethernet(LEFT, RIGHT, DEFAULT_ETHERTYPE, None)
}

/// What they look like where they arrive.
pub(super) fn encapsulation() -> Encapsulation {
    Encapsulation::ethernet(RIGHT, DEFAULT_ETHERTYPE, None)
}

/// The memory of one burst of frames of one length.
pub(in crate::scale_bench) struct BurstMemory {
    pub(super) chunks: Chunks,
    /// A burst of them.
    pub(super) frames: Vec<Chunk>,
    /// Bytes of a plaintext.
    pub(super) plaintext_len: usize,
}

impl BurstMemory {
    /// For frames of `length` bytes on the wire.
    pub(super) fn new(length: usize) -> Self {
        let mut chunks = Chunks::new(64, ETH_HEADER_LEN);
        let mut outer = [0; OUTER_LEN_MAX];
        path().write(&mut outer, length - ETH_HEADER_LEN);
        let start = frame_start(ETH_HEADER_LEN);
        let mut frames = Vec::with_capacity(BURST);
        while let Some(mut frame) = chunks.allocate() {
            let room = chunks.room_mut(&mut frame);
            let ethernet = &outer[OUTER_LEN_MAX - ETH_HEADER_LEN..];
            room[start..start + ETH_HEADER_LEN].copy_from_slice(ethernet);
            // It is a message again after each opening.
            room[PAYLOAD_OFFSET] = Payload::Message.encode();
            chunks.set_extent(&mut frame, start, start + length);
            frames.push(frame);
        }
        Self {
            chunks,
            frames,
            plaintext_len: length - OVERHEAD,
        }
    }
}
