//! An attacker without a key sends everything that he can make up or has recorded,
//! as fast as a thread can: data, rekeys and a join go on, in the same memory.

use std::time::{Duration, Instant};

use crate::flood::rekey_now;
use crate::flooder::Flood;
use crate::inject::{Random, kind_of};
use crate::lab::{Lab, mac, port, wait_for};
use crate::node::{Daemon, KEY, PATIENCE, cluster};
use crate::raw::{Capture, ETHERTYPE, RawSocket, is_tipsec};
use crate::traffic::{Sink, Source};

/// Frames of each kind: more than the attacker can be told from by memory.
const EACH: usize = 256;
/// Between two datagrams of a source: a small part of what the nodes carry.
const GAP: Duration = Duration::from_millis(2);
/// A datagram in so many may be lost.
const LOST_PART: u64 = 10;
/// Frames until memory that is touched once has been.
const WARM: u64 = 50_000;
/// What a node may grow by, in KiB: heaps are not tidy.
const GROWTH_KIB: u64 = 4096;

/// Random bytes behind an Ethernet header of ours.
fn noise(random: &mut Random) -> Vec<u8> {
    let mut frame = vec![0; 15 + random.below(1500)];
    random.fill(&mut frame);
    frame[..6].copy_from_slice(&mac(1));
    frame[6..12].copy_from_slice(&mac(2));
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame
}

/// The frame with other bytes at these places.
fn with_random(frame: &[u8], at: std::ops::Range<usize>, random: &mut Random) -> Vec<u8> {
    let mut copy = frame.to_vec();
    random.fill(&mut copy[at]);
    copy
}

/// A new number in the same phase, under which the tag is wrong: it costs the
/// worker all that a good frame does.
pub(crate) fn with_wrong_tag(data: &[u8], random: &mut Random) -> Vec<u8> {
    with_random(data, 26..30, random)
}

/// Everything at once, mixed, as far as a recording of the wire goes.
fn garbage(recorded: &[Vec<u8>], random: &mut Random) -> Vec<Vec<u8>> {
    let data = recorded.iter().rfind(|frame| kind_of(frame) == "data");
    let data = data.expect("no data was recorded");
    let is_control = |frame: &&Vec<u8>| frame[14] != 0x10;
    let control: Vec<_> = recorded.iter().filter(is_control).collect();
    for kind in ["m1", "m2", "m3", "beacon"] {
        let some = control.iter().any(|frame| kind_of(frame) == kind);
        assert!(some, "no {kind} was recorded");
    }
    let mut all = Vec::new();
    for n in 0..EACH {
        let control = control[n % control.len()];
        all.push(noise(random));
        all.push(with_random(data, 18..22, random));
        all.push(with_wrong_tag(data, random));
        all.push(with_random(control, 22..30, random));
        all.push(control.clone());
    }
    all
}

#[test]
fn garbage_at_full_rate_stops_neither_data_nor_rekeys_nor_a_join() {
    let Some(lab) = Lab::alone(3) else { return };
    let capture = Capture::start(&lab, &lab.hub(), &port(2), |frame: &[u8]| {
        is_tipsec(frame) && frame[6..12] == mac(2) && frame[..6] != mac(3)
    });
    let nodes = cluster(&lab, 2);
    let sinks = [Sink::start(&lab, 1), Sink::start(&lab, 2)];
    let sources = [
        Source::start(&lab, 2, 1, GAP),
        Source::start(&lab, 1, 2, GAP),
    ];
    for _ in 0..4 {
        rekey_now(&nodes[0], 2);
        rekey_now(&nodes[1], 1);
    }
    for sink in &sinks {
        wait_for("traffic", PATIENCE, || (sink.received() > 50).then_some(()));
    }
    let seed = 0x5eed_0000_0000_0002;
    println!("seed {seed:#x}");
    let garbage = garbage(&capture.finish(), &mut Random(seed));

    let before = nodes[0].status();
    let done = [0, 1].map(|i| (sources[i].sent(), sinks[i].received()));
    let flood = Flood::start(RawSocket::open(&lab, &lab.hub(), &port(1)), garbage);
    flood.wait_sent(WARM);
    let memory = nodes[0].resident_kib();
    let rekeys: Vec<_> = (0..5).map(|_| rekey_now(&nodes[0], 2)).collect();
    let began = Instant::now();
    let third = Daemon::start(&lab, 3);
    third.set_master(KEY);
    third.wait_link(1, PATIENCE);
    nodes[0].wait_link(3, PATIENCE);
    let joined = began.elapsed();
    flood.wait_sent(10 * WARM);

    // Node 3's peers grow by it, which is not the flood's doing.
    let grown = nodes[0].resident_kib().saturating_sub(memory);
    let (sent, rate) = (flood.sent(), flood.rate());
    let paths = [0, 1].map(|i| {
        let (was_sent, was_received) = done[i];
        (
            sources[i].sent() - was_sent,
            sinks[i].received() - was_received,
        )
    });
    drop(flood);
    let after = nodes[0].status();
    let passed = |name: &str| after.xdp[name] - before.xdp[name];
    let failed = after.workers[0].drops["rx_open_failed"];
    println!(
        "{sent} frames at {rate} a second; rekeys {rekeys:?}; join {joined:?}; (sent, received) \
         {paths:?}; grown by {grown} KiB; {failed} failed opens; AF_XDP {:?}; XDP {:?}",
        after.xsk, after.xdp,
    );
    for (sent, received) in paths {
        assert!(sent > 100);
        let lost = sent.saturating_sub(received);
        assert!(lost * LOST_PART <= sent, "{received} of {sent} datagrams");
    }
    assert!(grown < GROWTH_KIB, "grown by {grown} KiB");
    // All kinds arrived, and ended where they should.
    for reason in ["bad_version", "unknown_spi", "bad_gate", "repeated"] {
        let part = sent / 20;
        assert!(
            passed(reason) > part,
            "{} of {sent} were {reason}",
            passed(reason)
        );
    }
    assert!(failed > 10_000, "{failed} failed opens");
}
