//! What the kernel says on rtnetlink, read. Pure: no socket. Imports `request` for
//! the mark of our own entries, and the netlink packet crates.
//!
//! Only the attributes that are needed are looked at, so that a kernel which
//! knows more is not misread. Layout: rtnetlink(7) and the kernel's
//! `include/uapi/linux/{rtnetlink,if_link,neighbour,if_addr}.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressHeader;
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::neighbour::{NeighbourExtFlags, NeighbourHeader};
use netlink_packet_route::route::{RouteHeader, RouteType};
use tipsec_dataplane::mac::MacAddr;

use super::request::PROTOCOL;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_ALIGN: usize = 4;
const LINK_HEADER_LEN: usize = 16;
const ADDRESS_HEADER_LEN: usize = 8;
const NEIGHBOUR_HEADER_LEN: usize = 12;
const ROUTE_HEADER_LEN: usize = 12;
const RTA_VIA: u16 = 18;
const NDA_PROTOCOL: u16 = 12;
const NDA_FLAGS_EXT: u16 = 15;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// A message that is not what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the kernel sent an rtnetlink message that cannot be read")]
pub(super) struct Malformed;

/// An interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    /// In bytes.
    pub(super) mtu: u32,
    /// Its own address; `None` if it is not Ethernet's.
    pub(super) mac: Option<MacAddr>,
    /// Switched on, and with a carrier.
    pub(super) up: bool,
}

/// An entry of the neighbour table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Where frames to it go now; `None` while the kernel does not know.
    pub(super) mac: Option<MacAddr>,
    /// Set by hand; never asked again.
    pub(super) permanent: bool,
    /// Kept fresh by the kernel.
    pub(super) managed: bool,
    /// Made by us, perhaps in an earlier life of this process.
    pub(super) ours: bool,
}

/// What one message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Notice {
    /// An interface is like this now, or gone.
    Link { ifindex: u32, link: Option<Link> },
    /// A neighbour entry is like this now, or gone.
    Neighbour {
        ifindex: u32,
        address: IpAddr,
        entry: Option<Entry>,
    },
    /// A route came, went or changed; or the answer to a question for one.
    Route(Route),
    /// An interface has this address now, or no longer.
    Address {
        ifindex: u32,
        address: IpAddr,
        present: bool,
    },
    /// Rules or next-hop objects changed: any route may lead elsewhere.
    Policy,
    /// The end of an answer: 0 or a negative errno.
    End(i32),
}

/// A route, as far as it matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Route {
    /// What it leads to, and how many leading bits count.
    pub(super) prefix: Option<IpAddr>,
    pub(super) prefix_len: u8,
    /// The family it is for.
    pub(super) is_ipv6: bool,
    /// To another host, and not to ourselves, a group or nowhere.
    pub(super) unicast: bool,
    /// The interface it leaves by.
    pub(super) ifindex: Option<u32>,
    /// The router, if the destination is not on the link.
    pub(super) gateway: Option<IpAddr>,
}

impl Route {
    /// Whether a change of this route can concern `address`.
    pub(super) fn covers(&self, address: IpAddr) -> bool {
        match (self.prefix, address) {
            (None, address) => address.is_ipv6() == self.is_ipv6,
            (Some(IpAddr::V4(prefix)), IpAddr::V4(address)) => {
                let differ = u32::from(prefix) ^ u32::from(address);
                differ.leading_zeros() >= u32::from(self.prefix_len)
            }
            (Some(IpAddr::V6(prefix)), IpAddr::V6(address)) => {
                let differ = u128::from(prefix) ^ u128::from(address);
                differ.leading_zeros() >= u32::from(self.prefix_len)
            }
            _ => false,
        }
    }
}

