//! The kernel socket that control frames take: AF_PACKET, one per interface.
//!
//! The XDP program passes handshakes and beacons on to the kernel; data frames
//! never come here. docs/unsafe.md lists this file.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};
use tipsec_dataplane::mac::MacAddr;
use tipsec_xdp::wire::{ETH_HEADER_LEN, GROUP_MAC, MAX_CONTROL_FRAME_LEN};

/// What the kernel may keep for us, in bytes: some 500 control frames.
const RECEIVE_BUFFER_LEN: usize = 512 * 1024;

/// Sends and receives control frames on one interface.
pub struct PacketSocket {
    socket: OwnedFd,
    ethertype: u16,
    address: MacAddr,
}

/// `struct sockaddr_ll` (packet(7)) with the fields that bind reads.
#[repr(C)]
struct PacketAddress {
    family: u16,
    /// Big endian.
    protocol: u16,
    ifindex: i32,
    hatype: u16,
    pkttype: u8,
    halen: u8,
    addr: [u8; 8],
}

// SAFETY: the closure gets a pointer to a live, initialised `sockaddr_ll` and
// its exact length.
unsafe impl SocketAddrArg for PacketAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        // 20 bytes.
        #[allow(clippy::cast_possible_truncation)]
        f(
            std::ptr::from_ref(self).cast(),
            size_of::<Self>() as SocketAddrLen,
        )
    }
}

/// Asks the NIC for frames to the group of beacons, which its filter may keep
/// back otherwise; the kernel takes the wish back when the socket closes.
fn join_group(socket: &OwnedFd, ifindex: i32) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&GROUP_MAC);
    let request = libc::packet_mreq {
        mr_ifindex: ifindex,
        #[allow(clippy::cast_possible_truncation)] // it is 0
        mr_type: libc::PACKET_MR_MULTICAST as libc::c_ushort,
        mr_alen: 6,
        mr_address: address,
    };
    // 16 bytes.
    #[allow(clippy::cast_possible_truncation)]
    let len = size_of_val(&request) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel reads `len` bytes of a live,
    // initialised packet_mreq (packet(7)).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            std::ptr::from_ref(&request).cast(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl PacketSocket {
    /// Opens a socket for frames of `ethertype` on the interface with this
    /// index and address.
    ///
    /// # Errors
    /// The kernel's: no CAP_NET_RAW, or the interface is gone.
    pub fn open(ifindex: u32, ethertype: u16, address: MacAddr) -> io::Result<Self> {
        // Protocol 0 receives nothing: not a frame before it is bound.
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None::<Protocol>,
        )?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_LEN)?;
        let address_ll = PacketAddress {
            family: AddressFamily::PACKET.as_raw(),
            protocol: ethertype.to_be(),
            ifindex: i32::try_from(ifindex).map_err(io::Error::other)?,
            hatype: 0,
            pkttype: 0,
            halen: 0,
            addr: [0; 8],
        };
        rustix::net::bind(&socket, &address_ll)?;
        join_group(&socket, address_ll.ifindex)?;
        Ok(Self {
            socket,
            ethertype,
            address,
        })
    }

    /// Frames that the kernel had no room for since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        let mut counts = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        // 8 bytes.
        #[allow(clippy::cast_possible_truncation)]
        let mut len = size_of_val(&counts) as libc::socklen_t;
        // SAFETY: the descriptor is open, and the kernel writes at most `len`
        // bytes to a live tpacket_stats, for which every bit pattern is valid.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                std::ptr::from_mut(&mut counts).cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            counts.tp_drops.into()
        } else {
            0
        }
    }

    /// Sends a control frame, given from its Tipsec header on. One that the
    /// kernel does not take now is lost like any on the wire; it is repeated.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&self, to: MacAddr, frame: &[u8]) -> io::Result<()> {
        let mut bytes = [0; MAX_CONTROL_FRAME_LEN];
        let len = ETH_HEADER_LEN + frame.len();
        let Some(bytes) = bytes.get_mut(..len) else {
            return Err(io::Error::other("control frame is too long"));
        };
        bytes[0..6].copy_from_slice(&to.0);
        bytes[6..12].copy_from_slice(&self.address.0);
        bytes[12..14].copy_from_slice(&self.ethertype.to_be_bytes());
        bytes[14..].copy_from_slice(frame);
        rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// The next frame that waits: its source address, and its bytes from the
    /// Tipsec header on.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<(MacAddr, &'a [u8])> {
        loop {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, len)) => {
                    let frame = buffer.get(..len)?;
                    let source = MacAddr(*frame.get(6..12)?.first_chunk()?);
                    return Some((source, frame.get(ETH_HEADER_LEN..)?));
                }
                Err(rustix::io::Errno::INTR) => {}
                // Nothing there, or the interface went down: either way nothing
                // to read. The bearer notices a lost device.
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
