//! Sealing, by lane and by burst: `cargo bench -p tipsec-dataplane --bench
//! seal`. For finding out what a change does; figures to publish come from
//! `tipsec-bench`.
#![allow(clippy::unwrap_used, missing_docs)] // nobody calls what criterion makes

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{PEER, UNBOUNDED, pair, secret};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tipsec_dataplane::aead::Aead;
use tipsec_dataplane::bearer::memory::Faults;
use tipsec_dataplane::bearer::{Bearer, FrameMemory};
use tipsec_dataplane::burst::{BURST, Burst};
use tipsec_dataplane::command::TxLaneSpec;
use tipsec_dataplane::frame::PAYLOAD_OFFSET;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, Spi};
use tipsec_dataplane::payload::Payload;
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::sa::{Class, TxLane};
use tipsec_dataplane::secret::Suite;
use tipsec_dataplane::tx::{Plain, seal_burst};

/// Bytes of a plaintext.
const SIZES: [usize; 3] = [18, 210, 1354];

fn lane<A: Aead>() -> TxLane<A> {
    TxLane::new(TxLaneSpec {
        spi: Spi::new(7).unwrap(),
        peer: PEER,
        node: NodeId::new(2).unwrap(),
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: secret(Suite::Aes256Gcm, 1),
        next: None,
        phase_bits: PhaseBits::PROTOCOL,
        budget: UNBOUNDED,
    })
}

/// Time of `bursts` bursts in the send pipeline alone.
fn bursts<A: Aead>(len: usize, bursts: u64) -> Duration {
    let (mut a, mut b) = pair::<A>(Faults::default(), 0);
    a.install_tx(7, 1, secret(Suite::Aes256Gcm, 1), UNBOUNDED);
    let (mut plain, mut sealed) = (Burst::new(), Burst::new());
    let mut received = Burst::new();
    let mut time = Duration::ZERO;
    for _ in 0..bursts {
        for _ in 0..BURST {
            let mut frame = a.bearer.allocate().unwrap();
            a.bearer.room_mut(&mut frame)[PAYLOAD_OFFSET] = Payload::Message.encode();
            plain.push(Plain::data(frame, PEER, len));
        }
        let start = Instant::now();
        let memory = &mut a.bearer;
        seal_burst(
            &mut a.tx,
            memory,
            &mut plain,
            &mut sealed,
            &a.counters,
            |_| (),
        );
        time += start.elapsed();
        assert_eq!(sealed.len(), BURST);
        a.bearer.transmit(&mut sealed).unwrap();
        b.bearer.receive(&mut received).unwrap();
        for frame in received.drain(..) {
            b.bearer.release(frame);
        }
    }
    time
}

fn with<A: Aead>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("seal/lane/{}", A::NAME));
    for len in SIZES {
        let mut payload = vec![0; len];
        // The lane ends with its phase, after 2^32 packets: longer than this runs.
        let mut lane = lane::<A>();
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter(|| {
                let number = lane.number(payload.len(), Class::Data).unwrap();
                let header = number.header();
                lane.seal(number, &header, &mut payload).unwrap()
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group(format!("seal/burst/{}", A::NAME));
    group.throughput(Throughput::Elements(BURST as u64));
    for len in SIZES {
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter_custom(|count| bursts::<A>(len, count));
        });
    }
    group.finish();
}

fn seal(criterion: &mut Criterion) {
    #[cfg(feature = "crypto-ring")]
    with::<tipsec_dataplane::aead::ring::Ring>(criterion);
    #[cfg(feature = "crypto-aws-lc")]
    with::<tipsec_dataplane::aead::aws_lc::AwsLc>(criterion);
}

criterion_group!(benches, seal);
criterion_main!(benches);
