//! Ethernet addresses, and the addresses of tap devices.
//!
//! A tap's address is derived from its node id, so the destination of a frame
//! is an index and the receiver can rebuild both addresses from the SA: they
//! do not travel, and a sender cannot claim another node's.

use std::fmt;

use crate::ids::NodeId;

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address every station listens to.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the I/G bit marks a group (multicast or broadcast).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The address of `node`'s tap device: locally administered, `02:54` and
    /// the node id.
    pub const fn of_tap(node: NodeId) -> Self {
        let [a, b, c, d] = node.value().to_be_bytes();
        Self([0x02, 0x54, a, b, c, d])
    }

    /// The node whose tap has this address, if it is a tap's address.
    pub const fn tap_node(self) -> Option<NodeId> {
        match self.0 {
            [0x02, 0x54, a, b, c, d] => NodeId::new(u32::from_be_bytes([a, b, c, d])),
            _ => None,
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tap_address_names_its_node() {
        let node = NodeId::new(0x0102_0304).unwrap();
        let mac = MacAddr::of_tap(node);
        assert_eq!(mac.to_string(), "02:54:01:02:03:04");
        assert_eq!(mac.tap_node(), Some(node));
        assert!(!mac.is_group());
        assert_eq!(MacAddr::BROADCAST.tap_node(), None);
    }
}
