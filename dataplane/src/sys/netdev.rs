//! What only ioctls and libbpf tell about a network device.
//!
//! Asked of the kernel in the caller's network namespace: sysfs shows the
//! namespace that it was mounted in, which need not be the same.
//! Imports nothing from this crate.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Interface flags (`SIOCGIFFLAGS`, netdevice(7)).
const SIOCGIFFLAGS: Opcode = 0x8913;
/// MTU in bytes.
const SIOCGIFMTU: Opcode = 0x8921;
/// Hardware address and its type.
const SIOCGIFHWADDR: Opcode = 0x8927;
/// Takes a pointer to an ethtool command.
const SIOCETHTOOL: Opcode = 0x8946;
/// ethtool command: the driver, and what it says of itself.
const ETHTOOL_GDRVINFO: u32 = 0x03;
/// ethtool command: numbers of queues.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// Longest interface name in bytes, without the zero that ends it.
pub(crate) const NAME_LEN_MAX: usize = 15;

/// `struct ifreq`: a name and 24 bytes that depend on the request.
#[repr(C)]
struct IfReq {
    name: [u8; NAME_LEN_MAX + 1],
    data: Data,
}

#[repr(C)]
union Data {
    flags: u16,
    mtu: c_int,
    /// `struct sockaddr`: family (2 bytes, native), then the address.
    address: [u8; 24],
    pointer: *mut c_void,
}

/// `struct ethtool_channels` (linux/ethtool.h).
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_drvinfo` (linux/ethtool.h).
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    /// A string that ends with a zero, as all of them.
    driver: [u8; 32],
    /// Its version, the firmware's, the bus address and more; nothing of it is
    /// read.
    rest: [u8; 160],
}

/// A device of the caller's network namespace, by name.
pub(crate) struct NetDev {
    socket: OwnedFd,
    name: [u8; NAME_LEN_MAX + 1],
    /// Its index, as it was when this was made.
    pub(crate) index: u32,
}

impl NetDev {
    /// Finds a device; `ENODEV` if there is none of this name.
    pub(crate) fn find(name: &str) -> io::Result<Self> {
        let mut padded = [0; NAME_LEN_MAX + 1];
        let room = padded
            .get_mut(..name.len())
            .filter(|_| !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.contains('\0'))
            .ok_or(Errno::NODEV)?;
        room.copy_from_slice(name.as_bytes());
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let index = rustix::net::netdevice::name_to_index(&socket, name)?;
        Ok(Self {
            socket,
            name: padded,
            index,
        })
    }

    /// The interface flags (`IFF_UP` = 1, `IFF_LOOPBACK` = 8).
    pub(crate) fn flags(&self) -> io::Result<u16> {
        let request = self.request::<SIOCGIFFLAGS>(Data { address: [0; 24] })?;
        // SAFETY: every bit pattern is a u16, and all 24 bytes were initialised.
        Ok(unsafe { request.data.flags })
    }

    /// The MTU in bytes.
    pub(crate) fn mtu(&self) -> io::Result<u32> {
        let request = self.request::<SIOCGIFMTU>(Data { address: [0; 24] })?;
        // SAFETY: every bit pattern is a c_int, and all 24 bytes were initialised.
        Ok(u32::try_from(unsafe { request.data.mtu }).unwrap_or(0))
    }

    /// Hardware type (1 is Ethernet, `ARPHRD_*`) and address.
    pub(crate) fn hardware_address(&self) -> io::Result<(u16, [u8; 6])> {
        let request = self.request::<SIOCGIFHWADDR>(Data { address: [0; 24] })?;
        // SAFETY: every bit pattern is a byte array, and all 24 bytes were initialised.
        let bytes = unsafe { request.data.address };
        let [t0, t1, a, b, c, d, e, f, ..] = bytes;
        Ok((u16::from_ne_bytes([t0, t1]), [a, b, c, d, e, f]))
    }

    /// Receive queues in use; `None` if the driver does not tell.
    pub(crate) fn rx_queues(&self) -> Option<u32> {
        let mut channels = Channels {
            cmd: ETHTOOL_GCHANNELS,
            ..Channels::default()
        };
        // The kernel writes through this pointer during the call, in which
        // `channels` stays where it is and is not otherwise accessed.
        self.request::<SIOCETHTOOL>(Data {
            pointer: (&raw mut channels).cast(),
        })
        .ok()?;
        Some(channels.rx + channels.combined).filter(|&queues| queues > 0)
    }

    /// The driver's name; `None` if there is none, or it does not tell.
    pub(crate) fn driver(&self) -> Option<String> {
        let mut info = DriverInfo {
            cmd: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            rest: [0; 160],
        };
        // The kernel writes through this pointer during the call, in which
        // `info` stays where it is and is not otherwise accessed.
        self.request::<SIOCETHTOOL>(Data {
            pointer: (&raw mut info).cast(),
        })
        .ok()?;
        let name = info.driver.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    fn request<const OPCODE: Opcode>(&self, data: Data) -> io::Result<IfReq> {
        let mut request = IfReq {
            name: self.name,
            data,
        };
        // SAFETY: the four opcodes that this module uses read and write a
        // `struct ifreq`, which `IfReq` has the layout and size of; the pointer
        // that SIOCETHTOOL follows is valid by the two callers that pass it.
        unsafe { ioctl(&self.socket, Updater::<OPCODE, IfReq>::new(&mut request)) }?;
        Ok(request)
    }
}

/// Id of the XDP program attached to a device, in whichever mode.
pub(crate) fn xdp_program_id(ifindex: u32) -> io::Result<Option<u32>> {
    // Any mode, then generic, native and offload one by one: with several
    // attached the first question gets no answer.
    for flags in [0, 1 << 1, 1 << 2, 1 << 3] {
        let mut id = 0;
        let index = c_int::try_from(ifindex).map_err(|_| Errno::NODEV)?;
        // SAFETY: a plain question; `id` is a valid place for the answer.
        let result = unsafe { libxdp_sys::bpf_xdp_query_id(index, flags, &mut id) };
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        if id != 0 {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_tells_its_facts() {
        let lo = NetDev::find("lo").unwrap();
        assert_eq!(lo.flags().unwrap() & 8, 8, "IFF_LOOPBACK");
        assert!(lo.mtu().unwrap() > 0);
        assert_eq!(lo.hardware_address().unwrap(), (772, [0; 6]));
        assert_eq!(lo.rx_queues(), None);
        assert_eq!(lo.driver(), None);
        assert_eq!(xdp_program_id(lo.index).unwrap(), None);
    }

    #[test]
    fn impossible_names_are_missing_devices() {
        for name in ["", "no-such-dev", "a-name-that-is-too-long", "nul\0"] {
            assert!(NetDev::find(name).is_err(), "{name:?}");
        }
        assert_eq!(size_of::<IfReq>(), 40, "struct ifreq on 64-bit Linux");
        assert_eq!(size_of::<DriverInfo>(), 196, "struct ethtool_drvinfo");
    }
}
