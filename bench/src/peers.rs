//! What Tipsec is compared with, and Tipsec itself, each as a tunnel between
//! the two ends of a [`Pair`]: started for real, owned by guards, gone when
//! dropped. One file a peer. Imports `pair`, `process`, `daemon`.
//!
//! | file | peer |
//! |---|---|
//! | `tipsec` | two `tipsecd`, with either cipher |
//! | `boringtun`, `wireguard_go` | WireGuard in userspace; `wireguard` is what they share, `uapi` the protocol that configures them |
//! | `openvpn` | OpenVPN over UDP, in userspace; `certificate` makes it throw-away ones |
//! | `veth` | no tunnel: the wire itself, with and without offloads |

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::accounts::Balance;
use crate::cluster::Binaries;
use crate::error::{Error, Result};
use crate::pair::{End, Offloads, Pair};
use crate::process::Process;
use crate::wait::{self, Look};

mod boringtun;
mod certificate;
mod openvpn;
mod tipsec;
mod uapi;
mod veth;
mod wireguard;
mod wireguard_go;

/// What a peer says of its version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version(pub String);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a peer cannot be run here, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WhyNot(pub String);

impl WhyNot {
    pub(crate) fn into_error(self, name: &str) -> Error {
        Error::Unavailable {
            name: name.to_owned(),
            why: self.0,
        }
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What can carry packets between two namespaces.
pub trait Peer {
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// Whether it is Tipsec: then its failure is a failure of the run.
    fn is_tipsec(&self) -> bool {
        false
    }

    /// The cipher of its data, or that there is none.
    fn cipher(&self) -> &'static str;

    /// The offloads that its wire has. Every tunnel has the same.
    fn offloads(&self) -> Offloads {
        Offloads::NoSegmentation
    }

    /// Its version, if it can be run.
    ///
    /// # Errors
    /// [`WhyNot`]: it is not installed.
    fn is_available(&self) -> std::result::Result<Version, WhyNot>;

    /// Starts it between the ends of `pair`, its files in the existing
    /// directory `home`, which belongs to this start alone. Returns once it can
    /// be expected to carry packets soon; [`wait_until_it_carries`] finds out.
    ///
    /// # Errors
    /// Those of its processes. Nothing is left.
    fn start(&self, pair: &Pair, home: &Path) -> Result<Box<dyn Tunnel>>;
}

/// What runs between the two ends. Dropping it ends all of it.
pub trait Tunnel {
    /// The device that its packets take, the same at both ends.
    fn device(&self) -> &str;

    /// What a reader has to know to compare it: threads, modes.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The far end's address inside.
    fn target(&self) -> Ipv4Addr;

    /// # Errors
    /// [`Error::Ended`] if any of its processes has.
    fn check_running(&mut self) -> Result<()>;

    /// Opens the books, where it keeps any.
    ///
    /// # Errors
    /// Those of a daemon that does not answer.
    fn open_books(&mut self, _pair: &Pair) -> Result<()> {
        Ok(())
    }

    /// What became of every frame since [`Self::open_books`]; none from what
    /// keeps no books.
    ///
    /// # Errors
    /// Those of a daemon that does not answer.
    fn close_books(&mut self, _pair: &Pair) -> Result<Option<Balance>> {
        Ok(None)
    }

    /// Ends it, and gives those a name that did not end by themselves.
    fn stop(self: Box<Self>) -> Vec<String>;
}

/// All peers by the names of the command line, in the order of reports. Tipsec
/// is not among them.
pub const NAMES: [&str; 5] = [
    boringtun::NAME,
    wireguard_go::NAME,
    openvpn::NAME,
    veth::NAME_OFF,
    veth::NAME_ON,
];

/// The peer of that name; none if it is unknown.
pub fn by_name(name: &str) -> Option<Box<dyn Peer>> {
    Some(match name {
        boringtun::NAME => Box::new(boringtun::Boringtun),
        wireguard_go::NAME => Box::new(wireguard_go::WireguardGo),
        openvpn::NAME => Box::new(openvpn::OpenVpn),
        veth::NAME_OFF => Box::new(veth::Veth::without_offloads()),
        veth::NAME_ON => Box::new(veth::Veth::with_offloads()),
        _ => return None,
    })
}

pub use tipsec::{NAME as TIPSEC, NAME_CHACHA20 as TIPSEC_CHACHA20};
pub use veth::{NAME_OFF as VETH_OFF, NAME_ON as VETH_ON};

/// Tipsec with each cipher.
pub fn tipsec(binaries: &Binaries) -> [Box<dyn Peer>; 2] {
    [
        Box::new(tipsec::Tipsec::aes(binaries.clone())),
        Box::new(tipsec::Tipsec::chacha20(binaries.clone())),
    ]
}

/// A tunnel has to carry packets so long after it was started.
const CARRIES_WITHIN: Duration = Duration::from_secs(15);
/// The port of attempts to connect: discard, where nobody listens.
const CLOSED_PORT: u16 = 9;

/// Waits until a packet went to the far end and its answer came back: a refused
/// connection is one.
///
/// # Errors
/// [`Error::Timeout`], [`Error::Ended`].
pub fn wait_until_it_carries(name: &str, tunnel: &mut dyn Tunnel, pair: &Pair) -> Result<()> {
    let target = SocketAddr::from((tunnel.target(), CLOSED_PORT));
    let patience = Duration::from_millis(200);
    let what = format!("{name} to carry packets to {target}");
    wait::until(&what, CARRIES_WITHIN, Duration::from_millis(10), || {
        tunnel.check_running()?;
        let attempt = pair.ends[0]
            .namespace
            .run(|| Ok(TcpStream::connect_timeout(&target, patience)))?;
        Ok(match attempt {
            Ok(_) => Look::Done(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Look::Done(()),
            Err(error) => Look::NotYet(error.to_string()),
        })
    })
}

/// What `ip` says of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// MTU in bytes.
    pub mtu: u32,
    /// `tun` also for taps, `veth`, or what a kernel module calls its own.
    pub kind: String,
}

#[derive(Deserialize)]
struct Link {
    mtu: u32,
    #[serde(default)]
    linkinfo: Option<LinkInfo>,
}

#[derive(Deserialize)]
struct LinkInfo {
    info_kind: String,
}

impl Device {
    /// Asks `ip` for the device of that name.
    ///
    /// # Errors
    /// [`Error::Command`] if it is not there, [`Error::Unreadable`].
    pub fn look_up(end: &End, name: &str) -> Result<Self> {
        let json = end.namespace.ip(&format!("-d -j link show dev {name}"))?;
        Self::parse(&json)
    }

    fn parse(json: &str) -> Result<Self> {
        let unreadable = |detail: String| Error::Unreadable {
            what: "ip -d -j link".into(),
            detail,
        };
        let links: Vec<Link> =
            serde_json::from_str(json).map_err(|error| unreadable(error.to_string()))?;
        let link = links.into_iter().next();
        let link = link.ok_or_else(|| unreadable("no device in it".into()))?;
        let kind = link.linkinfo.map(|info| info.info_kind);
        Ok(Self {
            mtu: link.mtu,
            kind: kind.unwrap_or_else(|| "unknown".to_owned()),
        })
    }
}

/// A device has to appear so long after its process was started.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);
/// Time to leave when asked.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Waits for the device of a process that was just started.
fn wait_for_device(process: &mut Process, end: &End, name: &str) -> Result<()> {
    let what = format!("the device {name}");
    wait::until(&what, APPEARS_WITHIN, Duration::from_millis(10), || {
        process.check_running()?;
        Ok(match Device::look_up(end, name) {
            Ok(_) => Look::Done(()),
            Err(error) => Look::NotYet(format!("{error}; it said {:?}", process.last_lines(3))),
        })
    })
}

/// Asks processes to leave; those that did not, or without success.
fn stop_all(processes: Vec<Process>) -> Vec<String> {
    let mut stubborn = Vec::new();
    for mut process in processes {
        if !process.stop(STOP_WITHIN) {
            let (name, words) = (process.name(), process.last_lines(3));
            stubborn.push(format!("{name}; it said last: {words}"));
        }
    }
    stubborn
}

/// Where a program of that name is: in `folders`, then in `PATH`.
fn find_program(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // What a user's PATH lacks and root's has.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut candidates = folders.to_vec();
    candidates.extend(std::env::split_paths(&path));
    candidates.extend(system);
    let files = candidates.iter().map(|folder| folder.join(name));
    files.into_iter().find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_peer() {
        for name in NAMES {
            assert_eq!(by_name(name).map(|peer| peer.name()), Some(name));
        }
        assert!(
            by_name("tipsec").is_none(),
            "it is compared with the others"
        );
        assert!(by_name("").is_none());
    }

    #[test]
    fn reads_what_ip_says_of_a_device() {
        let json = r#"[{"ifname":"wg0","mtu":1440,"linkinfo":{"info_kind":"tun","info_data":{}}}]"#;
        let expected = Device {
            mtu: 1440,
            kind: "tun".into(),
        };
        assert_eq!(Device::parse(json).unwrap(), expected);
        let kind = Device::parse(r#"[{"mtu":65536}]"#).unwrap().kind;
        assert_eq!(kind, "unknown");
        assert!(Device::parse("[]").is_err());
        assert!(Device::parse("{").is_err());
    }

    #[test]
    fn a_program_is_looked_for_in_its_folder_first() {
        let found = find_program("sh", &[]).unwrap();
        assert!(found.is_absolute(), "{found:?}");
        let own = std::env::current_exe().unwrap();
        let folder = own.parent().unwrap().to_owned();
        let name = own.file_name().unwrap().to_str().unwrap();
        assert_eq!(find_program(name, &[folder]), Some(own.clone()));
        assert_eq!(find_program(name, &[]), None);
    }
}
