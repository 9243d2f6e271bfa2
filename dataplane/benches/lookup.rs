//! Finding a lane by its SPI and a peer by its node: `cargo bench -p
//! tipsec-dataplane --bench lookup`. What opening a frame of one of many SAs
//! costs is measured by `tipsec-bench scale`.
#![allow(clippy::unwrap_used, missing_docs)] // nobody calls what criterion makes

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tipsec_dataplane::burst::BURST;
use tipsec_dataplane::command::{Budget, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::sa::{RxLane, RxShared, TxLane};
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::table::{RxTable, TxTable};

#[cfg(feature = "crypto-aws-lc")]
type Cipher = tipsec_dataplane::aead::aws_lc::AwsLc;
#[cfg(not(feature = "crypto-aws-lc"))]
type Cipher = tipsec_dataplane::aead::ring::Ring;

fn spi(index: u32) -> Spi {
    Spi::from_parts(index, 1).unwrap()
}

fn secret() -> LaneSecret {
    LaneSecret::new(Suite::Aes256Gcm, [1; 32], [2; 12])
}

fn rx_table(lanes: u32) -> RxTable<Cipher> {
    let mut table = RxTable::new(lanes as usize);
    for index in 0..lanes {
        let lane = RxLane::new(RxLaneSpec {
            spi: spi(index),
            peer: PeerIndex(0),
            node: NodeId::new(1).unwrap(),
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: secret(),
            next: None,
            phase_bits: PhaseBits::PROTOCOL,
            shared: RxShared::of_single_lane(u64::MAX),
        });
        table.insert(lane).unwrap();
    }
    table
}

fn tx_table(peers: u16) -> TxTable<Cipher> {
    let mut table = TxTable::new(peers.into());
    for index in 0..peers {
        let lane = TxLane::new(TxLaneSpec {
            spi: spi(index.into()),
            peer: PeerIndex(index),
            node: NodeId::new(u32::from(index) + 1).unwrap(),
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: secret(),
            next: None,
            phase_bits: PhaseBits::PROTOCOL,
            budget: Budget {
                soft: u64::MAX,
                hard: u64::MAX,
            },
        });
        table.install(lane).unwrap();
    }
    table
}

/// Numbers below `bound` in an order that no prefetcher follows (the Weyl
/// sequence of the golden ratio).
fn scattered(bound: u32) -> impl FnMut() -> u32 {
    let mut place = 0u32;
    move || {
        place = place.wrapping_add(0x9e37_79b9);
        u32::try_from((u64::from(place) * u64::from(bound)) >> 32).unwrap_or(0)
    }
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup/spi");
    group.throughput(Throughput::Elements(BURST as u64));
    for lanes in [1, 100, 10_000] {
        let table = rx_table(lanes);
        let mut next = scattered(lanes);
        group.bench_function(BenchmarkId::from_parameter(lanes), |bencher| {
            bencher.iter(|| {
                // As the pipeline does: ask for all, then look at all.
                let spis: [Spi; BURST] = std::array::from_fn(|_| spi(next()));
                for &spi in &spis {
                    table.prefetch(spi);
                }
                let found = spis.iter().filter(|&&spi| table.lane(spi).is_some());
                assert_eq!(found.count(), BURST);
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("lookup/node");
    for peers in [1, 100, 1024] {
        let table = tx_table(peers);
        let mut next = scattered(peers.into());
        group.bench_function(BenchmarkId::from_parameter(peers), |bencher| {
            bencher.iter(|| {
                table
                    .peer_of(black_box(NodeId::new(next() + 1).unwrap()))
                    .unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookup);
criterion_main!(benches);
