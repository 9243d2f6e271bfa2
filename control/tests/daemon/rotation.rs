//! The master key is changed while frames flow, while a node is away, and
//! against advice.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::process::Signal;
use serde::de::DeserializeOwned;
use tipsec_control::admin::{
    LinkState, MasterIdsReport, MasterPeerReport, MasterStatusReport, MasterStepReport,
    result_from_line,
};
use tipsec_control::keyring::Keyring;
use tipsec_control::master::MasterKey;
use tipsec_control::masters::Masters;

use crate::admin::refusal;
use crate::lab::{Lab, wait_for};
use crate::node::{Daemon, KEY, OTHER_KEY, PATIENCE, cluster, config, id};
use crate::traffic::{Sink, Source};

/// Every pair is rekeyed within 60 s, and the machine may be busy.
const ROTATED: Duration = Duration::from_secs(90);

fn answer<T: DeserializeOwned>(node: &Daemon, request: &str) -> T {
    let line = node.ask(request);
    result_from_line(line.as_bytes()).unwrap_or_else(|error| panic!("{request}: {error}"))
}

fn stage(node: &Daemon, key: &str) -> MasterStepReport {
    let request = format!("{{\"op\":\"master-stage\",\"key\":\"{key}\"}}");
    answer(node, &request)
}

fn activate(node: &Daemon) -> MasterStepReport {
    answer(node, "{\"op\":\"master-activate\"}")
}

fn retire(node: &Daemon) -> MasterStepReport {
    answer(node, "{\"op\":\"master-retire\"}")
}

fn status(node: &Daemon) -> MasterStatusReport {
    answer(node, "{\"op\":\"master-status\"}")
}

/// Public ids of both keys, as a node that holds them shows them.
fn ids_of(report: &MasterIdsReport) -> (String, String) {
    let id = |id: &Option<String>| id.clone().unwrap();
    (id(&report.previous), id(&report.active))
}

/// Waits until what the node seals to all its peers is under a key.
fn wait_sealed_under(node: &Daemon, master: &str) {
    wait_for("all peers have the key", ROTATED, || {
        let peers = status(node).peers;
        let under = |peer: &MasterPeerReport| {
            peer.link == LinkState::Up && peer.sa_master_id.as_deref() == Some(master)
        };
        peers.iter().all(under).then_some(())
    });
}

#[test]
fn three_nodes_change_their_master_key_under_traffic_without_loss() {
    let Some(lab) = Lab::alone(3) else { return };
    let nodes = cluster(&lab, 3);
    let sinks: Vec<_> = (1..=3).map(|i| Sink::start(&lab, i)).collect();
    let gap = Duration::from_millis(2);
    let sources: Vec<_> = [(1, 2), (2, 3), (3, 1)]
        .map(|(from, to)| Source::start(&lab, from, to, gap))
        .into();
    wait_for("traffic", PATIENCE, || {
        sinks.iter().all(|sink| sink.received() > 100).then_some(())
    });
    // Before all had the first key, some named a key that others did not hold.
    let unknown = || -> Vec<u64> {
        let count = |node: &Daemon| node.status().xdp["unknown_master"];
        nodes.iter().map(count).collect()
    };
    let before = unknown();

    for node in &nodes {
        assert!(stage(node, OTHER_KEY).changed);
        assert!(!stage(node, OTHER_KEY).changed, "a second time");
    }
    wait_for("all know that all have staged it", PATIENCE, || {
        let staged = |node: &Daemon| {
            let report = status(node);
            let theirs = |peer: &MasterPeerReport| peer.masters.as_ref() == Some(&report.masters);
            report.peers.len() == 2 && report.peers.iter().all(theirs)
        };
        nodes.iter().all(staged).then_some(())
    });
    for node in &nodes {
        assert!(activate(node).changed);
        assert!(!activate(node).changed, "a second time");
    }
    let (old, new) = ids_of(&status(&nodes[0]).masters);
    for node in &nodes {
        wait_sealed_under(node, &new);
    }
    assert_eq!(unknown(), before, "the driver lacks the gate of a key");
    for node in &nodes {
        // What its peers seal to it must be under it too.
        let report = wait_for("the old key can go", ROTATED, || {
            let line = node.ask("{\"op\":\"master-retire\"}");
            result_from_line::<MasterStepReport>(line.as_bytes()).ok()
        });
        assert!(report.changed && report.left_behind.is_empty());
        assert!(!retire(node).changed, "a second time");
        assert_eq!(report.masters.previous, None);
        assert_eq!(report.masters.active.as_deref(), Some(new.as_str()));
    }
    let at = sinks[0].received();
    wait_for("traffic goes on", PATIENCE, || {
        (sinks[0].received() > at + 200).then_some(())
    });

    let sent: u64 = sources.into_iter().map(Source::finish).sum();
    let received = || sinks.iter().map(Sink::received).sum::<u64>();
    wait_for("every datagram arrives", PATIENCE, || {
        (received() == sent).then_some(())
    });
    for (i, node) in (1..).zip(&nodes) {
        let events = node.events();
        let count = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
        for kind in ["master-staged", "master-activated", "master-retired"] {
            assert_eq!(count(kind), 1, "{kind} at node {i}");
        }
        assert_eq!(count("link-down"), 0, "at node {i}: {events:?}");
        let keyring = fs::read_to_string(lab.dir.join(format!("s{i}/master"))).unwrap();
        assert!(
            keyring.contains(OTHER_KEY) && !keyring.contains(KEY),
            "{old}"
        );
    }
}

