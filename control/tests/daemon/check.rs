//! `tipsecd --check` on a real device: what is fine, what is in the way, and
//! that it changes nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;
use tipsec_control::keyring::Keyring;
use tipsec_control::master::MasterKey;
use tipsec_control::masters::Masters;
use tipsec_dataplane::attach::{Attachment, Interface, Mode};
use tipsec_dataplane::ids::NodeId;
use tipsec_dataplane::outer::Encapsulation;

use crate::lab::{Lab, NIC, TAP};
use crate::node::{Daemon, config};

/// Runs the check of node 1 with this configuration, by way of `wrapper` if
/// that is a command.
fn run_check(lab: &Lab, text: &str, wrapper: &[&str], options: &[&str]) -> Output {
    let file = lab.dir.join("1.toml");
    fs::write(&file, text).unwrap();
    Command::new("ip")
        .args(["netns", "exec", &lab.node(1)])
        .args(wrapper)
        .arg(env!("CARGO_BIN_EXE_tipsecd"))
        .args(["--check", "--config"])
        .arg(&file)
        .args(options)
        .output()
        .unwrap()
}

/// The findings, and the exit code that must go with their verdict.
struct Checked {
    code: Option<i32>,
    report: Value,
}

impl Checked {
    fn of(lab: &Lab, text: &str, wrapper: &[&str]) -> Self {
        let output = run_check(lab, text, wrapper, &["--json"]);
        let told = String::from_utf8_lossy(&output.stdout);
        println!("{told}{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_str(&told).unwrap();
        let stop = report["verdict"] == "stop";
        assert_eq!(output.status.code(), Some(i32::from(stop)), "{told}");
        Self {
            code: output.status.code(),
            report,
        }
    }

    /// Status, and what was found with the advice, of one subject.
    #[track_caller]
    fn finding(&self, subject: &str) -> (String, String) {
        let findings = self.report["findings"].as_array().unwrap();
        let mut found = findings
            .iter()
            .filter(|finding| finding["subject"] == subject);
        let finding = found
            .next()
            .unwrap_or_else(|| panic!("no {subject:?} in {}", self.report));
        let text = |key: &str| finding[key].as_str().unwrap().to_owned();
        (
            text("status"),
            format!("{} > {}", text("found"), text("advice")),
        )
    }

    #[track_caller]
    fn says(&self, subject: &str, status: &str, words: &[&str]) {
        let (found, text) = self.finding(subject);
        assert_eq!(found, status, "{subject}: {text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {subject}: {text}");
        }
    }

    /// Subjects of everything that is in the way.
    fn stops(&self) -> Vec<&str> {
        let findings = self.report["findings"].as_array().unwrap().iter();
        findings
            .filter(|finding| finding["status"] == "stop")
            .map(|finding| finding["subject"].as_str().unwrap())
            .collect()
    }
}

#[track_caller]
fn assert_untouched(lab: &Lab) {
    assert!(!lab.has_xdp(1), "XDP program attached");
    assert!(!lab.has_device(1, TAP), "tap made");
    assert!(!lab.dir.join("1.sock").exists(), "socket made");
    assert!(!lab.dir.join("s1").exists(), "state directory made");
}

#[test]
fn a_machine_that_works_is_fine_and_stays_as_it_is() {
    let Some(lab) = Lab::new(1) else { return };
    let text = config(&lab, 1);
    let checked = Checked::of(&lab, &text, &[]);
    assert_eq!((checked.code, checked.stops()), (Some(0), vec![]));
    for subject in [
        "file",
        "release",
        "AF_XDP",
        "capabilities",
        "locked memory",
        "tap driver",
        "tap name",
        "admin socket",
        "link",
        "MTU",
        "carrier",
        "membership",
        "XDP program",
        "queue",
        "IPv6",
    ] {
        checked.says(subject, "ok", &[]);
    }
    checked.says("driver", "ok", &["veth", "native XDP with a copy"]);
    checked.says("state_dir", "change", &["no master key", "master set"]);
    checked.says("core", "change", &["not pinned"]);
    checked.says("VLAN stripping", "change", &["ethtool -K eth1 rxvlan off"]);
    // A veth only says so, and a tag stays where it is.
    let interface = format!("interface = \"{NIC}\"\n");
    let tagged = text.replace(&interface, &format!("{interface}vlan = 100\n"));
    Checked::of(&lab, &tagged, &[]).says("VLAN stripping", "ok", &["txvlan"]);
    assert_untouched(&lab);

    let output = run_check(&lab, &text, &[], &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{told}"
    );
    assert!(told.contains("\nbearer eth1 queue 0\n"), "{told}");
    assert!(!told.contains('\x1b'), "colours in a pipe: {told}");
}

