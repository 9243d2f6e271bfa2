//! Files, sockets, and a daemon that runs already.

use super::*;

#[test]
fn files() {
    use Status::{Change, Stop, Unknown};
    let keyring = |f: &mut Facts, state| f.files.state.as_mut().unwrap().keyring = state;
    let admin = |f: &mut Facts, state| f.files.admin.as_mut().unwrap().state = state;
    each_is_found(&[
        (
            &|f| f.files.tun = Reading::Absent,
            "tap driver",
            Stop,
            &["modprobe tun"],
        ),
        (
            &|f| f.files.tun = Reading::Denied,
            "tap driver",
            Unknown,
            &["/dev/net/tun"],
        ),
        (
            &|f| f.files.tap_taken = true,
            "tap name",
            Stop,
            &["ip link del tipsec0"],
        ),
        (
            &|f| keyring(f, Reading::Known(KeyringState::Empty)),
            "state_dir",
            Change,
            &["/var/lib/tipsec", "tipsec-keyctl master set"],
        ),
        (
            &|f| {
                keyring(
                    f,
                    Reading::Known(KeyringState::Damaged("the copy is used".into())),
                )
            },
            "state_dir",
            Change,
            &["the copy is used", "tipsec-keyctl master status"],
        ),
        (
            &|f| keyring(f, Reading::Known(KeyringState::NoParent)),
            "state_dir",
            Stop,
            &["install -d -m 0700 /var/lib/tipsec"],
        ),
        (
            &|f| {
                keyring(
                    f,
                    Reading::Known(KeyringState::Refused("chmod 0700 it".into())),
                )
            },
            "state_dir",
            Stop,
            &["chmod 0700 it"],
        ),
        (
            &|f| keyring(f, Reading::Denied),
            "state_dir",
            Unknown,
            &["root"],
        ),
        (
            &|f| admin(f, AdminState::NotASocket),
            "admin socket",
            Stop,
            &["not a socket"],
        ),
        (
            &|f| admin(f, AdminState::Denied),
            "admin socket",
            Unknown,
            &["root"],
        ),
        (
            &|f| admin(f, AdminState::Refused("path too long".into())),
            "admin socket",
            Stop,
            &["path too long"],
        ),
    ]);
}

#[test]
fn a_running_daemon_is_not_in_its_own_way() {
    let mut facts = fit();
    facts.files.admin.as_mut().unwrap().state = AdminState::Served(Some(42));
    facts.files.tap_taken = true;
    let program = |name: &str| {
        Some(Program {
            id: 7,
            name: name.into(),
        })
    };
    nic(&mut facts).program = program("tipsec_xdp");
    assert_eq!(trouble(&facts), []);
    let told = findings(&facts);
    assert!(
        told.iter()
            .any(|finding| finding.found.contains("running (pid 42)"))
    );
    // Somebody else's program is, all the same.
    nic(&mut facts).program = program("cilium");
    assert_eq!(trouble(&facts), [("XDP program".to_owned(), Status::Stop)]);
    // And so is ours without its daemon: another tipsecd has the NIC.
    facts.files.admin.as_mut().unwrap().state = AdminState::Free;
    facts.files.tap_taken = false;
    nic(&mut facts).program = program("tipsec_xdp");
    assert_eq!(trouble(&facts), [("XDP program".to_owned(), Status::Stop)]);
}
