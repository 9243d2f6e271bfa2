//! Sealing frames to many peers. Imports `frames`.

use std::time::{Duration, Instant};

use tipsec_dataplane::aead::Aead;
use tipsec_dataplane::burst::{BURST, Burst};
use tipsec_dataplane::command::{Budget, TxLaneSpec};
use tipsec_dataplane::counters::WorkerCounters;
use tipsec_dataplane::ids::{Epoch, LaneIndex};
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::sa::TxLane;
use tipsec_dataplane::table::TxTable;
use tipsec_dataplane::tx::{Plain, seal_burst};

use super::frames::{BurstMemory, path};
use super::{Direction, failed, names, secret};
use crate::error::Result;

/// Seals.
pub(in crate::scale_bench) struct Sending<A: Aead> {
    table: TxTable<A>,
    counters: WorkerCounters,
}

impl<A: Aead> Sending<A> {
    /// With a lane to each of `peers` peers, at most 65,536.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub(in crate::scale_bench) fn new(peers: u32) -> Result<Self> {
        let mut table = TxTable::new(peers as usize);
        for number in 0..peers {
            let (spi, peer, node) = names(number)?;
            table.set_path(peer, Some(path()));
            let lane = TxLane::new(TxLaneSpec {
                spi,
                peer,
                node,
                epoch: Epoch(1),
                lane: LaneIndex(0),
                secret: secret(),
                next: Some(secret()),
                phase_bits: PhaseBits::PROTOCOL,
                budget: Budget {
                    soft: u64::MAX,
                    hard: u64::MAX,
                },
            });
            let refused = |error| failed("install a lane", format!("{error}"));
            table.install(lane).map_err(refused)?;
        }
        Ok(Self {
            table,
            counters: WorkerCounters::new(peers as usize),
        })
    }
}

impl<A: Aead> Direction for Sending<A> {
    fn burst(&mut self, sas: &[u32; BURST], memory: &mut BurstMemory) -> Result<Duration> {
        let mut plain = Burst::new();
        for (&sa, &frame) in sas.iter().zip(&memory.frames) {
            let (_, peer, _) = names(sa)?;
            plain.push(Plain::data(frame, peer, memory.plaintext_len));
        }
        let mut sealed = Burst::new();
        let start = Instant::now();
        let chunks = &mut memory.chunks;
        seal_burst(
            &mut self.table,
            chunks,
            &mut plain,
            &mut sealed,
            &self.counters,
            |_| (),
        );
        let time = start.elapsed();
        match sealed.len() {
            BURST => Ok(time),
            some => Err(failed("seal a burst", format!("{some} frames sealed"))),
        }
    }
}
