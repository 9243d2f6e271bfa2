//! Reads the machine: /proc, /sys, limits, capabilities, and the files that
//! the daemon would open. Never writes. Imports `facts`, `nic`, `parse`, `sys`
//! and what the daemon itself uses to read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use tipsec_dataplane::bearer::xdp::XdpConfig;

use super::facts::{
    Admin, AdminState, ConfigState, Core, Cpu, Facts, Files, Kernel, KeyringState, Memory,
    Privilege, Reading, State,
};
use super::{nic, parse, sys};
use crate::config::Config;
use crate::keyring::{Keyring, KeyringError};

/// Largest file in bytes that is read: far above what /proc and /sys show.
const FILE_LEN_MAX: u64 = 4 << 20;
/// Cores that an affinity mask of this process can name.
const CORES_MAX: u32 = 1024;

/// Everything, with the configuration in `path`.
pub(super) fn facts(path: &Path) -> Facts {
    let (state, config) = config(path);
    let config = config.as_ref();
    let bearers = config.map_or_else(Vec::new, |config| {
        let wanted = config.bearers.iter().enumerate();
        wanted
            .flat_map(|(number, wanted)| nic::per_queue(config, number, wanted))
            .collect()
    });
    let in_flight = bearers.iter().map(|bearer| bearer.in_flight);
    let umem_bytes: u64 = in_flight.map(umem_bytes).sum();
    let cores: BTreeSet<u32> = bearers.iter().filter_map(|bearer| bearer.core).collect();
    Facts {
        config: state,
        kernel: kernel(),
        privilege: privilege(),
        memory: Memory {
            umem_bytes: umem_bytes.max(XdpConfig::default().umem_bytes()),
            huge_free: number(Path::new(
                "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            )),
        },
        cpu: cpu(config, &cores),
        files: files(config),
        bearers,
    }
}

fn umem_bytes(in_flight_max: usize) -> u64 {
    let sizes = XdpConfig {
        in_flight_max,
        ..XdpConfig::default()
    };
    sizes.umem_bytes()
}

/// A text, without the blanks at its ends.
pub(super) fn file(path: &Path) -> Reading<String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LEN_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => Reading::Known(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Reading::Denied,
        Err(_) => Reading::Absent,
    }
}

/// A number that is all of a file.
pub(super) fn number(path: &Path) -> Reading<u64> {
    file(path).map(|text| text.parse().ok())
}

/// Without the check of interfaces and cores that a start makes: each of these
/// gets its own finding.
fn config(path: &Path) -> (ConfigState, Option<Config>) {
    let name = path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let told = format!("{name}: cannot read the configuration: {error}");
            let denied = error.kind() == ErrorKind::PermissionDenied;
            let state = if denied {
                ConfigState::Denied(told)
            } else {
                ConfigState::Wrong(told)
            };
            return (state, None);
        }
    };
    match Config::parse(&text, &name) {
        Ok(config) => (ConfigState::Good(name), Some(config)),
        Err(error) => (ConfigState::Wrong(error.to_string()), None),
    }
}

fn kernel() -> Kernel {
    let core = Path::new("/proc/sys/net/core");
    Kernel {
        release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        af_xdp: sys::af_xdp(),
        jit: number(&core.join("bpf_jit_enable")),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        clocksource: file(Path::new(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        )),
        wmem_max: number(&core.join("wmem_max")),
        busy: (
            number(&core.join("busy_read")),
            number(&core.join("busy_poll")),
        ),
    }
}

fn privilege() -> Privilege {
    // What CAP_SYS_ADMIN gave before CAP_BPF existed, it still gives.
    let bpf = CapabilitySet::BPF | CapabilitySet::SYS_ADMIN;
    let needs = [
        (
            CapabilitySet::NET_ADMIN,
            "CAP_NET_ADMIN",
            "attach the XDP program and create the tap device",
        ),
        (bpf, "CAP_BPF", "load the XDP program"),
        (
            CapabilitySet::NET_RAW,
            "CAP_NET_RAW",
            "open AF_XDP and packet sockets",
        ),
    ];
    let sets = capabilities(None);
    // Unreadable (a filter on capget): nothing is known of the daemon's.
    let readable = sets.is_ok();
    let effective = sets.map_or(CapabilitySet::empty(), |sets| sets.effective);
    let missing: Vec<_> = needs
        .iter()
        .filter(|(any_of, ..)| !effective.intersects(*any_of))
        .map(|&(_, name, purpose)| (name, purpose))
        .collect();
    let root = rustix::process::geteuid().is_root();
    Privilege {
        as_daemon: readable && (root || missing.len() < needs.len()),
        missing,
        memlock_limit: getrlimit(Resource::Memlock)
            .current
            .filter(|_| !effective.contains(CapabilitySet::IPC_LOCK)),
    }
}

