//! The product on a schedule. Imports `paced`.

use tipsec_dataplane::aead::Aead;

use super::{Opener, Sealer, Tipsec};
use crate::error::{Error, Result};
use crate::wire_bench::paced::{Device, Order, PacedSource, StampedSink, Trial, read_stamp, trial};

/// A message's first byte says what it is.
const STAMP_AT: usize = 1;

impl<A: Aead> Device for Tipsec<'_, A> {
    fn trial(&mut self, order: &Order) -> Result<Trial> {
        let plan = self.plan;
        self.with_flows(|flows, read_book| {
            let queues = flows.len();
            let Ok([(flow, _)]) = <[_; 1]>::try_from(flows) else {
                return Err(Error::Failed {
                    what: "keep to a schedule".into(),
                    detail: format!("it is for one queue, and there are {queues}"),
                });
            };
            trial(flow, &plan, order, read_book)
        })
    }
}

impl<A: Aead> PacedSource for Sealer<'_, A> {
    fn submit(&mut self, stamps: &[u64]) -> Result<usize> {
        // Frames that the socket would not take go before any others.
        if !self.sealed.is_empty() {
            self.transmit()?;
            if !self.sealed.is_empty() {
                return Ok(0);
            }
        }
        let mut next = stamps.iter();
        let (begun, _) = self.send(stamps.len(), |message| {
            let room = message.get_mut(STAMP_AT..);
            if let Some((place, stamp)) = room.and_then(<[u8]>::first_chunk_mut).zip(next.next()) {
                *place = stamp.to_be_bytes();
            }
        })?;
        Ok(begun)
    }
}

impl<A: Aead> StampedSink for Opener<'_, A> {
    fn take_stamps(&mut self, mut each: impl FnMut(u64)) -> Result<usize> {
        self.take(|bearer, opened| {
            let plaintext = opened.plaintext_mut(bearer);
            each(read_stamp(plaintext.get(STAMP_AT..)));
        })
    }
}
