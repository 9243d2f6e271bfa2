//! The end of a daemon, asked for or not: what is left, what comes back, what
//! got out.

use std::collections::HashSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lab::{Lab, TAP, mac, port, wait_for};
use crate::node::{Daemon, KEY, PATIENCE, cluster, config};
use crate::raw::{Capture, is_data, nonce_of};
use crate::traffic::{Sink, Source};

/// From the restart of a killed node to its traffic, both ways.
const RECOVERY: Duration = Duration::from_secs(2);

#[test]
fn kill_9_under_traffic_heals_within_two_seconds_and_repeats_no_nonce() {
    let Some(lab) = Lab::alone(3) else { return };
    // What each node sends, as its port of the bridge receives it.
    let captures: Vec<_> = (1..=3)
        .map(|i| {
            let sent = move |frame: &[u8]| is_data(frame) && frame[6..12] == mac(i);
            Capture::start(&lab, &lab.hub(), &port(i), sent)
        })
        .collect();
    let mut nodes = cluster(&lab, 3);
    let gap = Duration::from_millis(2);
    // Node 2 is killed: as receiver of one stream and sender of another.
    let sinks = [Sink::start(&lab, 2), Sink::start(&lab, 3)];
    let sources = [
        Source::start(&lab, 1, 2, gap),
        Source::start(&lab, 2, 3, gap),
    ];
    let flowing = |beyond: [u64; 2]| {
        let received = sinks.each_ref().map(Sink::received);
        (received[0] > beyond[0] && received[1] > beyond[1]).then_some(())
    };
    wait_for("traffic", PATIENCE, || flowing([100, 100]));

    for round in 0..2 {
        let incarnation = nodes[1].status().incarnation;
        let status = nodes[1].end(Signal::KILL);
        assert_eq!(status.signal(), Some(9));
        wait_for("the kernel has taken all back", PATIENCE, || {
            (!lab.has_xdp(2) && !lab.has_device(2, TAP)).then_some(())
        });
        let received = sinks.each_ref().map(Sink::received);
        let began = Instant::now();
        nodes[1] = Daemon::start(&lab, 2);
        let serving = began.elapsed();
        nodes[1].wait_link(1, PATIENCE);
        nodes[1].wait_link(3, PATIENCE);
        let linked = began.elapsed();
        wait_for("traffic again", PATIENCE, || {
            flowing(received.map(|n| n + 20))
        });
        let took = began.elapsed();
        println!("round {round}: serving after {serving:?}, links {linked:?}, traffic {took:?}");
        assert!(took < RECOVERY, "traffic only after {took:?}");
        assert_ne!(nodes[1].status().incarnation, incarnation);
    }
    for (at, node) in nodes.iter().enumerate() {
        for other in (1..=3).filter(|&other| other != at + 1) {
            node.wait_link(other, PATIENCE);
        }
    }
    let sent: u64 = sources.into_iter().map(Source::finish).sum();
    let mut seen = HashSet::new();
    for (i, capture) in (1..).zip(captures) {
        for frame in capture.finish() {
            let nonce = nonce_of(&frame);
            assert!(seen.insert(nonce), "node {i} used {nonce:x?} twice");
        }
    }
    // Nearly all must have been looked at, else the test is worth nothing.
    assert!(
        seen.len() as u64 > sent / 2,
        "{} of {sent} seen",
        seen.len()
    );
}

/// The key as it could show up: hex of either case, ASCII, bytes.
fn contains_key(bytes: &[u8], key: &str) -> bool {
    let octets: Vec<u8> = (0..key.len() / 2)
        .map(|i| u8::from_str_radix(&key[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let lower = bytes.to_ascii_lowercase();
    // A part of it is too much already.
    lower.windows(16).any(|w| w == &key.as_bytes()[16..32])
        || bytes.windows(8).any(|w| w == &octets[8..16])
}

#[test]
fn sigterm_ends_in_order_and_the_key_is_nowhere_to_be_read() {
    let Some(lab) = Lab::new(1) else { return };
    let mut node = Daemon::start(&lab, 1);
    assert!(
        contains_key(KEY.to_uppercase().as_bytes(), KEY),
        "the search works"
    );
    node.set_master(KEY);
    let bad = node.ask(&format!("{{\"op\":\"master-set\",\"kee\":\"{KEY}\"}}"));
    assert!(!contains_key(bad.as_bytes(), KEY), "{bad}");
    for request in ["status", "peers", "events"] {
        let line = node.ask(&format!("{{\"op\":\"{request}\"}}"));
        assert!(crate::admin::is_ok(&line), "{line}");
        assert!(!contains_key(line.as_bytes(), KEY), "{line}");
    }
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", node.pid())).unwrap();
        assert!(!contains_key(&bytes, KEY), "in {file}");
    }
    assert!(lab.has_xdp(1) && lab.has_device(1, TAP) && node.socket.exists());

    let status = node.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{}", node.log_text());
    assert!(!lab.has_xdp(1), "XDP program left behind");
    assert!(!lab.has_device(1, TAP), "tap left behind");
    assert!(!node.socket.exists(), "socket left behind");
    assert!(
        !contains_key(&fs::read(&node.log).unwrap(), KEY),
        "{}",
        node.log_text()
    );
    assert!(node.log_text().contains("stopping"), "{}", node.log_text());
    let left = fs::read_dir(lab.dir.join("s1")).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["master", "master.1"]);

    // The key outlives the process, and ctrl-c is as good.
    let mut node = Daemon::start(&lab, 1);
    assert!(node.status().master_id.is_some());
    assert_eq!(node.end(Signal::INT).code(), Some(0));
}

#[test]
fn sigterm_during_the_start_is_heard() {
    let Some(lab) = Lab::new(1) else { return };
    let mut node = Daemon::spawn(&lab, 1, &config(&lab, 1), &[]);
    wait_for("the socket is there", PATIENCE, || {
        node.socket.exists().then_some(())
    });
    let status = node.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!node.socket.exists(), "socket left behind");
}

#[test]
fn a_crash_leaves_no_core_file_with_keys() {
    let Some(lab) = Lab::new(1) else { return };
    let limit = ["prlimit", "--core=unlimited:unlimited", "--"];
    // A program that may be dumped is, else this shows nothing.
    let mut control = std::process::Command::new(limit[0])
        .args(&limit[1..])
        .args(["sh", "-c", "kill -ABRT $$"])
        .current_dir(&lab.dir)
        .spawn()
        .unwrap();
    let dumps_here = control.wait().unwrap().core_dumped();
    let mut node = Daemon::spawn(&lab, 1, &config(&lab, 1), &limit);
    node.wait_until_serving();
    node.set_master(KEY);
    let status = node.end(Signal::ABORT);
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped(), "the keys are in a core file");
    if !dumps_here {
        println!("this machine dumps no cores at all: nothing shown");
    }
    wait_for("the kernel has taken all back", PATIENCE, || {
        (!lab.has_xdp(1) && !lab.has_device(1, TAP)).then_some(())
    });
}
