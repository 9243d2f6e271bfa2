//! The operator changes the rekey interval, or wants new keys now.

use std::time::{Duration, Instant};

use crate::admin::is_ok;
use crate::lab::{Lab, wait_for};
use crate::node::{Daemon, PATIENCE, cluster};

/// Epochs of both directions as node 1 sees them.
fn epochs(node: &Daemon) -> (u32, u32) {
    let peer = node.peer(2).unwrap();
    (peer.tx_epoch.unwrap(), peer.rx_epoch.unwrap())
}

fn set_interval(node: &Daemon, interval_s: &str) {
    let request = format!("{{\"op\":\"rekey-interval\",\"interval_s\":{interval_s}}}");
    let line = node.ask(&request);
    assert!(is_ok(&line), "{line}");
}

#[test]
fn rekey_now_and_the_interval_work_while_the_daemon_runs() {
    let Some(lab) = Lab::alone(2) else { return };
    let nodes = cluster(&lab, 2);
    let node = &nodes[0];
    assert_eq!(node.status().rekey_interval_s, None);
    let first = epochs(node);

    let line = node.ask("{\"op\":\"rekey-now\"}");
    assert!(line.contains("\"started\":1"), "{line}");
    wait_for("both directions have new keys", PATIENCE, || {
        let now = epochs(node);
        let counted = node.peer(2).unwrap().rekeys > 0;
        (counted && now.0 > first.0 && now.1 > first.1).then_some(())
    });

    let before = node.peer(2).unwrap().rekeys;
    for node in &nodes {
        set_interval(node, "1");
        assert_eq!(node.status().rekey_interval_s, Some(1));
    }
    let began = Instant::now();
    wait_for("keys change each second", PATIENCE, || {
        (node.peer(2).unwrap().rekeys >= before + 3).then_some(())
    });
    // Three intervals of 0.9 to 1.2 s, and an exchange each.
    let took = began.elapsed();
    assert!(took > Duration::from_millis(2000), "{took:?}");

    for node in &nodes {
        set_interval(node, "null");
        assert_eq!(node.status().rekey_interval_s, None);
    }
    // An exchange that has begun ends; then there is none for longer than
    // the interval was.
    let mut last = (epochs(node), Instant::now());
    wait_for("rekeying stops", PATIENCE, || {
        let now = epochs(node);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(1500)).then_some(())
    });
    let kinds: Vec<_> = node.events().into_iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "interval-set").count(),
        2
    );
    assert!(!kinds.iter().any(|kind| kind == "link-down"), "{kinds:?}");
}
