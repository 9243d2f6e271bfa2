//! The built object in this kernel, packet by packet (`BPF_PROG_TEST_RUN`),
//! against the classifier it was built from. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::cast_possible_truncation)]

mod support;

use std::sync::Barrier;
use std::time::Instant;

use libbpf_rs::MapCore;
use support::frames::{
    self, LISTED_ID, MASTER, PORT, SPI, UNKNOWN_MASTER, UNLISTED_ID, Wrap, wrap,
};
use support::kernel::Kernel;
use support::model::{Model, XDP_DROP, XDP_PASS, XDP_REDIRECT};
use support::{Rng, root_or_skip};
use tipsec_xdp::config::{
    COUNTER_NAMES, MAP_CONFIG, MAP_GATES, MAP_REPEATS, MAP_SHARED_BUCKETS, REPEATS_LEN,
    SHARED_UNKNOWN_MASTER, SHARED_UNLISTED,
};
use tipsec_xdp::wire::{Kind, MAX_CONTROL_LENGTH, MIN_CONTROL_LENGTH};
use tipsec_xdp::{Accept, Carrier, Reason};

/// Where the encapsulation does not matter.
const PLAIN: Wrap = wrap(0, frames::ETHERNET);

/// Runs one frame with full buckets and compares it with the model.
fn check(kernel: &Kernel, model: &Model, frame: &[u8], what: &str) -> (u32, u32) {
    kernel.forget_repeats();
    kernel.list_peer(LISTED_ID);
    kernel.fill_shared_buckets(SHARED_UNLISTED);
    kernel.fill_shared_buckets(SHARED_UNKNOWN_MASTER);
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
    for wrap in frames::ALL {
        let kernel = Kernel::load();
        let mut model = Model::install(&kernel, wrap);
        for (what, frame, expected) in table(wrap) {
            let what = format!("{wrap:?}: {what}");
            assert_eq!(check(&kernel, &model, &frame, &what), expected, "{what}");
        }
        let socket = kernel.put_socket();
        model.has_socket = true;
        let redirected = (XDP_REDIRECT, Accept::Data.counter());
        let data = frames::data(wrap, SPI, 40);
        assert_eq!(check(&kernel, &model, &data, "socket"), redirected);
        std::mem::drop(socket);
    }
}

