//! `tipsec-bench tap` as people run it, with everything that is installed: every
//! series is there, and nothing is left. Needs root.

#![allow(clippy::unwrap_used)] // a failed step is a failed test

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tipsec_bench::results::{Run, Series};
use tipsec_bench::wait::{self, Look};
use tipsec_bench::{cluster, netns, peers};

const BENCH: &str = env!("CARGO_BIN_EXE_tipsec-bench");
/// A run of one round may take so long on a machine that others use, too.
const RUN_WITHIN: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(10);

/// Each run wants both cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn root() -> Option<MutexGuard<'static, ()>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED (needs root): network namespaces");
        return None;
    }
    for program in ["tipsecd", "tipsec-keyctl"] {
        let path = Path::new(BENCH).with_file_name(program);
        if !path.is_file() {
            eprintln!("SKIPPED (run the workspace's tests): no {}", path.display());
            return None;
        }
    }
    Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A run in a process group of its own, killed when dropped.
struct Running {
    child: Child,
    sockets_before: BTreeSet<PathBuf>,
}

impl Running {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let sockets_before = wireguard_sockets();
        let mut command = Command::new(BENCH);
        command.arg("tap").args(arguments).process_group(0);
        command.envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        Self {
            child,
            sockets_before,
        }
    }

    /// Its exit code; none if a signal ended it.
    fn finish(&mut self, deadline: Duration) -> Option<i32> {
        let status = wait::until("the run to end", deadline, OFTEN, || {
            let status = self.child.try_wait().unwrap();
            Ok(status.map_or(Look::NotYet("it runs".into()), Look::Done))
        });
        status.unwrap().code()
    }

    /// Processes of its group, itself left out.
    fn others(&self) -> Vec<String> {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let stats = processes.filter_map(|dir| fs::read_to_string(dir.path().join("stat")).ok());
        // pid (name) state ppid pgrp …; the name may hold anything.
        let of_group = |stat: &String| {
            let (head, tail) = stat.rsplit_once(')')?;
            let (pid, name) = head.split_once(" (")?;
            let mut fields = tail.split_whitespace();
            let state = fields.next()?;
            let group = fields.nth(1)?;
            let own = self.child.id().to_string();
            (group == own && pid != own && state != "Z").then(|| name.to_owned())
        };
        stats.filter_map(|stat| of_group(&stat)).collect()
    }

    fn wait_for_a_process(&mut self, name: &str) {
        wait::until(name, SOON, OFTEN, || {
            assert_eq!(self.child.try_wait().unwrap(), None, "the run has ended");
            let others = self.others();
            Ok(match others.iter().any(|other| other == name) {
                true => Look::Done(()),
                false => Look::NotYet(format!("{others:?}")),
            })
        })
        .unwrap();
    }

    /// Nothing of it is left on this machine.
    fn assert_nothing_is_left(&self) {
        let pid = self.child.id();
        wait::until("all processes to be gone", SOON, OFTEN, || {
            let others = self.others();
            Ok(match others.is_empty() {
                true => Look::Done(()),
                false => Look::NotYet(format!("{others:?}")),
            })
        })
        .unwrap();
        assert_eq!(netns::made_by(pid), Vec::<String>::new());
        let directory = format!("/run/tsec-{pid}-tap");
        assert!(!Path::new(&directory).exists(), "{directory} is left");
        assert_eq!(wireguard_sockets(), self.sockets_before);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wireguard_sockets() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir("/var/run/wireguard").into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Runs to the end and reads the results.
fn measure(label: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Run {
    let name = format!("tipsec-tap-{}-{label}", std::process::id());
    let file = |end: &str| std::env::temp_dir().join(format!("{name}.{end}"));
    let (json, report) = (file("json"), file("html"));
    let quick = ["--rounds", "1", "--seconds", "1", "--udp-step", "100"];
    let files = ["--json", json.to_str().unwrap(), "--report"];
    let arguments = [&quick, &files[..], &[report.to_str().unwrap()], arguments].concat();
    let mut running = Running::start(&arguments, environment);
    let code = running.finish(RUN_WITHIN);
    running.assert_nothing_is_left();
    let run = Run::read(&json);
    for file in [json, report] {
        // Missing after a failure, and that is told below.
        let _ = fs::remove_file(file);
    }
    assert_eq!(code, Some(0), "{run:?}");
    run.unwrap()
}

fn contenders<'a>(series: impl IntoIterator<Item = &'a Series>) -> Vec<&'a str> {
    let names = series.into_iter();
    names.map(|series| series.contender.as_str()).collect()
}

