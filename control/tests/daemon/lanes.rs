//! Several queues and several NICs: a lane for each, wherever it arrives.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tipsec_control::admin::{BearerState, LinkState, PeerReport};

use crate::lab::{Lab, NIC, SECOND_NIC, Wiring, mac, port, wait_for};
use crate::node::{Daemon, PATIENCE, cluster_of, config, config_with};
use crate::raw::{Capture, RawSocket, is_data};
use crate::traffic::{Sink, Source};

const TWO_QUEUES: Wiring = Wiring { nics: 1, queues: 2 };
const TWO_NICS: Wiring = Wiring { nics: 2, queues: 1 };

fn two_queues(lab: &Lab, i: usize) -> String {
    let bearer = format!("[[bearer]]\ninterface = \"{NIC}\"\nqueues = [0, 1]\n");
    config_with(lab, i, &bearer)
}

fn two_nics(lab: &Lab, i: usize) -> String {
    let bearers = format!(
        "[[bearer]]\ninterface = \"{NIC}\"\n\
         [[bearer]]\ninterface = \"{SECOND_NIC}\"\nnetwork = 1\n"
    );
    config_with(lab, i, &bearers)
}

fn bearers(node: &Daemon) -> Vec<(String, u32, u8, u8, BearerState)> {
    let bearers = node.status().bearers.into_iter();
    let parts = bearers.map(|b| (b.interface, b.queue, b.worker, b.network, b.state));
    parts.collect()
}

fn traffic_arrives(sink: &Sink, count: u64) {
    let before = sink.received();
    wait_for("traffic", PATIENCE, || {
        (sink.received() >= before + count).then_some(())
    });
}

/// But for what the peer asked before there was an SA to answer on.
fn assert_nothing_dropped(peer: &PeerReport) {
    let mut drops = peer.drops.clone();
    drops.remove("tx_probe_unanswered");
    assert!(drops.is_empty(), "{drops:?}");
}

/// The lanes that data frames are of: the SPIs that they bear.
fn lanes_seen(frames: &[Vec<u8>]) -> Vec<[u8; 4]> {
    let mut spis: Vec<[u8; 4]> = frames
        .iter()
        .map(|frame| *frame[18..].first_chunk().unwrap())
        .collect();
    spis.sort_unstable();
    spis.dedup();
    spis
}

#[test]
fn two_queues_make_two_lanes() {
    let Some(lab) = Lab::wired(2, TWO_QUEUES) else {
        return;
    };
    let capture = Capture::start(&lab, &lab.hub(), &port(2), |frame| {
        is_data(frame) && frame[..6] == mac(2)
    });
    let nodes = cluster_of(&lab, &[two_queues(&lab, 1), two_queues(&lab, 2)]);
    let up = BearerState::Up;
    assert_eq!(
        bearers(&nodes[0]),
        [(NIC.into(), 0, 0, 0, up), (NIC.into(), 1, 1, 0, up)]
    );
    assert_eq!(nodes[0].status().workers.len(), 2);
    let sinks = [1, 2].map(|i| Sink::start(&lab, i));
    let sources =
        [(1, 2), (2, 1)].map(|(from, to)| Source::start(&lab, from, to, Duration::from_millis(2)));
    for sink in &sinks {
        traffic_arrives(sink, 100);
    }
    for node in &nodes {
        node.ask("{\"op\":\"rekey-now\"}");
    }
    for (sink, node) in sinks.iter().zip(&nodes) {
        traffic_arrives(sink, 100);
        wait_for("a rekey", PATIENCE, || {
            (node.peers().first()?.rekeys > 0).then_some(())
        });
        traffic_arrives(sink, 100);
        let peer = &node.peers()[0];
        assert_eq!(peer.link, LinkState::Up);
        assert_nothing_dropped(peer);
        let workers = node.status().workers;
        assert!(workers.iter().all(|worker| worker.transmitted_frames > 0));
    }
    drop(sources);
    // Two lanes before the rekey and two after it.
    assert!(lanes_seen(&capture.finish()).len() >= 4);
}

#[test]
fn lanes_arrive_on_a_queue_that_is_not_theirs() {
    let Some(lab) = Lab::wired(2, TWO_QUEUES) else {
        return;
    };
    // Frames that leave node 1 by its second queue may arrive in the second
    // queue of node 2, which nobody serves: so node 2 has one queue.
    lab.ip(&lab.hub(), &["link", "del", &port(2)]);
    lab.ip(
        &lab.node(2),
        &[
            "link",
            "add",
            NIC,
            "address",
            "02:aa:00:00:00:02",
            "type",
            "veth",
            "peer",
            "name",
            &port(2),
            "netns",
            &lab.hub(),
        ],
    );
    lab.ip(
        &lab.hub(),
        &["link", "set", &port(2), "master", "br0", "up"],
    );
    lab.ip(&lab.node(2), &["link", "set", NIC, "up"]);
    let nodes = cluster_of(&lab, &[two_queues(&lab, 1), config(&lab, 2)]);
    let capture = Capture::start(&lab, &lab.hub(), &port(2), |frame| {
        is_data(frame) && frame[..6] == mac(2)
    });
    let sinks = [1, 2].map(|i| Sink::start(&lab, i));
    let sources =
        [(1, 2), (2, 1)].map(|(from, to)| Source::start(&lab, from, to, Duration::from_millis(2)));
    for sink in &sinks {
        traffic_arrives(sink, 200);
    }
    // Probes take turns: both lanes of node 1 open at node 2's only worker.
    wait_for("both lanes are probed", PATIENCE, || {
        let sent = nodes[0].status().workers;
        sent.iter()
            .all(|worker| worker.transmitted_frames > 5)
            .then_some(())
    });
    drop(sources);
    assert_eq!(lanes_seen(&capture.finish()).len(), 2);
    let peer = nodes[1].peer(1).unwrap();
    assert_eq!(peer.link, LinkState::Up);
    assert_nothing_dropped(&peer);
}

