//! Checks of an interface and of our privileges, before anything is attached.
//!
//! Imports `mac` and `sys`.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::mac::MacAddr;
use crate::sys::netdev::NetDev;

const IFF_UP: u16 = 1;
const IFF_LOOPBACK: u16 = 8;
const ARPHRD_ETHER: u16 = 1;

/// Smallest MTU in bytes: IPv6's minimum, below which a tap is of no use.
pub const MTU_MIN: u32 = 1280;

/// Largest MTU in bytes of which a frame fits one 4096-byte chunk after the
/// kernel's headroom (256), the Ethernet header and the shared-info tail (320).
pub const MTU_SINGLE_BUFFER: u32 = 3506;

/// Largest MTU in bytes, where the kernel joins several buffers to a frame.
pub const MTU_MAX: u32 = 9216;

/// The kernel that has AF_XDP frames of several buffers (`XDP_USE_SG`).
const KERNEL_MULTI_BUFFER: (u32, u32) = (6, 6);

/// The oldest kernel that is supported: major and minor version.
pub const KERNEL_FLOOR: (u32, u32) = (6, 1);

/// An interface as it was when it was checked.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Index in this network namespace.
    pub index: u32,
    /// Its own address.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Receive queues; `None` if the driver does not tell.
    pub rx_queues: Option<u32>,
    /// One end of a veth pair, whose NAPI runs on whichever core sends at the
    /// other, unless it was given a thread.
    pub is_veth: bool,
}

/// Why an interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// No device has this name here.
    #[error("interface {name:?} does not exist in this network namespace (see `ip link`)")]
    Missing {
        /// The name that was asked for.
        name: String,
    },
    /// Administratively down.
    #[error("interface {name:?} is down (`ip link set {name} up`)")]
    Down {
        /// Its name.
        name: String,
    },
    /// Loopback, or no Ethernet device.
    #[error("interface {name:?} is not an Ethernet device; choose a NIC, a veth or a VF")]
    NotEthernet {
        /// Its name.
        name: String,
    },
    /// Too small to carry a tap's frames.
    #[error("interface {name:?} has an MTU of {mtu} bytes; at least {MTU_MIN} are needed")]
    MtuTooSmall {
        /// Its name.
        name: String,
        /// In bytes.
        mtu: u32,
    },
    /// Longer frames than any that are supported.
    #[error(
        "interface {name:?} has an MTU of {mtu} bytes; at most {MTU_MAX} are supported \
         (`ip link set {name} mtu {MTU_MAX}`)"
    )]
    MtuTooLarge {
        /// Its name.
        name: String,
        /// In bytes.
        mtu: u32,
    },
    /// A frame would not fit one buffer, and the kernel does not join several.
    #[error(
        "interface {name:?} has an MTU of {mtu} bytes; above {MTU_SINGLE_BUFFER}, frames take \
         several buffers, for which Linux {}.{} or newer is needed, and this is {release} \
         (`ip link set {name} mtu {MTU_SINGLE_BUFFER}`)",
        KERNEL_MULTI_BUFFER.0,
        KERNEL_MULTI_BUFFER.1
    )]
    NoMultiBuffer {
        /// Its name.
        name: String,
        /// In bytes.
        mtu: u32,
        /// The kernel's release, as `uname -r` prints it.
        release: String,
    },
    /// The device has fewer queues.
    #[error(
        "interface {name:?} has {queues} receive queue(s), numbered from 0; there is no queue \
         {queue} (see `ethtool -l {name}`)"
    )]
    QueueMissing {
        /// Its name.
        name: String,
        /// The queue that was asked for.
        queue: u32,
        /// How many there are.
        queues: u32,
    },
    /// The kernel would not say.
    #[error("cannot read the {what} of interface {name:?}")]
    Unreadable {
        /// Its name.
        name: String,
        /// Which fact.
        what: &'static str,
        /// The kernel's error.
        source: std::io::Error,
    },
}

impl Interface {
    /// Looks an interface up and checks that it can carry Tipsec.
    ///
    /// # Errors
    /// [`InterfaceError`], naming the first thing that is wrong.
    pub fn check(name: &str) -> Result<Self, InterfaceError> {
        let owned = || name.to_owned();
        let unreadable = |what| {
            move |source| InterfaceError::Unreadable {
                name: name.to_owned(),
                what,
                source,
            }
        };
        let device = NetDev::find(name).map_err(|source| {
            if source.raw_os_error() == Some(Errno::NODEV.raw_os_error()) {
                InterfaceError::Missing { name: owned() }
            } else {
                unreadable("index")(source)
            }
        })?;
        let flags = device.flags().map_err(unreadable("flags"))?;
        let (kind, mac) = device.hardware_address().map_err(unreadable("address"))?;
        let mtu = device.mtu().map_err(unreadable("MTU"))?;
        if kind != ARPHRD_ETHER || flags & IFF_LOOPBACK != 0 {
            return Err(InterfaceError::NotEthernet { name: owned() });
        }
        if flags & IFF_UP == 0 {
            return Err(InterfaceError::Down { name: owned() });
        }
        check_mtu(name, mtu, &release())?;
        Ok(Self {
            name: owned(),
            index: device.index,
            mac: MacAddr(mac),
            mtu,
            rx_queues: device.rx_queues(),
            is_veth: device.driver().as_deref() == Some("veth"),
        })
    }

    /// Checks that the device has a receive queue of this number. A driver
    /// that does not tell how many it has is believed until bind.
    ///
    /// # Errors
    /// [`InterfaceError::QueueMissing`].
    pub fn check_queue(&self, queue: u32) -> Result<(), InterfaceError> {
        match self.rx_queues {
            Some(queues) if queue >= queues => Err(InterfaceError::QueueMissing {
                name: self.name.clone(),
                queue,
                queues,
            }),
            _ => Ok(()),
        }
    }
}