#[test]
fn every_installed_contender_carries_traffic() {
    let Some(_guard) = root() else { return };
    let run = measure("all", &["--streams", "1,4"], &[]);
    let everybody = [&[peers::TIPSEC, peers::TIPSEC_CHACHA20], &peers::NAMES[..]].concat();
    for traffic in ["tcp", "tcp, 4 streams", "udp"] {
        let of_traffic = run.series.iter().filter(|s| s.label("traffic") == traffic);
        assert_eq!(contenders(of_traffic), everybody, "{traffic}");
    }
    for series in &run.series {
        let title = series.title();
        assert_eq!(series.unaccounted, 0, "{title}");
        if let Some(why) = &series.skipped {
            eprintln!("SKIPPED ({title}): {why}");
            // Somebody else's program may fail on a machine that is busy with other
            // things; one that carries nothing at all was not set up as it should be.
            let mut same = run
                .series
                .iter()
                .filter(|s| s.contender == series.contender);
            let carries = same.any(|one| one.skipped.is_none());
            assert!(why.contains("not installed") || carries, "{title}: {why}");
            continue;
        }
        assert_eq!(series.samples("throughput").len(), 1, "{title}");
        assert!(series.samples("throughput")[0] > 0.0, "{title}");
        assert!(series.samples("busy cores")[0] > 0.0, "{title}");
        let is_udp = series.label("traffic") == "udp";
        assert_eq!(series.samples("cpu").len(), usize::from(is_udp), "{title}");
    }
    let clear = |c: &&tipsec_bench::results::Comparison| c.b == peers::VETH_OFF;
    assert_eq!(run.comparisons.iter().filter(clear).count(), 3, "{run:?}");
    for offloads in ["tso off, gso off", "tso on, gso on"] {
        assert!(run.notes.iter().any(|note| note.contains(offloads)));
    }
}

#[test]
fn who_is_not_installed_is_skipped_by_name() {
    let Some(_guard) = root() else { return };
    let path = std::env::var("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join("boringtun-cli").exists()) {
        eprintln!("SKIPPED (boringtun-cli is in PATH): there is always one");
        return;
    }
    let nowhere = [("XDG_CACHE_HOME", "/nonexistent")];
    let run = measure("skip", &["--peers", "boringtun"], &nowhere);
    assert_eq!(
        run.series.len(),
        6,
        "three contenders, TCP and UDP: {run:?}"
    );
    let skipped = run.series.iter().filter(|series| series.skipped.is_some());
    assert_eq!(contenders(skipped), ["boringtun", "boringtun"]);
    assert_eq!(run.comparisons, [], "nobody to compare with");
}

/// A directory with programs of our own, gone when dropped.
struct Programs(PathBuf);

