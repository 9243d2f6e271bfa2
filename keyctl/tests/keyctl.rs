//! The real binary against a real admin server with canned answers.

// Helpers of tests may stop at the first surprise, like the tests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tipsec_control::admin::{
    ErrorCode, EventReport, EventsReport, EvictedReport, EvictionReport, Failure, LinkState,
    MasterIdsReport, MasterReport, MasterStatusReport, MasterStepReport, PeerReport, PeersReport,
    RekeyIntervalReport, RekeyNowReport, Reply, Request, Response, StatusReport,
};
use tipsec_control::master::MasterKey;
use tipsec_control::shell::admin_server::AdminServer;

const KEY: &str = "000102030405060708090a0b0c0d0e0f";

/// A directory that is removed with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tipsec-keyctl-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A daemon as far as an operator can tell.
struct Daemon {
    directory: Directory,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Octets of the last master key, and other things it was told.
    told: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    fn new() -> Self {
        let directory = Directory::new();
        let mut server = AdminServer::bind(&directory.0.join("admin.sock"), None).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::spawn({
            let (stop, told) = (stop.clone(), told.clone());
            move || {
                let start = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let mut fds = Vec::new();
                    server.poll_fds(&mut fds);
                    let wait = Duration::from_millis(20).try_into().unwrap();
                    rustix::event::poll(&mut fds, Some(&wait)).unwrap();
                    drop(fds);
                    let mut told = told.lock().unwrap();
                    server.process(start.elapsed(), &mut |request| answer(request, &mut told));
                }
            }
        });
        Self {
            directory,
            stop,
            thread: Some(thread),
            told,
        }
    }

    fn keyctl(&self, arguments: &[&str]) -> Output {
        keyctl(&self.directory.0.join("admin.sock"), arguments, "")
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(request: Request, told: &mut Vec<String>) -> Response {
    match request {
        Request::Status {} => Ok(Reply::Status(Box::new(StatusReport {
            cluster: "core-7".to_owned(),
            node: 1001,
            rekey_interval_s: Some(90),
            ..StatusReport::default()
        }))),
        Request::Peers {} => Ok(Reply::Peers(PeersReport {
            master_id: Some("aaaa".to_owned()),
            peers: vec![PeerReport {
                node: 1002,
                link: LinkState::Down,
                claimed_master_id: Some("bbbb".to_owned()),
                ..PeerReport::default()
            }],
        })),
        Request::Events { after, .. } => {
            let seq = after.unwrap_or(0) + 1;
            Ok(Reply::Events(EventsReport {
                events: vec![EventReport {
                    seq,
                    kind: "link-up".to_owned(),
                    text: format!("number {seq}"),
                    ..EventReport::default()
                }],
            }))
        }
        Request::MasterSet { key, force } => {
            let forced = if force { " by force" } else { "" };
            told.push(format!("{:02x?}{forced}", key.octets()));
            Ok(Reply::MasterSet(MasterReport {
                master_id: "0011".to_owned(),
                changed: true,
            }))
        }
        Request::MasterStage { key, replace } => {
            told.push(format!("stage {:02x?} {replace}", key.octets()));
            Ok(Reply::MasterStep(step(true)))
        }
        Request::MasterActivate {} => Ok(Reply::MasterStep(step(false))),
        Request::MasterRetire { force: true } => Ok(Reply::MasterStep(MasterStepReport {
            left_behind: vec![1004],
            ..step(true)
        })),
        Request::MasterRetire { force: false } => Err(Failure::new(
            ErrorCode::InUse,
            "master key aaaa is still needed: node 1004",
        )),
        Request::MasterStatus {} => Ok(Reply::MasterStatus(MasterStatusReport {
            node: 1001,
            masters: step(true).masters,
            ..MasterStatusReport::default()
        })),
        Request::Evict { node } => eviction(node, true),
        Request::Readmit { node } => eviction(node, false),
        Request::RekeyInterval { interval_s } => {
            told.push(format!("{interval_s:?}"));
            Ok(Reply::RekeyInterval(RekeyIntervalReport { interval_s }))
        }
        Request::RekeyNow {} if told.is_empty() => Err(Failure::new(
            ErrorCode::NoMasterKey,
            "there is no master key yet",
        )),
        Request::RekeyNow {} => Ok(Reply::RekeyNow(RekeyNowReport { started: 3 })),
    }
}

fn step(changed: bool) -> MasterStepReport {
    MasterStepReport {
        changed,
        masters: MasterIdsReport {
            active: Some("bbbb".to_owned()),
            staged: None,
            previous: Some("aaaa".to_owned()),
        },
        left_behind: Vec::new(),
        evicted: Vec::new(),
    }
}

/// Node 1004 is out, under the active key alone.
fn eviction(node: u32, is_out: bool) -> Response {
    let out = EvictedReport {
        node: 1004,
        master_ids: vec!["bbbb".to_owned()],
    };
    Ok(Reply::Eviction(EvictionReport {
        changed: true,
        node,
        evicted: if is_out { vec![out] } else { Vec::new() },
        masters: step(true).masters,
    }))
}

fn keyctl(socket: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tipsec-keyctl"))
        .arg("--socket")
        .arg(socket)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended without reading.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn assert_done(output: &Output, part: &str) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    assert!(stdout(output).contains(part), "{}", stdout(output));
    assert_eq!(stderr(output), "");
}

#[track_caller]
fn assert_failed(output: &Output, status: i32, part: &str) {
    assert_eq!(output.status.code(), Some(status), "{}", stderr(output));
    assert!(stderr(output).contains(part), "{}", stderr(output));
}

fn octets_of_key() -> Vec<String> {
    vec![format!("{:02x?}", (0..16).collect::<Vec<u8>>())]
}

#[test]
fn reports_are_shown_to_people_and_programs() {
    let daemon = Daemon::new();
    assert_done(&daemon.keyctl(&["status"]), "1001 of cluster core-7");
    assert_done(&daemon.keyctl(&["peers"]), "claims master id bbbb");
    assert_done(&daemon.keyctl(&["events"]), "number 1");
    for (command, pointer, expected) in [
        ("status", "/rekey_interval_s", "90"),
        ("peers", "/peers/0/claimed_master_id", "\"bbbb\""),
        ("events", "/events/0/seq", "1"),
    ] {
        let output = daemon.keyctl(&[command, "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json.pointer(pointer).unwrap().to_string(), expected);
    }
}

#[test]
fn rekeying_is_controlled() {
    let daemon = Daemon::new();
    assert_failed(&daemon.keyctl(&["rekey", "now"]), 1, "no master key yet");
    let output = daemon.keyctl(&["rekey", "now", "--json"]);
    assert_eq!(
        stdout(&output),
        "{\"error\":{\"code\":\"no-master-key\",\"message\":\"there is no master key yet\"}}\n"
    );
    assert_done(&daemon.keyctl(&["rekey", "interval", "10m"]), "10m");
    assert_done(&daemon.keyctl(&["rekey", "now"]), "3 peers");
    assert_done(&daemon.keyctl(&["rekey", "interval", "off"]), "off");
    assert_eq!(daemon.told(), ["Some(600)", "None"]);
    for wrong in ["0", "0s", "-5m", "-1", "abc", "1e30", "10", "400d", ""] {
        let output = daemon.keyctl(&["rekey", "interval", wrong]);
        assert_failed(&output, 2, "90s or 10m, or off");
    }
    assert_eq!(daemon.told(), [""; 0]);
}

#[test]
fn a_master_key_comes_from_a_file_or_standard_input() {
    let daemon = Daemon::new();
    let socket = daemon.directory.0.join("admin.sock");
    let line = format!("{KEY}\n");
    let path = daemon.directory.file("key", &line, 0o600);
    let path = path.to_str().unwrap();
    assert_done(&daemon.keyctl(&["master", "set", "--file", path]), "0011");
    assert_eq!(daemon.told(), octets_of_key());
    for way in ["--stdin", "-"] {
        assert_done(&keyctl(&socket, &["master", "set", way], &line), "0011");
        assert_eq!(daemon.told(), octets_of_key());
    }
    let output = keyctl(&socket, &["master", "set"], &line);
    assert_failed(&output, 2, "not a terminal");
    assert_eq!(daemon.told(), [""; 0]);
}

#[test]
fn a_master_key_comes_from_a_descriptor_or_a_credential() {
    let daemon = Daemon::new();
    let path = daemon.directory.file("key", KEY, 0o600);
    let socket = daemon.directory.0.join("admin.sock");
    // A descriptor as the shell opens it, and a pipe of its.
    for redirection in ["3<\"$1\"", "3< <(cat \"$1\")"] {
        let script = format!("exec \"$0\" --socket \"$2\" master stage --fd 3 {redirection}");
        let output = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_tipsec-keyctl")])
            .args([&path, &socket])
            .output()
            .unwrap();
        assert_done(&output, "staged");
        assert_eq!(
            daemon.told(),
            [format!("stage {} false", octets_of_key()[0])]
        );
    }
    assert_failed(
        &daemon.keyctl(&["master", "stage", "--fd", "99"]),
        2,
        "descriptor 99",
    );

    let with_credentials = |name: &str| {
        Command::new(env!("CARGO_BIN_EXE_tipsec-keyctl"))
            .env("CREDENTIALS_DIRECTORY", &daemon.directory.0)
            .arg("--socket")
            .arg(&socket)
            .args(["master", "set", "--force", "--credential", name])
            .output()
            .unwrap()
    };
    assert_done(&with_credentials("key"), "0011");
    assert_eq!(daemon.told(), [format!("{} by force", octets_of_key()[0])]);
    assert_failed(&with_credentials("none"), 2, "none: No such file");
    assert_failed(&with_credentials("../key"), 2, "no name of a credential");
    let output = daemon.keyctl(&["master", "set", "--credential", "key"]);
    assert_failed(&output, 2, "LoadCredential=key:FILE");
    let two = ["master", "set", "--fd", "3", "--stdin"];
    assert_failed(&daemon.keyctl(&two), 2, "cannot be used with");
    let output = daemon.keyctl(&["master", "set", "--fd", "0", "-"]);
    assert_failed(&output, 2, "from one place");
    assert_eq!(daemon.told(), [""; 0]);
}

#[test]
fn a_rotation_is_led_from_step_to_step() {
    let daemon = Daemon::new();
    let path = daemon.directory.file("key", KEY, 0o600);
    let path = path.to_str().unwrap();
    let output = daemon.keyctl(&["master", "stage", "--replace", "--file", path]);
    assert_done(&output, "bbbb active, aaaa previous\nnext: stage it");
    assert_eq!(
        daemon.told(),
        [format!("stage {} true", octets_of_key()[0])]
    );
    assert_done(&daemon.keyctl(&["master", "activate"]), "unchanged: ");
    assert_failed(&daemon.keyctl(&["master", "retire"]), 1, "node 1004");
    let output = daemon.keyctl(&["master", "retire", "--json"]);
    assert!(stdout(&output).starts_with("{\"error\":{\"code\":\"in-use\""));
    let output = daemon.keyctl(&["master", "retire", "--force"]);
    assert_done(&output, "retired");
    assert!(stdout(&output).contains("node 1004 said last"));
    assert_done(
        &daemon.keyctl(&["master", "status"]),
        "active    1 of 1 nodes hold bbbb",
    );
    let output = daemon.keyctl(&["master", "status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["masters"]["previous"], "aaaa");
}

#[test]
fn an_eviction_leads_to_the_next_key() {
    let daemon = Daemon::new();
    let output = daemon.keyctl(&["evict", "1004"]);
    assert_done(&output, "node 1004 is evicted");
    assert!(stdout(&output).contains("next: `master stage`"));
    let output = daemon.keyctl(&["evict", "1004", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["evicted"][0]["node"], 1004);
    assert_done(
        &daemon.keyctl(&["readmit", "1004"]),
        "node 1004 is readmitted",
    );
    assert_eq!(daemon.keyctl(&["evict"]).status.code(), Some(2));
    assert_eq!(daemon.keyctl(&["evict", "x"]).status.code(), Some(2));
}

#[test]
fn a_bad_key_is_refused_and_not_repeated() {
    let daemon = Daemon::new();
    let socket = daemon.directory.0.join("admin.sock");
    for (input, part) in [
        ("", "empty"),
        ("0xdeadbeef", "4 octets"),
        (&"0".repeat(64), "all zero"),
        ("deadbeefdeadbeefdeadbeefdeadbeefd", "odd number"),
        ("tipsec1:deadbeef:00000000", "4 octets"),
        (&"deadbeef".repeat(1000), "longer"),
    ] {
        let output = keyctl(&socket, &["master", "set", "--stdin"], input);
        assert_failed(&output, 2, part);
        assert!(!stderr(&output).contains("deadbeef"), "{}", stderr(&output));
    }
    for arguments in [
        &["master", "set", "deadbeef"][..],
        &["master", "set", "--key", "deadbeef"],
        &["master", "set", "--key=deadbeef"],
    ] {
        let output = daemon.keyctl(arguments);
        assert_failed(&output, 2, "no key as an argument");
        assert!(!stderr(&output).contains("deadbeef"), "{}", stderr(&output));
    }
    for mode in [0o640, 0o604, 0o660] {
        let path = daemon.directory.file("key", KEY, mode);
        let output = daemon.keyctl(&["master", "set", "--file", path.to_str().unwrap()]);
        assert_failed(&output, 2, "chmod 600");
        fs::remove_file(path).unwrap();
    }
    assert_eq!(daemon.told(), [""; 0]);
}

#[test]
fn a_generated_key_is_good_and_its_file_is_private() {
    let nobody = Path::new("/none/admin.sock");
    let directory = Directory::new();
    let output = keyctl(nobody, &["master", "generate"], "");
    assert_done(&output, "tipsec1:");
    assert!(MasterKey::parse(&stdout(&output)).is_ok());
    let output = keyctl(nobody, &["master", "generate", "--json"], "");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(MasterKey::parse(json["key"].as_str().unwrap()).is_ok());

    let path = directory.0.join("key");
    let arguments = ["master", "generate", "--output", path.to_str().unwrap()];
    assert_done(&keyctl(nobody, &arguments, ""), "wrote");
    let text = fs::read_to_string(&path).unwrap();
    assert!(MasterKey::parse(&text).is_ok());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_failed(&keyctl(nobody, &arguments, ""), 2, "not overwritten");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let directory = Directory::new();
    let path = directory.0.join("admin.sock");
    assert_failed(
        &keyctl(&path, &["status"], ""),
        3,
        "not running: there is no socket",
    );
    drop(UnixListener::bind(&path).unwrap());
    assert_failed(
        &keyctl(&path, &["status"], ""),
        3,
        "not running: nobody listens",
    );
    let output = keyctl(&path, &["status", "--json"], "");
    assert!(stdout(&output).starts_with("{\"error\":{\"code\":\"unreachable\""));
    assert_failed(&keyctl(&path, &["frobnicate"], ""), 2, "frobnicate");
}

#[test]
fn a_daemon_that_hangs_up_or_babbles_is_named() {
    let directory = Directory::new();
    let path = directory.0.join("admin.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        for answer in ["", "{\"ok\":tr", "hello\n", "{\"ok\":true,\"result\":[]}\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    for part in ["hung up", "hung up", "not understood", "not understood"] {
        assert_failed(&keyctl(&path, &["peers"], ""), 3, part);
    }
    server.join().unwrap();
}

#[test]
fn events_are_followed_until_the_daemon_ends() {
    let daemon = Daemon::new();
    let path = daemon.directory.0.join("admin.sock");
    let child = Command::new(env!("CARGO_BIN_EXE_tipsec-keyctl"))
        .arg("--socket")
        .arg(&path)
        .args(["events", "--follow", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut lines = std::io::BufReader::new(child.0.stdout.take().unwrap());
    for seq in 1..=3 {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
        let event: EventReport = serde_json::from_str(&line).unwrap();
        assert_eq!(event.seq, seq);
    }
    drop(daemon);
    assert_eq!(child.0.wait().unwrap().code(), Some(3));
}

#[test]
fn a_signal_in_the_hidden_prompt_leaves_the_terminal_as_it_was() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, tcgetattr};

    let directory = Directory::new();
    let socket = directory.0.join("admin.sock");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&near).unwrap();
        unlockpt(&near).unwrap();
        let name = ptsname(&near, Vec::new()).unwrap().into_string().unwrap();
        let terminal = fs::File::options().read(true).write(true).open(name);
        let terminal = terminal.unwrap();
        let modes = || tcgetattr(&terminal).unwrap().local_modes;
        let before = modes();
        assert!(before.contains(LocalModes::ECHO));

        let child = Command::new(env!("CARGO_BIN_EXE_tipsec-keyctl"))
            .arg("--socket")
            .arg(&socket)
            .args(["master", "stage"])
            .stdin(terminal.try_clone().unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        let end = Instant::now() + Duration::from_secs(10);
        while modes().contains(LocalModes::ECHO) {
            assert!(Instant::now() < end, "the prompt never hides what is typed");
            std::thread::sleep(Duration::from_millis(2));
        }
        let pid = rustix::process::Pid::from_child(&child.0);
        rustix::process::kill_process(pid, signal).unwrap();
        let status = child.0.wait().unwrap();
        assert_eq!(modes(), before, "{signal:?} left the terminal mute");
        assert_eq!(status.code(), Some(2), "{signal:?}");
        let mut told = String::new();
        std::io::Read::read_to_string(child.0.stderr.as_mut().unwrap(), &mut told).unwrap();
        assert!(told.contains("interrupted; nothing was changed"), "{told}");
    }
}

/// A child that does not outlive a failed test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
