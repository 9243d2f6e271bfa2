//! Socket options that rustix has no name for, and socket filters: programs of
//! classic BPF that the kernel asks before a frame enters a socket's queue.
//!
//! Imports nothing from this crate. docs/unsafe.md lists this file.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Loads what lies at an offset, in 1 or 4 bytes.
pub(super) const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
pub(super) const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
pub(super) const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
pub(super) const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
/// Takes so many bytes of the frame; 0: refuses it.
pub(super) const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

pub(super) fn statement(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

/// Jumps over `jt` statements if the test holds, over `jf` if it does not.
#[allow(clippy::cast_possible_truncation)] // codes have 16 bits
pub(super) fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    let code = code as u16;
    libc::sock_filter { code, jt, jf, k }
}

/// A value that an option can have: all of its bytes are initialised, none is
/// part of a pointer, and any others would do as well.
///
/// # Safety
/// The type has no padding, no pointer that the kernel would follow, and no bit
/// pattern that is not valid.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: a number.
unsafe impl Plain for libc::c_int {}
// SAFETY: an int, two shorts and eight bytes, each aligned behind the other.
unsafe impl Plain for libc::packet_mreq {}
// SAFETY: two numbers.
unsafe impl Plain for libc::tpacket_stats {}
// SAFETY: numbers.
unsafe impl<const N: usize> Plain for [u32; N] {}

/// Sets an option; `T` is the kernel's type for it.
///
/// # Errors
/// The kernel's.
pub(super) fn set<T: Plain>(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: the kernel reads a live value and nothing beyond (`Plain`).
    unsafe { set_any(socket, level, option, &value) }
}

/// Reads an option over `value`, as much of it as the kernel has; `T` is the
/// kernel's type for it. `None` if the kernel does not tell.
pub(super) fn get<T: Plain>(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    mut value: T,
) -> Option<T> {
    // At most 36 bytes.
    #[allow(clippy::cast_possible_truncation)]
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `len` bytes to
    // a live value for which any are valid (`Plain`).
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    };
    (result == 0).then_some(value)
}

/// Gives a socket a filter, in place of the one that it has.
///
/// # Errors
/// The kernel's, which checks the program.
pub(super) fn attach_filter(
    socket: &impl AsFd,
    program: &mut [libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the pointer is to as many instructions as `len` says, and they
    // live until this returns; the kernel copies them.
    unsafe { set_any(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program) }
}

/// # Safety
/// Whatever `value` points to must be there.
unsafe fn set_any<T>(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // At most 16 bytes.
    #[allow(clippy::cast_possible_truncation)]
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is open, the kernel reads `len` bytes of a live value
    // (socket(7)), and the caller answers for what it points to.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
