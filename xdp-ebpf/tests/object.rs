//! The built object in this kernel, packet by packet (`BPF_PROG_TEST_RUN`),
//! against the classifier it was built from. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::cast_possible_truncation)]

mod support;

use std::sync::Barrier;
use std::time::Instant;

use support::frames::{self, LISTED_ID, MASTER, SPI, UNKNOWN_MASTER, UNLISTED_ID};
use support::kernel::Kernel;
use support::model::{Model, XDP_DROP, XDP_PASS, XDP_REDIRECT};
use support::{Rng, root_or_skip};
use tipsec_xdp::config::{
    COUNTER_NAMES, MAP_CONFIG, MAP_GATES, MAP_SHARED_BUCKETS, SHARED_UNKNOWN_MASTER,
    SHARED_UNLISTED,
};
use tipsec_xdp::wire::{GROUP_MAC, Kind, MAX_CONTROL_LENGTH};
use tipsec_xdp::{Accept, Reason};

/// Runs one frame with full buckets and compares it with the model.
fn check(kernel: &Kernel, model: &Model, frame: &[u8], what: &str) -> (u32, u32) {
    kernel.list_peer(LISTED_ID);
    kernel.fill_shared_bucket(SHARED_UNLISTED);
    kernel.fill_shared_bucket(SHARED_UNKNOWN_MASTER);
    let expected = model.expect(frame);
    let got = kernel.run_counted(frame);
    let name = |(_, counter): (u32, u32)| COUNTER_NAMES[counter as usize];
    assert_eq!(
        got,
        expected,
        "{what}: kernel {} model {}: {frame:02x?}",
        name(got),
        name(expected)
    );
    got
}

