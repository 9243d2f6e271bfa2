//! OpenVPN over UDP with AES-256-GCM in userspace: its kernel module (DCO) is
//! switched off, and the kind of its device shows that it is. Imports
//! `certificate`, `process`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::certificate::Certificate;
use super::{Device, Peer, Tunnel, Version, WhyNot, find_program, stop_all, wait_for_device};
use crate::cluster::make_directory;
use crate::error::{Error, Result};
use crate::pair::{End, Pair, WIRE_MTU};
use crate::process::{self, Process};

pub(super) const NAME: &str = "openvpn";
/// The device at both ends.
const DEVICE: &str = "ovpn0";
/// UDP port at both ends.
const PORT: u16 = 1194;
/// The largest that is not fragmented on the wire: without IPv4 and UDP headers
/// (28 bytes), opcode and peer id (4), packet id (4), tag (16).
const MTU: u32 = WIRE_MTU - 28 - 24;

pub(super) struct OpenVpn;

/// Programs that it takes; packages have the same names.
fn program(name: &str) -> std::result::Result<PathBuf, WhyNot> {
    find_program(name, &[])
        .ok_or_else(|| WhyNot(format!("not installed: ci/peers, or apt install {name}")))
}

impl Peer for OpenVpn {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cipher(&self) -> &'static str {
        "AES-256-GCM"
    }

    fn is_available(&self) -> std::result::Result<Version, WhyNot> {
        program("openssl")?;
        let said = process::run(Command::new(program(NAME)?).arg("--version"))
            .map_err(|error| WhyNot(error.to_string()))?;
        let first = said.lines().next().unwrap_or_default();
        let version = first.split_whitespace().take(2).collect::<Vec<_>>();
        Ok(Version(version.join(" ")))
    }

    fn start(&self, pair: &Pair, home: &Path) -> Result<Box<dyn Tunnel>> {
        let program = program(NAME).map_err(|why| why.into_error(NAME))?;
        let mut certificates = Vec::new();
        for name in ["end1", "end2"] {
            let own = home.join(name);
            make_directory(&own)?;
            certificates.push(Certificate::make(&own, name)?);
        }
        let mut tunnel = OpenVpnTunnel {
            processes: Vec::new(),
            target: pair.ends[1].inner,
        };
        for side in [0, 1] {
            let (end, far) = (&pair.ends[side], &pair.ends[1 - side]);
            let text = config_text(
                Role::of(side),
                end,
                far,
                &certificates[side],
                &certificates[1 - side].fingerprint,
            );
            let config = home.join(format!("end{}.conf", side + 1));
            fs::write(&config, text).map_err(Error::io(format!("write {}", config.display())))?;
            let mut command = end.command(&program);
            command.arg("--config").arg(&config);
            let name = format!("openvpn of end {}", side + 1);
            let mut process = Process::spawn(name, &command)?;
            wait_for_device(&mut process, end, DEVICE)?;
            tunnel.processes.push(process);
            let kind = Device::look_up(end, DEVICE)?.kind;
            if kind != "tun" {
                return Err(Error::Unreadable {
                    what: format!("the device {DEVICE}"),
                    detail: format!("it is of the kind {kind}, so OpenVPN runs in the kernel"),
                });
            }
        }
        Ok(Box::new(tunnel))
    }
}

/// Who waits and who calls, in the TLS exchange.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

impl Role {
    fn of(side: usize) -> Self {
        if side == 1 {
            Self::Server
        } else {
            Self::Client
        }
    }
}

/// The config file of one end, as in openvpn(8). `fast-io` is what it offers
/// for throughput; there is no such option for threads, it has one.
fn config_text(role: Role, end: &End, far: &End, own: &Certificate, fingerprint: &str) -> String {
    let role = match role {
        Role::Server => "tls-server\ndh none",
        Role::Client => "tls-client",
    };
    let (certificate, key) = (own.certificate.display(), own.key.display());
    format!(
        r#"dev {DEVICE}
dev-type tun
disable-dco
proto udp4
local {}
lport {PORT}
remote {} {PORT}
ifconfig {} {}
tun-mtu {MTU}
mssfix 0
{role}
cert "{certificate}"
key "{key}"
peer-fingerprint {fingerprint}
data-ciphers AES-256-GCM
auth-nocache
fast-io
verb 3
"#,
        end.wire, far.wire, end.inner, far.inner
    )
}

struct OpenVpnTunnel {
    processes: Vec<Process>,
    target: Ipv4Addr,
}

impl OpenVpnTunnel {
    /// What both ends have agreed on, in their own words.
    fn negotiated(&self) -> Option<String> {
        let log = self.processes.first()?.last_lines(200);
        let line = log
            .lines()
            .find(|line| line.contains("Data Channel: cipher"))?;
        let (_, words) = line.split_once("Data Channel: ")?;
        Some(words.to_owned())
    }
}

impl Tunnel for OpenVpnTunnel {
    fn device(&self) -> &str {
        DEVICE
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec!["1 thread at each end, pinned; DCO off, fast-io".to_owned()];
        notes.extend(self.negotiated());
        notes
    }

    fn target(&self) -> Ipv4Addr {
        self.target
    }

    fn check_running(&mut self) -> Result<()> {
        self.processes
            .iter_mut()
            .try_for_each(Process::check_running)
    }

    fn stop(self: Box<Self>) -> Vec<String> {
        stop_all(self.processes)
    }
}