#[test]
fn a_frame_replayed_into_another_queue_is_refused() {
    let Some(lab) = Lab::wired(2, TWO_QUEUES) else {
        return;
    };
    let cores: Vec<usize> = {
        let usable = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU)
            .filter(|&core| usable.is_set(core))
            .collect()
    };
    let [even, odd] = [0, 1].map(|parity| cores.iter().find(|core| *core % 2 == parity));
    let (Some(&even), Some(&odd)) = (even, odd) else {
        println!("SKIPPED (needs a core of even and one of odd number)");
        return;
    };
    let nodes = cluster_of(&lab, &[two_queues(&lab, 1), two_queues(&lab, 2)]);
    let capture = Capture::start(&lab, &lab.hub(), &port(1), |frame| {
        is_data(frame) && frame[..6] == mac(1)
    });
    let sink = Sink::start(&lab, 1);
    let source = Source::start(&lab, 2, 1, Duration::from_millis(2));
    traffic_arrives(&sink, 50);
    drop(source);
    let frame = capture.finish().pop().unwrap();
    let replayed = |worker: usize| {
        let workers = nodes[0].status().workers;
        workers[worker]
            .drops
            .get("rx_replayed")
            .copied()
            .unwrap_or(0)
    };
    let delivered = sink.received();
    let wire = RawSocket::open(&lab, &lab.hub(), &port(1));
    wire.choose_queue_by_core();
    for (queue, core) in [even, odd].into_iter().enumerate() {
        let before = replayed(queue);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut only = CpuSet::new();
                only.set(core);
                sched_setaffinity(None, &only).unwrap();
                for _ in 0..10 {
                    assert!(wire.send(&frame));
                }
            });
        });
        wait_for("the replays are counted there", PATIENCE, || {
            (replayed(queue) >= before + 10).then_some(())
        });
    }
    assert!(sink.received() <= delivered + 50, "nothing came twice");
    assert_eq!(nodes[0].peer(2).unwrap().link, LinkState::Up);
}

#[test]
fn a_nic_that_goes_leaves_the_other_one_at_work() {
    let Some(lab) = Lab::wired(2, TWO_NICS) else {
        return;
    };
    let nodes = cluster_of(&lab, &[two_nics(&lab, 1), two_nics(&lab, 2)]);
    for (at, node) in nodes.iter().enumerate() {
        let addresses = node.peer(2 - at).unwrap().addresses;
        let networks: Vec<u8> = addresses.iter().map(|on| on.network).collect();
        assert_eq!(networks, [0, 1]);
    }
    // Each lane goes to the address on its own network: probes take turns.
    for node in &nodes {
        wait_for("frames on both networks", PATIENCE, || {
            let workers = node.status().workers;
            workers
                .iter()
                .all(|worker| worker.received_frames > 5)
                .then_some(())
        });
    }
    let sink = Sink::start(&lab, 2);
    let source = Source::start(&lab, 1, 2, Duration::from_millis(2));
    traffic_arrives(&sink, 100);
    lab.ip(&lab.node(1), &["link", "del", SECOND_NIC]);
    let event = wait_for("the loss is reported", PATIENCE, || {
        let events = nodes[0].events();
        events.into_iter().find(|event| event.kind == "bearer-lost")
    });
    assert!(
        event.text.contains(SECOND_NIC) && event.text.contains("queue 0"),
        "{}",
        event.text
    );
    traffic_arrives(&sink, 200);
    let (up, lost) = (BearerState::Up, BearerState::Lost);
    assert_eq!(
        bearers(&nodes[0]),
        [
            (NIC.into(), 0, 0, 0, up),
            (SECOND_NIC.into(), 0, 1, 1, lost)
        ]
    );
    wait_for("the peer is told", PATIENCE, || {
        (nodes[1].peer(1)?.addresses.len() == 1).then_some(())
    });
    let no_path = nodes[1].events();
    let no_path = no_path.iter().filter(|event| event.kind == "no-path");
    assert_eq!(no_path.count(), 1);
    traffic_arrives(&sink, 200);
    for (at, node) in nodes.iter().enumerate() {
        assert_eq!(node.peer(2 - at).unwrap().link, LinkState::Up);
        let down = node.events().iter().any(|event| event.kind == "link-down");
        assert!(!down, "the link stayed up");
    }
    drop(source);
}
