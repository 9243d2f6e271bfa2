//! The kernel's UDP on a schedule, one datagram a frame. Imports `paced`.

use super::{HEADERS_LEN, Receiver, Sender, Udp};
use crate::error::{Error, Result};
use crate::sys::mmsg::{self, BATCH};
use crate::wire_bench::paced::{Device, Order, PacedSource, StampedSink, Trial, read_stamp, trial};

impl Device for Udp<'_> {
    fn trial(&mut self, order: &Order) -> Result<Trial> {
        let plan = self.plan;
        self.with_flow(|flow, read_book| trial(flow, &plan, order, read_book))
    }
}

impl PacedSource for Sender<'_> {
    fn submit(&mut self, stamps: &[u64]) -> Result<usize> {
        let count = stamps.len().min(BATCH);
        for (slot, stamp) in self.payload.chunks_exact_mut(self.stride).zip(stamps) {
            if let Some(place) = slot.first_chunk_mut() {
                *place = stamp.to_be_bytes();
            }
        }
        let batch = &self.lengths[self.next..][..count];
        let taken = mmsg::send(&self.socket, &self.payload, self.stride, batch)
            .map_err(Error::io("send"))?;
        self.next = (self.next + taken) % self.period;
        self.sent.submitted.add(taken as u64);
        Ok(taken)
    }
}

impl StampedSink for Receiver<'_> {
    fn take_stamps(&mut self, mut each: impl FnMut(u64)) -> Result<usize> {
        let mut bytes = 0;
        let count = self.inbox.receive(&self.socket, |datagram| {
            bytes += datagram.len() + HEADERS_LEN;
            each(read_stamp(Some(datagram)));
        });
        let count = count.map_err(Error::io("receive"))?;
        self.received.bytes.add(bytes as u64);
        self.received.frames.add(count as u64);
        Ok(count)
    }
}
