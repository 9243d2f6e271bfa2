//! The two netlink sockets: one to ask and be answered, one that the kernel
//! tells changes to. Apart, so that a flood of changes never loses an answer.
//! Imports `notice`, `request`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout};

use super::notice::{Malformed, Notice, read};
use super::request::Request;

/// Longer than any message that is asked for: the kernel fills at most 32 KiB
/// with a dump (`NLMSG_GOODSIZE` and its growth in `netlink_dump`).
const DATAGRAM_LEN: usize = 32 * 1024;
/// What the kernel may keep for us of changes, in bytes. What is lost beyond
/// that is found out by asking.
const RECEIVE_BUFFER_LEN: usize = 1024 * 1024;
/// The kernel answers before the request returns; this is for a kernel that
/// does not.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Datagrams taken in one go, before everything else gets its turn.
const DATAGRAMS_A_PASS: usize = 256;
/// The same where the buffer has to be emptied: more than it can hold.
const DATAGRAMS_MAX: usize = 16_384;

/// Asks the kernel.
pub(super) struct Questions {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Questions {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; DATAGRAM_LEN],
        })
    }

    /// Asks, and gives all of the answer.
    ///
    /// # Errors
    /// The kernel's own, as it has answered; or `InvalidData`, `TimedOut`.
    pub(super) fn ask(&mut self, request: Request) -> io::Result<Vec<Notice>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request.to_bytes(self.sequence), 0)?;
        let mut answer = Vec::new();
        loop {
            let datagram = match receive(&self.socket, &mut self.buffer, RecvFlags::empty()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                datagram => datagram?,
            };
            for notice in read(datagram) {
                match notice.map_err(invalid)? {
                    // Of a question that was given up.
                    (sequence, _) if sequence != self.sequence => {}
                    (_, Notice::End(0)) => return Ok(answer),
                    (_, Notice::End(code)) => {
                        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                    }
                    (_, notice) => answer.push(notice),
                }
            }
        }
    }
}

/// Hears from the kernel.
pub(super) struct News {
    socket: Socket,
    buffer: Vec<u8>,
}

/// Why there may have been more than what was heard.
pub(super) struct Missed;

impl News {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_LEN)?;
        socket.bind_auto()?;
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
            libc::RTNLGRP_NEXTHOP,
        ] {
            socket.add_membership(group)?;
        }
        Ok(Self {
            socket,
            buffer: vec![0; DATAGRAM_LEN],
        })
    }

    /// Gives what waits to `each`, up to a bound.
    ///
    /// # Errors
    /// [`Missed`] if something was lost or could not be read. Then nothing
    /// waits any more: the kernel keeps dropping, without another word, until
    /// its buffer has been emptied once, and only what is asked after that
    /// holds.
    pub(super) fn take(&mut self, mut each: impl FnMut(Notice)) -> Result<(), Missed> {
        let mut missed = false;
        for taken in 0..DATAGRAMS_MAX {
            if taken == DATAGRAMS_A_PASS && !missed {
                break;
            }
            match receive(&self.socket, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(_) if missed => {}
                Ok(datagram) => {
                    for notice in read(datagram) {
                        match notice {
                            Ok((_, notice)) => each(notice),
                            Err(Malformed) => missed = true,
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // ENOBUFS: the buffer was full. Anything else is no better.
                Err(_) => missed = true,
            }
        }
        if missed { Err(Missed) } else { Ok(()) }
    }
}

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn receive<'a>(socket: &Socket, buffer: &'a mut [u8], flags: RecvFlags) -> io::Result<&'a [u8]> {
    loop {
        match rustix::net::recv(socket, &mut *buffer, flags | RecvFlags::TRUNC) {
            Ok((_, len)) => return buffer.get(..len).ok_or_else(|| invalid("cut short")),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
