//! Devices and files that the daemon opens.

use super::{ASK_AS_ROOT, Area};
use crate::shell::check::facts::{AdminState, Facts, KeyringState, Reading};

/// Whether a daemon with this configuration runs already: then its tap, its
/// socket and its XDP program are where they should be.
pub(super) fn is_running(facts: &Facts) -> bool {
    let admin = facts.files.admin.as_ref();
    admin.is_some_and(|admin| matches!(admin.state, AdminState::Served(_)))
}

pub(super) fn files(area: &mut Area<'_>, facts: &Facts) {
    match facts.files.tun {
        Reading::Known(()) => area.ok("tap driver", "/dev/net/tun"),
        Reading::Absent => area.stop(
            "tap driver",
            "no /dev/net/tun",
            "modprobe tun; in a container, pass the device in",
        ),
        Reading::Denied => area.unknown(
            "tap driver",
            "this user may not open /dev/net/tun",
            ASK_AS_ROOT,
        ),
    }
    tap(area, facts);
    state(area, facts);
    admin(area, facts);
}

fn tap(area: &mut Area<'_>, facts: &Facts) {
    let name = &facts.files.tap_name;
    if name.is_empty() {
        return;
    }
    match (facts.files.tap_taken, is_running(facts)) {
        (false, _) => area.ok("tap name", format!("{name} is free")),
        (true, true) => area.ok("tap name", format!("{name} is there, and so is its daemon")),
        (true, false) => {
            let found = format!("a device {name} is there already");
            let advice = format!("ip link del {name}, or another tap.name");
            if matches!(&facts.files.admin, Some(admin) if admin.state == AdminState::Denied) {
                area.unknown("tap name", found, ASK_AS_ROOT);
            } else {
                area.stop("tap name", found, advice);
            }
        }
    }
}

fn state(area: &mut Area<'_>, facts: &Facts) {
    let Some(state) = &facts.files.state else {
        return;
    };
    let path = &state.path;
    match &state.keyring {
        Reading::Known(KeyringState::Stored) => {
            area.ok("state_dir", format!("{path} holds a master key"));
        }
        Reading::Known(KeyringState::Damaged(why)) => area.change(
            "state_dir",
            why,
            "once the daemon runs: tipsec-keyctl master status",
        ),
        Reading::Known(KeyringState::Empty | KeyringState::Missing) => area.change(
            "state_dir",
            format!("{path} holds no master key yet: nothing will be sealed"),
            "once the daemon runs: tipsec-keyctl master set --file cluster.key",
        ),
        Reading::Known(KeyringState::NoParent) => area.stop(
            "state_dir",
            format!("{path} is missing, and so is the directory above"),
            format!("install -d -m 0700 {path}"),
        ),
        Reading::Known(KeyringState::Refused(error)) => area.stop("state_dir", error, ""),
        Reading::Denied | Reading::Absent => {
            area.unknown(
                "state_dir",
                format!("{path} is not readable for this user"),
                ASK_AS_ROOT,
            );
        }
    }
}

fn admin(area: &mut Area<'_>, facts: &Facts) {
    let Some(admin) = &facts.files.admin else {
        return;
    };
    let path = &admin.path;
    match &admin.state {
        AdminState::Free => area.ok("admin socket", format!("{path} is free")),
        AdminState::Dead => area.ok(
            "admin socket",
            format!("{path} was left by a dead daemon; the next start replaces it"),
        ),
        AdminState::Served(pid) => {
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            area.ok(
                "admin socket",
                format!("tipsecd is running{pid} and serves {path}; a second one would be refused"),
            );
        }
        AdminState::NotASocket => area.stop(
            "admin socket",
            format!("{path} is not a socket"),
            "remove it, or another admin.socket",
        ),
        AdminState::Denied => area.unknown(
            "admin socket",
            format!("this user may not look at {path}"),
            ASK_AS_ROOT,
        ),
        AdminState::Refused(error) => area.stop(
            "admin socket",
            format!("{path}: {error}"),
            "another admin.socket",
        ),
    }
}
