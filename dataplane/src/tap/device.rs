//! The kernel's tap device, made by tun-rs and read and written directly.
//!
//! Imports `ids`, `mac`, `tap` and `sys`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use tun_rs::{DeviceBuilder, Layer};

use super::TapPort;
use crate::ids::NodeId;
use crate::mac::MacAddr;
use crate::sys::netdev::{NAME_LEN_MAX, NetDev};

/// Between two requests for one neighbour's address, in milliseconds.
const RESOLUTION_RETRY_MS: &str = "100";

/// What the operator sets of a tap device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TapConfig {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Whose address it gets: [`MacAddr::of_tap`].
    pub node: NodeId,
    /// In bytes: the bearer's less [`crate::frame::TAP_OVERHEAD`] or smaller.
    pub mtu: u16,
    /// Address and prefix length in bits.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// Address and prefix length in bits.
    pub ipv6: Option<(Ipv6Addr, u8)>,
}

/// Why there is no tap device.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name cannot be a device's.
    #[error(
        "tap name {name:?} is not a device name: 1 to {NAME_LEN_MAX} bytes without `/` or spaces"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// A device has the name already.
    #[error(
        "tap {name:?} cannot be made: a device of that name exists; stop the other tipsecd, \
         delete it with `ip link del {name}`, or configure another name"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A prefix is longer than an address.
    #[error("tap {name:?}: a prefix of {prefix} bits is too long")]
    BadPrefix {
        /// The device.
        name: String,
        /// In bits.
        prefix: u8,
    },
    /// The kernel has no tun/tap driver.
    #[error("tap {name:?} cannot be made: no /dev/net/tun (`modprobe tun`)")]
    NoDriver {
        /// The device.
        name: String,
    },
    /// Not allowed.
    #[error("tap {name:?} cannot be made: no privilege, CAP_NET_ADMIN is needed")]
    NoPrivilege {
        /// The device.
        name: String,
    },
    /// Anything else.
    #[error("tap {name:?} cannot be made")]
    Io {
        /// The device.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
}

/// A tap device; it disappears when this is dropped or the process ends.
pub struct Tap {
    fd: OwnedFd,
    name: String,
}

impl Tap {
    /// Makes the device, sets addresses and MTU, and brings it up.
    ///
    /// # Errors
    /// [`TapError`]; then no device is left behind.
    pub fn create(config: &TapConfig) -> Result<Self, TapError> {
        let name = config.name.clone();
        let plausible = (1..=NAME_LEN_MAX).contains(&name.len())
            && !name.contains(|c: char| c == '/' || c == '%' || c == '\0' || c.is_whitespace())
            && name != "."
            && name != "..";
        if !plausible {
            return Err(TapError::BadName { name });
        }
        let too_long = |prefix, max| (prefix > max).then_some(prefix);
        let bad = (config.ipv4.and_then(|(_, prefix)| too_long(prefix, 32)))
            .or(config.ipv6.and_then(|(_, prefix)| too_long(prefix, 128)));
        if let Some(prefix) = bad {
            return Err(TapError::BadPrefix { name, prefix });
        }
        // The kernel would attach us to a persistent tap of that name.
        if NetDev::find(&name).is_ok() {
            return Err(TapError::NameTaken { name });
        }
        match open(config) {
            Ok(fd) => Ok(Self { fd, name }),
            Err(source) => Err(match Errno::from_io_error(&source) {
                Some(Errno::BUSY | Errno::EXIST) => TapError::NameTaken { name },
                Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => TapError::NoDriver { name },
                Some(Errno::PERM | Errno::ACCESS) => TapError::NoPrivilege { name },
                _ => TapError::Io { name, source },
            }),
        }
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Lets the kernel repeat a request for a neighbour's address after a tenth of
/// a second instead of a whole one: at a start applications ask before there
/// are keys, and a node that comes back should not be silent for the rest of
/// that second. Where it cannot be written (no IPv6, a read-only /proc/sys),
/// the kernel's second stays: slower, nothing worse.
fn hasten_resolution(name: &str) {
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/neigh/{name}/retrans_time_ms");
        let _ = std::fs::write(path, RESOLUTION_RETRY_MS);
    }
}

fn open(config: &TapConfig) -> io::Result<OwnedFd> {
    let mut builder = DeviceBuilder::new()
        .name(&config.name)
        .layer(Layer::L2)
        .mtu(config.mtu)
        .mac_addr(MacAddr::of_tap(config.node).0)
        .enable(false);
    if let Some((address, prefix)) = config.ipv4 {
        builder = builder.ipv4(address, prefix, None);
    }
    if let Some((address, prefix)) = config.ipv6 {
        builder = builder.ipv6(address, prefix);
    }
    let device = builder.build_sync()?;
    // Before the device is up, and anything is resolved over it.
    hasten_resolution(&config.name);
    device.enabled(true)?;
    device.set_nonblocking(true)?;
    // The device lives as long as its descriptor; of tun-rs nothing else is needed.
    device.as_fd().try_clone_to_owned()
}

impl TapPort for Tap {
    fn read(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.fd, room) {
            Ok(length) => Ok(Some(length)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<bool> {
        match rustix::io::write(&self.fd, frame) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => Ok(false),
            // EIO: the interface is down. EBADFD: the device was deleted.
            Err(error) => Err(error.into()),
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str) -> TapConfig {
        TapConfig {
            name: name.into(),
            node: NodeId::new(7).unwrap(),
            mtu: 1400,
            ipv4: None,
            ipv6: None,
        }
    }

    #[test]
    fn bad_settings_are_refused_before_the_kernel_sees_them() {
        for name in ["", "sixteen-bytes-xx", "a/b", "a b", "tap%d", ".."] {
            assert!(
                matches!(Tap::create(&config(name)), Err(TapError::BadName { .. })),
                "{name:?}"
            );
        }
        let mut prefix = config("tipsec-test");
        prefix.ipv4 = Some((Ipv4Addr::LOCALHOST, 33));
        assert!(matches!(
            Tap::create(&prefix),
            Err(TapError::BadPrefix { prefix: 33, .. })
        ));
        assert!(matches!(
            Tap::create(&config("lo")),
            Err(TapError::NameTaken { .. })
        ));
    }
}
