//! Questions that only an ioctl or a socket option answers: what a driver says
//! by way of ethtool, and what AF_XDP of this kernel can do. All of them only
//! read. docs/unsafe.md lists this file. Imports `facts`.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::facts::AfXdp;

/// Takes a pointer to an ethtool command.
const SIOCETHTOOL: Opcode = 0x8946;
const NAME_LEN: usize = 16;

/// `struct ifreq`: a name, and here a pointer in 24 bytes.
#[repr(C)]
struct IfReq {
    name: [u8; NAME_LEN],
    pointer: *mut c_void,
    rest: [u64; 2],
}

/// An ethtool command (linux/ethtool.h) that only reads: its number, and the
/// 32-bit words that the kernel may write beside what its answer counts.
#[derive(Clone, Copy)]
pub(super) struct Command {
    number: u32,
    words: usize,
}

impl Command {
    /// `struct ethtool_drvinfo`: from word 1 on five texts of 32 bytes.
    pub(super) const DRIVER: Self = Self::new(0x03, 49);
    /// `struct ethtool_coalesce`.
    pub(super) const COALESCING: Self = Self::new(0x0e, 23);
    /// `struct ethtool_ringparam`.
    pub(super) const RINGS: Self = Self::new(0x10, 9);
    /// `struct ethtool_pauseparam`.
    pub(super) const PAUSE: Self = Self::new(0x12, 4);
    /// `struct ethtool_rxnfc`; the number of rules is word 46.
    pub(super) const FLOW_RULES: Self = Self::new(0x2e, 48);
    /// `struct ethtool_channels`.
    pub(super) const CHANNELS: Self = Self::new(0x3c, 9);
    /// `struct ethtool_sset_info` with one number behind it.
    const STRING_COUNT: Self = Self::new(0x37, 5);
    /// `struct ethtool_gstrings`, before its strings.
    const STRINGS: Self = Self::new(0x1b, 3);
    /// `struct ethtool_gfeatures`, before its blocks.
    const FEATURES: Self = Self::new(0x3a, 2);

    const fn new(number: u32, words: usize) -> Self {
        Self { number, words }
    }
}

/// The string set of features' names.
const ETH_SS_FEATURES: u32 = 4;
/// Bytes of a name in a string set.
const STRING_LEN: usize = 32;
/// More features than any kernel has.
const FEATURES_MAX: usize = 1024;
/// Words of a block of 32 features: available, requested, active, never changed.
const BLOCK_WORDS: usize = 4;

/// Asks one device of the caller's network namespace.
pub(super) struct Ethtool {
    socket: OwnedFd,
    name: [u8; NAME_LEN],
}