impl Programs {
    fn create(label: &str) -> Self {
        let name = format!("tipsec-tap-{}-{label}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    /// A shell script; `$counter` is a file of its own.
    fn add(&self, name: &str, script: &str) {
        let file = self.0.join(name);
        let counter = self.0.join(format!("{name}.count"));
        let text = format!("#!/bin/sh\ncounter='{}'\n{script}\n", counter.display());
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// A PATH that has them first.
    fn path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{path}", self.0.display())
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Comes up for `$good` starts, those before the rounds, and dies in later ones
/// as soon as it is loaded: when iperf3 runs in the process group of the run.
const DIES_UNDER_LOAD: &str = r#"
case $1 in --version) exec "$real" --version ;; esac
echo start >> "$counter"
if [ "$(wc -l < "$counter")" -gt "$good" ]; then
    self=$$
    # The output is the harness's pipe, which ends with the last who has it.
    (
        tries=0
        until pgrep -g 0 -x iperf3 || [ $((tries += 1)) -gt 1000 ]; do sleep 0.02; done
        kill -KILL $self
    ) > /dev/null 2>&1 &
fi
exec "$real" "$@"
"#;

#[test]
fn a_peer_that_fails_is_skipped_by_name_and_the_others_go_on() {
    let Some(_guard) = root() else { return };
    let known = std::env::var("PATH").unwrap_or_default();
    let find = |name: &str| {
        let mut files = std::env::split_paths(&known).map(|folder| folder.join(name));
        files.find(|file| file.is_file())
    };
    let (Some(real), Some(_)) = (find("wireguard-go"), find("pgrep")) else {
        eprintln!("SKIPPED (needs wireguard-go, pgrep): ci/peers, apt install procps");
        return;
    };
    let programs = Programs::create("failing");
    let script = format!("good=2 real='{}'\n{DIES_UNDER_LOAD}", real.display());
    programs.add("wireguard-go", &script);
    let never = "[ \"$1\" = --version ] && exec echo OpenVPN 0\necho no luck today; exit 3";
    programs.add("openvpn", never);
    let path = programs.path();
    let arguments = ["--peers", "wireguard-go,openvpn,veth-offloads-off"];
    let run = measure("failing", &arguments, &[("PATH", &path)]);

    assert_eq!(run.series.len(), 10, "five contenders, TCP and UDP");
    for series in &run.series {
        let title = series.title();
        let words: &[&str] = match series.contender.as_str() {
            "openvpn" => &["before the rounds", "openvpn", "no luck today"],
            "wireguard-go" => &["round 1 of 1", "wireguard-go of end", "SIGKILL"],
            _ => {
                assert_eq!(series.skipped, None, "{title}");
                assert_eq!(series.samples("throughput").len(), 1, "{title}");
                continue;
            }
        };
        assert!(series.metrics.is_empty(), "{title}");
        let reason = series.skipped.as_deref().unwrap();
        for word in words {
            assert!(reason.contains(word), "{title}: {word} in {reason:?}");
        }
    }
    for comparison in &run.comparisons {
        assert_eq!(comparison.b, peers::VETH_OFF, "{comparison:?}");
    }
    assert_eq!(run.comparisons.len(), 2, "TCP and UDP");
}

#[test]
fn tipsec_that_fails_ends_the_run() {
    let Some(_guard) = root() else { return };
    let programs = Programs::create("tipsec");
    let beside = |name: &str| Path::new(BENCH).with_file_name(name);
    let keyctl = beside("tipsec-keyctl");
    programs.add(
        "tipsec-keyctl",
        &format!("exec '{}' \"$@\"", keyctl.display()),
    );
    let end = |label: &str, daemon: &str| {
        programs.add("tipsecd", daemon);
        let json = programs.0.join(format!("{label}.json"));
        let files = ["--json", json.to_str().unwrap()];
        let directory = ["--binaries", programs.0.to_str().unwrap()];
        let quick = [
            "--peers",
            "veth-offloads-off",
            "--rounds",
            "1",
            "--seconds",
            "1",
        ];
        let mut running = Running::start(&[&files[..], &directory, &quick].concat(), &[]);
        let code = running.finish(RUN_WITHIN);
        running.assert_nothing_is_left();
        (code, json.exists())
    };
    let comes_up_never = "[ \"$1\" = --version ] && exec echo tipsecd 0\nexit 3";
    assert_eq!(end("start", comes_up_never), (Some(1), false));
    assert_eq!(end("version", "exit 3"), (Some(1), false));
    // Two ends with each cipher come up before the rounds.
    let real = beside("tipsecd");
    let dies = format!("good=4 real='{}'\n{DIES_UNDER_LOAD}", real.display());
    assert_eq!(end("load", &dies), (Some(1), false));
}

#[test]
fn an_unknown_peer_is_refused_with_the_known_ones() {
    let mut command = Command::new(BENCH);
    let output = command.args(["tap", "--peers", "boringtun,ipsec"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    let named = ["ipsec"]
        .iter()
        .chain(&peers::NAMES)
        .all(|name| said.contains(name));
    assert!(named, "{said}");
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let Some(_guard) = root() else { return };
    let arguments = ["--peers", "wireguard-go", "--seconds", "60"];
    let mut running = Running::start(&arguments, &[]);
    running.wait_for_a_process("iperf3");
    // To the harness alone: it has to end the others.
    let pid = i32::try_from(running.child.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(running.finish(SOON), Some(130));
    running.assert_nothing_is_left();
}

#[test]
fn what_a_killed_run_leaves_has_no_life_and_is_swept() {
    let Some(_guard) = root() else { return };
    let arguments = ["--peers", "veth-offloads-off", "--seconds", "60"];
    let mut running = Running::start(&arguments, &[]);
    running.wait_for_a_process("iperf3");
    assert!(!netns::made_by(running.child.id()).is_empty());
    running.child.kill().unwrap();
    assert_eq!(running.finish(SOON), None);
    assert!(netns::sweep() >= 2, "two ends");
    cluster::sweep();
    running.assert_nothing_is_left();
}
