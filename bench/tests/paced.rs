//! `tipsec-bench ndr` and `tipsec-bench latency` on a real veth pair: every
//! series is there, every frame is accounted for, nothing is left behind.
//! Needs root. Says nothing about speed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tipsec_bench::report::Progress;
use tipsec_bench::results::{PERCENTILES, Run};
use tipsec_bench::wire_bench::options::{FrameSize, PROVIDERS, Profile};
use tipsec_bench::wire_bench::paced::options::CONTENDERS;
use tipsec_bench::wire_bench::paced::{Options, Wait, latency, ndr};
use tipsec_bench::{netns, report_html};
use tipsec_dataplane::secret::Suite;

const NAMES: [&str; 4] = [
    "tipsec aes-256-gcm ring",
    "null cipher",
    "bare forwarder",
    "kernel udp",
];

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED (needs root): {test}");
    }
    root
}

/// Devices and their kernel threads are named after the process: one wire at a
/// time.
static WIRE: Mutex<()> = Mutex::new(());

fn the_wire() -> MutexGuard<'static, ()> {
    // A test that failed has removed its wire.
    WIRE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn options(sizes: &[FrameSize], profiles: &[Profile], waits: &[Wait]) -> Options {
    Options {
        sizes: sizes.into(),
        profiles: profiles.into(),
        contenders: CONTENDERS.into(),
        waits: waits.into(),
        suite: Suite::Aes256Gcm,
        provider: PROVIDERS[0],
        rounds: 1,
        sample: Duration::from_millis(50),
        depth: 64,
    }
}

fn nothing_is_unaccounted_for(run: &Run) {
    for series in &run.series {
        let title = series.title();
        assert_eq!(series.unaccounted, 0, "{title}: {:?}", series.drops);
    }
}

#[test]
fn latencies_are_told_at_every_load_and_every_frame_is_accounted_for() {
    if !is_root("latencies_are_told_at_every_load_and_every_frame_is_accounted_for") {
        return;
    }
    let _wire = the_wire();
    let options = options(&[FrameSize::B64], &[Profile::Inline], &Wait::ALL);
    let run = latency::run(&options, &Progress::start()).unwrap();
    nothing_is_unaccounted_for(&run);
    let mut measured = 0;
    for wait in ["spin", "sleep"] {
        for contender in NAMES {
            let labels = [("profile", "inline"), ("size", "64"), ("wait", wait)];
            let rate = run
                .series
                .iter()
                .find(|s| s.bench == "ndr" && s.contender == contender && s.label("wait") == wait);
            let rate = rate.unwrap().median(ndr::NDR).unwrap();
            for load in ["10 %", "50 %", "90 %"] {
                let labels = [&labels[..], &[("load", load)]].concat();
                let series = run.find(contender, &labels).unwrap();
                // A machine that is busy with other things may pass no rate, or run
                // nobody for as long as the trials take.
                if let Some(why) = &series.skipped {
                    let is_known = rate == 0.0 || why.contains("no frame arrived");
                    assert!(is_known, "{}: {why}", series.title());
                    eprintln!("SKIPPED ({}): {why}", series.title());
                }
                let places: Vec<f64> = PERCENTILES
                    .iter()
                    .filter_map(|(name, _)| series.median(name))
                    .collect();
                if series.skipped.is_none() {
                    measured += 1;
                    assert_eq!(places.len(), PERCENTILES.len(), "{}", series.title());
                    assert!(places[0] > 0.0, "{}", series.title());
                    assert!(places.is_sorted(), "{}: {places:?}", series.title());
                }
            }
        }
    }
    assert!(measured > 0, "no contender had a rate: {:?}", run.series);
    assert!(run.find(latency::TIMER, &[("wait", "spin")]).is_some());
    assert_eq!(netns::made_by(std::process::id()), Vec::<String>::new());
    assert!(report_html::page(&[run]).contains("<polyline"));
}

#[test]
fn rates_are_found_in_both_profiles_and_every_frame_is_accounted_for() {
    if !is_root("rates_are_found_in_both_profiles_and_every_frame_is_accounted_for") {
        return;
    }
    let sizes = [FrameSize::Imix, FrameSize::B9000];
    let _wire = the_wire();
    let options = options(&sizes, &Profile::ALL, &[Wait::Sleep]);
    let run = ndr::run(&options, &Progress::start()).unwrap();
    nothing_is_unaccounted_for(&run);
    for profile in ["inline", "threaded"] {
        for contender in NAMES {
            let found = |size| {
                let labels = [("profile", profile), ("size", size), ("wait", "sleep")];
                run.find(contender, &labels).unwrap()
            };
            for size in ["imix", "9000"] {
                let series = found(size);
                let title = series.title();
                // It joins no chunks.
                let able = contender != "bare forwarder" || size == "imix";
                assert_eq!(series.skipped.is_none(), able, "{title}");
                if !able {
                    continue;
                }
                let median = |metric| series.median(metric).unwrap();
                assert!(median(ndr::PDR) > 0.0, "{title}");
                assert!(median("no-drop upper bound") >= median(ndr::NDR), "{title}");
                // The first trial asks for more than anything passes.
                assert!(series.drops["not sent in time"] > 0, "{title}");
            }
        }
    }
}

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tipsec-bench"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let refused = |arguments: &[&str], wanted: &str| {
        let output = bench(arguments).output().unwrap();
        assert!(!output.status.success());
        let said = stderr(&output);
        assert!(said.contains(wanted), "{said}");
    };
    for command in ["ndr", "latency"] {
        refused(&[command, "--sizes", "64,65"], "no frame size \"65\"");
        refused(&[command, "--profiles", "fast"], "inline, threaded");
        refused(&[command, "--waits", "nap"], "spin, sleep");
        refused(
            &[command, "--contenders", "aead"],
            "tipsec, null, bare, udp",
        );
        refused(&[command, "--cipher", "rot13"], "aes-256-gcm");
        refused(&[command, "--seconds", "0"], "0.05 to 600");
        refused(&[command, "--rounds", "0"], "rounds");
        refused(&[command, "--depth", "5000"], "depth");
        if is_root("a directory that does not exist") {
            refused(&[command, "--report", "/nonexistent/x"], "/nonexistent/x");
        }
    }
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    if !is_root("an_interrupted_run_leaves_nothing_behind") {
        return;
    }
    let arguments = [
        "ndr",
        "--sizes",
        "64",
        "--contenders",
        "bare",
        "--seconds",
        "60",
    ];
    let mut child = bench(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let measures = lines.any(|line| line.unwrap().contains("round 1 of 7"));
    assert!(measures, "it never began to measure");
    assert!(!netns::made_by(pid).is_empty());
    let target = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(target, Signal::INT).unwrap();
    // Nobody reads the rest, which must not keep it from ending.
    drop(lines);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("interrupted"));
    assert_eq!(netns::made_by(pid), Vec::<String>::new());
}