#[test]
fn every_outcome_in_a_table() {
    if !root_or_skip("every_outcome_in_a_table") {
        return;
    }
    for vlan in [0, 7] {
        let kernel = Kernel::load();
        let mut model = Model::install(&kernel, vlan);
        let at = if vlan == 0 { 14 } else { 18 };
        let dropped = |reason: Reason| (XDP_DROP, reason.counter());
        let passed = |accept: Accept| (XDP_PASS, accept.counter());
        let with = |mut frame: Vec<u8>, at: usize, value: u8| {
            frame[at] = value;
            frame
        };
        let data = frames::data(vlan, SPI, 40);
        let mut padded = frames::data(vlan, SPI, 17);
        padded.resize(60, 0);
        let hello = frames::handshake(vlan, LISTED_ID, MASTER);
        let beacon = frames::beacon(vlan, UNLISTED_ID, MASTER);
        let mut reflected = data.clone();
        reflected[6..12].copy_from_slice(&frames::OWN);
        let mut to_group = data.clone();
        to_group[..6].copy_from_slice(&GROUP_MAC);
        let mut oversize = hello.clone();
        oversize.resize(3000, 0);
        oversize[at + 2..at + 4].copy_from_slice(&(MAX_CONTROL_LENGTH + 1).to_be_bytes());
        let mut largest = hello.clone();
        largest.resize(at + 16 + usize::from(MAX_CONTROL_LENGTH), 0);
        largest[at + 2..at + 4].copy_from_slice(&MAX_CONTROL_LENGTH.to_be_bytes());
        frames::set_gate(&mut largest, at);
        let unicast = frames::control(vlan, Kind::Beacon, frames::OWN, LISTED_ID, 0, MASTER);
        let table = [
            (
                "ARP",
                with(data.clone(), at - 1, 0x06),
                passed(Accept::NotOurs),
            ),
            (
                "other VLAN",
                frames::data(8, SPI, 40),
                passed(Accept::NotOurs),
            ),
            (
                "other tagging",
                frames::data(7 - vlan, SPI, 40),
                passed(Accept::NotOurs),
            ),
            ("data", data.clone(), dropped(Reason::NoSocket)),
            ("padded data", padded, dropped(Reason::NoSocket)),
            (
                "jumbo data",
                frames::data(vlan, SPI, 8900),
                dropped(Reason::NoSocket),
            ),
            (
                "jumbo cut",
                frames::data(vlan, SPI, 8900)[..8000].to_vec(),
                dropped(Reason::BadLength),
            ),
            (
                "SPI not issued",
                frames::data(vlan, 6, 40),
                dropped(Reason::UnknownSpi),
            ),
            (
                "old generation",
                frames::data(vlan, SPI ^ 1 << 20, 40),
                dropped(Reason::UnknownSpi),
            ),
            (
                "index beyond map",
                frames::data(vlan, 0x000F_FFFF, 40),
                dropped(Reason::UnknownSpi),
            ),
            (
                "SPI 0",
                frames::data(vlan, 0, 40),
                dropped(Reason::Malformed),
            ),
            (
                "no plaintext",
                frames::data(vlan, SPI, 16),
                dropped(Reason::BadLength),
            ),
            (
                "other's MAC",
                with(data.clone(), 5, 9),
                dropped(Reason::NotForUs),
            ),
            ("data to group", to_group, dropped(Reason::NotForUs)),
            ("reflected", reflected, dropped(Reason::Reflected)),
            (
                "group source",
                with(data.clone(), 6, 3),
                dropped(Reason::Malformed),
            ),
            (
                "version 2",
                with(data.clone(), at, 0x20),
                dropped(Reason::BadVersion),
            ),
            (
                "kind 3",
                with(data.clone(), at, 0x13),
                dropped(Reason::Malformed),
            ),
            (
                "flags",
                with(data.clone(), at + 1, 0x80),
                dropped(Reason::Malformed),
            ),
            (
                "too long",
                with(data.clone(), at + 3, 41),
                dropped(Reason::BadLength),
            ),
            ("hello", hello.clone(), passed(Accept::Control)),
            ("largest control", largest, passed(Accept::Control)),
            ("oversize control", oversize, dropped(Reason::BadLength)),
            ("beacon", beacon.clone(), passed(Accept::Control)),
            ("unicast beacon", unicast, passed(Accept::Control)),
            (
                "bad gate",
                with(hello.clone(), at + 8, hello[at + 8] ^ 1),
                dropped(Reason::BadGate),
            ),
            (
                "other master",
                frames::beacon(vlan, 2, UNKNOWN_MASTER),
                passed(Accept::UnknownMaster),
            ),
            (
                "message 5",
                with(hello.clone(), at + 4, 5),
                dropped(Reason::Malformed),
            ),
            (
                "reserved",
                with(hello.clone(), at + 55, 1),
                dropped(Reason::Malformed),
            ),
            (
                "other node",
                with(hello, at + 23, 9),
                dropped(Reason::NotForUs),
            ),
            (
                "beacon to one",
                with(beacon, at + 23, 1),
                dropped(Reason::Malformed),
            ),
        ];
        for (what, frame, expected) in &table {
            assert_eq!(check(&kernel, &model, frame, what), *expected, "{what}");
        }
        let socket = kernel.put_socket();
        model.has_socket = true;
        let redirected = (XDP_REDIRECT, Accept::Data.counter());
        assert_eq!(check(&kernel, &model, &data, "socket"), redirected);
        std::mem::drop(socket);
    }
}

#[test]
fn every_length_and_every_bit() {
    if !root_or_skip("every_length_and_every_bit") {
        return;
    }
    for vlan in [0, 7] {
        let kernel = Kernel::load();
        let model = Model::install(&kernel, vlan);
        let originals = [
            frames::data(vlan, SPI, 17),
            frames::handshake(vlan, LISTED_ID, MASTER),
            frames::beacon(vlan, UNLISTED_ID, MASTER),
        ];
        for original in originals {
            for len in 14..=120 {
                let mut frame = original.clone();
                frame.resize(len, 0);
                check(&kernel, &model, &frame, "cut or padded");
            }
            let header = if vlan == 0 { 14 } else { 18 };
            let control = original[header] & 0x0F != 0;
            let whole = model.expect(&original);
            for bit in 0..original.len() * 8 {
                let at = bit / 8;
                let mut frame = original.clone();
                frame[at] ^= 1 << (bit % 8);
                let unnoticed = check(&kernel, &model, &frame, "one bit") == whole;
                // Source MAC, tag priority and what follows the prefix are not
                // the program's to judge; the AEAD and the MAC cover them.
                let beyond = header + if control { 56 } else { 8 };
                let priority = vlan != 0 && at == 14 && bit % 8 >= 4;
                let free = (6..12).contains(&at) || priority || at >= beyond;
                assert!(free || !unnoticed, "bit {bit} went unnoticed");
            }
        }
    }
}

