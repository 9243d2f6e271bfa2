//! A network of namespaces: a hub with a bridge, and nodes joined to it by
//! veth pairs. Imports nothing of the other modules.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The device of each node that faces the hub, and a second one.
pub(crate) const NIC: &str = "eth1";
pub(crate) const SECOND_NIC: &str = "eth2";

/// How each node is joined to the hub.
#[derive(Clone, Copy)]
pub(crate) struct Wiring {
    /// NICs of a node: each on a network, and so a bridge, of its own.
    pub(crate) nics: usize,
    /// Queues of a NIC, both ways.
    pub(crate) queues: u32,
}

impl Wiring {
    const PLAIN: Self = Self { nics: 1, queues: 1 };
}

/// The tap of each node.
pub(crate) const TAP: &str = "tipsec0";

/// Tests that measure time or carry traffic run alone: cores are few, and
/// namespaces that come and go hold the kernel's network lock.
static CORES: RwLock<()> = RwLock::new(());

enum Share {
    All {
        _guard: RwLockWriteGuard<'static, ()>,
    },
    Some {
        _guard: RwLockReadGuard<'static, ()>,
    },
}

/// Nodes are numbered from 1.
pub(crate) struct Lab {
    prefix: String,
    /// For configurations, sockets and logs; everybody may enter it.
    pub(crate) dir: PathBuf,
    nodes: usize,
    // Last, so that others start after everything is taken down.
    _share: Share,
}

impl Lab {
    /// A lab of so many nodes, beside others; `None`, and a line that says so,
    /// without root.
    pub(crate) fn new(nodes: usize) -> Option<Self> {
        Self::build(nodes, Wiring::PLAIN, || {
            let _guard = CORES.read().unwrap_or_else(PoisonError::into_inner);
            Share::Some { _guard }
        })
    }

    /// The same, while there is no other lab.
    pub(crate) fn alone(nodes: usize) -> Option<Self> {
        Self::wired(nodes, Wiring::PLAIN)
    }

    /// The same with more NICs or queues.
    pub(crate) fn wired(nodes: usize, wiring: Wiring) -> Option<Self> {
        Self::build(nodes, wiring, || {
            let _guard = CORES.write().unwrap_or_else(PoisonError::into_inner);
            Share::All { _guard }
        })
    }

    fn build(nodes: usize, wiring: Wiring, share: impl FnOnce() -> Share) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED (needs root)");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("tsd{}n{number}", std::process::id());
        let lab = Self {
            _share: share(),
            dir: std::env::temp_dir().join(&prefix),
            prefix,
            nodes,
        };
        lab.set_up(wiring);
        Some(lab)
    }

    fn set_up(&self, wiring: Wiring) {
        fs::create_dir(&self.dir).unwrap();
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o755)).unwrap();
        for ns in self.namespaces() {
            run("ip", &["netns", "add", &ns]);
            // Nothing but Tipsec and what the test sends is to be on the wire.
            self.inside(&ns, || {
                for which in ["all", "default"] {
                    let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
                    // No such file: a kernel without IPv6.
                    let _ = fs::write(path, "1");
                }
            });
        }
        for nic in 0..wiring.nics {
            self.add_network(nic, wiring.queues);
        }
    }

    /// A bridge, and a NIC of each node that is joined to it.
    fn add_network(&self, nic: usize, queues: u32) {
        let hub = self.hub();
        let bridge = format!("br{nic}");
        self.ip(
            &hub,
            &[
                "link",
                "add",
                &bridge,
                "type",
                "bridge",
                "mcast_snooping",
                "0",
            ],
        );
        self.ip(&hub, &["link", "set", &bridge, "up"]);
        let queues = queues.to_string();
        let several = ["numrxqueues", &queues, "numtxqueues", &queues];
        let device = [NIC, SECOND_NIC][nic];
        for i in 1..=self.nodes {
            let (ns, port) = (self.node(i), port_of(i, nic));
            let mac = mac_text(mac_of(i, nic));
            let ends = [
                &["link", "add", device, "address", &mac][..],
                &several,
                &["type", "veth", "peer", "name", &port],
                &several,
                &["netns", &hub],
            ];
            self.ip(&ns, &ends.concat());
            self.ip(&hub, &["link", "set", &port, "master", &bridge, "up"]);
            self.ip(&ns, &["link", "set", device, "up"]);
            // Without a queue the veth loses frames silently when it is full.
            for (ns, device) in [(&ns, device), (&hub, port.as_str())] {
                let qdisc = ["-n", ns, "qdisc", "replace", "dev", device];
                run(
                    "tc",
                    &[&qdisc[..], &["root", "pfifo", "limit", "10000"]].concat(),
                );
            }
        }
    }

    fn namespaces(&self) -> Vec<String> {
        let nodes = (1..=self.nodes).map(|i| self.node(i));
        std::iter::once(self.hub()).chain(nodes).collect()
    }

    /// Namespace of the bridge.
    pub(crate) fn hub(&self) -> String {
        format!("{}h", self.prefix)
    }

    /// Namespace of node `i`.
    pub(crate) fn node(&self, i: usize) -> String {
        format!("{}-{i}", self.prefix)
    }

    /// Runs `ip -n NAMESPACE …`; gives what it printed.
    pub(crate) fn ip(&self, ns: &str, arguments: &[&str]) -> String {
        let output = run("ip", &[&["-n", ns], arguments].concat());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Does something on a thread inside a namespace; sockets made there stay.
    pub(crate) fn inside<T: Send>(&self, ns: &str, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{ns}")).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Whether some XDP program is on the node's NIC.
    pub(crate) fn has_xdp(&self, i: usize) -> bool {
        let shown = self.ip(&self.node(i), &["-o", "link", "show", "dev", NIC]);
        shown.contains("xdp")
    }

    /// Whether a device is in the node's namespace.
    pub(crate) fn has_device(&self, i: usize, name: &str) -> bool {
        let shown = self.ip(&self.node(i), &["-o", "link", "show"]);
        shown.contains(&format!(" {name}:"))
    }

    /// A counter of a device's, as in `/sys/class/net/…/statistics`.
    pub(crate) fn device_counter(&self, ns: &str, device: &str, column: Column) -> u64 {
        let table = self.inside(ns, || {
            fs::read_to_string("/proc/thread-self/net/dev").unwrap()
        });
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{device}:")))
            .unwrap_or_else(|| panic!("no {device} in {ns}"));
        let value = line.split_whitespace().nth(column as usize).unwrap();
        value.parse().unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in self.namespaces() {
            // Some may not be there yet if setting up failed.
            let _ = Command::new("ip").args(["netns", "del", &ns]).output();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Columns of `/proc/net/dev`.
#[derive(Clone, Copy)]
pub(crate) enum Column {
    RxPackets = 1,
}

/// The hub's device towards node `i`.
pub(crate) fn port(i: usize) -> String {
    port_of(i, 0)
}

fn port_of(i: usize, nic: usize) -> String {
    match nic {
        0 => format!("p{i}"),
        nic => format!("p{i}n{nic}"),
    }
}

/// Address of node `i`'s NIC.
pub(crate) fn mac(i: usize) -> [u8; 6] {
    mac_of(i, 0)
}

fn mac_of(i: usize, nic: usize) -> [u8; 6] {
    let last = |n: usize| u8::try_from(n).unwrap();
    [0x02, 0xaa, 0, 0, last(nic), last(i)]
}

pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    let hex: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.join(":")
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
    output
}

/// Waits until `look` finds something.
pub(crate) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
