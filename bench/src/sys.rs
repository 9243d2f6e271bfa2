//! System calls that no crate wraps. The only `unsafe` of this crate is here
//! and below. This file: AF_PACKET sockets. Imports `error` and `filter`.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::filter::Instruction;

pub(crate) mod alloc;
pub(crate) mod bpf;
pub(crate) mod mmsg;
pub(crate) mod xsk;

/// `ETH_P_ALL`: the hook before a bridge takes its port's frames; those bound
/// to one EtherType come after it and would see nothing.
const EVERY_PROTOCOL: u16 = 0x0003;

/// A raw socket on one network device, with a filter that runs in the kernel.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

/// Which frames a [`PacketSocket`] is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// Received by the device.
    Received,
    /// Received and sent.
    Both,
}

/// A length of something the kernel wants as an `int`.
fn option_len<T>() -> libc::socklen_t {
    // No socket option is anywhere near 4 GiB.
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

fn set_option<T>(fd: &OwnedFd, option: c_int, level: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which lives until
    // the call returns; the kernel only reads it. Callers pass the type that
    // the option wants.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            option_len::<T>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl PacketSocket {
    /// Opens a socket on `device` of the calling thread's network namespace.
    /// The filter is in place before the first frame can arrive.
    ///
    /// # Errors
    /// [`Error::Io`]: no such device, no CAP_NET_RAW.
    pub(crate) fn open(
        device: &str,
        direction: Direction,
        filter: &[Instruction],
        receive_buffer_bytes: usize,
    ) -> Result<Self> {
        let failed = |step: &str| format!("{step} a capture on {device}");
        // Protocol 0: nothing is delivered before `bind` names one.
        let fd = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(Error::errno(failed("open")))?;
        let index = rustix::net::netdevice::name_to_index(&fd, device)
            .map_err(Error::errno(failed("find the device of")))?;
        let socket = Self { fd };
        socket.attach(filter).map_err(Error::io(failed("filter")))?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket.fd, receive_buffer_bytes)
            .map_err(Error::errno(failed("size")))?;
        if direction == Direction::Received {
            let on: c_int = 1;
            set_option(
                &socket.fd,
                libc::PACKET_IGNORE_OUTGOING,
                libc::SOL_PACKET,
                &on,
            )
            .map_err(Error::io(failed("direct")))?;
        }
        socket.bind(index).map_err(Error::io(failed("bind")))?;
        Ok(socket)
    }

    fn attach(&self, filter: &[Instruction]) -> io::Result<()> {
        let mut program: Vec<libc::sock_filter> = filter
            .iter()
            .map(|i| libc::sock_filter {
                code: i.code,
                jt: i.jump_true,
                jf: i.jump_false,
                k: i.operand,
            })
            .collect();
        let handle = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(io::Error::other)?,
            filter: program.as_mut_ptr(),
        };
        // The kernel copies `program`, which lives until the end of this call.
        set_option(&self.fd, libc::SO_ATTACH_FILTER, libc::SOL_SOCKET, &handle)
    }

    fn bind(&self, index: u32) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
            sll_protocol: EVERY_PROTOCOL.to_be(),
            sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the pointer and the length describe `address`, which lives
        // until the call returns; the kernel only reads it.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                std::ptr::from_ref(&address).cast(),
                option_len::<libc::sockaddr_ll>(),
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Frames that passed the filter since the last call, whether or not
    /// there was room to keep them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn passed_since_last(&self) -> Result<u32> {
        let mut statistics = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut len = option_len::<libc::tpacket_stats>();
        // SAFETY: the kernel writes at most `len` bytes, the size of
        // `statistics`, which outlives the call; any bits are a valid value.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                std::ptr::from_mut(&mut statistics).cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Err(Error::io("read capture statistics")(
                io::Error::last_os_error(),
            ));
        }
        // The kernel has already added the drops to `tp_packets`.
        Ok(statistics.tp_packets)
    }

    /// Takes the next kept frame and says how many bytes of it are in
    /// `buffer`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`], also when the device is gone.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match rustix::net::recv(&self.fd, buffer, RecvFlags::empty()) {
            Ok((len, _)) => Ok(Some(len)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(errno) => Err(Error::errno("read a capture")(errno)),
        }
    }

    /// Puts a whole Ethernet frame on the wire.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        rustix::net::send(&self.fd, frame, SendFlags::empty())
            .map_err(Error::errno("send a raw frame"))?;
        Ok(())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
