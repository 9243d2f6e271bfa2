//! Which queues of a tap device the kernel may choose (`TUNSETQUEUE`).
//!
//! Imports nothing from this crate.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `TUNSETQUEUE` (linux/if_tun.h), declared there with an `int`; what it reads
/// is a `struct ifreq`.
const TUNSETQUEUE: Opcode = opcode::write::<i32>(b'T', 217);
/// `IFF_ATTACH_QUEUE`.
const ATTACH: u16 = 0x0200;
/// `IFF_DETACH_QUEUE`.
const DETACH: u16 = 0x0400;

/// `struct ifreq` with flags in its union; the name is not looked at.
#[repr(C)]
struct QueueRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// What a queue is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Queue {
    /// One of those that the kernel puts frames into.
    Attached,
    /// Left out, and emptied.
    Detached,
}

/// Attaches or detaches the queue behind `fd`; `EINVAL` if it is so already,
/// or the device has only one.
pub(crate) fn set_queue(fd: BorrowedFd<'_>, queue: Queue) -> io::Result<()> {
    let request = QueueRequest {
        name: [0; 16],
        flags: match queue {
            Queue::Attached => ATTACH,
            Queue::Detached => DETACH,
        },
        rest: [0; 22],
    };
    // SAFETY: the opcode reads a `struct ifreq`, which `QueueRequest` has the
    // layout and size of, and writes nothing.
    Ok(unsafe { ioctl(fd, Setter::<TUNSETQUEUE, QueueRequest>::new(request)) }?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(TUNSETQUEUE, 0x4004_54d9);
        assert_eq!(
            size_of::<QueueRequest>(),
            40,
            "struct ifreq on 64-bit Linux"
        );
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(set_queue(file.as_fd(), Queue::Detached).is_err());
    }
}
