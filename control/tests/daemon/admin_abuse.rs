//! The admin socket of a live daemon, badly treated: each bad request is
//! answered, and nothing of the daemon changes.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::thread::{Gid, Uid};
use tipsec_control::admin::MAX_REQUEST_LEN;

use crate::admin::{Admin, is_ok, refusal};
use crate::lab::{Lab, wait_for};
use crate::node::{Daemon, KEY, PATIENCE, config};

const STATUS: &str = "{\"op\":\"status\"}";

/// What a bad request could have changed.
#[derive(PartialEq, Debug)]
struct State {
    incarnation: String,
    master_id: Option<String>,
    rekey_interval_s: Option<u32>,
    events: usize,
    stored: Vec<u8>,
}

fn state(lab: &Lab, daemon: &Daemon) -> State {
    let status = daemon.status();
    State {
        incarnation: status.incarnation,
        master_id: status.master_id,
        rekey_interval_s: status.rekey_interval_s,
        events: daemon.events().len(),
        stored: std::fs::read(lab.dir.join("s1/master")).unwrap_or_default(),
    }
}

#[test]
fn bad_requests_are_answered_and_change_nothing() {
    let Some(lab) = Lab::new(1) else { return };
    let daemon = Daemon::start(&lab, 1);
    daemon.set_master(KEY);
    let before = state(&lab, &daemon);
    let zeros = "0".repeat(64);
    let odd = &KEY[1..];
    let short = &KEY[..30];
    let long = KEY.repeat(3);
    let key = |text: &str| format!("{{\"op\":\"master-set\",\"key\":\"{text}\"}}");
    let interval = |text: &str| format!("{{\"op\":\"rekey-interval\",\"interval_s\":{text}}}");
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "JSON"),
        ("rekey now".into(), "JSON"),
        ("[]".into(), ""),
        ("\u{0}\u{0}".into(), "JSON"),
        ("[".repeat(10_000), ""),
        ("{\"op\":\"self-destruct\"}".into(), "self-destruct"),
        ("{\"op\":\"status\",\"verbose\":true}".into(), "verbose"),
        ("{\"op\":\"master-set\"}".into(), "key"),
        (key(short), "15 octets"),
        (key(&long), "96 octets"),
        (key(&zeros), "all zero"),
        (key(odd), "odd"),
        (key(""), "empty"),
        (
            key("tipsec1:00112233445566778899aabbccddeeff:00000000"),
            "checksum",
        ),
        (interval("0"), ""),
        (interval("-1"), ""),
        (interval("1e30"), ""),
        (interval("0.5"), ""),
        (interval("4294967296"), ""),
        (interval("31536001"), ""),
        (interval("\"10m\""), ""),
        ("{\"op\":\"rekey-interval\"}".into(), "interval_s"),
    ];
    let mut admin = Admin::connect(&daemon.socket).unwrap();
    for (request, word) in &cases {
        let line = admin.ask(request);
        let (code, message) = refusal(&line);
        assert_eq!(code, "bad-request", "{request}: {message}");
        assert!(message.contains(word), "{request}: {message}");
        for secret in [short, odd, &long[..32]] {
            assert!(!line.contains(secret), "the key is echoed: {line}");
        }
    }
    // Not even text.
    admin.send(b"\xff\xfe{}\n");
    assert_eq!(refusal(&admin.line()).0, "bad-request");
    assert!(is_ok(&admin.ask(STATUS)), "the connection is still good");
    assert_eq!(state(&lab, &daemon), before);
}

#[test]
fn oversize_and_unfinished_requests_keep_nobody_else_waiting() {
    let Some(lab) = Lab::new(1) else { return };
    let daemon = Daemon::start(&lab, 1);
    let before = state(&lab, &daemon);
    for fill in [b'{', b' ', 0] {
        let mut admin = Admin::connect(&daemon.socket).unwrap();
        admin.send(&vec![fill; MAX_REQUEST_LEN + 2]);
        assert_eq!(refusal(&admin.line()).0, "too-large");
        assert_eq!(admin.line(), "", "closed");
    }
    // The longest allowed line is only wrong, not too large.
    let mut admin = Admin::connect(&daemon.socket).unwrap();
    assert_eq!(
        refusal(&admin.ask(&" ".repeat(MAX_REQUEST_LEN))).0,
        "bad-request"
    );

    let mut unfinished = Admin::connect(&daemon.socket).unwrap();
    unfinished.send(b"{\"op\":\"rek");
    let asked = Instant::now();
    assert!(is_ok(&daemon.ask(STATUS)));
    assert!(asked.elapsed() < Duration::from_secs(2), "{asked:?}");
    assert_eq!(refusal(&unfinished.line()).0, "timeout");
    assert_eq!(state(&lab, &daemon), before);
}

#[test]
fn a_hundred_clients_get_an_answer_each() {
    let Some(lab) = Lab::new(1) else { return };
    let daemon = Daemon::start(&lab, 1);
    let mut clients: Vec<_> = (0..100)
        .map(|_| Admin::connect(&daemon.socket).unwrap())
        .collect();
    let mut served = 0;
    for client in &mut clients {
        let line = client.ask(STATUS);
        if is_ok(&line) {
            served += 1;
        } else {
            let (code, message) = refusal(&line);
            assert_eq!(code, "busy", "{message}");
        }
    }
    assert!(served >= 16, "{served} served");
    drop(clients);
    // It may take the newcomer's call before it has seen all of them leave.
    wait_for("room again", PATIENCE, || {
        is_ok(&daemon.ask(STATUS)).then_some(())
    });
}

#[test]
fn only_root_and_the_admin_group_are_served() {
    let Some(lab) = Lab::new(1) else { return };
    let group = "[admin]\ngroup = \"64321\"";
    let text = config(&lab, 1).replace("[admin]", group);
    let daemon = Daemon::start_with(&lab, 1, &text);
    // The kernel attests what the connecting thread is.
    let ask_as = |gid: u32| {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                rustix::thread::set_thread_groups(&[]).unwrap();
                rustix::thread::set_thread_gid(Gid::from_raw(gid)).unwrap();
                rustix::thread::set_thread_uid(Uid::from_raw(65534)).unwrap();
                Admin::connect(&daemon.socket).map(|mut admin| admin.ask(STATUS))
            });
            thread.join().unwrap()
        })
    };
    let member = ask_as(64321).unwrap();
    assert!(is_ok(&member), "{member}");
    let stranger = ask_as(64322).unwrap_err();
    assert_eq!(stranger.kind(), std::io::ErrorKind::PermissionDenied);

    // Where the file's mode lets a stranger in, the daemon doesn't.
    let open_to_all = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&daemon.socket, open_to_all).unwrap();
    let (code, message) = refusal(&ask_as(64322).unwrap());
    assert_eq!(code, "forbidden");
    assert!(
        message.contains("64321") && message.contains("root"),
        "{message}"
    );
    assert!(is_ok(&daemon.ask(STATUS)));
}
