//! The bare forwarder on a schedule. Imports `paced`.

use super::{Bare, HEADERS_LEN, Reader, Writer};
use crate::error::Result;
use crate::wire_bench::paced::{Device, Order, PacedSource, StampedSink, Trial, read_stamp, trial};

impl Device for Bare<'_> {
    fn trial(&mut self, order: &Order) -> Result<Trial> {
        let plan = self.plan;
        self.with_flow(|flow, read_book| trial(flow, &plan, order, read_book))
    }
}

impl PacedSource for Writer<'_> {
    fn submit(&mut self, stamps: &[u64]) -> Result<usize> {
        let mut next = stamps.iter();
        self.send(stamps.len(), |message| {
            if let Some((place, stamp)) = message.first_chunk_mut().zip(next.next()) {
                *place = stamp.to_be_bytes();
            }
        })
    }
}

impl StampedSink for Reader<'_> {
    fn take_stamps(&mut self, mut each: impl FnMut(u64)) -> Result<usize> {
        let (frames, bytes) = self
            .socket
            .receive_each(|frame| each(read_stamp(frame.get(HEADERS_LEN..))));
        if frames > 0 {
            self.received.bytes.add(bytes as u64);
            self.received.frames.add(frames as u64);
        }
        Ok(frames)
    }
}
