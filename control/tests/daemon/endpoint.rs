//! Programs that are nodes themselves: the example `echo`, with keys from the
//! real exchange, among namespaces.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tipsec_control::admin::LinkState;
use tipsec_control::config::Config;
use tipsec_control::embed::{
    DaemonError, Endpoint, Node, NodeError, NodeId, Ring, SendError, Stopped,
};

use crate::lab::{Lab, NIC, TAP, Wiring, mac, mac_text, port, run, wait_for};
use crate::node::{Daemon, KEY, PATIENCE, config, config_with, id};

const TWO_QUEUES: Wiring = Wiring { nics: 1, queues: 2 };

/// For thousands of messages on a machine that does other things too.
const LONG: Duration = Duration::from_secs(60);

/// The example. Cargo builds it with the tests of the whole package, but not
/// with a single one of them, and tells tests nothing of it.
fn echo() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join("examples/echo");
    assert!(
        built.exists(),
        "{} is not there: `cargo build -p tipsec-control --example echo` makes it",
        built.display()
    );
    built
}

fn without_tap(text: &str) -> String {
    let tap = text.find("addresses =").unwrap();
    let end = tap + text[tap..].find('\n').unwrap();
    text.replace(&text[tap..end], "enabled = false")
}

fn one_queue(lab: &Lab, i: usize) -> String {
    without_tap(&config(lab, i))
}

fn two_queues(lab: &Lab, i: usize) -> String {
    let bearer = format!("[[bearer]]\ninterface = \"{NIC}\"\nqueues = [0, 1]\n");
    without_tap(&config_with(lab, i, &bearer))
}

fn serve(lab: &Lab, i: usize, text: &str) -> Daemon {
    let mut server = Daemon::spawn_program(lab, i, text, &echo(), &["--serve"]);
    server.wait_until_serving();
    server
}

fn ask(lab: &Lab, i: usize, text: &str, to: usize, count: &str, size: &str) -> Daemon {
    let to = id(to).to_string();
    let arguments = ["--to", &to, "--count", count, "--size", size];
    let mut client = Daemon::spawn_program(lab, i, text, &echo(), &arguments);
    client.wait_until_serving();
    client
}

/// Waits until the one that asks has all its answers.
fn finish(client: &mut Daemon) {
    let status = client.wait_for_end(LONG);
    assert_eq!(status.code(), Some(0), "{}", client.log_text());
}

#[test]
fn programs_talk_and_are_nodes_like_any_other() {
    let Some(lab) = Lab::alone(3) else { return };
    let mut server = serve(&lab, 1, &one_queue(&lab, 1));
    let daemon = Daemon::start(&lab, 3);
    // The operator keys a program as he does a daemon.
    for node in [&server, &daemon] {
        node.set_master(KEY);
    }
    let mut client = ask(&lab, 2, &one_queue(&lab, 2), 1, "20000", "1400");
    client.set_master(KEY);
    finish(&mut client);
    assert!(!lab.has_device(1, TAP) && !lab.has_device(2, TAP));
    let status = server.status();
    assert!(status.tap.is_none());
    assert_eq!(status.bearers[0].aead, "aws-lc-rs");
    assert_eq!(status.workers.len(), 1);
    let peer = server.peer(2).unwrap();
    assert!(peer.opened_frames >= 20_000, "{}", peer.opened_frames);
    assert!(peer.opened_bytes >= 20_000 * 1400);
    server.wait_link(3, PATIENCE);
    daemon.wait_link(1, PATIENCE);

    // A daemon has no program: what comes for one is counted, and not answered.
    let mut client = ask(&lab, 2, &one_queue(&lab, 2), 3, "10", "64");
    wait_for("the daemon refuses messages", PATIENCE, || {
        let drops = daemon.peer(2)?.drops;
        (drops.get("rx_no_receiver").copied()? > 0).then_some(())
    });
    assert_eq!(client.end(Signal::TERM).code(), Some(1), "not all answered");

    assert_eq!(server.end(Signal::TERM).code(), Some(0));
    assert!(!lab.has_xdp(1), "XDP program left behind");
    assert!(!server.socket.exists(), "socket left behind");
}

