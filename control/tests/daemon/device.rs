//! The NIC goes down and comes back, or goes for good, under a live daemon.

use std::collections::HashSet;
use std::time::Duration;

use rustix::process::Signal;
use tipsec_control::admin::LinkState;

use crate::admin::is_ok;
use crate::lab::{Lab, NIC, TAP, mac, port, wait_for};
use crate::node::{PATIENCE, cluster};
use crate::raw::{Capture, is_data, nonce_of};
use crate::traffic::{Sink, Source};

#[test]
fn a_link_flap_ends_no_daemon_and_resets_no_number() {
    let Some(lab) = Lab::alone(2) else { return };
    let captures: Vec<_> = (1..=2)
        .map(|i| {
            let sent = move |frame: &[u8]| is_data(frame) && frame[6..12] == mac(i);
            Capture::start(&lab, &lab.hub(), &port(i), sent)
        })
        .collect();
    let nodes = cluster(&lab, 2);
    let incarnations = [0, 1].map(|at| nodes[at].status().incarnation);
    let sink = Sink::start(&lab, 1);
    let source = Source::start(&lab, 2, 1, Duration::from_millis(2));
    wait_for("traffic", PATIENCE, || (sink.received() > 50).then_some(()));

    for wait_for_down in [false, true] {
        lab.ip(&lab.node(1), &["link", "set", NIC, "down"]);
        if wait_for_down {
            wait_for("the link is seen down", PATIENCE, || {
                let peer = nodes[1].peer(1)?;
                (peer.link != LinkState::Up).then_some(())
            });
        }
        lab.ip(&lab.node(1), &["link", "set", NIC, "up"]);
        let before = sink.received();
        wait_for("traffic again", PATIENCE, || {
            (sink.received() > before + 50).then_some(())
        });
        nodes[0].wait_link(2, PATIENCE);
        nodes[1].wait_link(1, PATIENCE);
    }
    drop(source);
    assert_eq!(
        [0, 1].map(|at| nodes[at].status().incarnation),
        incarnations
    );
    let mut seen = HashSet::new();
    for frame in captures.into_iter().flat_map(Capture::finish) {
        let nonce = nonce_of(&frame);
        assert!(seen.insert(nonce), "{nonce:x?} was used twice");
    }
    assert!(seen.len() > 100);
}

#[test]
fn a_deleted_nic_is_reported_and_the_daemon_stays_to_say_so() {
    let Some(lab) = Lab::alone(2) else { return };
    let mut nodes = cluster(&lab, 2);
    let source = Source::start(&lab, 1, 2, Duration::from_millis(2));
    lab.ip(&lab.node(1), &["link", "del", NIC]);
    wait_for("the loss is reported", PATIENCE, || {
        let events = nodes[0].events();
        events.into_iter().find(|event| event.kind == "bearer-lost")
    });
    wait_for("the other sees the link down", PATIENCE, || {
        (nodes[1].peer(1)?.link != LinkState::Up).then_some(())
    });
    assert!(is_ok(&nodes[0].ask("{\"op\":\"status\"}")));
    let log = nodes[0].log_text();
    assert!(log.lines().count() < 20, "{log}");
    drop(source);
    let status = nodes[0].end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!lab.has_device(1, TAP));
}
