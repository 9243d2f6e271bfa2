//! `tipsec-bench wire` on a real veth pair: every contender delivers, every
//! frame is accounted for, nothing is left behind. Needs root. Says nothing
//! about speed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tipsec_bench::report::Progress;
use tipsec_bench::results::{MPPS, Run};
use tipsec_bench::wire_bench::options::{FrameSize, Kind, PROVIDERS, Profile};
use tipsec_bench::wire_bench::{self, Options};
use tipsec_bench::{netns, report_html};
use tipsec_dataplane::secret::Suite;

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED (needs root): {test}");
    }
    root
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
fn every_contender_delivers_and_every_frame_is_accounted_for() {
    if !is_root("every_contender_delivers_and_every_frame_is_accounted_for") {
        return;
    }
    let options = Options {
        sizes: vec![FrameSize::B64, FrameSize::B1400, FrameSize::B9000],
        profiles: Profile::ALL.into(),
        contenders: Kind::ALL.into(),
        suites: vec![Suite::Aes256Gcm],
        providers: PROVIDERS.into(),
        rounds: 1,
        sample: Duration::from_millis(200),
        depth: Some(64),
    };
    let run = wire_bench::run(&options, &Progress::start()).unwrap();
    let on_the_wire = [
        "tipsec aes-256-gcm ring",
        "tipsec aes-256-gcm aws-lc-rs",
        "null cipher",
        "bare forwarder",
        "endpoint aes-256-gcm ring",
        "endpoint aes-256-gcm aws-lc-rs",
        "kernel udp",
        "kernel udp_segment",
    ];
    for profile in ["inline", "threaded"] {
        for contender in on_the_wire {
            for size in ["64", "1400"] {
                let labels = [("profile", profile), ("size", size)];
                let series = run.find(contender, &labels).unwrap();
                let title = series.title();
                assert_eq!(series.skipped, None, "{title}");
                assert_eq!(series.unaccounted, 0, "{title}: {:?}", series.drops);
                assert!(series.median(MPPS).unwrap() > 0.0, "{title}");
                assert!(series.median("cpu").unwrap() > 0.0, "{title}");
            }
            let jumbo = run.find(contender, &[("profile", profile), ("size", "9000")]);
            let jumbo = jumbo.unwrap();
            // It alone joins no chunks.
            let skipped = contender == "bare forwarder";
            assert_eq!(jumbo.skipped.is_some(), skipped, "{contender}");
            assert_eq!(jumbo.unaccounted, 0, "{contender}: {:?}", jumbo.drops);
        }
        for provider in ["ring", "aws-lc-rs"] {
            let contender = format!("aead aes-256-gcm {provider}");
            for size in ["64", "1400", "9000"] {
                let labels = [("profile", profile), ("size", size)];
                let series = run.find(&contender, &labels).unwrap();
                assert!(series.median("seal").unwrap() > 0.0);
                assert!(series.median("open").unwrap() > 0.0);
            }
        }
    }
    // Two targets against the bare forwarder at both sizes, and the endpoint's
    // at one: both profiles, both crates.
    let targets = run.comparisons.iter().filter(|c| c.wanted.is_some());
    assert_eq!(targets.count(), 16 + 4);
    assert_eq!(netns::made_by(std::process::id()), Vec::<String>::new());

    let directory = std::env::temp_dir();
    let json = directory.join(format!("tipsec-wire-{}.json", std::process::id()));
    run.write(&json).unwrap();
    assert_eq!(Run::read(&json).unwrap().series.len(), run.series.len());
    let html = directory.join(format!("tipsec-wire-{}.html", std::process::id()));
    let joined = bench(&["report", json.to_str().unwrap(), json.to_str().unwrap()])
        .args(["--html", html.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(joined.status.success(), "{}", stderr(&joined));
    let page = std::fs::read_to_string(&html).unwrap();
    assert_eq!(page.matches("<section>").count(), 2);
    assert_eq!(report_html::page(&[run]).matches("<section>").count(), 1);
    for file in [json, html] {
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let refused = |arguments: &[&str], wanted: &str| {
        let output = bench(arguments).output().unwrap();
        assert!(!output.status.success());
        let said = stderr(&output);
        assert!(said.contains(wanted), "{said}");
    };
    refused(&["wire", "--sizes", "64,65"], "no frame size \"65\"");
    refused(
        &["wire", "--contenders", "wireguard"],
        "there are tipsec, null",
    );
    refused(&["wire", "--ciphers", "rot13"], "aes-256-gcm");
    refused(&["wire", "--seconds", "0"], "0.05 to 600");
    refused(&["wire", "--rounds", "0"], "rounds");
    if is_root("a directory that does not exist") {
        refused(&["wire", "--json", "/nonexistent/x"], "/nonexistent/x");
    }
    refused(
        &["report", "/nonexistent", "--html", "/tmp/x"],
        "/nonexistent",
    );
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    if !is_root("an_interrupted_run_leaves_nothing_behind") {
        return;
    }
    let arguments = ["wire", "--sizes", "64", "--depth", "64", "--seconds", "60"];
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