/// An MTU for frames of several buffers where the kernel has them (Linux 6.6).
fn longest_mtu() -> u32 {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 6) => 9000,
        _ => 3506,
    }
}

#[test]
fn messages_fill_frames_whatever_the_mtu() {
    let Some(lab) = Lab::alone(2) else { return };
    let set_mtu = |mtu: u32| {
        let mtu = mtu.to_string();
        for i in [1, 2] {
            lab.ip(&lab.hub(), &["link", "set", &port(i), "mtu", &mtu]);
            lab.ip(&lab.node(i), &["link", "set", NIC, "mtu", &mtu]);
        }
    };
    let longest = |mtu: u32| (mtu - 33).to_string();
    let mtu = longest_mtu();
    set_mtu(mtu);
    let server = serve(&lab, 1, &one_queue(&lab, 1));
    server.set_master(KEY);
    let mut client = ask(&lab, 2, &one_queue(&lab, 2), 1, "2000", &longest(mtu));
    client.set_master(KEY);
    finish(&mut client);

    // Without a tap there is none whose MTU would follow.
    set_mtu(1400);
    wait_for("the MTU is followed", PATIENCE, || {
        let status = server.status();
        (status.bearers[0].mtu == 1400 && status.tap.is_none()).then_some(())
    });
    let mut client = ask(&lab, 2, &one_queue(&lab, 2), 1, "2000", &longest(1400));
    finish(&mut client);
    let told = server.events();
    let mut told = told.iter().filter(|event| event.kind == "bearer-changed");
    assert!(told.all(|event| !event.text.contains("tap")), "{told:?}");
}

/// Nodes 1 and 2 by one veth pair without a bridge: what leaves by a queue
/// arrives in the queue of the same number.
fn join_directly(lab: &Lab) {
    let several = ["numrxqueues", "2", "numtxqueues", "2"];
    for i in [1, 2] {
        lab.ip(&lab.node(i), &["link", "del", NIC]);
    }
    let [ours, theirs] = [1, 2].map(|i| mac_text(mac(i)));
    let (there, here) = (lab.node(2), lab.node(1));
    let ends = [
        &["link", "add", NIC, "address", &ours][..],
        &several,
        &["type", "veth", "peer", "name", NIC, "address", &theirs],
        &several,
        &["netns", &there],
    ];
    lab.ip(&here, &ends.concat());
    for ns in [&here, &there] {
        lab.ip(ns, &["link", "set", NIC, "up"]);
        let queue = ["root", "pfifo", "limit", "10000"];
        let on = ["-n", ns, "qdisc", "replace", "dev", NIC];
        run("tc", &[&on[..], &queue].concat());
    }
}

#[test]
fn two_endpoints_of_a_program_are_two_lanes() {
    let Some(lab) = Lab::wired(2, TWO_QUEUES) else {
        return;
    };
    join_directly(&lab);
    let server = serve(&lab, 1, &two_queues(&lab, 1));
    server.set_master(KEY);
    let mut client = ask(&lab, 2, &two_queues(&lab, 2), 1, "20000", "200");
    client.set_master(KEY);
    wait_for("messages by both lanes", LONG, || {
        // Each answers what it received.
        let workers = server.status().workers;
        let sent = workers.iter().map(|worker| worker.transmitted_frames);
        (workers.len() == 2 && sent.min()? > 500).then_some(())
    });
    server.ask("{\"op\":\"rekey-now\"}");
    finish(&mut client);
    assert!(server.peer(2).unwrap().opened_frames >= 20_000);
}

