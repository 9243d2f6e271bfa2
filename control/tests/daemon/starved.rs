//! Control frames have a way of their own: data that fills the workers' rings takes
//! nothing of it.

use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tipsec_control::address::{Address, Addresses, Network};
use tipsec_control::message::Hello;
use tipsec_dataplane::ids::{Incarnation, NodeId};
use tipsec_dataplane::mac::MacAddr;

use crate::flood::rekey_now;
use crate::flooder::Flood;
use crate::forgery::{Claim, hello_by};
use crate::garbage::with_wrong_tag;
use crate::inject::{Random, kind_of};
use crate::lab::{Lab, mac, port, wait_for};
use crate::member::{member_keys, to_node_1};
use crate::node::{Daemon, PATIENCE, cluster, id};
use crate::raw::{Capture, RawSocket, is_data};
use crate::traffic::{Sink, Source};

/// Control frames that are counted, and between two of them: well below what the
/// driver lets a peer send.
const COUNTED: u64 = 100;
const BETWEEN: Duration = Duration::from_millis(20);
/// Data frames lost for want of room, before control frames are counted.
const OVERFLOW: u64 = 5000;

/// Data frames under an SPI that is in use, with wrong tags.
fn bad_data(recorded: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let data = recorded.iter().rfind(|frame| kind_of(frame) == "data");
    let data = data.expect("no data was recorded");
    let mut random = Random(0x5eed_0000_0000_0003);
    (0..1024)
        .map(|_| with_wrong_tag(data, &mut random))
        .collect()
}

/// The node's worker gets what is left of this core.
fn starve(node: &Daemon, core: usize) {
    let tasks = format!("/proc/{}/task", node.pid());
    let worker = std::fs::read_dir(tasks).unwrap().find_map(|task| {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap();
        name.starts_with("tipsec-worker").then_some(path)
    });
    let thread: i32 = worker
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(Pid::from_raw(thread), &only).unwrap();
    let idle = ["--idle", "--pid", "0", &thread.to_string()];
    crate::lab::run("chrt", &idle);
}

/// Hellos in node 2's name that answer nothing: each is counted as stale, once.
fn stale_hellos() -> Vec<Vec<u8>> {
    let keys = member_keys();
    let address = Address::Ethernet(MacAddr(mac(2)));
    let addresses = Addresses::one(Network::DEFAULT, address);
    let [asks, answers] = [1, 2].map(|i| NodeId::new(id(i)).unwrap());
    let hello = Hello {
        incarnation: Incarnation(1),
        busy: false,
        cookie: [9; 16],
        addresses,
    };
    let hello_to = |exchange| {
        let asked = Claim {
            sender: asks,
            incarnation: Incarnation(1),
            addresses,
            exchange,
            counter: 1,
            lanes: 1,
            chain: 0,
            cookie: [0; 16],
        };
        let m1 = asked.m1_to(answers, Incarnation(1), "lab", &keys);
        to_node_1(&hello_by(answers, &hello, &keys, &m1))
    };
    (1..=COUNTED).map(hello_to).collect()
}

#[test]
fn a_flood_of_data_takes_nothing_from_control_frames() {
    let Some(lab) = Lab::alone(2) else { return };
    let capture = || {
        Capture::start(&lab, &lab.hub(), &port(1), |frame| {
            is_data(frame) && frame[..6] == mac(1)
        })
    };
    let first = capture();
    let nodes = cluster(&lab, 2);
    let sink = Sink::start(&lab, 1);
    let source = Source::start(&lab, 2, 1, Duration::from_millis(2));
    wait_for("traffic", PATIENCE, || (sink.received() > 50).then_some(()));
    let hellos = stale_hellos();
    let wire = || RawSocket::open(&lab, &lab.hub(), &port(1));

    // A worker that keeps up: new keys, and so probes and confirmations, too.
    let events = nodes[0].events().last().map_or(0, |event| event.seq);
    let flood = Flood::start(wire(), bad_data(&first.finish()));
    flood.wait_sent(50_000);
    let rekeys: Vec<_> = (0..5).map(|_| rekey_now(&nodes[0], 2)).collect();
    println!("{} frames a second; rekeys {rekeys:?}", flood.rate());
    drop(flood);
    for event in nodes[0].events() {
        assert!(
            event.seq <= events || event.kind != "link-down",
            "{event:?}"
        );
    }
    // Under keys of now.
    let second = capture();
    let received = sink.received();
    wait_for("traffic", PATIENCE, || {
        (sink.received() > received + 50).then_some(())
    });
    drop(source);
    let bad = bad_data(&second.finish());

    // One that does not: its ring is full.
    let usable = sched_getaffinity(None).unwrap();
    let core = (0..CpuSet::MAX_CPU)
        .find(|&core| usable.is_set(core))
        .unwrap();
    starve(&nodes[0], core);
    let flood = Flood::start_on(Some(core), wire(), bad);
    let full = || {
        let xsk = nodes[0].status().xsk;
        xsk["rx_ring_full"] + xsk["rx_dropped"]
    };
    let overflowed = |from: u64| {
        wait_for("the ring is full", PATIENCE, || {
            (full() > from + OVERFLOW).then_some(())
        })
    };
    overflowed(full());
    let counts = || nodes[0].status().control["stale"];
    let (before, lost) = (counts(), full());
    let control = wire();
    for hello in &hellos {
        wait_for("room in the queue", PATIENCE, || {
            control.send(hello).then_some(())
        });
        std::thread::sleep(BETWEEN);
    }
    wait_for("every control frame", PATIENCE, || {
        (counts() >= before + COUNTED).then_some(())
    });
    let lost = full() - lost;
    println!("{lost} data frames found no room, {COUNTED} control frames did");
    assert!(lost > OVERFLOW, "only {lost} data frames found no room");
    drop(flood);
}
