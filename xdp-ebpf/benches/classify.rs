//! Deciding a frame's fate, as host code: `cargo bench -p tipsec-xdp`. In the
//! kernel the same source is compiled for BPF and by its JIT, so only
//! differences between two versions say anything here.
#![allow(missing_docs)] // nobody calls what criterion makes

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tipsec_xdp::classify::{Verdict, classify};
use tipsec_xdp::config::{Carrier, Config};
use tipsec_xdp::wire::{DEFAULT_ETHERTYPE, GROUP_MAC, Kind};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NODE: u32 = 1;
const VLAN: u16 = 7;
/// Bytes after a control frame's header: the smallest.
const CONTROL_LENGTH: u8 = 56;

fn ethernet(vlan: u16, destination: [u8; 6]) -> Vec<u8> {
    let mut frame = [destination, PEER].concat();
    if vlan != 0 {
        frame.extend(0x8100_u16.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(DEFAULT_ETHERTYPE.to_be_bytes());
    frame
}

fn data(vlan: u16, destination: [u8; 6]) -> Vec<u8> {
    let mut frame = ethernet(vlan, destination);
    frame.extend([Kind::Data.version_byte(), 0, 0, 64, 0, 0x10, 0, 5]);
    frame.extend(77_u64.to_be_bytes());
    frame.resize(frame.len() + 64, 0xc5);
    frame
}

fn beacon() -> Vec<u8> {
    let mut frame = ethernet(0, GROUP_MAC);
    frame.extend([
        Kind::Beacon.version_byte(),
        0,
        0,
        CONTROL_LENGTH,
        1,
        0,
        0,
        0,
    ]);
    frame.extend([0; 8]);
    frame.extend(2_u32.to_be_bytes());
    frame.resize(frame.len() + usize::from(CONTROL_LENGTH), 0);
    frame
}

fn foreign() -> Vec<u8> {
    let mut frame = [OWN, PEER].concat();
    frame.extend([0x08, 0x00]);
    frame.resize(64, 0);
    frame
}

fn verdicts(criterion: &mut Criterion) {
    let carrier = Carrier::Ethernet {
        ethertype: DEFAULT_ETHERTYPE,
    };
    let untagged = Config::new(OWN, carrier, 0, NODE);
    let tagged = Config::new(OWN, carrier, VLAN, NODE);
    type Wanted = fn(&Verdict<'_>) -> bool;
    let cases: [(&str, Config, Vec<u8>, Wanted); 5] = [
        ("data", untagged, data(0, OWN), |v| {
            matches!(v, Verdict::Data { .. })
        }),
        ("data on a VLAN", tagged, data(VLAN, OWN), |v| {
            matches!(v, Verdict::Data { .. })
        }),
        ("data for another station", untagged, data(0, [2; 6]), |v| {
            matches!(v, Verdict::Drop(_))
        }),
        ("beacon", untagged, beacon(), |v| {
            matches!(v, Verdict::Control(_))
        }),
        ("IPv4", untagged, foreign(), |v| matches!(v, Verdict::Pass)),
    ];
    let mut group = criterion.benchmark_group("classify");
    for (name, config, frame, wanted) in cases {
        let verdict = classify(&config, frame.as_slice());
        assert!(wanted(&verdict), "{name}: {verdict:?}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| wanted(&classify(black_box(&config), black_box(frame.as_slice()))));
        });
    }
    group.finish();
}

criterion_group!(benches, verdicts);
criterion_main!(benches);