#[test]
fn a_node_that_was_away_during_activate_comes_back() {
    let Some(lab) = Lab::new(2) else { return };
    let mut nodes = cluster(&lab, 2);
    for node in &nodes {
        stage(node, OTHER_KEY);
    }
    assert!(nodes[1].end(Signal::TERM).success());
    let (_, new) = ids_of(&activate(&nodes[0]).masters);
    nodes[1] = Daemon::start(&lab, 2);
    nodes[1].wait_link(1, PATIENCE);
    wait_sealed_under(&nodes[0], &new);
    wait_sealed_under(&nodes[1], &new);
    let held = status(&nodes[1]).masters;
    assert_eq!(held.staged.as_deref(), Some(new.as_str()), "{held:?}");
    assert!(retire(&nodes[0]).changed);
    assert!(activate(&nodes[1]).changed);
    assert!(retire(&nodes[1]).changed);
    assert_eq!(nodes[1].peer(1).unwrap().link, LinkState::Up);
}

#[test]
fn a_key_that_is_needed_is_retired_only_by_force() {
    let Some(lab) = Lab::new(2) else { return };
    let mut nodes = cluster(&lab, 2);
    let refused = |node: &Daemon, request: &str, code: &str, part: &str| {
        let (found, message) = refusal(&node.ask(request));
        assert_eq!(found, code, "{message}");
        assert!(message.contains(part), "{message}");
    };
    let activate_request = "{\"op\":\"master-activate\"}";
    refused(&nodes[0], activate_request, "conflict", "master stage");
    let stage_request = format!("{{\"op\":\"master-stage\",\"key\":\"{KEY}\"}}");
    refused(&nodes[0], &stage_request, "conflict", "active one already");
    let set = format!("{{\"op\":\"master-set\",\"key\":\"{OTHER_KEY}\"}}");
    refused(&nodes[0], &set, "in-use", "links to node 1002");
    assert!(!retire(&nodes[0]).changed, "there is nothing to retire");

    stage(&nodes[0], OTHER_KEY);
    let (old, new) = ids_of(&activate(&nodes[0]).masters);
    let retire_request = "{\"op\":\"master-retire\"}";
    refused(
        &nodes[0],
        retire_request,
        "in-use",
        "node 1002 holds no other key",
    );
    assert_eq!(nodes[0].peer(2).unwrap().link, LinkState::Up);

    let forced: MasterStepReport = answer(&nodes[0], "{\"op\":\"master-retire\",\"force\":true}");
    assert_eq!((forced.changed, forced.left_behind), (true, vec![id(2)]));
    assert_ne!(nodes[0].peer(2).unwrap().link, LinkState::Up);
    for (node, other, claimed) in [(&nodes[0], 2, &old), (&nodes[1], 1, &new)] {
        wait_for("the other's claim is shown", PATIENCE, || {
            let peer = node.peer(other)?;
            let down = peer.link != LinkState::Up;
            (down && peer.claimed_master_id.as_ref() == Some(claimed)).then_some(())
        });
    }
    // What was retired stays so over a restart.
    assert!(nodes[0].end(Signal::TERM).success());
    nodes[0] = Daemon::start(&lab, 1);
    let held = status(&nodes[0]).masters;
    assert_eq!(held.active.as_deref(), Some(new.as_str()));
    assert_eq!((held.staged, held.previous), (None, None));

    stage(&nodes[1], OTHER_KEY);
    nodes[1].wait_link(1, PATIENCE);
    wait_sealed_under(&nodes[0], &new);
    let third = "5".repeat(64);
    let replace = format!("{{\"op\":\"master-stage\",\"key\":\"{third}\",\"replace\":true}}");
    let without = replace.replace("true", "false");
    refused(&nodes[1], &without, "conflict", "--replace");
    refused(&nodes[1], &replace, "in-use", "node 1001 has activated it");
}

