//! A node is put out of a cluster of real daemons, stays out after a restart, and
//! the next master key ends it.

use rustix::process::Signal;
use serde::de::DeserializeOwned;
use tipsec_control::admin::{
    EvictionReport, LinkState, MasterStatusReport, MasterStepReport, result_from_line,
};

use crate::admin::refusal;
use crate::lab::{Lab, wait_for};
use crate::node::{Daemon, OTHER_KEY, PATIENCE, cluster, config, id};
use crate::traffic::{Sink, Source};

fn answer<T: DeserializeOwned>(node: &Daemon, request: &str) -> T {
    let line = node.ask(request);
    result_from_line(line.as_bytes()).unwrap_or_else(|error| panic!("{request}: {error}"))
}

fn request(op: &str, node: u32) -> String {
    format!("{{\"op\":\"{op}\",\"node\":{node}}}")
}

fn status(node: &Daemon) -> MasterStatusReport {
    answer(node, "{\"op\":\"master-status\"}")
}

/// Whether the first two see each other, and neither has keys with the third.
fn is_out(nodes: &[Daemon]) -> bool {
    let sees = |node: &Daemon, other: usize| {
        let peer = node.peer(other);
        peer.is_some_and(|peer| peer.link == LinkState::Up)
    };
    let has_keys = |node: &Daemon| node.peer(3).is_some_and(|peer| peer.tx_epoch.is_some());
    sees(&nodes[0], 2) && sees(&nodes[1], 1) && !nodes[..2].iter().any(has_keys)
}

#[test]
fn a_node_is_put_out_for_good_and_the_others_lose_nothing() {
    let Some(lab) = Lab::new(3) else { return };
    let mut nodes = cluster(&lab, 3);
    let third = id(3);
    let sink = Sink::start(&lab, 2);
    let source = Source::start(&lab, 1, 2, std::time::Duration::from_millis(2));
    wait_for("traffic", PATIENCE, || {
        (sink.received() > 100).then_some(())
    });

    for (wrong, code) in [(id(1), "conflict"), (0, "bad-request")] {
        assert_eq!(refusal(&nodes[0].ask(&request("evict", wrong))).0, code);
    }
    for node in &nodes[..2] {
        let report: EvictionReport = answer(node, &request("evict", third));
        assert!(report.changed && report.evicted[0].node == third);
        let again: EvictionReport = answer(node, &request("evict", third));
        assert!(!again.changed);
        let report = status(node);
        assert_eq!(report.evicted.len(), 1);
        assert!(
            report
                .peers
                .iter()
                .any(|peer| peer.node == third && peer.evicted)
        );
    }
    wait_for("the third is out", PATIENCE, || {
        is_out(&nodes).then_some(())
    });
    // The file names the node, and no key.
    let file = std::fs::read_to_string(lab.dir.join("s1/evicted")).unwrap();
    assert!(file.contains(&format!(" {third}\n")), "{file}");

    // It is refused by a new life of the node, too, which holds the same key; and
    // that one has to wait for the next.
    assert!(nodes[1].end(Signal::TERM).success());
    let sent = source.finish();
    nodes[1] = Daemon::start(&lab, 2);
    wait_for("it is known that it waits", PATIENCE, || {
        let events = nodes[0].events();
        let waits = |kind: &str| kind == "awaits-master";
        events.iter().any(|event| waits(&event.kind)).then_some(())
    });
    assert_eq!(status(&nodes[1]).evicted.len(), 1);
    assert!(sink.received() <= sent);

    for node in &nodes[..2] {
        let stage = format!("{{\"op\":\"master-stage\",\"key\":\"{OTHER_KEY}\"}}");
        let _: MasterStepReport = answer(node, &stage);
    }
    for node in &nodes[..2] {
        let _: MasterStepReport = answer(node, "{\"op\":\"master-activate\"}");
    }
    wait_for("the two under the new key", PATIENCE, || {
        is_out(&nodes).then_some(())
    });
    for node in &nodes[..2] {
        let report: MasterStepReport = answer(node, "{\"op\":\"master-retire\",\"force\":true}");
        assert_eq!(report.evicted, [], "it ends with the key");
        let events = node.events();
        let count = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
        assert!(count("node-evicted") >= 1 && count("node-readmitted") == 1);
    }
    let file = std::fs::read_to_string(lab.dir.join("s1/evicted")).unwrap();
    assert!(!file.contains(&third.to_string()), "{file}");
    wait_for("the third stays out", PATIENCE, || {
        is_out(&nodes).then_some(())
    });
}

#[test]
fn a_damaged_list_stops_the_start_and_a_readmitted_node_is_back() {
    let Some(lab) = Lab::new(2) else { return };
    let mut nodes = cluster(&lab, 2);
    let _: EvictionReport = answer(&nodes[0], &request("evict", id(2)));
    let report: EvictionReport = answer(&nodes[0], &request("readmit", id(2)));
    assert!(report.changed && report.evicted.is_empty());
    wait_for("the link is back", PATIENCE, || {
        let peer = nodes[0].peer(2)?;
        (peer.link == LinkState::Up && !peer.evicted).then_some(())
    });
    let _: EvictionReport = answer(&nodes[0], &request("evict", id(2)));
    assert!(nodes[0].end(Signal::TERM).success());
    let path = lab.dir.join("s1/evicted");
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, whole.replace("tipsec", "tipsed")).unwrap();
    let mut refusing = Daemon::spawn(&lab, 1, &config(&lab, 1), &[]);
    assert_eq!(refusing.wait().code(), Some(1));
    let log = refusing.log_text();
    assert!(log.contains("evicted is damaged"), "{log}");
}
