//! A clock that is set: the wall clock decides nothing, and a boot-time clock of
//! years is a clock. The machine's own are left alone.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tipsec_control::admin::LinkState;

use crate::flood::rekey_now;
use crate::lab::{Lab, wait_for};
use crate::node::{Daemon, KEY, PATIENCE, config};
use crate::traffic::{Sink, Source};

/// Offsets of the wall clock, as libfaketime reads them; and the years that they
/// lead to, from 2026 on.
const STEPS: [&str; 4] = ["+10y", "-10y", "+0", "-30y"];

/// Debian's package faketime.
fn libfaketime() -> Option<PathBuf> {
    let places = fs::read_dir("/usr/lib").ok()?;
    places
        .filter_map(|place| Some(place.ok()?.path().join("faketime/libfaketime.so.1")))
        .find(|path| path.exists())
}

fn year(time: &str) -> i32 {
    time[..4].parse().unwrap()
}

/// Two nodes that are up, of which the first runs by way of a command.
fn pair(lab: &Lab, wrapper: &[&str]) -> [Daemon; 2] {
    let mut first = Daemon::spawn(lab, 1, &config(lab, 1), wrapper);
    first.wait_until_serving();
    let nodes = [first, Daemon::start(lab, 2)];
    for node in &nodes {
        node.set_master(KEY);
    }
    nodes[0].wait_link(2, PATIENCE);
    nodes[1].wait_link(1, PATIENCE);
    nodes
}

/// New keys in time from both ends, and all data arrives.
fn assert_lives(nodes: &[Daemon; 2], source: &Source, sink: &Sink) {
    for took in [rekey_now(&nodes[0], 2), rekey_now(&nodes[1], 1)] {
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
    let (sent, received) = (source.sent(), sink.received());
    wait_for("data", PATIENCE, || {
        (source.sent() > sent + 100).then_some(())
    });
    let due = received + (source.sent() - sent);
    wait_for("it arrives", PATIENCE, || {
        (sink.received() + 10 >= due).then_some(())
    });
    assert_eq!(nodes[0].peer(2).unwrap().link, LinkState::Up);
    for node in nodes {
        for event in node.events() {
            assert!(
                event.kind != "link-down" && event.kind != "keys-old",
                "{event:?}"
            );
        }
    }
}

#[test]
fn a_wall_clock_that_is_set_by_ten_years_changes_nothing() {
    let Some(lab) = Lab::new(2) else { return };
    let Some(library) = libfaketime() else {
        println!("SKIPPED (needs libfaketime: package faketime)");
        return;
    };
    let offset = lab.dir.join("wall-clock");
    fs::write(&offset, "+0").unwrap();
    let preload = format!("LD_PRELOAD={}", library.display());
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", offset.display());
    let wrapper = [
        "env",
        &preload,
        &file,
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "NO_FAKE_STAT=1",
    ];
    let nodes = pair(&lab, &wrapper);
    let sink = Sink::start(&lab, 1);
    let source = Source::start(&lab, 2, 1, Duration::from_millis(5));
    let shown = || year(&nodes[0].events().last().unwrap().time);
    let now = year(&nodes[1].events().last().unwrap().time);
    assert_eq!(shown(), now);
    let incarnation = nodes[0].status().incarnation;
    for step in STEPS {
        // In one piece: the daemon may read it at any moment.
        let new = lab.dir.join("wall-clock.new");
        fs::write(&new, step).unwrap();
        fs::rename(&new, &offset).unwrap();
        let years: i32 = step.trim_end_matches('y').parse().unwrap();
        wait_for(step, PATIENCE, || {
            // A year of libfaketime has 365 days.
            ((shown() - now - years).abs() <= 1).then_some(())
        });
        let began = Instant::now();
        assert_lives(&nodes, &source, &sink);
        println!("{step}: new keys and data after {:?}", began.elapsed());
    }
    assert_eq!(
        nodes[0].status().incarnation,
        incarnation,
        "the same process"
    );
}

#[test]
fn a_node_with_ten_years_of_uptime_lives_with_one_that_just_booted() {
    let Some(lab) = Lab::new(2) else { return };
    let years = "315576000";
    let wrapper = [
        "unshare",
        "--time",
        "--boottime",
        years,
        "--monotonic",
        years,
    ];
    let probe = std::process::Command::new(wrapper[0])
        .args(&wrapper[1..])
        .args(["cat", "/proc/uptime"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&probe.stdout);
    if !shown
        .split('.')
        .next()
        .is_some_and(|s| s.parse().is_ok_and(|s: u64| s > 315_576_000))
    {
        println!("SKIPPED (needs time namespaces)");
        return;
    }
    let nodes = pair(&lab, &wrapper);
    let sink = Sink::start(&lab, 1);
    let source = Source::start(&lab, 2, 1, Duration::from_millis(5));
    assert_lives(&nodes, &source, &sink);
}