#[test]
fn program_that_is_killed_comes_back() {
    let Some(lab) = Lab::alone(2) else { return };
    let mut server = serve(&lab, 1, &one_queue(&lab, 1));
    server.set_master(KEY);
    let mut client = ask(&lab, 2, &one_queue(&lab, 2), 1, "20000000", "64");
    client.set_master(KEY);
    let answers = |client: &Daemon| client.peer(1).map_or(0, |peer| peer.opened_frames);
    wait_for("answers", LONG, || (answers(&client) > 1000).then_some(()));
    for _ in 0..2 {
        let incarnation = server.status().incarnation;
        server.end(Signal::KILL);
        wait_for("the kernel has taken all back", PATIENCE, || {
            (!lab.has_xdp(1)).then_some(())
        });
        let before = answers(&client);
        server = serve(&lab, 1, &one_queue(&lab, 1));
        assert_ne!(server.status().incarnation, incarnation);
        wait_for("answers again", PATIENCE, || {
            (answers(&client) > before + 1000).then_some(())
        });
        assert_eq!(client.peer(1).unwrap().link, LinkState::Up);
    }
    assert_eq!(client.end(Signal::TERM).code(), Some(1), "not all answered");
}

/// A node of two endpoints in this process.
fn node_here(lab: &Lab) -> (Node, Vec<Endpoint<Ring>>) {
    let text = two_queues(lab, 1);
    let config = Config::parse(&text, "here.toml").unwrap();
    // Threads stay in the namespace that they were started in.
    lab.inside(&lab.node(1), || Node::start::<Ring>(&config))
        .unwrap()
}

#[test]
fn node_and_endpoints_end_together() {
    let Some(lab) = Lab::wired(1, TWO_QUEUES) else {
        return;
    };
    let mut state = fs::DirBuilder::new();
    state.mode(0o700).create(lab.dir.join("s1")).unwrap();

    let (node, mut endpoints) = node_here(&lab);
    assert!(node.is_running() && lab.has_xdp(1));
    assert_eq!((endpoints.len(), node.cores()), (2, &[None, None][..]));
    for endpoint in &mut endpoints {
        assert_eq!(endpoint.wait(Duration::from_millis(1)), Ok(false));
    }
    node.stop().unwrap();
    assert!(!lab.has_xdp(1), "XDP program left behind");
    for endpoint in &mut endpoints {
        assert_eq!(endpoint.wait(PATIENCE), Err(Stopped));
        assert!(endpoint.bearer().is_none());
    }

    // Its queues and its socket are free again.
    let (node, mut endpoints) = node_here(&lab);
    drop(endpoints.pop());
    assert_eq!(endpoints[0].wait(PATIENCE), Err(Stopped));
    wait_for("the node ends", PATIENCE, || {
        (!node.is_running()).then_some(())
    });
    assert!(!lab.has_xdp(1), "XDP program left behind");
    let ended = node.stop().unwrap_err();
    let reason = NodeError::Ended(DaemonError::EndpointDropped(1));
    assert_eq!(ended.to_string(), reason.to_string());
}

#[test]
fn endpoint_notices_that_its_device_went() {
    let Some(lab) = Lab::wired(1, TWO_QUEUES) else {
        return;
    };
    let mut state = fs::DirBuilder::new();
    state.mode(0o700).create(lab.dir.join("s1")).unwrap();
    let (node, mut endpoints) = node_here(&lab);
    assert!(endpoints[0].fault().is_none());
    lab.ip(&lab.node(1), &["link", "del", NIC]);
    // Its program never waits for long, and sends nothing.
    for endpoint in &mut endpoints {
        wait_for("the endpoint says so", PATIENCE, || {
            assert_eq!(endpoint.wait(Duration::from_millis(1)), Ok(false));
            endpoint.fault().map(ToString::to_string)
        });
        let nobody = NodeId::new(7).unwrap();
        assert_eq!(endpoint.reserve(nobody).err(), Some(SendError::Gone));
    }
    assert!(node.is_running(), "its admin socket still answers");
    node.stop().unwrap();
}

#[test]
fn daemon_without_tap_is_refused() {
    let Some(lab) = Lab::new(1) else { return };
    let mut daemon = Daemon::spawn(&lab, 1, &one_queue(&lab, 1), &[]);
    assert_eq!(daemon.wait().code(), Some(1));
    let log = daemon.log_text();
    assert!(log.contains("1.toml:9: tap.enabled: "), "{log}");
    assert!(!lab.has_xdp(1) && !daemon.socket.exists());
    let file = fs::read_to_string(lab.dir.join("1.toml")).unwrap();
    assert!(file.contains("enabled = false"));
}