/// Every message of one datagram, with its sequence number; those that mean
/// nothing here are left out. Ends after the first that cannot be read.
pub(super) fn read(
    datagram: &[u8],
) -> impl Iterator<Item = Result<(u32, Notice), Malformed>> + use<'_> {
    let mut rest = Some(datagram);
    std::iter::from_fn(move || {
        loop {
            let bytes = rest.take().filter(|bytes| !bytes.is_empty())?;
            let Ok(buffer) = NetlinkBuffer::new_checked(bytes) else {
                return Some(Err(Malformed));
            };
            let len = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
            let next = len.saturating_add(NLMSG_ALIGN - 1) & !(NLMSG_ALIGN - 1);
            rest = bytes.get(next..);
            let sequence = buffer.sequence_number();
            match notice(buffer.message_type(), buffer.payload()) {
                Ok(None) => {}
                Ok(Some(notice)) => return Some(Ok((sequence, notice))),
                Err(malformed) => {
                    rest = None;
                    return Some(Err(malformed));
                }
            }
        }
    })
}

fn notice(kind: u16, payload: &[u8]) -> Result<Option<Notice>, Malformed> {
    match kind {
        NLMSG_ERROR | NLMSG_DONE => {
            // A "done" without a code is a good one.
            let code = payload
                .first_chunk()
                .map_or(0, |code| i32::from_ne_bytes(*code));
            Ok(Some(Notice::End(code)))
        }
        libc::RTM_NEWLINK | libc::RTM_DELLINK => link(kind == libc::RTM_NEWLINK, payload),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => address(kind == libc::RTM_NEWADDR, payload),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => neighbour(kind == libc::RTM_NEWNEIGH, payload),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => route(payload),
        libc::RTM_NEWRULE | libc::RTM_DELRULE | RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
            Ok(Some(Notice::Policy))
        }
        _ => Ok(None),
    }
}

/// The attributes behind a header of `header_len` bytes: kind and value.
fn attributes(
    payload: &[u8],
    header_len: usize,
) -> impl Iterator<Item = Result<NlaBuffer<&[u8]>, Malformed>> {
    let bytes = payload.get(header_len..).unwrap_or_default();
    NlasIterator::new(bytes).map(|attribute| attribute.map_err(|_| Malformed))
}

fn link(new: bool, payload: &[u8]) -> Result<Option<Notice>, Malformed> {
    let header = LinkHeader::parse(payload).map_err(|_| Malformed)?;
    // A bridge tells about its ports with messages of the same type.
    if header.interface_family != AddressFamily::Unspec {
        return Ok(None);
    }
    let ifindex = header.index;
    if !new {
        return Ok(Some(Notice::Link {
            ifindex,
            link: None,
        }));
    }
    let (mut mtu, mut mac) = (None, None);
    for attribute in attributes(payload, LINK_HEADER_LEN) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::IFLA_MTU => mtu = Some(number(attribute.value())?),
            libc::IFLA_ADDRESS => mac = self::mac(attribute.value()),
            _ => {}
        }
    }
    let up = header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    // Wireless drivers tell of events without the facts.
    Ok(mtu.map(|mtu| Notice::Link {
        ifindex,
        link: Some(Link { mtu, mac, up }),
    }))
}

fn address(present: bool, payload: &[u8]) -> Result<Option<Notice>, Malformed> {
    let header = AddressHeader::parse(payload).map_err(|_| Malformed)?;
    let (mut local, mut other) = (None, None);
    for attribute in attributes(payload, ADDRESS_HEADER_LEN) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::IFA_LOCAL => local = Some(ip(attribute.value())?),
            // Of a point-to-point link, the other end's.
            libc::IFA_ADDRESS => other = Some(ip(attribute.value())?),
            _ => {}
        }
    }
    Ok(local.or(other).map(|address| Notice::Address {
        ifindex: header.index,
        address,
        present,
    }))
}

