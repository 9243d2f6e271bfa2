//! The replay window: `cargo bench -p tipsec-dataplane --bench window`.
#![allow(clippy::unwrap_used, missing_docs)] // nobody calls what criterion makes

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tipsec_dataplane::window::{Block, PACKET_NUMBERS, Window};

/// Packet numbers of a block.
const BLOCK: u64 = 32;

fn window(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window");
    let window = Window::new();
    // Wraps round long before a window can tell, after 2^45 numbers.
    let mut number = 0;
    group.bench_function("check", |bencher| {
        bencher.iter(|| window.check(black_box(PACKET_NUMBERS - 1)));
    });
    group.bench_function("check and commit, in order", |bencher| {
        bencher.iter(|| {
            let fresh = window.check(number) && window.commit(number);
            number += 1;
            fresh
        });
    });
    group.bench_function("commit, a duplicate", |bencher| {
        bencher.iter(|| window.commit(black_box(number - 1)));
    });
    group.throughput(Throughput::Elements(BLOCK));
    group.bench_function("commit, a block of 32 at once", |bencher| {
        bencher.iter(|| {
            number += BLOCK;
            let (block, _) = Block::of(number).unwrap();
            window.commit_block(block, u32::MAX)
        });
    });
    group.finish();
}

criterion_group!(benches, window);
criterion_main!(benches);
