//! How frames leave a NIC, as far as the way to a station is concerned. Pure:
//! next hops are asked for and given. Imports `address`.

use std::net::SocketAddr;

use tipsec_dataplane::ids::LaneIndex;
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OuterHeader, VlanId};

use super::routes;
use crate::address::Address;

/// UDP source port of lane 0; lane `i` has the `i`th after it, so that NICs
/// spread a node's lanes over their queues (RSS). From IANA's dynamic ports.
pub const LANE_PORT_BASE: u16 = 49_152;

/// What carries frames on a NIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// Nothing else.
    Ethernet {
        /// EtherType of Tipsec frames.
        ethertype: u16,
        /// The VLAN whose tag they carry, if any.
        vlan: Option<VlanId>,
    },
    /// UDP, to this address of the NIC's own.
    Udp(SocketAddr),
}

/// One NIC, as frames see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its index in this network namespace.
    pub ifindex: u32,
    /// The NIC's own address.
    pub own: MacAddr,
    /// What carries frames.
    pub carrier: Carrier,
}

/// Where frames to an address go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To this station on the link.
    Direct(MacAddr),
    /// To whatever station the routes lead by.
    Routed(routes::Destination, SocketAddr),
}

impl Link {
    /// Where this node receives by this NIC.
    pub fn address(&self) -> Address {
        match self.carrier {
            Carrier::Ethernet { .. } => Address::Ethernet(self.own),
            Carrier::Udp(address) => Address::Udp(address),
        }
    }

    /// How frames to it are wrapped.
    pub fn encapsulation(&self) -> Encapsulation {
        match self.carrier {
            Carrier::Ethernet { ethertype, vlan } => {
                Encapsulation::ethernet(self.own, ethertype, vlan)
            }
            Carrier::Udp(address) => Encapsulation::udp(self.own, address, None),
        }
    }

    /// The way to an address; `None` for one that this NIC's encapsulation
    /// does not reach.
    pub fn way_to(&self, to: Address) -> Option<Way> {
        match (self.carrier, to) {
            (Carrier::Ethernet { .. }, Address::Ethernet(mac)) => Some(Way::Direct(mac)),
            (Carrier::Udp(own), Address::Udp(address)) if own.is_ipv4() == address.is_ipv4() => {
                let destination = routes::Destination {
                    ifindex: self.ifindex,
                    address: address.ip(),
                };
                Some(Way::Routed(destination, address))
            }
            _ => None,
        }
    }

    /// The outer header of frames of a lane that go this way; `next_hop` knows
    /// the station that a destination is reached by.
    pub fn header(
        &self,
        lane: LaneIndex,
        way: Way,
        next_hop: impl FnOnce(routes::Destination) -> Option<MacAddr>,
    ) -> Option<OuterHeader> {
        match (self.carrier, way) {
            (Carrier::Ethernet { ethertype, vlan }, Way::Direct(to)) => {
                Some(OuterHeader::ethernet(self.own, to, ethertype, vlan))
            }
            (Carrier::Udp(own), Way::Routed(destination, to)) => {
                let port = LANE_PORT_BASE + u16::from(lane.0);
                let from = SocketAddr::new(own.ip(), port);
                let hop = next_hop(destination)?;
                OuterHeader::udp(self.own, hop, None, from, to).ok()
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tipsec_dataplane::outer::OUTER_LEN_MAX;

    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const HOP: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn link(carrier: Carrier) -> Link {
        Link {
            ifindex: 3,
            own: OWN,
            carrier,
        }
    }

    fn ethernet(vlan: Option<VlanId>) -> Carrier {
        Carrier::Ethernet {
            ethertype: 0x88b5,
            vlan,
        }
    }

    fn udp(text: &str) -> Address {
        Address::Udp(text.parse().unwrap())
    }

    #[test]
    fn each_lane_has_a_source_port_of_its_own() {
        let link = link(Carrier::Udp("10.0.0.1:6119".parse().unwrap()));
        let way = link.way_to(udp("10.9.0.2:6120")).unwrap();
        for lane in [0, 1, 31] {
            let header = link.header(LaneIndex(lane), way, |destination| {
                assert_eq!(destination.ifindex, 3);
                assert_eq!(destination.address.to_string(), "10.9.0.2");
                Some(HOP)
            });
            let from = format!("10.0.0.1:{}", 49_152 + u32::from(lane));
            let expected = OuterHeader::udp(
                OWN,
                HOP,
                None,
                from.parse().unwrap(),
                "10.9.0.2:6120".parse().unwrap(),
            );
            assert_eq!(header, expected.ok());
        }
        assert_eq!(
            link.header(LaneIndex(0), way, |_| None),
            None,
            "no next hop"
        );
    }

    #[test]
    fn what_is_sent_on_a_vlan_is_what_is_taken_there() {
        for vlan in [None, VlanId::new(100)] {
            let link = link(ethernet(vlan));
            let way = link.way_to(Address::Ethernet(HOP)).unwrap();
            let header = link.header(LaneIndex(0), way, |_| None).unwrap();
            let mut place = [0; OUTER_LEN_MAX];
            header.write(&mut place, 40);
            let bytes = &place[OUTER_LEN_MAX - header.len()..];
            let tag: &[u8] = match vlan {
                None => &[],
                // Priority 0.
                Some(_) => &[0x81, 0x00, 0, 100],
            };
            assert_eq!(bytes[12..], [tag, &[0x88, 0xb5]].concat());
            // The station there takes it, and on no other VLAN.
            for other in [None, VlanId::new(100), VlanId::new(101)] {
                let there = Link {
                    own: HOP,
                    carrier: ethernet(other),
                    ..link
                };
                let encapsulation = there.encapsulation();
                let outer = bytes.get(..encapsulation.outer_len());
                let taken = outer.and_then(|outer| encapsulation.inner(outer)).is_some();
                assert_eq!(taken, other == vlan, "{vlan:?} {other:?}");
            }
        }
    }

    #[test]
    fn encapsulations_and_families_do_not_mix() {
        let ethernet = link(ethernet(None));
        let four = link(Carrier::Udp("10.0.0.1:6119".parse().unwrap()));
        let six = link(Carrier::Udp("[fd00::1]:6119".parse().unwrap()));
        assert_eq!(
            ethernet.way_to(Address::Ethernet(HOP)),
            Some(Way::Direct(HOP))
        );
        assert_eq!(ethernet.way_to(udp("10.0.0.2:6119")), None);
        assert_eq!(four.way_to(Address::Ethernet(HOP)), None);
        assert_eq!(four.way_to(udp("[fd00::2]:6119")), None);
        assert!(six.way_to(udp("[fd00::2]:6119")).is_some());
        assert_eq!(six.way_to(udp("10.0.0.2:6119")), None);
    }
}
