//! Budgets that are spent in seconds: traffic goes on, in phases or by rekeys.

use std::collections::HashSet;
use std::time::Duration;

use rustix::process::Signal;

use crate::lab::{Lab, NIC, Wiring, mac, port, wait_for};
use crate::node::{Daemon, PATIENCE, cluster_of, config_with};
use crate::raw::{Capture, is_data, nonce_of};
use crate::traffic::{Sink, Source};

/// A datagram of the source costs 16, so this is spent in some 250 of them.
const PACKETS_PER_KEY: u64 = 4096;
/// Between datagrams: the budget lasts for 4 s, of which a receiver needs 1.5
/// to be ready for the next phase.
const GAP: Duration = Duration::from_millis(15);
/// For three phases.
const LONG: Duration = Duration::from_secs(40);

fn frugal(lab: &Lab, i: usize) -> String {
    let bearers = format!("[[bearer]]\ninterface = \"{NIC}\"\nqueues = [0, 1]\n");
    let text = config_with(lab, i, &bearers);
    format!("{text}\n[limits]\npackets_per_key = {PACKETS_PER_KEY}\n")
}

fn events(node: &Daemon, kind: &str) -> usize {
    let events = node.events().into_iter();
    events.filter(|event| event.kind == kind).count()
}

fn drops(node: &Daemon) -> u64 {
    let workers = node.status().workers.into_iter();
    let key_related = [
        "tx_budget_spent",
        "rx_unknown_phase",
        "rx_replayed",
        "tx_no_key",
    ];
    workers
        .flat_map(|worker| worker.drops)
        .filter(|(name, _)| key_related.contains(&name.as_str()))
        .map(|(_, count)| count)
        .sum()
}

#[test]
fn budgets_are_spent_phase_by_phase_and_nothing_is_lost() {
    let wiring = Wiring { nics: 1, queues: 2 };
    let Some(lab) = Lab::wired(2, wiring) else {
        return;
    };
    let sent_by_1 = |frame: &[u8]| is_data(frame) && frame[6..12] == mac(1);
    let capture = Capture::start(&lab, &lab.hub(), &port(1), sent_by_1);
    let configs = [1, 2].map(|i| frugal(&lab, i));
    let mut nodes = cluster_of(&lab, &configs);
    let sink = Sink::start(&lab, 2);
    let source = Source::start(&lab, 1, 2, GAP);
    wait_for("traffic", PATIENCE, || (sink.received() > 10).then_some(()));
    let dropped = [0, 1].map(|n: usize| drops(&nodes[n]));

    let reached = |node: &Daemon, phase| {
        let peer = node.peer(2).unwrap();
        assert_eq!(peer.rekeys, 0, "the phases do");
        (peer.tx_phase >= Some(phase)).then_some(())
    };
    wait_for("the third phase", LONG, || reached(&nodes[0], 2));
    wait_for("it opens", PATIENCE, || {
        (nodes[1].peer(1).unwrap().rx_phase >= Some(2)).then_some(())
    });
    assert!(events(&nodes[0], "phase-entered") > 0);

    // A rekey starts with phase 0 again.
    let line = nodes[0].ask("{\"op\":\"rekey-now\"}");
    assert!(crate::admin::is_ok(&line), "{line}");
    wait_for("new keys", PATIENCE, || {
        let peer = nodes[0].peer(2).unwrap();
        (peer.rekeys > 0 && peer.tx_phase == Some(0)).then_some(())
    });
    let sent = source.finish();
    wait_for("every datagram", PATIENCE, || {
        (sink.received() == sent).then_some(())
    });
    for (node, before) in nodes.iter().zip(dropped) {
        for kind in ["budget-spent", "link-down", "unconfirmed"] {
            assert_eq!(events(node, kind), 0, "{kind}");
        }
        assert_eq!(drops(node), before);
    }
    let mut seen = HashSet::new();
    for frame in capture.finish() {
        assert!(seen.insert(nonce_of(&frame)), "a number was used twice");
    }
    let phases: HashSet<u64> = seen.iter().map(|(_, _, number)| number >> 32).collect();
    assert!([0, 1, 2].iter().all(|phase| phases.contains(phase)));
    for node in &mut nodes {
        assert!(node.end(Signal::TERM).success());
    }
}
