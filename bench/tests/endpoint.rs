//! The contender `endpoint` of `tipsec-bench wire`: two embedded nodes, with
//! real keys, on a real veth pair, set against the kernel's UDP. Needs root.
//! Says nothing about speed.
// A test may stop at the first surprise.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tipsec_bench::netns;
use tipsec_bench::report::Progress;
use tipsec_bench::results::{Bound, MPPS, NOT_COMPARABLE, Run};
use tipsec_bench::wire_bench::options::{FrameSize, Kind, Profile};
use tipsec_bench::wire_bench::{self, Options};
use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::secret::Suite;

const ENDPOINT: &str = "endpoint aes-256-gcm ring";
const UDP: &str = "kernel udp";
const UDP_SEGMENT: &str = "kernel udp_segment";

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED (needs root): {test}");
    }
    root
}

/// `tipsec-bench wire` with the endpoint alone, on one profile.
fn alone(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tipsec-bench"));
    let chosen = ["--contenders", "endpoint", "--profiles", "inline"];
    let cipher = ["--ciphers", "aes-256-gcm", "--providers", "ring"];
    command.arg("wire").args(chosen).args(cipher);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Directories of the nodes of a run.
fn homes(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir("/run").unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let prefix = format!("tsec-{pid}-");
    names.filter(|name| name.starts_with(&prefix)).collect()
}

fn nothing_is_left_of(pid: u32) {
    assert_eq!(netns::made_by(pid), Vec::<String>::new());
    assert_eq!(homes(pid), Vec::<String>::new());
}

/// What two embedded nodes and the kernel carry, round by round.
fn measured() -> Run {
    let options = Options {
        sizes: vec![
            FrameSize::B64,
            FrameSize::B1400,
            FrameSize::Imix,
            FrameSize::B9000,
        ],
        profiles: Profile::ALL.into(),
        contenders: vec![Kind::Endpoint, Kind::Udp, Kind::UdpSegment],
        suites: vec![Suite::Aes256Gcm],
        providers: vec![Provider::Ring],
        // The second round's nodes come where the first one's were.
        rounds: 2,
        sample: Duration::from_millis(200),
        depth: Some(64),
    };
    wire_bench::run(&options, &Progress::start()).unwrap()
}

#[test]
fn messages_arrive_are_accounted_for_and_set_against_datagrams() {
    if !is_root("messages_arrive_are_accounted_for_and_set_against_datagrams") {
        return;
    }
    let run = measured();
    for profile in ["inline", "threaded"] {
        for size in ["64", "1400", "imix", "9000"] {
            let labels = [("profile", profile), ("size", size)];
            let endpoint = run.find(ENDPOINT, &labels).unwrap();
            let title = endpoint.title();
            assert_eq!(endpoint.skipped, None, "{title}");
            assert_eq!(endpoint.unaccounted, 0, "{title}: {:?}", endpoint.drops);
            assert_eq!(endpoint.samples(MPPS).len(), 2, "{title}");
            assert_eq!(endpoint.label("depth"), "64", "{title}");
            for metric in [MPPS, "cpu", "cpu of threads", "efficiency"] {
                let least = endpoint.samples(metric).iter().copied();
                assert!(least.fold(f64::MAX, f64::min) > 0.0, "{title}: {metric}");
            }
            // Bytes and frames agree on how long a frame on the wire is, but for
            // some that arrived between the reading of one and of the other.
            if let Ok(bytes) = size.parse::<f64>() {
                let pairs = endpoint.samples("rate").iter().zip(endpoint.samples(MPPS));
                for (gbit, mpps) in pairs {
                    let found = gbit * 1e3 / mpps / 8.0;
                    assert!((found / bytes - 1.0).abs() < 0.1, "{title}: {found} B");
                }
            }
        }
    }

    let with_target: Vec<_> = run
        .comparisons
        .iter()
        .filter(|comparison| comparison.wanted.is_some())
        .map(|c| (c.a.as_str(), c.b.as_str(), c.labels["profile"].as_str()))
        .collect();
    let both = [(ENDPOINT, UDP, "inline"), (ENDPOINT, UDP, "threaded")];
    assert_eq!(with_target, both);
    for comparison in &run.comparisons {
        // One or the other, as fast as it came out.
        assert!(comparison.wanted.is_none_or(|w| w == Bound::AtLeast(2.0)));
        assert_eq!(
            comparison.wanted.is_some(),
            comparison.labels["size"] == "1400"
        );
    }

    // Trains of datagrams are shown, marked, explained, and compared with nothing.
    let (not, comparable) = NOT_COMPARABLE;
    let trains = run.find(UDP_SEGMENT, &[("size", "1400"), (not, comparable)]);
    assert!(trains.unwrap().median(MPPS).unwrap() > 0.0);
    let mut compared = run.comparisons.iter().flat_map(|c| [&c.a, &c.b]);
    assert!(compared.all(|contender| contender != UDP_SEGMENT));
    let explained = |note: &String| note.contains(UDP_SEGMENT) && note.contains("one packet");
    assert!(run.notes.iter().any(explained), "{:?}", run.notes);
    nothing_is_left_of(std::process::id());
}

#[test]
fn endpoint_can_be_asked_for_alone() {
    if !is_root("endpoint_can_be_asked_for_alone") {
        return;
    }
    let file = format!("tipsec-endpoint-{}.json", std::process::id());
    let json = std::env::temp_dir().join(file);
    let mut command = alone(&["--sizes", "570", "--rounds", "1", "--seconds", "0.1"]);
    // Fewer frames in flight than a node's configuration takes.
    command.args(["--depth", "4", "--json"]).arg(&json);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let run = Run::read(&json).unwrap();
    std::fs::remove_file(&json).unwrap();
    let series: Vec<_> = run.series.iter().map(|s| s.contender.as_str()).collect();
    assert_eq!(series, [ENDPOINT]);
    assert_eq!(run.series[0].label("depth"), "8");
    assert_eq!(run.comparisons, []);
}

#[test]
fn interrupted_nodes_leave_nothing_behind() {
    if !is_root("interrupted_nodes_leave_nothing_behind") {
        return;
    }
    let mut child = alone(&["--sizes", "64", "--depth", "64", "--seconds", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let measures = lines.any(|line| line.unwrap().contains("round 1 of 7"));
    assert!(measures, "it never began to measure");
    let deadline = Instant::now() + Duration::from_secs(30);
    // Both nodes are there.
    while homes(pid).len() < 2 {
        assert!(Instant::now() < deadline, "no nodes");
        std::thread::sleep(Duration::from_millis(5));
    }
    let target = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(target, Signal::INT).unwrap();
    drop(lines);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    nothing_is_left_of(pid);
}
