//! What was read of the machine: plain data, made by `read` and `nic`, judged
//! by `rules`. Imports names of the configuration and of the data plane.

use std::collections::BTreeMap;

use tipsec_dataplane::bearer::xdp::NapiProfile;
use tipsec_dataplane::secret::Suite;

use crate::config::ModeChoice;

/// An answer of the system's, or why there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reading<T> {
    /// It is this.
    Known(T),
    /// This machine has no such thing.
    Absent,
    /// This user may not know.
    Denied,
}

impl<T> Reading<T> {
    pub(super) fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::Denied => None,
        }
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> Option<U>) -> Reading<U> {
        match self {
            Self::Known(value) => change(value).map_or(Reading::Absent, Reading::Known),
            Self::Absent => Reading::Absent,
            Self::Denied => Reading::Denied,
        }
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) config: ConfigState,
    pub(super) kernel: Kernel,
    pub(super) privilege: Privilege,
    pub(super) memory: Memory,
    pub(super) cpu: Cpu,
    pub(super) files: Files,
    pub(super) bearers: Vec<Bearer>,
}

/// What became of reading the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ConfigState {
    /// Read, from this file.
    Good(String),
    /// Wrong, or not there.
    Wrong(String),
    /// Not readable for this user.
    Denied(String),
}

/// The kernel and its settings.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// As `uname -r` prints it.
    pub(super) release: String,
    pub(super) af_xdp: AfXdp,
    /// `net.core.bpf_jit_enable`.
    pub(super) jit: Reading<u64>,
    /// Whether /sys/kernel/btf/vmlinux is there.
    pub(super) btf: bool,
    pub(super) clocksource: Reading<String>,
    /// `net.core.wmem_max`, in bytes.
    pub(super) wmem_max: Reading<u64>,
    /// `net.core.busy_read` and `net.core.busy_poll`, in µs.
    pub(super) busy: (Reading<u64>, Reading<u64>),
}

/// What the kernel said to an AF_XDP socket that was made and closed again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AfXdp {
    /// Made; whether it knows XDP_MAX_TX_SKB_BUDGET.
    There { tx_budget: bool },
    /// No such address family.
    Missing,
    /// Not for this user, or another refusal.
    Denied,
}

/// What this process may do.
#[derive(Clone, Debug)]
pub(super) struct Privilege {
    /// Root, or has some of the capabilities: so this is how the daemon would
    /// run, and not just somebody who asks.
    pub(super) as_daemon: bool,
    /// Needed capabilities that are missing, and what each is for.
    pub(super) missing: Vec<(&'static str, &'static str)>,
    /// RLIMIT_MEMLOCK in bytes; `None`: no limit, or CAP_IPC_LOCK.
    pub(super) memlock_limit: Option<u64>,
}

/// Memory for frames.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    /// Bytes of all UMEMs together.
    pub(super) umem_bytes: u64,
    /// Free huge pages of 2 MiB.
    pub(super) huge_free: Reading<u64>,
}

/// Processors.
#[derive(Clone, Debug)]
pub(super) struct Cpu {
    /// As in /proc/cpuinfo.
    pub(super) flags: Vec<String>,
    /// What the configuration allows, best first; empty without one.
    pub(super) suites: Vec<Suite>,
    /// Cores that this process may run on.
    pub(super) usable: Vec<u32>,
    pub(super) isolated: Vec<u32>,
    pub(super) nohz_full: Vec<u32>,
    /// Whether a process of this name runs; absent if it can't be seen.
    pub(super) irqbalance: Reading<bool>,
    /// The cores that bearers name.
    pub(super) cores: BTreeMap<u32, Core>,
}

/// One core.
#[derive(Clone, Debug)]
pub(super) struct Core {
    pub(super) governor: Reading<String>,
    /// Hyperthreads of the same core, itself included.
    pub(super) siblings: Vec<u32>,
    pub(super) node: Option<u32>,
}

/// Devices and files that the daemon opens.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// Opening /dev/net/tun.
    pub(super) tun: Reading<()>,
    pub(super) tap_name: String,
    /// A device of this name is there already.
    pub(super) tap_taken: bool,
    /// `None` without a configuration.
    pub(super) state: Option<State>,
    /// `None` without a configuration.
    pub(super) admin: Option<Admin>,
}

/// The state directory.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) path: String,
    pub(super) keyring: Reading<KeyringState>,
}

/// What the keyring itself says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum KeyringState {
    /// The directory is missing, and so is the one above it.
    NoParent,
    /// The directory is missing; the daemon makes it.
    Missing,
    /// No key yet.
    Empty,
    /// A key that can be used.
    Stored,
    /// Keys that can be used, but of the older copy, and why.
    Damaged(String),
    /// Refused, with what to do.
    Refused(String),
}

/// The admin socket.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    pub(super) path: String,
    pub(super) state: AdminState,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum AdminState {
    /// Nothing there.
    Free,
    /// A socket that nobody serves: replaced at the next start.
    Dead,
    /// Served, by this process if it can be seen.
    Served(Option<i32>),
    /// A file, a directory.
    NotASocket,
    /// This user may not connect.
    Denied,
    /// Anything else.
    Refused(String),
}

