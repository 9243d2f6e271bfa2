//! What the kernel is asked on rtnetlink, written. Pure: no socket. Imports the
//! netlink packet crates. What comes back is read in `notice`, whose tests read these
//! too.

use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

/// Who made a neighbour entry, as `ip neighbour` shows it (`proto 84`): marks
/// those that are ours to remove. From the numbers that rtnetlink(7) leaves free.
pub(super) const PROTOCOL: u8 = 84;

/// What the kernel can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    /// An interface.
    Link { ifindex: u32 },
    /// To change an interface's MTU, in bytes.
    SetMtu { ifindex: u32, mtu: u32 },
    /// Every address of every interface.
    Addresses,
    /// How packets to `to` leave by this interface.
    Route { ifindex: u32, to: IpAddr },
    /// The entry of a neighbour.
    Neighbour { ifindex: u32, address: IpAddr },
    /// To find a neighbour, and to keep its entry fresh (Linux 5.16).
    ManageNeighbour { ifindex: u32, address: IpAddr },
    /// To forget a neighbour.
    RemoveNeighbour { ifindex: u32, address: IpAddr },
}

impl Request {
    /// The message with this sequence number.
    pub(super) fn to_bytes(self, sequence: u32) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.sequence_number = sequence;
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let inner = match self {
            Self::Link { ifindex } => {
                let mut message = LinkMessage::default();
                message.header.index = ifindex;
                RouteNetlinkMessage::GetLink(message)
            }
            Self::SetMtu { ifindex, mtu } => {
                let mut message = LinkMessage::default();
                message.header.index = ifindex;
                message.attributes = vec![LinkAttribute::Mtu(mtu)];
                RouteNetlinkMessage::SetLink(message)
            }
            Self::Addresses => {
                header.flags = NLM_F_REQUEST | NLM_F_DUMP;
                RouteNetlinkMessage::GetAddress(AddressMessage::default())
            }
            Self::Route { ifindex, to } => {
                let mut message = RouteMessage::default();
                message.header.address_family = family(to);
                message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
                message.attributes = vec![
                    RouteAttribute::Destination(to.into()),
                    RouteAttribute::Oif(ifindex),
                ];
                RouteNetlinkMessage::GetRoute(message)
            }
            Self::Neighbour { ifindex, address } => {
                RouteNetlinkMessage::GetNeighbour(entry(ifindex, address))
            }
            Self::ManageNeighbour { ifindex, address } => {
                header.flags |= NLM_F_CREATE;
                let mut message = entry(ifindex, address);
                let flags = NeighbourExtFlags::Managed;
                message.attributes.push(NeighbourAttribute::ExtFlags(flags));
                let protocol = RouteProtocol::from(PROTOCOL);
                message
                    .attributes
                    .push(NeighbourAttribute::Protocol(protocol));
                RouteNetlinkMessage::NewNeighbour(message)
            }
            Self::RemoveNeighbour { ifindex, address } => {
                RouteNetlinkMessage::DelNeighbour(entry(ifindex, address))
            }
        };
        written(header, inner)
    }
}

/// A message with its lengths filled in.
pub(super) fn written(header: NetlinkHeader, inner: RouteNetlinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(inner));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The neighbour that a request is about.
pub(super) fn entry(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.attributes = vec![NeighbourAttribute::Destination(match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    })];
    message
}
