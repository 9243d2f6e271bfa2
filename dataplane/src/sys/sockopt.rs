//! Socket options that rustix has no name for: plain numbers.
//!
//! Imports nothing from this crate.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// An option whose value is one `int` or `unsigned int`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NumberOption {
    /// As in the kernel's headers.
    pub(crate) name: &'static str,
    level: c_int,
    number: c_int,
}

impl NumberOption {
    /// Descriptors that the kernel takes from the TX ring in one call in copy
    /// mode: 32 to the ring's size. Linux 6.17, linux/if_xdp.h.
    pub(crate) const MAX_TX_SKB_BUDGET: Self = Self {
        name: "XDP_MAX_TX_SKB_BUDGET",
        level: libc::SOL_XDP,
        number: 9,
    };

    /// Whether the device's own interrupts are held back while this socket
    /// polls: 0 or 1. Needs `CAP_NET_ADMIN` to set.
    pub(crate) const PREFER_BUSY_POLL: Self = Self {
        name: "SO_PREFER_BUSY_POLL",
        level: libc::SOL_SOCKET,
        number: libc::SO_PREFER_BUSY_POLL,
    };

    /// Microseconds that a call which finds nothing polls the device; for
    /// AF_XDP, which never blocks, any but 0 is one round. Needs
    /// `CAP_NET_ADMIN` to raise.
    pub(crate) const BUSY_POLL: Self = Self {
        name: "SO_BUSY_POLL",
        level: libc::SOL_SOCKET,
        number: libc::SO_BUSY_POLL,
    };

    /// Most frames of one round.
    pub(crate) const BUSY_POLL_BUDGET: Self = Self {
        name: "SO_BUSY_POLL_BUDGET",
        level: libc::SOL_SOCKET,
        number: libc::SO_BUSY_POLL_BUDGET,
    };

    /// Sets it.
    ///
    /// # Errors
    /// `NOPROTOOPT` if the kernel does not know the option; else why it does
    /// not take the value.
    pub(crate) fn set(self, socket: impl AsFd, value: u32) -> Result<(), Errno> {
        #[allow(clippy::cast_possible_truncation)] // 4
        let len = size_of::<u32>() as libc::socklen_t;
        // SAFETY: the descriptor is borrowed, so it is open; the pointer and
        // the length describe `value`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                self.level,
                self.number,
                (&raw const value).cast(),
                len,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(last_error()),
        }
    }
}

/// What the call that just failed left behind.
fn last_error() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketType, socket};

    use super::*;

    #[test]
    fn option_of_another_family_is_refused() {
        let udp = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        let result = NumberOption::MAX_TX_SKB_BUDGET.set(&udp, 64);
        assert!(
            matches!(result, Err(Errno::NOPROTOOPT | Errno::OPNOTSUPP)),
            "{result:?}"
        );
    }
}