#[test]
fn what_is_in_the_way_is_found() {
    let Some(lab) = Lab::new(1) else { return };
    let (ns, good) = (lab.node(1), config(&lab, 1));
    let stopped = |text: &str, subject: &str, words: &[&str]| {
        let checked = Checked::of(&lab, text, &[]);
        assert_eq!(checked.stops(), [subject]);
        checked.says(subject, "stop", words);
        assert_untouched(&lab);
    };
    let with = |from: &str, to: &str| good.replacen(from, to, 1);

    stopped(
        &with("\"eth1\"", "\"eth9\""),
        "link",
        &["\"eth9\"", "ip link", "1.toml:12)"],
    );
    stopped(
        &with("\"eth1\"", "\"eth1\"\nqueue = 7"),
        "queue",
        &["no queue 7", "1.toml:13)"],
    );
    stopped(
        &with("\"eth1\"", "\"eth1\"\ncore = 999"),
        "core",
        &["core 999", "1.toml:13)"],
    );
    stopped(
        &with("\"eth1\"", "\"eth1\"\nmode = \"zero-copy\""),
        "driver",
        &["veth", "no zero-copy", "1.toml:13)"],
    );
    stopped(
        &with("node = 1001", "node = 0"),
        "file",
        &["1.toml:2: node: "],
    );

    lab.ip(&ns, &["link", "set", NIC, "mtu", "9500"]);
    stopped(&good, "MTU", &["9500", "ip link set eth1 mtu 9216"]);
    lab.ip(&ns, &["link", "set", NIC, "mtu", "1500"]);

    lab.ip(&ns, &["link", "add", "br1", "type", "bridge"]);
    lab.ip(&ns, &["link", "set", NIC, "master", "br1"]);
    let checked = Checked::of(&lab, &good, &[]);
    let words = ["bridge br1", "ip link set eth1 nomaster"];
    checked.says("membership", "change", &words);
    assert_eq!(checked.stops(), [""; 0]);
    lab.ip(&ns, &["link", "set", NIC, "nomaster"]);

    lab.ip(&ns, &["link", "set", NIC, "down"]);
    stopped(&good, "link", &["ip link set eth1 up"]);
    lab.ip(&ns, &["link", "set", NIC, "up"]);

    let state = lab.dir.join("s1");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o777)).unwrap();
    let checked = Checked::of(&lab, &good, &[]);
    assert_eq!(checked.stops(), ["state_dir"]);
    checked.says("state_dir", "stop", &["chmod 0700"]);
    fs::remove_dir(&state).unwrap();

    // A socket that nobody serves is no hindrance, and is left for the start.
    drop(UnixListener::bind(lab.dir.join("1.sock")).unwrap());
    let checked = Checked::of(&lab, &good, &[]);
    assert_eq!(checked.stops(), Vec::<&str>::new());
    checked.says("admin socket", "ok", &["dead daemon"]);
    fs::remove_file(lab.dir.join("1.sock")).unwrap();

    fs::write(lab.dir.join("1.sock"), "").unwrap();
    let checked = Checked::of(&lab, &good, &[]);
    assert_eq!(checked.stops(), ["admin socket"]);
    fs::remove_file(lab.dir.join("1.sock")).unwrap();

    stopped(
        &good.replace("/s1", "/no/such/s1"),
        "state_dir",
        &["install -d"],
    );
    // After all of that, nothing is left in the way.
    assert_eq!(Checked::of(&lab, &good, &[]).code, Some(0));
}

