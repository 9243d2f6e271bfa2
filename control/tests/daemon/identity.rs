//! Nodes that don't belong together: other master keys, the same node id.

use std::time::{Duration, Instant};

use tipsec_control::admin::LinkState;

use crate::lab::{Column, Lab, TAP, port, wait_for};
use crate::node::{Daemon, KEY, OTHER_KEY, PATIENCE, config, id};
use crate::raw::{Capture, is_data};
use crate::traffic::{MARKER, Sink, Source};

/// How long traffic is attempted under different keys.
const ATTEMPT: Duration = Duration::from_secs(2);

#[test]
fn nodes_with_different_master_keys_exchange_not_one_byte() {
    let Some(lab) = Lab::alone(2) else { return };
    let capture = Capture::start(&lab, &lab.hub(), &port(1), |_| true);
    let nodes = [Daemon::start(&lab, 1), Daemon::start(&lab, 2)];
    nodes[0].set_master(KEY);
    nodes[1].set_master(OTHER_KEY);
    // With neighbours known, every datagram reaches the tap.
    for (i, other) in [(1, 2), (2, 1)] {
        let tap_mac = format!("02:54:00:00:03:{:02x}", id(other) & 0xff);
        let address = format!("10.77.0.{other}");
        let neighbour = ["neigh", "replace", &address, "lladdr", &tap_mac];
        let rest = ["dev", TAP, "nud", "permanent"];
        lab.ip(&lab.node(i), &[&neighbour[..], &rest].concat());
    }
    let sinks = [Sink::start(&lab, 1), Sink::start(&lab, 2)];
    let gap = Duration::from_millis(1);
    let sources = [
        Source::start(&lab, 1, 2, gap),
        Source::start(&lab, 2, 1, gap),
    ];

    let began = Instant::now();
    let masters = nodes.each_ref().map(|node| node.status().master_id);
    assert_ne!(masters[0], masters[1]);
    for (at, other) in [(0, 1), (1, 0)] {
        wait_for("the other's master id is shown", PATIENCE, || {
            let peer = nodes[at].peer(other + 1)?;
            (peer.claimed_master_id == masters[other]).then_some(())
        });
        let events = nodes[at].events();
        let theirs = masters[other].as_ref().unwrap();
        assert!(
            events
                .iter()
                .any(|event| event.kind == "other-master" && event.text.contains(theirs)),
            "{events:?}"
        );
    }
    wait_for("the attempt lasts", 2 * ATTEMPT, || {
        let peers = nodes.each_ref().map(Daemon::peers);
        for peer in peers.iter().flatten() {
            assert_ne!(peer.link, LinkState::Up, "{peer:?}");
            assert_eq!((peer.opened_frames, peer.sealed_frames), (0, 0), "{peer:?}");
        }
        (began.elapsed() >= ATTEMPT).then_some(())
    });
    let delivered = sinks.each_ref().map(Sink::received);
    assert_eq!(delivered, [0, 0]);
    for (at, source) in sources.iter().enumerate() {
        assert!(source.sent() > 500, "{} sent", source.sent());
        let to_tap = lab.device_counter(&lab.node(at + 1), TAP, Column::RxPackets);
        assert_eq!(to_tap, 0, "frames came out of the tap of node {}", at + 1);
        let drops = &nodes[at].status().workers[0].drops;
        let refused: u64 = drops.values().sum();
        assert!(refused > 500, "not counted: {drops:?}");
    }

    // The same key: link and traffic.
    nodes[1].set_master(KEY);
    nodes[0].wait_link(2, PATIENCE);
    nodes[1].wait_link(1, PATIENCE);
    for sink in &sinks {
        wait_for("traffic flows", PATIENCE, || {
            (sink.received() > 100).then_some(())
        });
    }
    drop(sources);
    let frames = capture.finish();
    assert!(
        frames.iter().any(|frame| is_data(frame)),
        "nothing captured"
    );
    for frame in &frames {
        let seen = frame.windows(MARKER.len()).any(|window| window == MARKER);
        assert!(!seen, "plain text on the wire");
    }
}

#[test]
fn two_nodes_of_one_id_are_both_told() {
    let Some(lab) = Lab::alone(3) else { return };
    let twin = config(&lab, 2).replace(&format!("node = {}", id(2)), &format!("node = {}", id(1)));
    let nodes = [
        Daemon::start(&lab, 1),
        Daemon::start_with(&lab, 2, &twin),
        Daemon::start(&lab, 3),
    ];
    for node in &nodes {
        node.set_master(KEY);
    }
    for (node, other) in [(&nodes[0], 2), (&nodes[1], 1)] {
        let event = wait_for("the duplicate is reported", PATIENCE, || {
            let events = node.events();
            events.into_iter().find(|e| e.kind == "duplicate-node")
        });
        assert_eq!(event.node, Some(id(1)));
        let address = crate::lab::mac_text(crate::lab::mac(other));
        assert!(event.text.contains(&address), "{}", event.text);
    }
}
