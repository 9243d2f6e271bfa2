//! Frames as they are on a wire: packet sockets, and a capture.

#![allow(unsafe_code)] // the address of a packet socket

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

use crate::lab::Lab;

/// Our EtherType, as configured by default.
pub(crate) const ETHERTYPE: [u8; 2] = [0x88, 0xB5];

const ETH_P_ALL: u16 = 3;
const BUFFER_LEN: usize = 32 << 20;

/// `struct sockaddr_ll` (packet(7)).
#[repr(C)]
struct LinkAddress {
    family: u16,
    /// Big endian.
    protocol: u16,
    ifindex: i32,
    /// Not read by bind.
    rest: [u8; 12],
}

// SAFETY: the closure gets a pointer to a live, initialised `sockaddr_ll` and
// its exact length.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f(std::ptr::from_ref(self).cast(), 20)
    }
}

/// A packet socket on one device: sees all its frames, both ways.
pub(crate) struct RawSocket(OwnedFd);

impl RawSocket {
    pub(crate) fn open(lab: &Lab, ns: &str, device: &str) -> Self {
        let socket = lab.inside(ns, || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (family, raw) = (AddressFamily::PACKET, SocketType::RAW);
            let socket = rustix::net::socket_with(family, raw, flags, None).unwrap();
            sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_LEN).unwrap();
            let ifindex = rustix::net::netdevice::name_to_index(&socket, device).unwrap();
            let address = LinkAddress {
                family: AddressFamily::PACKET.as_raw(),
                protocol: ETH_P_ALL.to_be(),
                ifindex: i32::try_from(ifindex).unwrap(),
                rest: [0; 12],
            };
            // The kernel takes a tag off what arrives, and tells it beside.
            switch_on(&socket, libc::PACKET_AUXDATA);
            rustix::net::bind(&socket, &address).unwrap();
            socket
        });
        Self(socket)
    }

    /// From now on frames leave by the device's queue whose number is that of
    /// the sending thread's core, modulo queues (`packet_pick_tx_queue` in the
    /// kernel), and on a veth arrive in the other end's queue of that number.
    pub(crate) fn choose_queue_by_core(&self) {
        switch_on(&self.0, libc::PACKET_QDISC_BYPASS);
    }

    /// Sends a frame; false if the device's queue is full.
    pub(crate) fn send(&self, frame: &[u8]) -> bool {
        match rustix::net::send(&self.0, frame, SendFlags::empty()) {
            Ok(_) => true,
            Err(Errno::AGAIN | Errno::NOBUFS) => false,
            Err(error) => panic!("a frame of {} bytes: {error}", frame.len()),
        }
    }

    /// The next frame as it was on the wire, with its tag if it had one.
    fn receive(&self, buffer: &mut [u8]) -> Option<Vec<u8>> {
        let mut place = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let mut beside = [0_u64; 8];
        // SAFETY: all of a msghdr may be zero.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut place;
        message.msg_iovlen = 1;
        message.msg_control = beside.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&beside);
        // SAFETY: the descriptor is open, and what the message points to lives
        // on, with the lengths that it says.
        let len = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        let Ok(len) = usize::try_from(len) else {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "capture");
            return None;
        };
        let mut frame = buffer[..len].to_vec();
        // SAFETY: the kernel has written the message and what lies beside it.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
        if let Some(first) = first.filter(|first| first.cmsg_type == libc::PACKET_AUXDATA) {
            // SAFETY: what follows this header is a tpacket_auxdata (packet(7)).
            let told: libc::tpacket_auxdata = unsafe {
                libc::CMSG_DATA(first)
                    .cast::<libc::tpacket_auxdata>()
                    .read_unaligned()
            };
            if told.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                let tag = [told.tp_vlan_tpid, told.tp_vlan_tci].map(u16::to_be_bytes);
                frame.splice(12..12, tag.concat());
            }
        }
        Some(frame)
    }

    fn wait(&self) {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let patience = Timespec::try_from(Duration::from_millis(20)).unwrap();
        let _ = poll(&mut fds, Some(&patience));
    }
}

/// Sets an option of packet sockets to 1.
fn switch_on(socket: &OwnedFd, option: libc::c_int) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the kernel reads the 4 bytes of a
    // live integer (packet(7)).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            std::ptr::from_ref(&on).cast(),
            4,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Records frames until it is asked for them.
pub(crate) struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Vec<u8>>>>,
}

impl Capture {
    /// Records the frames of a device that `keep` wants.
    pub(crate) fn start(
        lab: &Lab,
        ns: &str,
        device: &str,
        keep: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> Self {
        let socket = RawSocket::open(lab, ns, device);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            let mut frames = Vec::new();
            loop {
                // Asked before reading, so that what came before is read.
                let last = stopped.load(Ordering::Relaxed);
                while let Some(frame) = socket.receive(&mut buffer) {
                    if keep(&frame) {
                        frames.push(frame);
                    }
                }
                if last {
                    return frames;
                }
                socket.wait();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends and gives the frames.
    pub(crate) fn finish(mut self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether a frame is Tipsec's.
pub(crate) fn is_tipsec(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ETHERTYPE)
}

/// Whether a frame is Tipsec's and carries data.
pub(crate) fn is_data(frame: &[u8]) -> bool {
    is_tipsec(frame) && frame.get(14) == Some(&0x10)
}

/// Destination, SPI and packet number of a data frame: names one use of one
/// key.
pub(crate) fn nonce_of(frame: &[u8]) -> ([u8; 6], u32, u64) {
    let field = |at: usize| *frame[at..].first_chunk().unwrap();
    let spi = u32::from_be_bytes(*frame[18..].first_chunk().unwrap());
    let number = u64::from_be_bytes(*frame[22..].first_chunk().unwrap());
    (field(0), spi, number)
}
