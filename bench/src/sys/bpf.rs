//! XDP programs of others, by libbpf: to take one off a NIC as its owner would
//! not. Imports nothing.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libxdp_sys::{
    bpf_link_detach, bpf_link_get_fd_by_id, bpf_link_get_next_id, bpf_link_info,
    bpf_obj_get_info_by_fd,
};

/// Forces the link by which `program` is attached off its NIC. The program and
/// the link stay with their owner, who is not told.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::NotFound`] if no link holds the program.
pub(crate) fn detach(program: u32) -> io::Result<()> {
    let mut id = 0;
    loop {
        // SAFETY: a plain question; `id` is a valid place for the answer.
        let result = unsafe { bpf_link_get_next_id(id, &raw mut id) };
        if result < 0 {
            return Err(error(result));
        }
        // SAFETY: takes a number and returns a descriptor or an error.
        let fd = unsafe { bpf_link_get_fd_by_id(id) };
        if fd < 0 {
            // Gone since the last call.
            continue;
        }
        // SAFETY: the kernel has just opened it for us alone.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        if program_of(&link)? == program {
            // SAFETY: the descriptor is open.
            let result = unsafe { bpf_link_detach(link.as_raw_fd()) };
            return if result < 0 {
                Err(error(result))
            } else {
                Ok(())
            };
        }
    }
}

fn program_of(link: &OwnedFd) -> io::Result<u32> {
    // SAFETY: integers and unions of integers, for which zero is valid.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut len = u32::try_from(size_of::<bpf_link_info>()).unwrap_or(0);
    // SAFETY: the descriptor is open; the kernel writes at most `len` bytes,
    // the size of `info`, which outlives the call.
    let result = unsafe {
        bpf_obj_get_info_by_fd(
            link.as_raw_fd(),
            std::ptr::from_mut(&mut info).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(error(result));
    }
    Ok(info.prog_id)
}

/// libbpf answers with the negative error number.
fn error(result: i32) -> io::Error {
    io::Error::from_raw_os_error(-result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_nowhere_is_not_found() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED (needs root): links of BPF programs");
            return;
        }
        let error = detach(u32::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    }
}
