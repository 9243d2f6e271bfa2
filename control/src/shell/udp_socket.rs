//! The kernel sockets that control frames over UDP take: one bound to the
//! bearer's own address, one to the group of beacons.
//!
//! They are there as long as the daemon, so that the kernel never answers a
//! peer's frame with "port unreachable". The XDP program passes handshakes and
//! beacons on to the kernel; what it cannot judge, a packet with IP options or
//! extension headers, it passes too, and a socket filter here refuses it.
//! Imports `sockopt`'s.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
use tipsec_xdp::wire::{GROUP_IPV4, GROUP_IPV6, Kind, PROTOCOL_UDP, UDP_HEADER_LEN};

use super::sockopt::{
    AND, JUMP_IF_EQUAL, LOAD_BYTE, RETURN, attach_filter, get, jump, set, statement,
};

/// What the kernel may keep for us, in bytes: some 500 control frames.
const RECEIVE_BUFFER_LEN: usize = 512 * 1024;
/// Beacons stay on the link.
const GROUP_TTL: u32 = 1;
/// Index of the drops in what `SO_MEMINFO` gives (`linux/sock_diag.h`).
const MEMINFO_DROPS: usize = 8;
/// `SO_BINDTOIFINDEX` (`asm-generic/socket.h`, Linux 5.0).
const SO_BINDTOIFINDEX: libc::c_int = 62;

/// Sends and receives control frames at one address of one interface.
pub struct UdpSocket {
    socket: OwnedFd,
    /// The group's address, and the socket that receives there.
    group: Option<(SocketAddr, OwnedFd)>,
    /// Drops that [`Self::take_dropped`] has told of.
    dropped: Cell<u64>,
}

impl UdpSocket {
    /// Opens sockets at `own`, an address of the interface with this index;
    /// with `multicast`, joins the group of beacons there.
    ///
    /// # Errors
    /// The kernel's: no CAP_NET_RAW, the port is taken, the interface is gone.
    pub fn open(ifindex: u32, own: SocketAddr, multicast: bool) -> io::Result<Self> {
        let socket = bound(ifindex, own)?;
        let group = match own.ip() {
            _ if !multicast => None,
            IpAddr::V4(_) => {
                sockopt::set_ip_multicast_if_with_ifindex(
                    &socket,
                    &Ipv4Addr::UNSPECIFIED,
                    &Ipv4Addr::UNSPECIFIED,
                    ifindex,
                )?;
                sockopt::set_ip_multicast_ttl(&socket, GROUP_TTL)?;
                sockopt::set_ip_multicast_loop(&socket, false)?;
                let address = SocketAddr::from((GROUP_IPV4, own.port()));
                let listener = bound(ifindex, address)?;
                sockopt::set_ip_add_membership_with_ifindex(
                    &listener,
                    &GROUP_IPV4,
                    &Ipv4Addr::UNSPECIFIED,
                    ifindex,
                )?;
                Some((address, listener))
            }
            IpAddr::V6(_) => {
                sockopt::set_ipv6_multicast_if(&socket, ifindex)?;
                sockopt::set_ipv6_multicast_hops(&socket, GROUP_TTL)?;
                sockopt::set_ipv6_multicast_loop(&socket, false)?;
                let address = SocketAddrV6::new(GROUP_IPV6, own.port(), 0, ifindex).into();
                let listener = bound(ifindex, address)?;
                sockopt::set_ipv6_add_membership(&listener, &GROUP_IPV6, ifindex)?;
                Some((address, listener))
            }
        };
        Ok(Self {
            socket,
            group,
            dropped: Cell::new(0),
        })
    }

    /// Sends a control frame to a node.
    ///
    /// # Errors
    /// The kernel's. One that it does not take is lost like any on the wire;
    /// it is repeated.
    pub fn send(&self, to: SocketAddr, frame: &[u8]) -> io::Result<()> {
        rustix::net::sendto(&self.socket, frame, SendFlags::DONTWAIT, &to)?;
        Ok(())
    }

