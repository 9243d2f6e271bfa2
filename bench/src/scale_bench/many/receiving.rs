//! Opening frames of many SAs. Imports `frames`.
//!
//! All lanes have the same key, and each its own copy of the key's schedule.
//! So frames to open are sealed with one schedule that is none of the lanes',
//! and making a burst takes nothing of theirs out of the caches, and brings
//! nothing in.

use std::time::{Duration, Instant};

use tipsec_dataplane::aead::{Aead, Nonce};
use tipsec_dataplane::bearer::FrameMemory;
use tipsec_dataplane::burst::{BURST, Burst};
use tipsec_dataplane::command::RxLaneSpec;
use tipsec_dataplane::counters::WorkerCounters;
use tipsec_dataplane::frame::{DataHeader, PAYLOAD_OFFSET};
use tipsec_dataplane::ids::{Epoch, LaneIndex};
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::rx::open_burst;
use tipsec_dataplane::sa::{RxLane, RxShared};
use tipsec_dataplane::secret::LaneSecret;
use tipsec_dataplane::table::RxTable;
use tipsec_xdp::wire::{HEADER_LEN, TAG_LEN};

use super::frames::{BurstMemory, encapsulation};
use super::{Direction, PEERS_MAX, failed, names, secret};
use crate::chunks::{Chunk, Chunks};
use crate::error::Result;

/// Opens.
pub(in crate::scale_bench) struct Receiving<A: Aead> {
    /// Of the sealing end; see the module.
    key: A::Key,
    secret: LaneSecret,
    table: RxTable<A>,
    /// Each SA's next packet number.
    next_numbers: Vec<u64>,
    counters: WorkerCounters,
}

impl<A: Aead> Receiving<A> {
    /// With lanes of `sas` SAs.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub(in crate::scale_bench) fn new(sas: u32) -> Result<Self> {
        let mut table = RxTable::new(sas as usize);
        for sa in 0..sas {
            let (spi, peer, node) = names(sa)?;
            let lane = RxLane::new(RxLaneSpec {
                spi,
                peer,
                node,
                epoch: Epoch(1),
                lane: LaneIndex(0),
                secret: secret(),
                next: Some(secret()),
                phase_bits: PhaseBits::PROTOCOL,
                shared: RxShared::of_single_lane(u64::MAX),
            });
            let refused = |error| failed("install a lane", format!("{error}"));
            table.insert(lane).map_err(refused)?;
        }
        Ok(Self {
            key: A::key(&secret()),
            secret: secret(),
            table,
            next_numbers: vec![0; sas as usize],
            counters: WorkerCounters::new(sas.min(PEERS_MAX) as usize),
        })
    }

    fn seal(&mut self, sa: u32, memory: &mut Chunks, frame: &mut Chunk, len: usize) -> Result<()> {
        let packet_number = self.next_numbers[sa as usize];
        self.next_numbers[sa as usize] += 1;
        let header = DataHeader {
            spi: names(sa)?.0,
            packet_number,
            length: u16::try_from(len + TAG_LEN).unwrap_or(u16::MAX),
        }
        .encode();
        let room = memory.room_mut(frame);
        room[PAYLOAD_OFFSET - HEADER_LEN..PAYLOAD_OFFSET].copy_from_slice(&header);
        let (payload, tag) = room[PAYLOAD_OFFSET..].split_at_mut(len);
        let nonce = Nonce::new(self.secret.iv(), packet_number);
        tag[..TAG_LEN].copy_from_slice(&A::seal(&self.key, nonce, &header, payload));
        Ok(())
    }
}

impl<A: Aead> Direction for Receiving<A> {
    fn burst(&mut self, sas: &[u32; BURST], memory: &mut BurstMemory) -> Result<Duration> {
        let BurstMemory {
            chunks,
            frames,
            plaintext_len,
        } = memory;
        let mut received = Burst::new();
        for (&sa, frame) in sas.iter().zip(frames) {
            self.seal(sa, chunks, frame, *plaintext_len)?;
            received.push(*frame);
        }
        let mut opened = Burst::new();
        let start = Instant::now();
        open_burst(
            &mut self.table,
            &encapsulation(),
            chunks,
            &mut received,
            &mut opened,
            &self.counters,
            |_| (),
        );
        let time = start.elapsed();
        match opened.len() {
            BURST => Ok(time),
            some => Err(failed("open a burst", format!("{some} frames opened"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lanes;
    use super::*;
    use crate::wire_bench::NullCipher;

    #[test]
    fn every_sa_is_used_once_before_it_is_measured() {
        let lanes = Lanes::new(Receiving::<NullCipher>::new(100).unwrap(), 100).unwrap();
        let receiving = lanes.lock();
        assert_eq!(receiving.table.len(), 100);
        for (sa, &next) in (0..).zip(&receiving.next_numbers) {
            // Two bursts of 64 go over 100 SAs once, and 28 of them twice.
            let frames = 1 + u64::from(sa < 28);
            assert_eq!(next, frames, "{sa}");
            let (_, peer, _) = names(sa).unwrap();
            let opened = &receiving.counters.peer(peer).opened_frames;
            assert_eq!(opened.value(), frames, "{sa}");
        }
    }

    #[test]
    fn a_frame_that_does_not_open_ends_the_measurement() {
        let mut receiving = Receiving::<NullCipher>::new(2).unwrap();
        receiving.table.remove(names(1).unwrap().0);
        let error = receiving.burst(&[1; BURST], &mut BurstMemory::new(64));
        assert!(error.unwrap_err().to_string().contains("0 frames opened"));
    }
}