#[test]
fn a_damaged_keyring_gives_way_to_its_copy_and_says_so() {
    let Some(lab) = Lab::new(1) else { return };
    let keyring = Keyring::open(&lab.dir.join("s1")).unwrap();
    let key = |text| MasterKey::parse(text).unwrap();
    keyring.store(&Masters::only(key(KEY))).unwrap();
    let staged = Masters::new(key(KEY), Some(key(OTHER_KEY)), None);
    keyring.store(&staged).unwrap();
    fs::write(keyring.path(), "tipsec keyr").unwrap();

    let node = Daemon::start(&lab, 1);
    let report = status(&node);
    assert!(report.masters.active.is_some());
    assert_eq!(report.masters.staged, None, "the last step is undone");
    assert!(report.keyring_damaged.unwrap().contains("master.1"));
    let kinds: Vec<_> = node.events().into_iter().map(|event| event.kind).collect();
    assert!(
        kinds.iter().any(|kind| kind == "keyring-damaged"),
        "{kinds:?}"
    );
    assert!(
        node.log_text().contains("is damaged"),
        "{}",
        node.log_text()
    );
    assert!(stage(&node, OTHER_KEY).changed);
    assert_eq!(status(&node).keyring_damaged, None);
    assert!(keyring.load().unwrap().unwrap().fallback.is_none());
}

#[test]
fn the_first_key_and_no_other_comes_from_a_credential() {
    let Some(lab) = Lab::new(1) else { return };
    let text = format!("{}\n[master]\ncredential = \"cluster\"\n", config(&lab, 1));
    let file = lab.dir.join("cluster");
    let write = |key: &str, mode| {
        let _ = fs::remove_file(&file);
        fs::write(&file, key).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    let directory = format!("CREDENTIALS_DIRECTORY={}", lab.dir.display());
    let start = || Daemon::spawn(&lab, 1, &text, &["env", &directory]);
    write(KEY, 0o644);
    let mut node = start();
    assert!(!node.wait().success());
    assert!(node.log_text().contains("chmod 600"), "{}", node.log_text());

    write(KEY, 0o400);
    let mut node = start();
    node.wait_until_serving();
    let first = status(&node).masters.active;
    assert!(first.is_some());
    assert!(node.end(Signal::TERM).success());
    // Another one there later is not taken for it.
    write(OTHER_KEY, 0o400);
    let mut node = start();
    node.wait_until_serving();
    assert_eq!(status(&node).masters.active, first);
    assert!(!node.log_text().contains(&KEY[..16]), "{}", node.log_text());
}