#[test]
fn programs_and_devices_of_others_are_named() {
    let Some(lab) = Lab::new(1) else { return };
    let text = config(&lab, 1);
    let (attachment, id) = lab.inside(&lab.node(1), || {
        let interface = Interface::check(NIC).unwrap();
        let node = NodeId::new(7).unwrap();
        let other = Encapsulation::ethernet(interface.mac, 0x88B6, None);
        let attachment = Attachment::attach(&interface, node, other, Mode::Auto).unwrap();
        let id = attachment.program_id();
        (attachment, id)
    });
    let checked = Checked::of(&lab, &text, &[]);
    assert_eq!(checked.stops(), ["XDP program"]);
    checked.says("XDP program", "stop", &[&format!("id {id} "), "xdp off"]);
    assert!(
        lab.inside(&lab.node(1), || attachment.is_attached()),
        "evicted"
    );
    drop(attachment);

    lab.ip(&lab.node(1), &["tuntap", "add", "dev", TAP, "mode", "tap"]);
    let checked = Checked::of(&lab, &text, &[]);
    assert_eq!(checked.stops(), ["tap name"]);
    checked.says("tap name", "stop", &["ip link del tipsec0"]);
}

#[test]
fn a_daemon_that_runs_is_seen_and_not_disturbed() {
    let Some(lab) = Lab::new(1) else { return };
    let mut daemon = Daemon::start(&lab, 1);
    daemon.set_master(crate::node::KEY);
    let incarnation = daemon.status().incarnation;
    let checked = Checked::of(&lab, &config(&lab, 1), &[]);
    assert_eq!(checked.stops(), Vec::<&str>::new());
    let pid = format!("(pid {})", daemon.pid());
    checked.says("admin socket", "ok", &["running", &pid]);
    checked.says("XDP program", "ok", &["tipsec_xdp"]);
    checked.says("tap name", "ok", &[TAP]);
    checked.says("state_dir", "ok", &["holds a master key"]);
    assert_eq!(daemon.status().incarnation, incarnation);
    assert!(daemon.end(Signal::TERM).success());
}

#[test]
fn who_may_not_look_is_told_so() {
    let Some(lab) = Lab::new(1) else { return };
    let text = config(&lab, 1);
    let keyring = Keyring::open(&lab.dir.join("s1")).unwrap();
    keyring
        .store(&Masters::only(MasterKey::generate().unwrap()))
        .unwrap();
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let checked = Checked::of(&lab, &text, &nobody);
    assert_eq!(checked.code, Some(0));
    for subject in [
        "AF_XDP",
        "CAP_NET_ADMIN",
        "CAP_BPF",
        "CAP_NET_RAW",
        "state_dir",
    ] {
        checked.says(subject, "unknown", &["root"]);
    }
    for subject in [
        "file",
        "release",
        "link",
        "MTU",
        "membership",
        "queue",
        "driver",
    ] {
        checked.says(subject, "ok", &[]);
    }
    // A daemon that may do a part of it would not start.
    let checked = Checked::of(&lab, &text, &["setpriv", "--bounding-set=-net_raw"]);
    assert_eq!(checked.stops(), ["CAP_NET_RAW"]);
}

#[test]
fn another_namespaces_sysfs_is_not_believed() {
    let Some(lab) = Lab::new(1) else { return };
    let file = lab.dir.join("1.toml");
    fs::write(&file, config(&lab, 1)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tipsecd"));
    command.args(["--check", "--json", "--config"]).arg(&file);
    // Unlike `ip netns exec`, this leaves /sys as it is.
    let output = lab.inside(&lab.node(1), || command.output().unwrap());
    let report = serde_json::from_slice(&output.stdout).unwrap();
    let checked = Checked {
        code: output.status.code(),
        report,
    };
    assert_eq!((checked.code, checked.stops()), (Some(0), vec![]));
    checked.says("sysfs", "unknown", &["another network namespace"]);
    for subject in ["link", "MTU", "queue", "driver", "XDP program"] {
        checked.says(subject, "ok", &[]);
    }
}

#[test]
fn usage_is_checked() {
    let run = |options: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tipsecd"))
            .args(options)
            .output();
        output.unwrap().status.code()
    };
    assert_eq!(run(&["--json"]), Some(2));
    assert_eq!(run(&["--check", "--check-config"]), Some(2));
    assert_eq!(run(&["--check", "--config", "/no/such/file"]), Some(1));
}