fn neighbour(new: bool, payload: &[u8]) -> Result<Option<Notice>, Malformed> {
    let header = NeighbourHeader::parse(payload).map_err(|_| Malformed)?;
    // Bridges' and VXLANs' tables come this way too.
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return Ok(None);
    }
    let (mut address, mut lladdr, mut managed, mut ours) = (None, None, false, false);
    for attribute in attributes(payload, NEIGHBOUR_HEADER_LEN) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            libc::NDA_DST => address = Some(ip(value)?),
            libc::NDA_LLADDR => lladdr = mac(value),
            NDA_PROTOCOL => ours = value == [PROTOCOL],
            NDA_FLAGS_EXT => {
                let flags = NeighbourExtFlags::from_bits_retain(number(value)?);
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    let Some(address) = address else {
        return Ok(None);
    };
    let state = u16::from(header.state);
    let known = libc::NUD_PERMANENT
        | libc::NUD_NOARP
        | libc::NUD_REACHABLE
        | libc::NUD_PROBE
        | libc::NUD_STALE
        | libc::NUD_DELAY;
    Ok(Some(Notice::Neighbour {
        ifindex: header.ifindex,
        address,
        entry: new.then_some(Entry {
            mac: lladdr.filter(|_| state & known != 0),
            permanent: state & libc::NUD_PERMANENT != 0,
            managed,
            ours,
        }),
    }))
}

fn route(payload: &[u8]) -> Result<Option<Notice>, Malformed> {
    let header = RouteHeader::parse(payload).map_err(|_| Malformed)?;
    let is_ipv6 = match header.address_family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return Ok(None),
    };
    let mut route = Route {
        prefix: None,
        prefix_len: header.destination_prefix_length,
        is_ipv6,
        unicast: header.kind == RouteType::Unicast,
        ifindex: None,
        gateway: None,
    };
    for attribute in attributes(payload, ROUTE_HEADER_LEN) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            libc::RTA_DST => route.prefix = Some(ip(value)?),
            libc::RTA_OIF => route.ifindex = Some(number(value)?),
            libc::RTA_GATEWAY => route.gateway = Some(ip(value)?),
            // The family, then an address of another than the route's.
            RTA_VIA => route.gateway = Some(ip(value.get(2..).ok_or(Malformed)?)?),
            _ => {}
        }
    }
    Ok(Some(Notice::Route(route)))
}

fn number(value: &[u8]) -> Result<u32, Malformed> {
    let bytes = value.try_into().map_err(|_| Malformed)?;
    Ok(u32::from_ne_bytes(bytes))
}

fn mac(value: &[u8]) -> Option<MacAddr> {
    value.try_into().ok().map(MacAddr)
}

