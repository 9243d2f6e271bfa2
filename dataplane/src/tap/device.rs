//! The kernel's tap device, made by tun-rs and read and written directly.
//!
//! The device has a virtio-net header before each frame and offers the host to
//! cut large TCP frames (Linux 2.6.27), and large UDP ones where the kernel has
//! that (6.2). Imports `ids`, `mac`, `tap` and `sys`.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::TapPort;
use super::vnet::{VNET_LEN, VnetBytes};
use crate::ids::NodeId;
use crate::mac::MacAddr;
use crate::sys::netdev::{NAME_LEN_MAX, NetDev};
use crate::sys::tun;

/// Most queues of a device (`MAX_TAP_QUEUES` in the kernel's tun driver).
pub const QUEUES_MAX: usize = 256;

/// Frames taken off a queue that is about to be detached, at most: as many as
/// it holds (`TUN_READQ_SIZE`), unless its transmit queue was made longer.
const DRAINED_MAX: u64 = 500;

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
    /// No device has so many queues.
    #[error("tap {name:?} cannot have {queues} queues: 1 to {QUEUES_MAX}")]
    BadQueues {
        /// The device.
        name: String,
        /// The number that was asked for.
        queues: usize,
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

/// A tap device; it disappears when this and all its queues are dropped or the
/// process ends.
pub struct Tap {
    name: String,
    cuts_udp: bool,
    queues: Vec<TapQueue>,
}

/// One queue of a tap device, for one worker. The kernel steers a connection
/// to the queue that last wrote a frame of it, others by their hash.
pub struct TapQueue {
    fd: OwnedFd,
    /// One of several; the only queue of a device cannot be detached.
    is_detachable: bool,
}

impl Tap {
    /// Makes the device with this many queues, sets addresses and MTU, and
    /// brings it up. A device with one queue is made without the flag for
    /// several: it then has one transmit queue in the kernel instead of 256,
    /// and no steering.
    ///
    /// # Errors
    /// [`TapError`]; then no device is left behind.
    pub fn create(config: &TapConfig, queues: usize) -> Result<Self, TapError> {
        let name = config.name.clone();
        let plausible = (1..=NAME_LEN_MAX).contains(&name.len())
            && !name.contains(|c: char| c == '/' || c == '%' || c == '\0' || c.is_whitespace())
            && name != "."
            && name != "..";
        if !plausible {
            return Err(TapError::BadName { name });
        }
        if !(1..=QUEUES_MAX).contains(&queues) {
            return Err(TapError::BadQueues { name, queues });
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
        match open(config, queues) {
            Ok((queues, cuts_udp)) => Ok(Self {
                name,
                cuts_udp,
                queues,
            }),
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

    /// Whether the kernel hands over large UDP frames too (Linux 6.2).
    pub fn cuts_udp(&self) -> bool {
        self.cuts_udp
    }

    /// Its queues, as many as were asked for.
    pub fn into_queues(self) -> Vec<TapQueue> {
        self.queues
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

/// The queues of a new device, and whether the kernel cuts UDP for it.
fn open(config: &TapConfig, queues: usize) -> io::Result<(Vec<TapQueue>, bool)> {
    let mut builder = DeviceBuilder::new()
        .name(&config.name)
        .layer(Layer::L2)
        .mtu(config.mtu)
        .mac_addr(MacAddr::of_tap(config.node).0)
        // Asks for TCP first, and then for UDP, which may be refused.
        .offload(true)
        .multi_queue(queues > 1)
        .enable(false);
    if let Some((address, prefix)) = config.ipv4 {
        builder = builder.ipv4(address, prefix, None);
    }
    if let Some((address, prefix)) = config.ipv6 {
        builder = builder.ipv6(address, prefix);
    }
    let device = builder.build_sync()?;
    let queue_of = |device: &SyncDevice| -> io::Result<TapQueue> {
        device.set_nonblocking(true)?;
        // The device lives as long as a descriptor; of tun-rs nothing else is
        // needed.
        Ok(TapQueue {
            fd: device.as_fd().try_clone_to_owned()?,
            is_detachable: queues > 1,
        })
    };
    let mut made = vec![queue_of(&device)?];
    while made.len() < queues {
        made.push(queue_of(&device.try_clone()?)?);
    }
    // Before the device is up, and anything is resolved over it.
    hasten_resolution(&config.name);
    device.enabled(true)?;
    Ok((made, device.udp_gso()))
}

impl TapPort for TapQueue {
    fn read(
        &mut self,
        header: &mut VnetBytes,
        room: &mut [u8],
        overflow: &mut [u8],
    ) -> io::Result<Option<usize>> {
        let mut parts = [header, room, overflow].map(IoSliceMut::new);
        match rustix::io::readv(&self.fd, &mut parts) {
            Ok(length) => Ok(Some(length.saturating_sub(VNET_LEN))),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, header: &VnetBytes, frame: &[u8]) -> io::Result<bool> {
        match rustix::io::writev(&self.fd, &[header, frame].map(IoSlice::new)) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => Ok(false),
            // EINVAL: not this frame. EIO: the interface is down. EBADFD: the
            // device was deleted.
            Err(error) => Err(error.into()),
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    /// The kernel throws away what it finds in the queue and counts nothing,
    /// so this takes out and counts what is there before; what arrives in
    /// between is lost uncounted.
    fn detach(&mut self) -> io::Result<u64> {
        if !self.is_detachable {
            return Ok(0);
        }
        let mut waiting = 0;
        while waiting < DRAINED_MAX && self.read(&mut [0; VNET_LEN], &mut [], &mut [])?.is_some() {
            waiting += 1;
        }
        tun::set_queue(self.fd.as_fd(), tun::Queue::Detached)?;
        Ok(waiting)
    }

    fn attach(&mut self) -> io::Result<()> {
        match self.is_detachable {
            true => tun::set_queue(self.fd.as_fd(), tun::Queue::Attached),
            false => Ok(()),
        }
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
                matches!(Tap::create(&config(name), 1), Err(TapError::BadName { .. })),
                "{name:?}"
            );
        }
        let mut prefix = config("tipsec-test");
        prefix.ipv4 = Some((Ipv4Addr::LOCALHOST, 33));
        assert!(matches!(
            Tap::create(&prefix, 1),
            Err(TapError::BadPrefix { prefix: 33, .. })
        ));
        assert!(matches!(
            Tap::create(&config("lo"), 1),
            Err(TapError::NameTaken { .. })
        ));
        for queues in [0, QUEUES_MAX + 1] {
            assert!(matches!(
                Tap::create(&config("tipsec-test"), queues),
                Err(TapError::BadQueues { .. })
            ));
        }
    }
}