#[test]
fn differential_on_random_frames() {
    if !root_or_skip("differential_on_random_frames") {
        return;
    }
    let mut rng = Rng::from_env("differential_on_random_frames");
    for vlan in [0, 7] {
        let kernel = Kernel::load();
        let mut model = Model::install(&kernel, vlan);
        let _socket = kernel.put_socket();
        model.has_socket = true;
        for i in 0..10_000 {
            let frame = frames::random(&mut rng, vlan);
            check(&kernel, &model, &frame, &format!("vlan {vlan}, frame {i}"));
        }
        // A run that never got anywhere proves nothing.
        let counters = kernel.counters();
        assert_eq!(counters.iter().sum::<u64>(), 10_000);
        for (i, name) in COUNTER_NAMES.iter().enumerate() {
            let reachable = !matches!(*name, "no_socket" | "flooded");
            assert_eq!(counters[i] > 0, reachable, "{name}: {counters:?}");
        }
    }
}

#[test]
fn buckets_run_dry_and_apart() {
    if !root_or_skip("buckets_run_dry_and_apart") {
        return;
    }
    let kernel = Kernel::load();
    Model::install(&kernel, 0);
    let cases = [
        ("listed", frames::handshake(0, LISTED_ID, MASTER), 100, 100),
        ("unlisted", frames::beacon(0, UNLISTED_ID, MASTER), 500, 500),
        (
            "unknown master",
            frames::beacon(0, LISTED_ID, UNKNOWN_MASTER),
            10,
            10,
        ),
    ];
    for (what, frame, rate_per_s, burst) in cases {
        let start = Instant::now();
        let passed = (0..1000).filter(|_| kernel.run(&frame) == XDP_PASS).count();
        let refilled = start.elapsed().as_millis() as usize * rate_per_s / 1000 + 2;
        // Each starts full although the ones before it have run dry.
        assert!(passed >= burst, "{what}: {passed} of {burst}");
        assert!(
            passed <= burst + refilled,
            "{what}: {passed}, {burst} + {refilled}"
        );
    }
    let counters = kernel.counters();
    let flooded = counters[Reason::Flooded.counter() as usize];
    assert_eq!(counters.iter().sum::<u64>(), 3000);
    assert!(flooded > 1000, "{counters:?}");
    // A dry listed peer does not take the others' share.
    kernel.fill_shared_bucket(SHARED_UNLISTED);
    assert_eq!(
        kernel.run(&frames::beacon(0, UNLISTED_ID, MASTER)),
        XDP_PASS
    );
    // A forged gate costs nobody a token.
    kernel.list_peer(LISTED_ID);
    let mut forged = frames::handshake(0, LISTED_ID, MASTER);
    forged[22] ^= 1;
    for _ in 0..500 {
        assert_eq!(kernel.run(&forged), XDP_DROP);
    }
    let frame = frames::handshake(0, LISTED_ID, MASTER);
    assert!((0..100).all(|_| kernel.run(&frame) == XDP_PASS));
}

#[test]
fn cores_share_a_bucket_without_lending() {
    if !root_or_skip("cores_share_a_bucket_without_lending") {
        return;
    }
    let first = Kernel::load();
    Model::install(&first, 0);
    let shared = [
        first.map(MAP_SHARED_BUCKETS),
        first.map(MAP_GATES),
        first.map(MAP_CONFIG),
    ];
    let frame = frames::beacon(0, UNLISTED_ID, MASTER);
    let loaded = Barrier::new(4);
    let mut start = Instant::now();
    let passed: u64 = std::thread::scope(|scope| {
        let run = || {
            let kernel = Kernel::load_sharing(&shared.each_ref());
            loaded.wait();
            kernel.run_repeatedly(&frame, 2_000_000);
            kernel.counters()[Accept::Control.counter() as usize]
        };
        let threads = [scope.spawn(run), scope.spawn(run), scope.spawn(run)];
        loaded.wait();
        start = Instant::now();
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    let refilled = (start.elapsed().as_secs_f64() * 500.0) as u64 + 2;
    assert!(
        (500..=500 + refilled).contains(&passed),
        "{passed}, 500 + {refilled}"
    );
}

#[test]
fn claims_nothing_before_it_is_configured() {
    if !root_or_skip("claims_nothing_before_it_is_configured") {
        return;
    }
    let kernel = Kernel::load();
    let passed = (XDP_PASS, Accept::NotOurs.counter());
    assert_eq!(kernel.run_counted(&frames::data(0, SPI, 40)), passed);
    assert_eq!(kernel.run_counted(&[0; 14]), passed);
}
