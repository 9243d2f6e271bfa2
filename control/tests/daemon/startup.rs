//! What keeps `tipsecd` from starting: each is an error that names the thing
//! and what to do, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use tipsec_control::keyring::Keyring;
use tipsec_control::master::MasterKey;
use tipsec_control::masters::Masters;
use tipsec_dataplane::attach::{Attachment, Interface, Mode};
use tipsec_dataplane::ids::NodeId;
use tipsec_dataplane::outer::Encapsulation;

use crate::lab::{Lab, NIC, TAP};
use crate::node::{Daemon, config};

/// Starts a daemon that must refuse; gives what it said.
fn refused_by(lab: &Lab, i: usize, text: &str, wrapper: &[&str]) -> String {
    let _ = fs::remove_file(lab.dir.join(format!("{i}.log")));
    let mut daemon = Daemon::spawn(lab, i, text, wrapper);
    let status = daemon.wait();
    let log = daemon.log_text();
    println!("{log}");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("ERROR"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    log
}

/// The same; then the node must be as nobody had tried, and the error must
/// have all these words in it.
fn refused(lab: &Lab, text: &str, wrapper: &[&str], words: &[&str]) {
    let log = refused_by(lab, 1, text, wrapper);
    for word in words {
        assert!(log.contains(word), "{word:?} is not in: {log}");
    }
    assert!(!lab.has_device(1, TAP), "tap left behind: {log}");
    assert!(!lab.has_xdp(1), "XDP program left behind: {log}");
    assert!(
        !lab.dir.join("1.sock").exists(),
        "socket left behind: {log}"
    );
}

#[test]
fn what_the_configuration_says_wrong_is_named_with_its_line() {
    let Some(lab) = Lab::new(1) else { return };
    let good = config(&lab, 1);
    let cases: &[(&str, &str, &[&str])] = &[
        ("cluster = \"lab\"", "cluster = \"lab", &["1.toml:1: "]),
        ("node = 1001", "node = 0", &["1.toml:2: node: ", "1 to "]),
        (
            "node = 1001",
            "node = 1001\nnodes = 3",
            &["1.toml:3: nodes: ", "`node`"],
        ),
        (
            "addresses =",
            "adresses =",
            &["1.toml:9: tap.adresses: ", "`addresses`"],
        ),
        (
            "interface = \"eth1\"",
            "interface = \"eth9\"",
            &["1.toml:12: bearer.interface: ", "\"eth9\"", "`ip link`"],
        ),
        (
            "interface = \"eth1\"",
            "interface = \"lo\"",
            &["1.toml:12: bearer.interface: ", "not an Ethernet device"],
        ),
        (
            "interface = \"eth1\"",
            "interface = \"eth1\"\nqueue = 7",
            &["1.toml:13: bearer.queue: ", "no queue 7", "ethtool -l"],
        ),
        (
            "interface = \"eth1\"",
            "interface = \"eth1\"\ncore = 999",
            &["1.toml:13: bearer.core: ", "core 999 ", "there are: "],
        ),
        (
            "interval = \"off\"",
            "interval = \"71583\"",
            &["1.toml:15: rekey.interval: ", "unit"],
        ),
        (
            "[admin]\n",
            "[admin]\ngroup = \"no-such-group\"\n",
            &["no-such-group", "admin.group", "groupadd"],
        ),
    ];
    for (from, to, words) in cases {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from:?}");
        refused(&lab, &text, &[], words);
    }
}

#[test]
fn paths_that_cannot_be_are_named_once() {
    let Some(lab) = Lab::new(1) else { return };
    let good = config(&lab, 1);
    let long = "x".repeat(200);
    for (from, to, words) in [
        (
            "/s1\"",
            "/no/such/s1\"",
            ["/no/such/s1", "make the directory"],
        ),
        (
            "/1.sock\"",
            "/no/such/1.sock\"",
            ["/no/such/1.sock", "admin socket"],
        ),
        (
            "/1.sock\"",
            &format!("/{long}\""),
            ["admin socket", "too long"],
        ),
    ] {
        let text = good.replacen(from, to, 1);
        refused(&lab, &text, &[], &words);
        let log = std::fs::read_to_string(lab.dir.join("1.log")).unwrap();
        assert!(!log.contains("because"), "said twice: {log}");
    }
}

#[test]
fn a_nic_that_cannot_serve_is_named() {
    let Some(lab) = Lab::new(1) else { return };
    let (ns, text) = (lab.node(1), config(&lab, 1));
    lab.ip(&ns, &["link", "set", NIC, "down"]);
    let words = [
        "1.toml:12: bearer.interface: ",
        "down",
        "ip link set eth1 up",
    ];
    refused(&lab, &text, &[], &words);
    lab.ip(&ns, &["link", "set", NIC, "up"]);

    lab.ip(&ns, &["link", "set", NIC, "mtu", "9500"]);
    let words = ["1.toml:12: bearer.interface: ", "9500", "mtu 9216"];
    refused(&lab, &text, &[], &words);
    lab.ip(&ns, &["link", "set", NIC, "mtu", "1500"]);

    // A tap of somebody else's: named, and still there afterwards.
    lab.ip(&ns, &["tuntap", "add", "dev", TAP, "mode", "tap"]);
    let log = refused_by(&lab, 1, &text, &[]);
    assert!(log.contains("\"tipsec0\""), "{log}");
    assert!(log.contains("ip link del tipsec0"), "{log}");
    assert!(lab.has_device(1, TAP), "evicted");
    assert!(!lab.has_xdp(1), "XDP program left behind");
    assert!(!lab.dir.join("1.sock").exists(), "socket left behind");
}

