//! WireGuard in userspace, whichever program runs it: device, keys, addresses.
//! Imports `pair`, `process`, `uapi`.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::uapi::{Interface, KeyPair};
use super::{Tunnel, stop_all};
use crate::cluster::make_directory;
use crate::error::Result;
use crate::pair::{End, Pair, WIRE_MTU};
use crate::process::Process;
use crate::wait::{self, Look};

/// WireGuard has no other.
pub(super) const CIPHER: &str = "ChaCha20-Poly1305";
/// The device at both ends.
const DEVICE: &str = "wg0";
/// UDP port at both ends.
const PORT: u16 = 51_820;
/// The largest that is not fragmented on the wire: without IPv4 and UDP headers
/// (28 bytes), WireGuard's header and tag (32). `wg-quick` would leave 20 more
/// for IPv6. A multiple of 16, so nothing is padded.
const MTU: u32 = WIRE_MTU - 28 - 32;
/// A process has to listen on its socket so long after it was started.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// A tunnel of two processes.
struct WireguardTunnel {
    processes: Vec<Process>,
    target: Ipv4Addr,
    notes: Vec<String>,
}

/// Where WireGuard programs put their sockets is fixed: `/var/run/wireguard`.
/// A mount namespace of its own, with a directory of ours in the place of
/// `/var/run`, lets two of them have the same name and leaves nothing behind.
/// The words after it are the program and its arguments.
const IN_OWN_VAR_RUN: [&str; 5] = [
    "--mount",
    "--propagation=private",
    "sh",
    "-c",
    r#"mount --bind "$0" /var/run && exec "$@""#,
];

/// Starts `program arguments… wg0` at both ends and joins them.
///
/// # Errors
/// Those of the processes; nothing is left.
pub(super) fn start(
    program: &Path,
    arguments: &[&str],
    pair: &Pair,
    home: &Path,
    notes: Vec<String>,
) -> Result<Box<dyn Tunnel>> {
    let keys = [KeyPair::draw()?, KeyPair::draw()?];
    let mut tunnel = WireguardTunnel {
        processes: Vec::new(),
        target: pair.ends[1].inner,
        notes,
    };
    for (side, end) in pair.ends.iter().enumerate() {
        let var_run = home.join(format!("run{side}"));
        make_directory(&var_run)?;
        let command = command(program, arguments, end, &var_run);
        let name = format!("{} of end {}", file_name(program), side + 1);
        let mut process = Process::spawn(name, &command)?;
        let socket = var_run.join("wireguard").join(format!("{DEVICE}.sock"));
        let stream = connect(&mut process, &socket)?;
        tunnel.processes.push(process);
        let interface = Interface {
            own: &keys[side],
            port: PORT,
            peer: &keys[1 - side],
            endpoint: pair.ends[1 - side].wire,
            inside: end.inner,
        };
        interface.configure(stream, &socket)?;
        let namespace = &end.namespace;
        namespace.ip(&format!("addr add {}/24 dev {DEVICE}", end.inner))?;
        namespace.ip(&format!("link set {DEVICE} mtu {MTU} up"))?;
    }
    Ok(Box::new(tunnel))
}

fn command(program: &Path, arguments: &[&str], end: &End, var_run: &Path) -> Command {
    let mut command = end.command("unshare");
    command.args(IN_OWN_VAR_RUN).arg(var_run);
    command.arg(program).args(arguments).arg(DEVICE);
    command
}

/// Connects as soon as the process listens: its socket's name is there a moment
/// before, and refuses.
fn connect(process: &mut Process, socket: &Path) -> Result<UnixStream> {
    let what = format!("{} to listen", process.name());
    wait::until(&what, LISTENS_WITHIN, Duration::from_millis(5), || {
        process.check_running()?;
        Ok(match UnixStream::connect(socket) {
            Ok(stream) => Look::Done(stream),
            Err(error) => Look::NotYet(format!("{error}; it said {:?}", process.last_lines(3))),
        })
    })
}

fn file_name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

impl Tunnel for WireguardTunnel {
    fn device(&self) -> &str {
        DEVICE
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
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
