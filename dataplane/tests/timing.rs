//! Prints nanoseconds a frame of both pipelines beside the bare AEAD call and
//! beside a cipher that does nothing. Not a benchmark to publish (`bench` is),
//! but enough to see a regression:
//! `cargo test -p tipsec-dataplane --release --no-default-features
//! --features crypto-ring,crypto-aws-lc --test timing -- --ignored --nocapture
//! --test-threads 1`.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test may stop

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{PEER, UNBOUNDED, pair, secret};
use tipsec_dataplane::aead::{Aead, Nonce, OpenFailed};
use tipsec_dataplane::bearer::memory::Faults;
use tipsec_dataplane::bearer::{Bearer, FrameMemory};
use tipsec_dataplane::burst::{BURST, Burst};
use tipsec_dataplane::frame::PAYLOAD_OFFSET;
use tipsec_dataplane::payload::Payload;
use tipsec_dataplane::rx::open_burst;
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::tx::{Plain, seal_burst};

const BURSTS: u32 = 10_000;

/// Leaves the payload alone: what remains is the pipeline.
struct Nothing;

impl Aead for Nothing {
    type Key = ();

    const NAME: &'static str = "nothing";

    fn key(_: &LaneSecret) {}

    fn seal(_: &(), _: Nonce, _: &[u8; 16], payload: &mut [u8]) -> [u8; 16] {
        black_box(payload);
        [0; 16]
    }

    fn open(_: &(), _: Nonce, _: &[u8; 16], sealed: &mut [u8]) -> Result<(), OpenFailed> {
        black_box(sealed);
        Ok(())
    }
}

fn per_frame(time: Duration) -> f64 {
    time.as_nanos() as f64 / f64::from(BURSTS) / BURST as f64
}

/// (seal, open) of the bare AEAD over as many buffers as a burst has.
fn bare<A: Aead>(len: usize) -> (f64, f64) {
    let secret = secret(Suite::Aes256Gcm, 1);
    let key = A::key(&secret);
    let mut buffers = vec![vec![0u8; len + 16]; BURST];
    let (mut seal, mut open) = (Duration::ZERO, Duration::ZERO);
    let mut number = 0;
    for _ in 0..BURSTS {
        let start = Instant::now();
        for (n, buffer) in (number..).zip(&mut buffers) {
            let (payload, tag) = buffer.split_at_mut(len);
            tag.copy_from_slice(&A::seal(
                &key,
                Nonce::new(secret.iv(), n),
                &[0; 16],
                payload,
            ));
        }
        seal += start.elapsed();
        let start = Instant::now();
        for (n, buffer) in (number..).zip(&mut buffers) {
            A::open(&key, Nonce::new(secret.iv(), n), &[0; 16], buffer).unwrap();
        }
        open += start.elapsed();
        number += BURST as u64;
    }
    (per_frame(seal), per_frame(open))
}

/// (seal, open) of the pipelines.
fn pipelines<A: Aead>(len: usize) -> (f64, f64) {
    let (mut a, mut b) = pair::<A>(Faults::default(), 0);
    a.install_tx(7, 1, secret(Suite::Aes256Gcm, 1), UNBOUNDED);
    b.install_rx(7, 1, secret(Suite::Aes256Gcm, 1));
    let (mut plain, mut sealed) = (Burst::new(), Burst::new());
    let (mut received, mut opened) = (Burst::new(), Burst::new());
    let (mut seal, mut open) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..BURSTS {
        for _ in 0..BURST {
            let mut frame = a.bearer.allocate().unwrap();
            a.bearer.room_mut(&mut frame)[PAYLOAD_OFFSET] = Payload::Message.encode();
            plain.push(Plain::data(frame, PEER, len));
        }
        let start = Instant::now();
        seal_burst(
            &mut a.tx,
            &mut a.bearer,
            &mut plain,
            &mut sealed,
            &a.counters,
            |_| (),
        );
        seal += start.elapsed();
        a.bearer.transmit(&mut sealed).unwrap();
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
        open += start.elapsed();
        assert_eq!(opened.len(), BURST);
        for opened in opened.drain(..) {
            b.bearer.release(opened.into_frame());
        }
    }
    (per_frame(seal), per_frame(open))
}

fn print<A: Aead>() {
    for len in [64, 256, 1400] {
        // Interleaved, and the best of several: the machine is shared.
        let mut best = [(f64::MAX, f64::MAX); 2];
        for _ in 0..5 {
            for (slot, round) in best.iter_mut().zip([bare::<A>(len), pipelines::<A>(len)]) {
                *slot = (slot.0.min(round.0), slot.1.min(round.1));
            }
        }
        let [bare, pipeline] = best;
        println!(
            "{:>10} {len:>5} B  seal {:6.1} bare {:6.1} tx   open {:6.1} bare {:6.1} rx  ns/frame",
            A::NAME,
            bare.0,
            pipeline.0,
            bare.1,
            pipeline.1,
        );
    }
}

#[test]
#[ignore = "prints timings; run it with --release"]
fn nothing() {
    print::<Nothing>();
}

#[test]
#[ignore = "prints timings; run it with --release"]
#[cfg(feature = "crypto-ring")]
fn ring() {
    print::<tipsec_dataplane::aead::ring::Ring>();
}

#[test]
#[ignore = "prints timings; run it with --release"]
#[cfg(feature = "crypto-aws-lc")]
fn aws_lc() {
    print::<tipsec_dataplane::aead::aws_lc::AwsLc>();
}
