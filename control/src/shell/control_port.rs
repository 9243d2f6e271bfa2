//! Where control frames of one NIC come and go, whatever they are wrapped in.
//! Imports `packet_socket` and `udp_socket`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tipsec_dataplane::mac::MacAddr;
use tipsec_xdp::wire::GROUP_MAC;

use super::packet_socket::PacketSocket;
use super::udp_socket::UdpSocket;
use crate::address::Address;

/// The kernel socket of a NIC's encapsulation.
pub enum ControlPort {
    /// Straight in Ethernet.
    Packet(PacketSocket),
    /// In UDP.
    Udp(UdpSocket),
}

impl ControlPort {
    /// Sends a control frame, given from its Tipsec header on, to a node.
    ///
    /// # Errors
    /// The kernel's, or `Unsupported` for an address of another encapsulation.
    pub fn send(&self, to: Address, frame: &[u8]) -> io::Result<()> {
        match (self, to) {
            (Self::Packet(socket), Address::Ethernet(mac)) => socket.send(mac, frame),
            (Self::Udp(socket), Address::Udp(address)) => socket.send(address, frame),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Sends a control frame to everybody on the link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send_to_group(&self, frame: &[u8]) -> io::Result<()> {
        match self {
            Self::Packet(socket) => socket.send(MacAddr(GROUP_MAC), frame),
            Self::Udp(socket) => socket.send_to_group(frame),
        }
    }

    /// The next frame that waits: where it says that it comes from, and its
    /// bytes from the Tipsec header on.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<(Address, &'a [u8])> {
        match self {
            Self::Packet(socket) => {
                let (source, frame) = socket.receive(buffer)?;
                Some((Address::Ethernet(source), frame))
            }
            Self::Udp(socket) => {
                let (source, frame) = socket.receive(buffer)?;
                Some((Address::Udp(source), frame))
            }
        }
    }

    /// Frames that the kernel dropped since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        match self {
            Self::Packet(socket) => socket.take_dropped(),
            Self::Udp(socket) => socket.take_dropped(),
        }
    }

    /// Frames of ours on another VLAN, or tagged otherwise, since this was last
    /// asked: refused.
    pub fn take_other_vlan(&self) -> u64 {
        match self {
            Self::Packet(socket) => socket.take_other_vlan(),
            // A frame of another VLAN is not this host's to its IP.
            Self::Udp(_) => 0,
        }
    }

    /// What to wait for.
    pub fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Packet(socket) => vec![socket.as_fd()],
            Self::Udp(socket) => socket.sockets().collect(),
        }
    }
}