/// Whether frames of this MTU are carried on a kernel of this release.
fn check_mtu(name: &str, mtu: u32, release: &str) -> Result<(), InterfaceError> {
    let name = name.to_owned();
    match mtu {
        ..MTU_MIN => Err(InterfaceError::MtuTooSmall { name, mtu }),
        MTU_MIN..=MTU_SINGLE_BUFFER => Ok(()),
        _ if mtu > MTU_MAX => Err(InterfaceError::MtuTooLarge { name, mtu }),
        _ if version(release) < KERNEL_MULTI_BUFFER => Err(InterfaceError::NoMultiBuffer {
            name,
            mtu,
            release: release.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Why this process or kernel cannot run a data plane.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A capability is missing.
    #[error(
        "no privilege: {capability} is needed to {purpose}; start as root or give the capability \
         (systemd: AmbientCapabilities={capability})"
    )]
    MissingCapability {
        /// Its name, as in capabilities(7).
        capability: &'static str,
        /// What it is for.
        purpose: &'static str,
    },
    /// Locked memory is limited to less than a UMEM.
    #[error(
        "no privilege: RLIMIT_MEMLOCK is {limit_bytes} bytes and frame memory takes \
         {needed_bytes}; raise it (systemd: LimitMEMLOCK=infinity) or give CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// The limit.
        limit_bytes: u64,
        /// What one bearer needs.
        needed_bytes: u64,
    },
    /// The kernel is too old.
    #[error("kernel {release} is too old: {}.{} or newer is needed", KERNEL_FLOOR.0, KERNEL_FLOOR.1)]
    KernelTooOld {
        /// Its release, as `uname -r` prints it.
        release: String,
    },
}

/// Checks kernel version, capabilities and locked memory for bearers of
/// `umem_bytes` each.
///
/// # Errors
/// [`HostError`], naming the first thing that is missing.
pub fn check_host(umem_bytes: u64) -> Result<(), HostError> {
    check_kernel(&release())?;
    // Unreadable (a filter on capget): believe, and let the calls themselves fail.
    let Ok(sets) = capabilities(None) else {
        return Ok(());
    };
    let effective = sets.effective;
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
    for (any_of, capability, purpose) in needs {
        if !effective.intersects(any_of) {
            return Err(HostError::MissingCapability {
                capability,
                purpose,
            });
        }
    }
    let limit = getrlimit(Resource::Memlock).current;
    match limit {
        Some(limit_bytes)
            if limit_bytes < umem_bytes && !effective.contains(CapabilitySet::IPC_LOCK) =>
        {
            Err(HostError::LockedMemory {
                limit_bytes,
                needed_bytes: umem_bytes,
            })
        }
        _ => Ok(()),
    }
}

/// This kernel's release, as `uname -r` prints it.
fn release() -> String {
    let uname = rustix::system::uname();
    uname.release().to_string_lossy().into_owned()
}

/// Major and minor version of a release; zeros for what is not there.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|text| text.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn check_kernel(release: &str) -> Result<(), HostError> {
    if version(release) < KERNEL_FLOOR {
        return Err(HostError::KernelTooOld {
            release: release.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused_by_name() {
        assert!(check_kernel("6.1.0-13-amd64").is_ok());
        assert!(check_kernel("6.18.44").is_ok());
        assert!(check_kernel("10.0").is_ok());
        let error = check_kernel("5.15.0-91-generic").unwrap_err();
        assert_eq!(
            error.to_string(),
            "kernel 5.15.0-91-generic is too old: 6.1 or newer is needed"
        );
        assert!(check_kernel("garbage").is_err());
    }

    #[test]
    fn long_frames_need_a_kernel_that_joins_buffers() {
        let check = |mtu, release| check_mtu("eth0", mtu, release);
        assert!(check(1280, "6.1.0-13-amd64").is_ok());
        assert!(check(3506, "6.1.0-13-amd64").is_ok());
        assert!(check(3507, "6.6.0").is_ok() && check(9216, "6.18.44").is_ok());
        assert!(matches!(
            check(1279, "6.18"),
            Err(InterfaceError::MtuTooSmall { mtu: 1279, .. })
        ));
        assert!(matches!(
            check(9217, "6.18"),
            Err(InterfaceError::MtuTooLarge { mtu: 9217, .. })
        ));
        let error = check(3507, "6.1.0-13-amd64").unwrap_err();
        assert_eq!(
            error.to_string(),
            "interface \"eth0\" has an MTU of 3507 bytes; above 3506, frames take several \
             buffers, for which Linux 6.6 or newer is needed, and this is 6.1.0-13-amd64 \
             (`ip link set eth0 mtu 3506`)"
        );
    }

    #[test]
    fn missing_and_loopback_interfaces_are_named() {
        assert!(matches!(
            Interface::check("no-such-dev"),
            Err(InterfaceError::Missing { name }) if name == "no-such-dev"
        ));
        assert!(matches!(
            Interface::check("lo"),
            Err(InterfaceError::NotEthernet { .. })
        ));
    }

    #[test]
    fn queues_count_from_zero() {
        let mut interface = Interface {
            name: "eth0".into(),
            index: 1,
            mac: MacAddr::BROADCAST,
            mtu: 1500,
            rx_queues: Some(2),
            is_veth: false,
        };
        assert!(interface.check_queue(1).is_ok());
        assert!(matches!(
            interface.check_queue(2),
            Err(InterfaceError::QueueMissing { queues: 2, .. })
        ));
        interface.rx_queues = None;
        assert!(interface.check_queue(63).is_ok());
    }
}
