//! Opening, by lane and by burst: `cargo bench -p tipsec-dataplane --bench
//! open`. For finding out what a change does; figures to publish come from
//! `tipsec-bench`.
#![allow(clippy::unwrap_used, missing_docs)] // nobody calls what criterion makes

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{PEER, UNBOUNDED, pair, secret};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tipsec_dataplane::aead::{Aead, Nonce};
use tipsec_dataplane::bearer::Bearer;
use tipsec_dataplane::bearer::FrameMemory;
use tipsec_dataplane::bearer::memory::Faults;
use tipsec_dataplane::burst::{BURST, Burst};
use tipsec_dataplane::command::RxLaneSpec;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, Spi};
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::rx::open_burst;
use tipsec_dataplane::sa::{RxLane, RxShared};
use tipsec_dataplane::secret::Suite;

/// Bytes of a plaintext.
const SIZES: [usize; 3] = [18, 210, 1354];

fn lane<A: Aead>() -> RxLane<A> {
    RxLane::new(RxLaneSpec {
        spi: Spi::new(7).unwrap(),
        peer: PEER,
        node: NodeId::new(1).unwrap(),
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: secret(Suite::Aes256Gcm, 1),
        next: None,
        phase_bits: PhaseBits::PROTOCOL,
        shared: RxShared::of_single_lane(u64::MAX),
    })
}

/// Time of `bursts` bursts in the receive pipeline alone.
fn bursts<A: Aead>(len: usize, bursts: u64) -> Duration {
    let (mut a, mut b) = pair::<A>(Faults::default(), 0);
    a.install_tx(7, 1, secret(Suite::Aes256Gcm, 1), UNBOUNDED);
    b.install_rx(7, 1, secret(Suite::Aes256Gcm, 1));
    let (mut received, mut opened) = (Burst::new(), Burst::new());
    let mut time = Duration::ZERO;
    for _ in 0..bursts {
        assert_eq!(a.send(BURST, |_, _| len - 1), BURST);
        b.bearer.receive(&mut received).unwrap();
        let start = Instant::now();
        open_burst(
            &mut b.rx,
            &b.encapsulation,
            &mut b.bearer,
            &mut received,
            &mut opened,
            &b.counters,
            |_| (),
        );
        time += start.elapsed();
        assert_eq!(opened.len(), BURST);
        for frame in opened.drain(..) {
            b.bearer.release(frame.into_frame());
        }
    }
    time
}

fn with<A: Aead>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("open/lane/{}", A::NAME));
    for len in SIZES {
        let header = [0x10; 16];
        let secret = secret(Suite::Aes256Gcm, 1);
        let key = A::key(&secret);
        let mut sealed = vec![0; len];
        let tag = A::seal(&key, Nonce::new(secret.iv(), 0), &header, &mut sealed);
        sealed.extend_from_slice(&tag);
        let mut lane = lane::<A>();
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter_batched_ref(
                || sealed.clone(),
                |sealed| assert!(lane.open(&header, 0, sealed).is_ok()),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group(format!("open/burst/{}", A::NAME));
    group.throughput(Throughput::Elements(BURST as u64));
    for len in SIZES {
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter_custom(|count| bursts::<A>(len, count));
        });
    }
    group.finish();
}

fn open(criterion: &mut Criterion) {
    #[cfg(feature = "crypto-ring")]
    with::<tipsec_dataplane::aead::ring::Ring>(criterion);
    #[cfg(feature = "crypto-aws-lc")]
    with::<tipsec_dataplane::aead::aws_lc::AwsLc>(criterion);
}

criterion_group!(benches, open);
criterion_main!(benches);