type Row = (&'static str, Vec<u8>, (u32, u32));

fn dropped(reason: Reason) -> (u32, u32) {
    (XDP_DROP, reason.counter())
}

fn passed(accept: Accept) -> (u32, u32) {
    (XDP_PASS, accept.counter())
}

fn with(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    frame
}

fn table(wrap: Wrap) -> Vec<Row> {
    let mut table = data_table(wrap);
    table.extend(control_table(wrap));
    match wrap.carrier {
        Carrier::Ethernet { .. } => {}
        Carrier::Udp4 { .. } => table.extend(udp4_table(wrap)),
        Carrier::Udp6 { .. } => table.extend(udp6_table(wrap)),
    }
    table
}

fn data_table(wrap: Wrap) -> Vec<Row> {
    let at = wrap.outer_len();
    let other = |vlan| Wrap { vlan, ..wrap };
    let data = frames::data(wrap, SPI, 40);
    let mut padded = frames::data(wrap, SPI, 17);
    padded.resize(padded.len() + 20, 0);
    let mut reflected = data.clone();
    reflected[6..12].copy_from_slice(&frames::OWN);
    let to_group = wrap.around(true, &data[at..]);
    let short = frames::data(wrap, SPI, 40)[..data.len() - 1].to_vec();
    vec![
        (
            "ARP",
            with(data.clone(), wrap.link_len() - 1, 0x06),
            passed(Accept::NotOurs),
        ),
        (
            "other VLAN",
            frames::data(other(8), SPI, 40),
            passed(Accept::NotOurs),
        ),
        (
            "other tagging",
            frames::data(other(7 - wrap.vlan), SPI, 40),
            passed(Accept::NotOurs),
        ),
        ("data", data.clone(), dropped(Reason::NoSocket)),
        ("padded data", padded, dropped(Reason::NoSocket)),
        (
            "jumbo data",
            frames::data(wrap, SPI, 8900),
            dropped(Reason::NoSocket),
        ),
        (
            "jumbo cut",
            frames::data(wrap, SPI, 8900)[..8000].to_vec(),
            dropped(Reason::BadLength),
        ),
        ("cut", short, dropped(Reason::BadLength)),
        (
            "SPI not issued",
            frames::data(wrap, 6, 40),
            dropped(Reason::UnknownSpi),
        ),
        (
            "old generation",
            frames::data(wrap, SPI ^ 1 << 20, 40),
            dropped(Reason::UnknownSpi),
        ),
        (
            "index beyond map",
            frames::data(wrap, 0x000F_FFFF, 40),
            dropped(Reason::UnknownSpi),
        ),
        (
            "SPI 0",
            frames::data(wrap, 0, 40),
            dropped(Reason::Malformed),
        ),
        (
            "no plaintext",
            frames::data(wrap, SPI, 16),
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
            with(data, at + 3, 41),
            dropped(Reason::BadLength),
        ),
    ]
}

fn control_table(wrap: Wrap) -> Vec<Row> {
    let at = wrap.outer_len();
    let hello = frames::handshake(wrap, LISTED_ID, MASTER);
    let beacon = frames::beacon(wrap, UNLISTED_ID, MASTER);
    let sized = |length| {
        let more = length - MIN_CONTROL_LENGTH;
        let inner = frames::control(Kind::Handshake, LISTED_ID, frames::OWN_ID, MASTER, more);
        wrap.around(false, &inner)
    };
    let unicast = wrap.around(false, &beacon[at..]);
    let mut stray = beacon.clone();
    stray[..6].copy_from_slice(&[1, 0, 0x5E, 1, 2, 3]);
    vec![
        ("hello", hello.clone(), passed(Accept::Control)),
        (
            "largest control",
            sized(MAX_CONTROL_LENGTH),
            passed(Accept::Control),
        ),
        (
            "oversize control",
            sized(MAX_CONTROL_LENGTH + 1),
            dropped(Reason::BadLength),
        ),
        ("beacon", beacon.clone(), passed(Accept::Control)),
        ("unicast beacon", unicast, passed(Accept::Control)),
        ("beacon at other MAC", stray, dropped(Reason::NotForUs)),
        (
            "handshake to group",
            wrap.around(true, &hello[at..]),
            dropped(Reason::NotForUs),
        ),
        (
            "bad gate",
            with(hello.clone(), at + 8, hello[at + 8] ^ 1),
            dropped(Reason::BadGate),
        ),
        (
            "other master",
            frames::beacon(wrap, 2, UNKNOWN_MASTER),
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
    ]
}

fn udp4_table(wrap: Wrap) -> Vec<Row> {
    let ip = wrap.link_len();
    let data = frames::data(wrap, SPI, 40);
    let set = |at: usize, value| with(data.clone(), ip + at, value);
    let others = passed(Accept::NotOurs);
    vec![
        ("version 6 in IPv4", set(0, 0x65), others),
        ("options", set(0, 0x46), others),
        (
            "total length",
            set(3, data[ip + 3] - 1),
            dropped(Reason::BadLength),
        ),
        ("first fragment", set(6, 0x20), dropped(Reason::Malformed)),
        ("later fragment", set(7, 1), others),
        ("middle fragment", set(6, 0x21), others),
        ("may be fragmented", set(6, 0), dropped(Reason::NoSocket)),
        ("TCP", set(9, 6), others),
        ("other's IP", set(19, 41), others),
        ("other port", set(23, 0xE8), others),
        (
            "UDP length",
            set(25, data[ip + 25] - 1),
            dropped(Reason::BadLength),
        ),
        (
            "no room for UDP",
            with(set(25, 7), ip + 3, 27),
            dropped(Reason::BadLength),
        ),
        (
            "both lengths",
            with(set(25, data[ip + 25] + 1), ip + 3, data[ip + 3] + 1),
            dropped(Reason::BadLength),
        ),
        ("UDP checksum", set(27, 1), dropped(Reason::NoSocket)),
        ("IP alone", data[..ip + 20].to_vec(), others),
        ("UDP cut", data[..ip + 27].to_vec(), others),
    ]
}

fn udp6_table(wrap: Wrap) -> Vec<Row> {
    let ip = wrap.link_len();
    let data = frames::data(wrap, SPI, 40);
    let set = |at: usize, value| with(data.clone(), ip + at, value);
    let others = passed(Accept::NotOurs);
    // A fragment header in front of UDP: next header, reserved, offset, id.
    let fragment = |next, high, low, port: u16| {
        let mut frame = data.clone();
        frame[ip + 6] = 44;
        frame[ip + 5] += 8;
        let [p, q] = port.to_be_bytes();
        let udp = [192, 0, p, q, 0, 64, 0, 0];
        let header = [next, 0, high, low, 0, 0, 0, 1];
        frame.splice(ip + 40..ip + 48, [header, udp].concat());
        frame
    };
    let bad = dropped(Reason::Malformed);
    vec![
        ("version 4 in IPv6", set(0, 0x40), others),
        ("hop-by-hop options", set(6, 0), others),
        (
            "payload length",
            set(5, data[ip + 5] - 1),
            dropped(Reason::BadLength),
        ),
        ("first fragment", fragment(17, 0, 1, PORT), bad),
        ("the only fragment", fragment(17, 0, 0, PORT), bad),
        ("first, other port", fragment(17, 0, 1, 53), others),
        ("first, TCP", fragment(6, 0, 1, PORT), others),
        ("later fragment", fragment(17, 0, 8, PORT), others),
        ("far fragment", fragment(17, 1, 1, PORT), others),
        (
            "fragment header alone",
            fragment(17, 0, 1, PORT)[..ip + 48].to_vec(),
            others,
        ),
        ("TCP", set(6, 6), others),
        ("other's IP", set(39, 8), others),
        ("other's network", set(24, 0xFC), others),
        ("other port", set(43, 0xE8), others),
        (
            "UDP length",
            set(45, data[ip + 45] - 1),
            dropped(Reason::BadLength),
        ),
        (
            "no room for UDP",
            with(set(45, 7), ip + 5, 7),
            dropped(Reason::BadLength),
        ),
        (
            "both lengths",
            with(set(45, data[ip + 45] + 1), ip + 5, data[ip + 5] + 1),
            dropped(Reason::BadLength),
        ),
        ("UDP checksum", set(47, 1), dropped(Reason::NoSocket)),
        ("IP alone", data[..ip + 40].to_vec(), others),
        ("UDP cut", data[..ip + 47].to_vec(), others),
    ]
}

/// Whether this bit of the IP and UDP headers is not the program's to judge:
/// who sent it, how it travelled, and checksums.
fn is_free_in_ip(carrier: Carrier, at: usize, bit: usize) -> bool {
    match carrier {
        Carrier::Ethernet { .. } => false,
        // Not DSCP, identification, DF, TTL, checksum, source; port, checksum.
        Carrier::Udp4 { .. } => {
            matches!(at, 1 | 4 | 5 | 8 | 10..=15 | 20 | 21 | 26 | 27) || at == 6 && bit >= 6
        }
        // Not traffic class, flow label, hop limit, source; port, checksum.
        Carrier::Udp6 { .. } => {
            matches!(at, 1..=3 | 7..=23 | 40 | 41 | 46 | 47) || at == 0 && bit < 4
        }
    }
}

#[test]
fn every_length_and_every_bit() {
    if !root_or_skip("every_length_and_every_bit") {
        return;
    }
    for wrap in frames::ALL {
        let kernel = Kernel::load();
        let model = Model::install(&kernel, wrap);
        let originals = [
            frames::data(wrap, SPI, 17),
            frames::handshake(wrap, LISTED_ID, MASTER),
            frames::beacon(wrap, UNLISTED_ID, MASTER),
        ];
        for original in originals {
            for len in 14..=160 {
                let mut frame = original.clone();
                frame.resize(len, 0);
                check(&kernel, &model, &frame, "cut or padded");
            }
            let (ip, header) = (wrap.link_len(), wrap.outer_len());
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
                let priority = wrap.vlan != 0 && at == 14 && bit % 8 >= 4;
                let outer =
                    (ip..header).contains(&at) && is_free_in_ip(wrap.carrier, at - ip, bit % 8);
                let free = (6..12).contains(&at) || priority || outer || at >= beyond;
                assert!(free || !unnoticed, "{wrap:?}: bit {bit} went unnoticed");
                let judged = priority || outer;
                assert!(!judged || unnoticed, "{wrap:?}: bit {bit} was judged");
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
    for wrap in frames::ALL {
        let kernel = Kernel::load();
        let mut model = Model::install(&kernel, wrap);
        let _socket = kernel.put_socket();
        model.has_socket = true;
        for i in 0..10_000 {
            let frame = frames::random(&mut rng, wrap);
            check(&kernel, &model, &frame, &format!("{wrap:?}, frame {i}"));
        }
        // A run that never got anywhere proves nothing.
        let counters = kernel.counters();
        assert_eq!(counters.iter().sum::<u64>(), 10_000);
        for (i, name) in COUNTER_NAMES.iter().enumerate() {
            let reachable = !matches!(*name, "no_socket" | "flooded" | "repeated");
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
    Model::install(&kernel, PLAIN);
    let handshake = |sender, master| frames::handshake(PLAIN, sender, master);
    let beacon = |sender, master| frames::beacon(PLAIN, sender, master);
    let cases = [
        ("listed, handshakes", handshake(LISTED_ID, MASTER), 100, 100),
        ("listed, beacons", beacon(LISTED_ID, MASTER), 100, 100),
        ("unlisted, beacons", beacon(UNLISTED_ID, MASTER), 500, 500),
        (
            "unlisted, handshakes",
            handshake(UNLISTED_ID, MASTER),
            500,
            500,
        ),
        ("unknown master", beacon(LISTED_ID, UNKNOWN_MASTER), 10, 10),
    ];
    for (what, frame, rate_per_s, burst) in cases.clone() {
        let distinct = (0..1000).map(|exchange| frames::of_exchange(frame.clone(), exchange));
        let distinct: Vec<_> = distinct.collect();
        let start = Instant::now();
        let passes = |frame: &&Vec<u8>| kernel.run(frame) == XDP_PASS;
        let passed = distinct.iter().filter(passes).count();
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
    assert_eq!(counters.iter().sum::<u64>(), 1000 * cases.len() as u64);
    assert!(flooded > 1000, "{counters:?}");
    // A forged gate costs nobody a token.
    kernel.list_peer(LISTED_ID);
    let mut forged = handshake(LISTED_ID, MASTER);
    forged[22] ^= 1;
    for _ in 0..500 {
        assert_eq!(kernel.run(&forged), XDP_DROP);
    }
    let fresh = |exchange| frames::of_exchange(handshake(LISTED_ID, MASTER), exchange);
    assert!((5000..5100).all(|exchange| kernel.run(&fresh(exchange)) == XDP_PASS));
}

#[test]
fn a_replay_ends_before_it_takes_what_its_sender_may_send() {
    if !root_or_skip("a_replay_ends_before_it_takes_what_its_sender_may_send") {
        return;
    }
    let kernel = Kernel::load();
    Model::install(&kernel, PLAIN);
    let replays = [frames::handshake, frames::beacon].map(|make| make(PLAIN, LISTED_ID, MASTER));
    for (already, frame) in replays.iter().enumerate() {
        let start = Instant::now();
        let passed = (0..10_000)
            .filter(|_| kernel.run(frame) == XDP_PASS)
            .count();
        let again = start.elapsed().as_secs() as usize * 2 + 1;
        assert!((8..=8 + again).contains(&passed), "{passed}, 8 + {again}");
        let repeated = kernel.counters()[Reason::Repeated.counter() as usize];
        let ended = (10_000 * (already + 1)) as u64 - repeated;
        assert!(ended <= 2 * passed as u64 + 2, "{ended} others");
        // What is left of 100 tokens is all there for others of its kind.
        let fresh = |exchange| frames::of_exchange(frame.clone(), exchange);
        let free = 100 - passed as u64;
        assert!((0..free).all(|exchange| kernel.run(&fresh(exchange)) == XDP_PASS));
    }
    // The memory is bounded: what is remembered makes room for what is new.
    for exchange in 0..3 * REPEATS_LEN as u64 {
        kernel.run(&frames::of_exchange(replays[0].clone(), exchange));
    }
    let remembered = kernel.map(MAP_REPEATS).keys().count();
    assert!(
        (REPEATS_LEN / 2..=REPEATS_LEN).contains(&remembered),
        "{remembered}"
    );
}

#[test]
fn cores_share_a_bucket_without_lending() {
    if !root_or_skip("cores_share_a_bucket_without_lending") {
        return;
    }
    let first = Kernel::load();
    Model::install(&first, PLAIN);
    let shared = [
        first.map(MAP_SHARED_BUCKETS),
        first.map(MAP_GATES),
        first.map(MAP_CONFIG),
    ];
    let frame = frames::beacon(PLAIN, UNLISTED_ID, UNKNOWN_MASTER);
    let loaded = Barrier::new(4);
    let mut start = Instant::now();
    let passed: u64 = std::thread::scope(|scope| {
        let run = || {
            let kernel = Kernel::load_sharing(&shared.each_ref());
            loaded.wait();
            kernel.run_repeatedly(&frame, 2_000_000);
            kernel.counters()[Accept::UnknownMaster.counter() as usize]
        };
        let threads = [scope.spawn(run), scope.spawn(run), scope.spawn(run)];
        loaded.wait();
        start = Instant::now();
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    let refilled = (start.elapsed().as_secs_f64() * 10.0) as u64 + 2;
    assert!(
        (10..=10 + refilled).contains(&passed),
        "{passed}, 10 + {refilled}"
    );
}

#[test]
fn claims_nothing_before_it_is_configured() {
    if !root_or_skip("claims_nothing_before_it_is_configured") {
        return;
    }
    let kernel = Kernel::load();
    let passed = (XDP_PASS, Accept::NotOurs.counter());
    assert_eq!(kernel.run_counted(&frames::data(PLAIN, SPI, 40)), passed);
    assert_eq!(kernel.run_counted(&[0; 14]), passed);
}