    /// Sends a control frame to the group; to nobody without multicast.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_to_group(&self, frame: &[u8]) -> io::Result<()> {
        match &self.group {
            Some((address, _)) => self.send(*address, frame),
            None => Ok(()),
        }
    }

    /// The next frame that waits: its source address, which proves nothing,
    /// and its bytes from the Tipsec header on.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<(SocketAddr, &'a [u8])> {
        let (source, len) = self.sockets().find_map(|socket| next(socket, buffer))?;
        Some((source, buffer.get(..len)?))
    }

    /// Datagrams that the kernel dropped for these sockets since this was last
    /// asked: no room, or refused by the filter.
    pub fn take_dropped(&self) -> u64 {
        let total = self.sockets().map(drops).sum();
        total - self.dropped.replace(total).min(total)
    }

    /// What to wait for.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = self.group.iter().map(|(_, listener)| listener.as_fd());
        std::iter::once(self.socket.as_fd()).chain(listener)
    }
}

fn next(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<(SocketAddr, usize)> {
    loop {
        match rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, len, source)) => return Some((source?.try_into().ok()?, len)),
            Err(rustix::io::Errno::INTR) => {}
            // Nothing there, or the interface went down: either way nothing to
            // read. The bearer notices a lost device.
            Err(_) => return None,
        }
    }
}

fn index(ifindex: u32) -> io::Result<i32> {
    i32::try_from(ifindex).map_err(io::Error::other)
}

/// A socket at `address` on this interface alone, without checksums (the frame
/// has a MAC, and RFC 6935 allows it for tunnels), not to be fragmented.
fn bound(ifindex: u32, address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(
        family,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(ipproto::UDP),
    )?;
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_LEN)?;
    // Before it is bound: what comes by other interfaces has passed no gate.
    set(&socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, index(ifindex)?)?;
    refuse_all_but_control(&socket, address)?;
    // An IPv6 address may still be looking for duplicates of itself.
    match address {
        SocketAddr::V4(_) => {
            sockopt::set_ip_freebind(&socket, true)?;
            set(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?;
            let probe = libc::IP_PMTUDISC_PROBE;
            set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe)?;
        }
        SocketAddr::V6(_) => {
            sockopt::set_ipv6_v6only(&socket, true)?;
            sockopt::set_ipv6_freebind(&socket, true)?;
            set(&socket, libc::SOL_UDP, libc::UDP_NO_CHECK6_TX, 1)?;
            set(&socket, libc::SOL_UDP, libc::UDP_NO_CHECK6_RX, 1)?;
            let probe = libc::IPV6_PMTUDISC_PROBE;
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
        }
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Lets only handshakes and beacons in that lie right behind a plain IP header:
/// of anything else the driver's gate has not seen the inside.
fn refuse_all_but_control(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    // Offsets from the UDP header, or with SKF_NET_OFF from the IP header.
    #[allow(clippy::cast_sign_loss)]
    let ip = libc::SKF_NET_OFF as u32;
    // Of IPv4 the header's length in words, of IPv6 the next header's number.
    let (at, mask, expected) = match address {
        SocketAddr::V4(_) => (ip, 0x0f, 5),
        SocketAddr::V6(_) => (ip + 6, 0xff, u32::from(PROTOCOL_UDP)),
    };
    let kind = |kind: Kind| u32::from(kind.version_byte());
    // Eight bytes: the length of a UDP header.
    #[allow(clippy::cast_possible_truncation)]
    let inner = UDP_HEADER_LEN as u32;
    let mut program = [
        statement(LOAD_BYTE, at),
        statement(AND, mask),
        jump(JUMP_IF_EQUAL, expected, 0, 4),
        statement(LOAD_BYTE, inner),
        jump(JUMP_IF_EQUAL, kind(Kind::Handshake), 1, 0),
        jump(JUMP_IF_EQUAL, kind(Kind::Beacon), 0, 1),
        statement(RETURN, u32::MAX),
        statement(RETURN, 0),
    ];
    attach_filter(socket, &mut program)
}

/// Datagrams dropped in the life of a socket; 0 if the kernel does not tell.
fn drops(socket: BorrowedFd<'_>) -> u64 {
    let none = [0_u32; MEMINFO_DROPS + 1];
    let counts = get(&socket, libc::SOL_SOCKET, libc::SO_MEMINFO, none);
    counts.unwrap_or(none)[MEMINFO_DROPS].into()
}