impl Ethtool {
    /// For the device of this name; `None` if no device can have it.
    pub(super) fn new(interface: &str) -> Option<Self> {
        let mut name = [0; NAME_LEN];
        name[..NAME_LEN - 1]
            .get_mut(..interface.len())?
            .copy_from_slice(interface.as_bytes());
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None).ok()?;
        Some(Self { socket, name })
    }

    /// The device's index; `None` if there is no such device.
    pub(super) fn index(&self) -> Option<u32> {
        let len = self.name.iter().position(|&byte| byte == 0)?;
        let name = std::str::from_utf8(&self.name[..len]).ok()?;
        rustix::net::netdevice::name_to_index(&self.socket, name).ok()
    }

    /// The answer in words, the command's number first; `None` if the driver
    /// does not tell.
    pub(super) fn ask(&self, command: Command) -> Option<Vec<u32>> {
        self.ask_with(command, &[], 0)
    }

    /// Features by name: whether each is on, and whether it can be changed.
    pub(super) fn features(&self) -> Option<Vec<(String, bool, bool)>> {
        let info = self.ask_with(Command::STRING_COUNT, &[0, 1 << ETH_SS_FEATURES], 0)?;
        let count = usize::try_from(*info.get(4)?).ok()?;
        if !(1..=FEATURES_MAX).contains(&count) {
            return None;
        }
        let words = u32::try_from(count).ok()?;
        let strings = self.ask_with(
            Command::STRINGS,
            &[ETH_SS_FEATURES, words],
            count * STRING_LEN / 4,
        )?;
        let blocks = count.div_ceil(32);
        let size = u32::try_from(blocks).ok()?;
        let bits = self.ask_with(Command::FEATURES, &[size], blocks * BLOCK_WORDS)?;
        let names = strings[Command::STRINGS.words..].chunks_exact(STRING_LEN / 4);
        let blocks = &bits[Command::FEATURES.words..];
        let bit = |index: usize, word: usize| {
            blocks[index / 32 * BLOCK_WORDS + word] & (1 << (index % 32)) != 0
        };
        let named = names.enumerate().map(|(index, name)| {
            let changeable = bit(index, 0) && !bit(index, 3);
            (text(name), bit(index, 2), changeable)
        });
        Some(named.filter(|(name, ..)| !name.is_empty()).collect())
    }

    /// As [`Self::ask`], with words that follow the command's number, and room
    /// for `extra` words behind the command's own.
    fn ask_with(&self, command: Command, arguments: &[u32], extra: usize) -> Option<Vec<u32>> {
        let mut words = vec![0; command.words + extra];
        words[0] = command.number;
        words[1..][..arguments.len()].copy_from_slice(arguments);
        let mut request = IfReq {
            name: self.name,
            pointer: words.as_mut_ptr().cast(),
            rest: [0; 2],
        };
        // SAFETY: SIOCETHTOOL reads and writes a `struct ifreq`, which `IfReq`
        // has the layout of, and follows its pointer to `words`, which nobody
        // else touches during the call. The kernel writes there no more than the
        // command's structure, plus a string or block for each that was counted
        // (a kernel's features are a constant of its build), all of which `words`
        // has room for.
        unsafe {
            ioctl(
                &self.socket,
                Updater::<SIOCETHTOOL, IfReq>::new(&mut request),
            )
        }
        .ok()?;
        Some(words)
    }
}

/// A text that ends with its words or its first zero.
pub(super) fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// Makes an AF_XDP socket, asks it, and closes it; it is never bound.
pub(super) fn af_xdp() -> AfXdp {
    /// linux/if_xdp.h, since Linux 6.17.
    const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
    let flags = SocketFlags::CLOEXEC;
    let socket = match socket_with(AddressFamily::XDP, SocketType::RAW, flags, None) {
        Ok(socket) => socket,
        Err(Errno::AFNOSUPPORT) => return AfXdp::Missing,
        Err(_) => return AfXdp::Denied,
    };
    let budget: u32 = 64;
    // 4 bytes.
    #[allow(clippy::cast_possible_truncation)]
    let len = size_of_val(&budget) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel reads `len` bytes of a live
    // `u32`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            std::ptr::from_ref(&budget).cast(),
            len,
        )
    };
    // A kernel that knows the option refuses it with EACCES here, for want of a
    // TX ring; one that does not says ENOPROTOOPT.
    let error = std::io::Error::last_os_error().raw_os_error();
    AfXdp::There {
        tx_budget: result == 0 || error == Some(libc::EACCES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers() {
        let lo = Ethtool::new("lo").unwrap();
        assert!(lo.index().is_some());
        let features = lo.features().unwrap();
        let find = |wanted: &str| features.iter().find(|(name, ..)| name == wanted);
        // Loopback's is fixed: its frames have no wire to be corrupted on.
        assert_eq!(
            find("loopback").map(|(_, on, changeable)| (*on, *changeable)),
            Some((true, false))
        );
        assert!(find("rx-gro").is_some(), "{features:?}");
        assert!(lo.ask(Command::CHANNELS).is_none());
    }

    #[test]
    fn impossible_names_are_no_devices() {
        for name in ["a-name-that-is-too-long", "sixteen-bytes-16"] {
            assert!(Ethtool::new(name).is_none(), "{name}");
        }
        let missing = Ethtool::new("no-such-dev").unwrap();
        assert_eq!(missing.index(), None);
        assert!(missing.ask(Command::DRIVER).is_none());
        assert_eq!(size_of::<IfReq>(), 40, "struct ifreq on 64-bit Linux");
    }

    #[test]
    fn texts_end_at_zero() {
        assert_eq!(text(&[u32::from_ne_bytes(*b"veth"), 0, 7]), "veth");
        assert_eq!(text(&[]), "");
    }
}