fn cpu(config: Option<&Config>, named: &BTreeSet<u32>) -> Cpu {
    let system = Path::new("/sys/devices/system/cpu");
    let list = |name: &str| {
        let text = file(&system.join(name));
        text.known()
            .map(|text| parse::cores(text))
            .unwrap_or_default()
    };
    let usable = rustix::thread::sched_getaffinity(None).map_or_else(
        |_| Vec::new(),
        |mask| {
            (0..CORES_MAX)
                .filter(|&core| mask.is_set(core as usize))
                .collect()
        },
    );
    let core = |core: u32| {
        let place = system.join(format!("cpu{core}"));
        let siblings = file(&place.join("topology/thread_siblings_list"));
        Core {
            governor: file(&place.join("cpufreq/scaling_governor")),
            siblings: siblings
                .known()
                .map(|text| parse::cores(text))
                .unwrap_or_default(),
            node: node_of(&place),
        }
    };
    let cpuinfo = file(Path::new("/proc/cpuinfo"));
    Cpu {
        flags: cpuinfo
            .known()
            .map(|text| parse::cpu_flags(text))
            .unwrap_or_default(),
        suites: config
            .map(|config| config.suites.clone())
            .unwrap_or_default(),
        usable,
        isolated: list("isolated"),
        nohz_full: list("nohz_full"),
        irqbalance: running("irqbalance"),
        cores: named
            .iter()
            .map(|&number| (number, core(number)))
            .collect::<BTreeMap<_, _>>(),
    }
}

/// The link `node3` in a core's directory.
fn node_of(core: &Path) -> Option<u32> {
    let entries = fs::read_dir(core).ok()?;
    entries.flatten().find_map(|entry| {
        entry
            .file_name()
            .to_str()?
            .strip_prefix("node")?
            .parse()
            .ok()
    })
}

/// Whether a process of this name runs, as far as /proc shows processes.
fn running(name: &str) -> Reading<bool> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Reading::Absent;
    };
    // Process 1 is always there: who does not see it, does not see all.
    if !Path::new("/proc/1/comm").exists() {
        return Reading::Denied;
    }
    let found = entries.flatten().any(|entry| {
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        is_process
            && file(&entry.path().join("comm"))
                .known()
                .is_some_and(|comm| comm == name)
    });
    Reading::Known(found)
}

fn files(config: Option<&Config>) -> Files {
    let tun = rustix::fs::open(
        "/dev/net/tun",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let tap_name = config.map_or("", |config| &config.tap.name);
    Files {
        tun: match tun {
            Ok(_) => Reading::Known(()),
            Err(Errno::ACCESS | Errno::PERM) => Reading::Denied,
            Err(_) => Reading::Absent,
        },
        tap_name: tap_name.to_owned(),
        tap_taken: sys::Ethtool::new(tap_name).is_some_and(|tap| tap.index().is_some()),
        state: config.map(|config| State {
            path: config.state_dir.display().to_string(),
            keyring: keyring(&config.state_dir),
        }),
        admin: config.map(|config| Admin {
            path: config.admin.socket.display().to_string(),
            state: admin(&config.admin.socket),
        }),
    }
}

/// By the keyring's own rules, but only where there is a directory: it would
/// make one.
fn keyring(directory: &Path) -> Reading<KeyringState> {
    match fs::metadata(directory) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = directory.parent().unwrap_or(Path::new("/"));
            return Reading::Known(if parent.is_dir() {
                KeyringState::Missing
            } else {
                KeyringState::NoParent
            });
        }
        Err(error) => return refused_keyring(&error, error.to_string()),
    }
    match Keyring::open(directory).and_then(|keyring| keyring.load()) {
        Ok(Some(loaded)) => Reading::Known(match loaded.fallback {
            None => KeyringState::Stored,
            Some(why) => KeyringState::Damaged(why),
        }),
        Ok(None) => Reading::Known(KeyringState::Empty),
        Err(KeyringError::Io { what, path, source }) => {
            let told = format!("cannot {what} {}: {source}", path.display());
            refused_keyring(&source, told)
        }
        // Of another user, which the daemon's may be.
        Err(KeyringError::Owner { .. }) if !rustix::process::geteuid().is_root() => Reading::Denied,
        Err(error) => Reading::Known(KeyringState::Refused(error.to_string())),
    }
}

fn refused_keyring(error: &io::Error, told: String) -> Reading<KeyringState> {
    if error.kind() == ErrorKind::PermissionDenied {
        Reading::Denied
    } else {
        Reading::Known(KeyringState::Refused(told))
    }
}

/// Knocks at the socket, as a start does; leaves it where it is.
fn admin(path: &Path) -> AdminState {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return AdminState::Free,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return AdminState::Denied,
        Err(error) => return AdminState::Refused(error.to_string()),
        Ok(meta) if !meta.file_type().is_socket() => return AdminState::NotASocket,
        Ok(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let knocked = SocketAddrUnix::new(path).and_then(|address| {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            // A full backlog: alive.
            Ok(()) | Err(Errno::AGAIN) => {
                let peer = rustix::net::sockopt::socket_peercred(&socket).ok();
                Ok(peer.map(|peer| peer.pid.as_raw_nonzero().get()))
            }
            Err(error) => Err(error),
        }
    });
    match knocked {
        Ok(pid) => AdminState::Served(pid),
        Err(Errno::CONNREFUSED) => AdminState::Dead,
        Err(Errno::NOENT) => AdminState::Free,
        Err(Errno::ACCESS | Errno::PERM) => AdminState::Denied,
        Err(error) => AdminState::Refused(error.to_string()),
    }
}