/// One `[[bearer]]`: what is wanted, and what is there.
#[derive(Clone, Debug)]
pub(super) struct Bearer {
    pub(super) interface: String,
    pub(super) queue: u32,
    pub(super) core: Option<u32>,
    pub(super) mode: ModeChoice,
    pub(super) spin: bool,
    /// Whether frames go in UDP.
    pub(super) udp: bool,
    /// The VLAN that frames are tagged with.
    pub(super) vlan: Option<u16>,
    /// Where its NAPI runs, as configured.
    pub(super) napi: NapiProfile,
    /// Frames in flight.
    pub(super) in_flight: usize,
    /// Where the configuration says these: `key (file:line)`.
    pub(super) at: Places,
    pub(super) link: Link,
    /// `None` if there is no such device.
    pub(super) nic: Option<Nic>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub(super) interface: String,
    pub(super) queue: String,
    pub(super) core: String,
    pub(super) mode: String,
    pub(super) vlan: String,
    pub(super) napi: String,
}

/// What the data plane says of the device, by the check that a start makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Link {
    /// Fit, with this MTU in bytes and this address.
    Usable { mtu: u32, mac: String },
    /// Not here.
    Missing,
    /// Administratively down.
    Down,
    /// Too large or too small, in bytes.
    Mtu(u32),
    /// Another refusal.
    Refused(String),
}

/// A device. What its driver does not tell is `None`.
#[derive(Clone, Debug, Default)]
pub(super) struct Nic {
    pub(super) driver: Option<Driver>,
    pub(super) queues: Option<Queues>,
    pub(super) rings: Option<Rings>,
    pub(super) coalescing: Option<Coalescing>,
    pub(super) pause: Option<Pause>,
    /// By the kernel's name, such as `rx-lro`.
    pub(super) features: BTreeMap<String, Feature>,
    /// Flow steering rules.
    pub(super) flow_rules: Option<u32>,
    /// Of the XDP program that is on it, if that could be asked.
    pub(super) program: Option<Program>,
    pub(super) program_unread: Option<String>,
    /// Whether IPv6 is off.
    pub(super) ipv6_off: Option<bool>,
    /// `None`: /sys shows another network namespace.
    pub(super) sysfs: Option<Sysfs>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Driver {
    pub(super) name: String,
    pub(super) version: String,
}

/// Numbers of queues, as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Queues {
    pub(super) rx: u32,
    pub(super) rx_max: u32,
    /// Of `rx`, how many come as combined channels.
    pub(super) combined: u32,
}

/// Entries of the NIC's own rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Rings {
    pub(super) rx: u32,
    pub(super) rx_max: u32,
    pub(super) tx: u32,
    pub(super) tx_max: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Coalescing {
    pub(super) rx_usecs: u32,
    pub(super) tx_usecs: u32,
    pub(super) adaptive_rx: bool,
}

impl Nic {
    /// What the device does with the tag of a received frame (`rxvlan` of
    /// ethtool); `None` if it does not tell.
    pub(super) fn strips_tags(&self) -> Option<Stripping> {
        let feature = self.features.get("rx-vlan-hw-parse")?;
        let is_veth = self.driver.as_ref().is_some_and(|d| d.name == "veth");
        Some(match feature {
            Feature { on: false, .. } => Stripping::Off,
            // It says so, but leaves tags where its other end has put them.
            Feature { on: true, .. } if is_veth => Stripping::InName,
            Feature { changeable, .. } => Stripping::On {
                changeable: *changeable,
            },
        })
    }
}

/// Whether tags are taken off received frames before an XDP program sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stripping {
    Off,
    /// As a veth has it: nothing is taken off.
    InName,
    On {
        /// Whether `ethtool -K` can change it.
        changeable: bool,
    },
}

/// Ethernet flow control.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pause {
    pub(super) rx: bool,
    pub(super) tx: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Feature {
    pub(super) on: bool,
    /// Whether `ethtool -K` can change it.
    pub(super) changeable: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Program {
    pub(super) id: u32,
    /// Empty if it could not be read.
    pub(super) name: String,
}

/// What only /sys/class/net tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Sysfs {
    /// `None` while the device is down.
    pub(super) carrier: Option<bool>,
    pub(super) node: Option<u32>,
    pub(super) master: Option<Master>,
    /// NAPI polls in a kernel thread of its own.
    pub(super) threaded: Option<bool>,
    pub(super) defer_hard_irqs: Option<u64>,
    pub(super) gro_flush_timeout_ns: Option<u64>,
    /// Interrupts of the device.
    pub(super) irqs: Vec<Irq>,
}

/// The device that this one is a port of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Master {
    pub(super) name: String,
    /// `bridge`, `bond`, `vrf` …; empty if the kernel does not say.
    pub(super) kind: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Irq {
    pub(super) number: u32,
    /// The receive queue that it serves, as far as its name tells.
    pub(super) queue: Option<u32>,
    /// Where it is delivered.
    pub(super) cores: Vec<u32>,
}