fn ip(value: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(value).map_err(|_| Malformed)?;
    Ok(Ipv6Addr::from(v6).into())
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};
    use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
    use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteVia};
    use proptest::prelude::*;

    use super::super::request::{Request, entry, written};
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn bytes(inner: RouteNetlinkMessage) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.sequence_number = 7;
        written(header, inner)
    }

    fn notices(datagram: &[u8]) -> Vec<Notice> {
        read(datagram).map(|notice| notice.unwrap().1).collect()
    }

    fn a_link(family: AddressFamily) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.index = 3;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Mtu(1400),
            LinkAttribute::Address(MAC.0.to_vec()),
        ];
        message
    }

    fn a_neighbour(state: NeighbourState) -> NeighbourMessage {
        let mut message = entry(3, address("fd00::2"));
        message.header.state = state;
        let mac = NeighbourAttribute::LinkLayerAddress(MAC.0.to_vec());
        let flags = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
        let protocol = NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL));
        message.attributes.extend([mac, flags, protocol]);
        message
    }

    fn a_route() -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 9;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Destination(address("10.128.0.0").into()),
            RouteAttribute::Oif(3),
            RouteAttribute::Gateway(address("10.0.0.9").into()),
        ];
        message
    }

    fn samples() -> Vec<Vec<u8>> {
        vec![
            bytes(RouteNetlinkMessage::NewLink(a_link(AddressFamily::Unspec))),
            bytes(RouteNetlinkMessage::NewNeighbour(a_neighbour(
                NeighbourState::Reachable,
            ))),
            bytes(RouteNetlinkMessage::NewRoute(a_route())),
            Request::Addresses.to_bytes(1),
        ]
    }

    #[test]
    fn links_are_read() {
        let link = |new, family| {
            let message = a_link(family);
            notices(&bytes(if new {
                RouteNetlinkMessage::NewLink(message)
            } else {
                RouteNetlinkMessage::DelLink(message)
            }))
        };
        let there = Link {
            mtu: 1400,
            mac: Some(MAC),
            up: true,
        };
        let says = |link| vec![Notice::Link { ifindex: 3, link }];
        assert_eq!(link(true, AddressFamily::Unspec), says(Some(there)));
        assert_eq!(link(false, AddressFamily::Unspec), says(None));
        // A port that leaves its bridge is still there.
        assert_eq!(link(false, AddressFamily::Bridge), []);
        let mut down = a_link(AddressFamily::Unspec);
        down.header.flags = LinkFlags::Up;
        let down = notices(&bytes(RouteNetlinkMessage::NewLink(down)));
        assert_eq!(down, says(Some(Link { up: false, ..there })), "no carrier");
    }

    #[test]
    fn neighbours_are_read_by_state() {
        for (state, known) in [
            (NeighbourState::Reachable, true),
            (NeighbourState::Stale, true),
            (NeighbourState::Delay, true),
            (NeighbourState::Probe, true),
            (NeighbourState::Permanent, true),
            (NeighbourState::Noarp, true),
            (NeighbourState::Incomplete, false),
            (NeighbourState::Failed, false),
            (NeighbourState::None, false),
        ] {
            let message = a_neighbour(state);
            let expected = Entry {
                mac: known.then_some(MAC),
                permanent: state == NeighbourState::Permanent,
                managed: true,
                ours: true,
            };
            let says = |entry| {
                vec![Notice::Neighbour {
                    ifindex: 3,
                    address: address("fd00::2"),
                    entry,
                }]
            };
            let new = bytes(RouteNetlinkMessage::NewNeighbour(message.clone()));
            assert_eq!(notices(&new), says(Some(expected)), "{state:?}");
            let gone = bytes(RouteNetlinkMessage::DelNeighbour(message));
            assert_eq!(notices(&gone), says(None));
        }
    }

    #[test]
    fn routes_are_read_and_cover_their_prefix() {
        let read = |message| match notices(&bytes(RouteNetlinkMessage::NewRoute(message))).pop() {
            Some(Notice::Route(route)) => route,
            other => panic!("{other:?}"),
        };
        let route = read(a_route());
        assert_eq!(route.gateway, Some(address("10.0.0.9")));
        assert_eq!((route.ifindex, route.unicast), (Some(3), true));
        assert!(route.covers(address("10.128.0.1")));
        assert!(route.covers(address("10.255.255.255")));
        assert!(!route.covers(address("10.127.255.255")));
        assert!(!route.covers(address("a80::")));
        let mut other_family = a_route();
        other_family.attributes[2] =
            RouteAttribute::Via(RouteVia::Inet6("fe80::9".parse().unwrap()));
        assert_eq!(read(other_family).gateway, Some(address("fe80::9")));
        let mut default = a_route();
        default.attributes.remove(0);
        default.header.destination_prefix_length = 0;
        default.header.kind = RouteType::BlackHole;
        let default = read(default);
        assert!(default.covers(address("1.2.3.4")) && !default.covers(address("::1")));
        assert!(!default.unicast);
    }

    #[test]
    fn several_messages_in_one_datagram() {
        let mut datagram = samples().concat();
        assert_eq!(notices(&datagram).len(), 3, "a request tells nothing");
        // The first four bytes of an error are its code.
        datagram.extend([20, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        datagram.extend((-101_i32).to_ne_bytes());
        let last = read(&datagram).last().unwrap();
        assert_eq!(last, Ok((5, Notice::End(-101))));
        assert_eq!(
            read(&datagram[..datagram.len() - 1]).last(),
            Some(Err(Malformed))
        );
        assert_eq!(read(&[]).count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn spoilt_messages_never_panic(
            which in 0..4usize,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            noise in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut datagram = samples().swap_remove(which);
            for (at, value) in changes {
                let at = at.index(datagram.len());
                datagram[at] = value;
            }
            datagram.truncate(cut.index(datagram.len() + 1));
            // It ends, whatever the lengths say.
            prop_assert!(read(&datagram).count() <= datagram.len());
            prop_assert!(read(&noise).count() <= noise.len());
        }
    }
}
