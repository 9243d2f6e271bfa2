//! The kernel socket that control frames take: AF_PACKET, one per interface.
//!
//! The XDP program passes handshakes and beacons on to the kernel; data frames
//! never come here. What is not on the bearer's VLAN it passes on as well, not
//! gated, since it is somebody else's: a socket filter here refuses it.
//! Imports `sockopt`'s. docs/unsafe.md lists this file.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::VlanId;
use tipsec_xdp::wire::{
    ETH_HEADER_LEN, GROUP_MAC, MAX_CONTROL_FRAME_LEN, VLAN_ID_MASK, VLAN_TAG_LEN, VLAN_TPID,
};

use super::sockopt::{
    AND, JUMP_IF_EQUAL, LOAD_WORD, RETURN, attach_filter, get, jump, set, statement,
};

/// What the kernel may keep for us, in bytes: some 500 control frames.
const RECEIVE_BUFFER_LEN: usize = 512 * 1024;

/// The kernel forgets a tag that no device of its own is for before it looks who
/// wants a single EtherType. A socket for all of them gets frames before that;
/// the filter picks ours.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 3
const EVERY_ETHERTYPE: u16 = libc::ETH_P_ALL as u16;

/// Sends and receives control frames on one interface.
pub struct PacketSocket {
    socket: OwnedFd,
    /// Only counts what is refused: it is never read.
    elsewhere: OwnedFd,
    ethertype: u16,
    vlan: Option<VlanId>,
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
    set(
        socket,
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        request,
    )
}

/// A socket that gets what arrives on the interface and passes the filter.
fn bound(ifindex: i32, filter: &mut [libc::sock_filter], room: usize) -> io::Result<OwnedFd> {
    // Protocol 0 receives nothing: not a frame before it is bound.
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None::<Protocol>,
    )?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, room)?;
    attach_filter(&socket, filter)?;
    // What this node sends is nothing that it receives.
    set(
        &socket,
        libc::SOL_PACKET,
        libc::PACKET_IGNORE_OUTGOING,
        1_i32,
    )?;
    let address = PacketAddress {
        family: AddressFamily::PACKET.as_raw(),
        protocol: EVERY_ETHERTYPE.to_be(),
        ifindex,
        hatype: 0,
        pkttype: 0,
        halen: 0,
        addr: [0; 8],
    };
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// What a filter takes: of frames of our EtherType those on our VLAN, or those
/// that are not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    OnVlan,
    Elsewhere,
}

/// The kernel has taken the tag off and keeps it beside the frame. With a VLAN
/// it must be there; without, there must be none: not even one of priority
/// alone (VLAN 0), which the XDP program does not look behind.
fn filter(ethertype: u16, vlan: Option<VlanId>, wanted: Wanted) -> Vec<libc::sock_filter> {
    #[allow(clippy::cast_sign_loss)]
    let beside = |what: libc::c_int| (libc::SKF_AD_OFF + what) as u32;
    let (on_vlan, elsewhere) = match wanted {
        Wanted::OnVlan => (u32::MAX, 0),
        // Its length is enough to count it.
        Wanted::Elsewhere => (0, 1),
    };
    let mut program = vec![
        statement(LOAD_WORD, beside(libc::SKF_AD_PROTOCOL)),
        jump(JUMP_IF_EQUAL, ethertype.into(), 1, 0),
        statement(RETURN, 0),
        statement(LOAD_WORD, beside(libc::SKF_AD_VLAN_TAG_PRESENT)),
    ];
    match vlan {
        None => program.push(jump(JUMP_IF_EQUAL, 0, 0, 1)),
        Some(vlan) => {
            program.extend([
                jump(JUMP_IF_EQUAL, 1, 0, 6),
                statement(LOAD_WORD, beside(libc::SKF_AD_VLAN_TPID)),
                jump(JUMP_IF_EQUAL, VLAN_TPID.into(), 0, 4),
                statement(LOAD_WORD, beside(libc::SKF_AD_VLAN_TAG)),
                statement(AND, VLAN_ID_MASK.into()),
                jump(JUMP_IF_EQUAL, vlan.value().into(), 0, 1),
            ]);
        }
    }
    program.extend([statement(RETURN, on_vlan), statement(RETURN, elsewhere)]);
    program
}

impl PacketSocket {
    /// Opens a socket for frames of `ethertype` on this VLAN, or without a tag,
    /// on the interface with this index and address.
    ///
    /// # Errors
    /// The kernel's: no CAP_NET_RAW, or the interface is gone.
    pub fn open(
        ifindex: u32,
        ethertype: u16,
        vlan: Option<VlanId>,
        address: MacAddr,
    ) -> io::Result<Self> {
        let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
        let filter = |wanted| filter(ethertype, vlan, wanted);
        let socket = bound(ifindex, &mut filter(Wanted::OnVlan), RECEIVE_BUFFER_LEN)?;
        join_group(&socket, ifindex)?;
        // The kernel makes the least of it that it has.
        let elsewhere = bound(ifindex, &mut filter(Wanted::Elsewhere), 0)?;
        Ok(Self {
            socket,
            elsewhere,
            ethertype,
            vlan,
            address,
        })
    }

    /// Frames that the kernel had no room for since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        statistics(&self.socket).tp_drops.into()
    }

    /// Frames of our EtherType since this was last asked that the XDP program
    /// passed by and this socket refused: of another VLAN, without a tag where
    /// one is expected, or with one where none is.
    pub fn take_other_vlan(&self) -> u64 {
        // Those that there was no room for are in it.
        statistics(&self.elsewhere).tp_packets.into()
    }

    /// Sends a control frame, given from its Tipsec header on. One that the
    /// kernel does not take now is lost like any on the wire; it is repeated.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&self, to: MacAddr, frame: &[u8]) -> io::Result<()> {
        let mut bytes = [0; MAX_CONTROL_FRAME_LEN];
        let tagged = self.vlan.map_or(0, |_| VLAN_TAG_LEN);
        let start = ETH_HEADER_LEN + tagged;
        let Some(bytes) = bytes.get_mut(..start + frame.len()) else {
            return Err(io::Error::other("control frame is too long"));
        };
        bytes[0..6].copy_from_slice(&to.0);
        bytes[6..12].copy_from_slice(&self.address.0);
        if let Some(vlan) = self.vlan {
            // Priority 0, as data.
            bytes[12..14].copy_from_slice(&VLAN_TPID.to_be_bytes());
            bytes[14..16].copy_from_slice(&vlan.value().to_be_bytes());
        }
        bytes[start - 2..start].copy_from_slice(&self.ethertype.to_be_bytes());
        bytes[start..].copy_from_slice(frame);
        rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// The next frame that waits: its source address, and its bytes from the
    /// Tipsec header on. The kernel has taken the tag off.
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

/// Frames for a socket since this was last asked, and those of them that there
/// was no room for; zeros if the kernel does not tell.
fn statistics(socket: &OwnedFd) -> libc::tpacket_stats {
    const NONE: libc::tpacket_stats = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let (level, option) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
    get(socket, level, option, NONE).unwrap_or(NONE)
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