#[test]
fn a_foreign_xdp_program_is_named_and_stays() {
    let Some(lab) = Lab::new(1) else { return };
    let (attachment, id) = lab.inside(&lab.node(1), || {
        let interface = Interface::check(NIC).unwrap();
        let node = NodeId::new(7).unwrap();
        let other = Encapsulation::ethernet(interface.mac, 0x88B6, None);
        let attachment = Attachment::attach(&interface, node, other, Mode::Auto).unwrap();
        let id = attachment.program_id();
        (attachment, id)
    });
    let log = refused_by(&lab, 1, &config(&lab, 1), &[]);
    for word in [&format!("XDP program id {id}"), "\"eth1\"", "xdp off"] {
        assert!(log.contains(word), "{word:?} is not in: {log}");
    }
    let attached = lab.inside(&lab.node(1), || attachment.is_attached());
    assert!(attached, "evicted");
    assert!(!lab.has_device(1, TAP));
    assert!(!lab.dir.join("1.sock").exists());
    drop(attachment);
    // And that alone was in the way.
    let mut daemon = Daemon::start(&lab, 1);
    assert!(daemon.end(Signal::TERM).success());
}

#[test]
fn a_second_daemon_disturbs_nothing_of_the_first() {
    let Some(lab) = Lab::new(2) else { return };
    let first = Daemon::start(&lab, 1);
    let pid = format!("(pid {})", first.pid());
    let incarnation = first.status().incarnation;
    let sock = |i: usize| lab.dir.join(format!("{i}.sock"));

    // The same socket, from another node's namespace: only the socket collides.
    let same_socket = config(&lab, 2).replace("2.sock", "1.sock");
    let log = refused_by(&lab, 2, &same_socket, &[]);
    for word in ["another tipsecd", &pid, "1.sock", "admin.socket"] {
        assert!(log.contains(word), "{word:?} is not in: {log}");
    }
    assert!(!lab.has_xdp(2) && !lab.has_device(2, TAP), "{log}");

    // The same NIC with another socket, state directory and tap.
    let same_nic = config(&lab, 1)
        .replace("1.sock", "3.sock")
        .replace("/s1", "/s3")
        .replace("[tap]", "[tap]\nname = \"other0\"");
    let log_of_first = first.log_text();
    let mut second = Daemon::spawn(&lab, 1, &same_nic, &[]);
    assert_eq!(second.wait().code(), Some(1));
    let log = first.log_text()[log_of_first.len()..].to_owned();
    for word in ["\"eth1\"", "XDP program id ", "tipsec_xdp"] {
        assert!(log.contains(word), "{word:?} is not in: {log}");
    }
    assert!(!lab.has_device(1, "other0") && !sock(3).exists(), "{log}");

    assert_eq!(first.status().incarnation, incarnation);
    assert!(sock(1).exists() && lab.has_xdp(1) && lab.has_device(1, TAP));
}

#[test]
fn a_missing_capability_is_named() {
    let Some(lab) = Lab::new(1) else { return };
    let text = config(&lab, 1);
    let bounded = |caps: &str| format!("--bounding-set={caps}");
    for (caps, name) in [
        ("-net_admin", "CAP_NET_ADMIN"),
        ("-net_raw", "CAP_NET_RAW"),
        ("-bpf,-sys_admin", "CAP_BPF"),
    ] {
        let set = bounded(caps);
        refused(&lab, &text, &["setpriv", &set], &["no privilege", name]);
    }
    // Not even root's own files are readable then, but these are its own.
    let none = bounded("-all");
    refused(&lab, &text, &["setpriv", &none], &["no privilege", "CAP_"]);
}

#[test]
fn a_master_key_that_is_not_safe_or_not_whole_is_left_alone() {
    let Some(lab) = Lab::new(1) else { return };
    let text = config(&lab, 1);
    let state = lab.dir.join("s1");
    let keyring = Keyring::open(&state).unwrap();
    keyring
        .store(&Masters::only(MasterKey::generate().unwrap()))
        .unwrap();
    let good = fs::read_to_string(keyring.path()).unwrap();
    let set_mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let path = keyring.path().display().to_string();

    for mode in [0o640, 0o604] {
        set_mode(&keyring.path(), mode);
        refused(&lab, &text, &[], &[&path, "chmod 0600"]);
    }
    set_mode(&keyring.path(), 0o600);

    set_mode(&state, 0o777);
    let directory = state.display().to_string();
    refused(&lab, &text, &[], &[&directory, "chmod 0700"]);
    set_mode(&state, 0o700);

    let older = state.join("master.1");
    for bad in [&good[..good.len() / 2], "", "all of it gone\n"] {
        fs::write(keyring.path(), bad).unwrap();
        fs::write(&older, bad).unwrap();
        refused(&lab, &text, &[], &[&path, "damaged"]);
        assert_eq!(fs::read_to_string(keyring.path()).unwrap(), bad);
    }

    fs::write(keyring.path(), &good).unwrap();
    let mut daemon = Daemon::start(&lab, 1);
    assert!(daemon.status().master_id.is_some());
    assert!(daemon.end(Signal::TERM).success());
}

#[test]
fn what_is_no_socket_is_not_replaced() {
    let Some(lab) = Lab::new(1) else { return };
    let path = lab.dir.join("1.sock");
    fs::write(&path, "precious").unwrap();
    let log = refused_by(&lab, 1, &config(&lab, 1), &[]);
    assert!(log.contains("1.sock is not a socket"), "{log}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert!(!lab.has_xdp(1) && !lab.has_device(1, TAP));
}
