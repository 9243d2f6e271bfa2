//! Who may operate this node: root, the user that the daemon runs as, and
//! members of the admin group. The socket's mode already says so to the
//! kernel; this check holds where the mode was changed or a descriptor was
//! handed on. Imports nothing from this crate.

use std::fs;

use rustix::fs::{Gid, Uid};
use rustix::net::UCred;

use super::AdminServerError;

/// Whom a server lets in.
pub(super) struct Access {
    group: Option<(String, Gid)>,
}

impl Access {
    /// Root and, if there is one, the group with this name or number.
    pub(super) fn new(group: Option<&str>) -> Result<Self, AdminServerError> {
        let Some(name) = group else {
            return Ok(Self { group: None });
        };
        let table = fs::read_to_string("/etc/group").unwrap_or_default();
        let gid = name
            .parse()
            .ok()
            .or_else(|| gid_in(&table, name))
            .ok_or_else(|| AdminServerError::NoSuchGroup(name.to_owned()))?;
        Ok(Self {
            group: Some((name.to_owned(), Gid::from_raw(gid))),
        })
    }

    /// The group that the socket belongs to.
    pub(super) fn gid(&self) -> Option<Gid> {
        self.group.as_ref().map(|(_, gid)| *gid)
    }

    /// Whether the user at the other end may operate this node.
    pub(super) fn allows(&self, peer: &UCred) -> bool {
        if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
            return true;
        }
        let Some(gid) = self.gid() else { return false };
        if peer.gid == gid {
            return true;
        }
        // Supplementary groups as the kernel has them: right also for users
        // that no file names, and for a process that gave its groups up.
        let path = format!("/proc/{}/status", peer.pid.as_raw_nonzero());
        fs::read_to_string(path).is_ok_and(|status| is_member(&status, peer.uid, gid))
    }

    /// What to tell a user who is not let in.
    pub(super) fn refusal(&self) -> String {
        match &self.group {
            Some((name, _)) => format!(
                "only root and members of the group {name} may operate this node: \
                 use sudo, or have the administrator add you to the group"
            ),
            None => {
                "only root may operate this node: use sudo, or configure admin.group".to_owned()
            }
        }
    }
}

/// Number of a group in the format of `/etc/group`.
fn gid_in(table: &str, name: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1))
            .flatten()?
            .parse()
            .ok()
    })
}

/// Whether `/proc/PID/status` is that of a process of `uid` with the group
/// `gid`. The user is compared because the number may have gone to another
/// process since it connected.
fn is_member(status: &str, uid: Uid, gid: Gid) -> bool {
    let numbers = |name: &str| -> Vec<u32> {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|rest| {
                rest.split_whitespace()
                    .filter_map(|n| n.parse().ok())
                    .collect()
            })
            .unwrap_or_default()
    };
    numbers("Uid:").contains(&uid.as_raw()) && numbers("Groups:").contains(&gid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tsh\nUid:\t1000\t1000\t1000\t1000\n\
                          Gid:\t1000\t1000\t1000\t1000\nGroups:\t27 100 1000 \n";

    #[test]
    fn supplementary_groups_are_read() {
        let (user, other) = (Uid::from_raw(1000), Uid::from_raw(1001));
        assert!(is_member(STATUS, user, Gid::from_raw(100)));
        assert!(!is_member(STATUS, user, Gid::from_raw(10)));
        assert!(!is_member(STATUS, other, Gid::from_raw(100)));
        assert!(!is_member("", user, Gid::from_raw(100)));
        assert!(!is_member("Groups:\tx\nUid:\n", user, Gid::from_raw(100)));
    }

    #[test]
    fn groups_have_numbers() {
        let table = "root:x:0:\nbroken\ntipsec:x:998:ann,bob\nodd:x:y:\n";
        assert_eq!(gid_in(table, "tipsec"), Some(998));
        assert_eq!(gid_in(table, "root"), Some(0));
        for absent in ["broken", "odd", "ann", "", "tips"] {
            assert_eq!(gid_in(table, absent), None, "{absent}");
        }
    }

    #[test]
    fn an_unknown_group_is_an_error() {
        assert!(matches!(
            Access::new(Some("no such group")),
            Err(AdminServerError::NoSuchGroup(_))
        ));
        assert_eq!(
            Access::new(Some("4242")).unwrap().gid(),
            Some(Gid::from_raw(4242))
        );
    }
}
