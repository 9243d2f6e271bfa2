//! `tipsec-bench gate` as a script runs it, with files made by hand. Needs no
//! privileges.

#![allow(clippy::unwrap_used)] // a failed step is a failed test

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tipsec_bench::results::{Bound, Comparison, Machine, Run, SCHEMA, Sample, Series};

/// A directory of files, gone when dropped.
struct Files(PathBuf);

impl Files {
    fn create(label: &str) -> Self {
        let name = format!("tipsec-gate-{}-{label}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Runs the command in the directory.
    fn gate(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tipsec-bench"));
        command.arg("gate").args(arguments.split_whitespace());
        command.current_dir(&self.0).output().unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(rate: f64) -> Run {
    let of = |contender: &str, rate| {
        let mut series = Series::new("wire", contender, &[("size", "64")]);
        series.add(Sample {
            metrics: vec![("delivered", "Mpps", rate)],
            ..Sample::default()
        });
        series
    };
    let series = vec![of("tipsec x", rate), of("bare forwarder", 1.0)];
    let wanted = Some(Bound::AtLeast(0.9));
    let ratio = Comparison::ratio("t / b", &series[0], &series[1], "delivered", wanted);
    Run {
        schema: SCHEMA,
        bench: "wire".into(),
        started: "2020-02-29T12:00:00Z".into(),
        version: "0".into(),
        machine: Machine {
            cpu: "c".into(),
            cores: 2,
            kernel: "k".into(),
            virtualised: true,
            memory_bytes: 1,
        },
        rounds: 1,
        pinning: "p".into(),
        series,
        comparisons: ratio.into_iter().collect(),
        notes: Vec::new(),
    }
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn the_exit_code_is_the_verdict() {
    let files = Files::create("verdict");
    files.text(
        "expect",
        "wire tipsec size=64\nwire tipsec / bare forwarder\n",
    );
    for (name, rate) in [("good", 0.5), ("bad", 0.4), ("report", 0.9)] {
        run(rate).write(&files.path(name)).unwrap();
    }
    let expect = |arguments: &str, code: i32, words: &[&str]| {
        let output = files.gate(arguments);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments}: no {word:?} in {said}");
        }
    };
    expect(
        "good --against report --expect expect",
        0,
        &["at least 0.450"],
    );
    expect(
        "bad --against report --expect expect --json verdict",
        1,
        &["out of line: wire: t / b: 0.400", "FAILED, faults: 1"],
    );
    let json = fs::read_to_string(files.path("verdict")).unwrap();
    let verdict: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(verdict["passed"], false);
    assert_eq!(verdict["faults"][0]["what"], "t / b");
    // Without a report there is nothing to be out of line with.
    expect(
        "bad --expect expect",
        0,
        &["NO REPORT", "wire: 1 comparisons: no report"],
    );
    files.text("more", "wire kernel udp\ntap tipsec\n");
    expect(
        "bad --against report --expect more",
        1,
        &[
            "`wire kernel udp`",
            "`tap tipsec`",
            "out of line",
            "faults: 3",
        ],
    );
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let files = Files::create("refused");
    files.text("expect", "wire tipsec\n");
    files.text("wrong", "wire tipsec\n\nwirr tipsec\n");
    files.text("old", r#"{"schema": 0}"#);
    files.text("broken", "no results");
    run(0.9).write(&files.path("run")).unwrap();
    for (arguments, words) in [
        (
            "run --against nowhere --expect expect",
            ["nowhere", "No such file"],
        ),
        ("run --against old --expect expect", ["old", "version 0"]),
        (
            "run --against broken --expect expect",
            ["broken", "expected"],
        ),
        (
            "run --against run run --expect expect",
            ["two of them", "wire"],
        ),
        ("nowhere --expect expect", ["nowhere", "No such file"]),
        ("run --expect wrong", ["wrong", "line 3"]),
        ("run --expect nowhere", ["nowhere", "No such file"]),
        ("run", ["--expect", "required"]),
    ] {
        let output = files.gate(arguments);
        let said = said(&output);
        assert!(!output.status.success(), "{arguments}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments}: no {word:?} in {said}");
        }
    }
}
