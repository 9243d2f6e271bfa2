//! Valid frames, and ways to spoil them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Rng;
use tipsec_xdp::Carrier;
use tipsec_xdp::gate::{GateKey, gate};
use tipsec_xdp::wire::{
    CLEAR_HEADER_LEN, DEFAULT_ETHERTYPE, ETH_HEADER_LEN, GROUP_IPV4, GROUP_IPV4_MAC, GROUP_IPV6,
    GROUP_IPV6_MAC, GROUP_MAC, Kind, OFFSET_GATE,
};

pub const OWN: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
pub const PEER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
pub const OWN_ID: u32 = 1;
pub const LISTED_ID: u32 = 2;
pub const UNLISTED_ID: u32 = 3;
pub const SPI: u32 = 0x0AB0_0005;
pub const OTHER_SPI: u32 = 0xFFF0_FFFF;
pub const MASTER: u64 = 0x1122_3344_5566_7788;
pub const UNKNOWN_MASTER: u64 = 0x1122_3344_5566_7789;

pub fn gate_key() -> GateKey {
    GateKey::from_bytes(*b"sixteen key byte")
}

/// How a bearer's frames are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrap {
    /// 0: untagged.
    pub vlan: u16,
    pub carrier: Carrier,
}

pub const ETHERNET: Carrier = Carrier::Ethernet {
    ethertype: DEFAULT_ETHERTYPE,
};
pub const PORT: u16 = 6119;
pub const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 20, 30, 40);
pub const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7);
pub const UDP4: Carrier = Carrier::Udp4 {
    address: OWN_V4,
    port: PORT,
};
pub const UDP6: Carrier = Carrier::Udp6 {
    address: OWN_V6,
    port: PORT,
};

pub const fn wrap(vlan: u16, carrier: Carrier) -> Wrap {
    Wrap { vlan, carrier }
}

/// Every carrier, untagged and tagged.
pub const ALL: [Wrap; 6] = [
    wrap(0, ETHERNET),
    wrap(7, ETHERNET),
    wrap(0, UDP4),
    wrap(7, UDP4),
    wrap(0, UDP6),
    wrap(7, UDP6),
];

impl Wrap {
    /// Where the IP header starts, if there is one.
    pub fn link_len(self) -> usize {
        if self.vlan == 0 { 14 } else { 18 }
    }

    /// Where the Tipsec header starts.
    pub fn outer_len(self) -> usize {
        self.link_len()
            + match self.carrier {
                Carrier::Ethernet { .. } => 0,
                Carrier::Udp4 { .. } => 28,
                Carrier::Udp6 { .. } => 48,
            }
    }

    /// The MAC of the group of beacons.
    pub fn group_mac(self) -> [u8; 6] {
        match self.carrier {
            Carrier::Ethernet { .. } => GROUP_MAC,
            Carrier::Udp4 { .. } => GROUP_IPV4_MAC,
            Carrier::Udp6 { .. } => GROUP_IPV6_MAC,
        }
    }

    /// `inner`, to this node or to the group.
    pub fn around(self, to_group: bool, inner: &[u8]) -> Vec<u8> {
        let mut frame = [if to_group { self.group_mac() } else { OWN }, PEER].concat();
        if self.vlan != 0 {
            frame.extend(0x8100_u16.to_be_bytes());
            frame.extend((self.vlan | 5 << 13).to_be_bytes());
        }
        let udp_len = inner.len() as u16 + 8;
        match self.carrier {
            Carrier::Ethernet { ethertype } => frame.extend(ethertype.to_be_bytes()),
            Carrier::Udp4 { address, port } => {
                let destination = if to_group { GROUP_IPV4 } else { address };
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend((udp_len + 20).to_be_bytes());
                frame.extend([0, 0, 0x40, 0, 64, 17, 0xC5, 0x5C, 10, 20, 30, 41]);
                frame.extend(destination.octets());
                frame.extend(udp(port, udp_len));
            }
            Carrier::Udp6 { address, port } => {
                let destination = if to_group { GROUP_IPV6 } else { address };
                frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
                frame.extend(udp_len.to_be_bytes());
                frame.extend([17, 64]);
                frame.extend([0xFD; 16]);
                frame.extend(destination.octets());
                frame.extend(udp(port, udp_len));
            }
        }
        frame.extend(inner);
        frame
    }
}

/// A UDP header without a checksum.
fn udp(port: u16, len: u16) -> Vec<u8> {
    let words = [49152_u16, port, len, 0];
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

pub fn data(wrap: Wrap, spi: u32, payload_len: u16) -> Vec<u8> {
    let mut inner = vec![Kind::Data.version_byte(), 0];
    inner.extend(payload_len.to_be_bytes());
    inner.extend(spi.to_be_bytes());
    inner.extend(77_u64.to_be_bytes());
    inner.resize(inner.len() + usize::from(payload_len), 0xC5);
    wrap.around(false, &inner)
}

pub fn handshake(wrap: Wrap, sender: u32, master: u64) -> Vec<u8> {
    let inner = control(Kind::Handshake, sender, OWN_ID, master, 0);
    wrap.around(false, &inner)
}

pub fn beacon(wrap: Wrap, sender: u32, master: u64) -> Vec<u8> {
    wrap.around(true, &control(Kind::Beacon, sender, 0, master, 0))
}

/// A control frame from its Tipsec header on, with a valid gate; `more` bytes
/// longer than the smallest.
pub fn control(kind: Kind, sender: u32, receiver: u32, master: u64, more: u16) -> Vec<u8> {
    let mut inner = vec![kind.version_byte(), 0];
    inner.extend((56 + more).to_be_bytes());
    inner.extend([1, 0, 0, 0]);
    inner.extend([0; 8]);
    inner.extend(sender.to_be_bytes());
    inner.extend(receiver.to_be_bytes());
    inner.extend([0xE1; 8]);
    inner.extend(9_u32.to_be_bytes());
    inner.extend(master.to_be_bytes());
    inner.extend([0xC4; 8]);
    inner.extend([0, 1, 0, 0]);
    inner.resize(inner.len() + 16 + usize::from(more), 0xAC);
    set_gate(&mut inner, 0);
    inner
}

/// The same control frame in Ethernet without a tag as of another exchange: no
/// repetition of it.
pub fn of_exchange(mut frame: Vec<u8>, exchange: u64) -> Vec<u8> {
    frame[ETH_HEADER_LEN + 24..][..8].copy_from_slice(&exchange.to_be_bytes());
    set_gate(&mut frame, ETH_HEADER_LEN);
    frame
}

/// Writes the gate that the clear header at `header` calls for.
pub fn set_gate(frame: &mut [u8], header: usize) {
    let Some(Ok(clear)) = frame
        .get(header..header + CLEAR_HEADER_LEN)
        .map(<&[u8; CLEAR_HEADER_LEN]>::try_from)
    else {
        return;
    };
    let value = gate(&gate_key(), clear);
    frame[header + OFFSET_GATE..][..8].copy_from_slice(&value.to_be_bytes());
}

/// A frame that is valid, or nearly, or not at all; mostly wrapped as `usual`.
pub fn random(rng: &mut Rng, usual: Wrap) -> Vec<u8> {
    let wrap = if rng.one_in(10) {
        wrap(rng.pick(&[0, 7, 8]), rng.pick(&ALL).carrier)
    } else {
        usual
    };
    let master = rng.pick(&[MASTER, MASTER, MASTER, UNKNOWN_MASTER]);
    let sender = rng.pick(&[LISTED_ID, UNLISTED_ID, OWN_ID, 0]);
    let mut frame = match rng.below(4) {
        0 => data(wrap, rng.pick(&[SPI, OTHER_SPI, SPI ^ 1 << 20, 6, 0]), 40),
        1 => handshake(wrap, sender, master),
        2 => beacon(wrap, sender, master),
        _ => {
            let noise: Vec<u8> = (0..100).map(|_| rng.byte()).collect();
            wrap.around(rng.one_in(4), &noise)
        }
    };
    let header = wrap.outer_len();
    if rng.one_in(20) {
        frame[6..12].copy_from_slice(&OWN);
    }
    for _ in 0..rng.below(4) {
        // Twice as likely in the headers, where it matters.
        let bound = if rng.one_in(3) {
            frame.len()
        } else {
            header + 24
        };
        let at = rng.below(bound.min(frame.len()));
        match rng.below(3) {
            0 => frame[at] ^= 1 << rng.below(8),
            1 => frame[at] = rng.pick(&[0, 1, 2, 0x10, 0x11, 0x12, 0x2C, 0x46, 0x81, 0xFF]),
            _ => frame[at] = rng.byte(),
        }
    }
    if rng.one_in(2) {
        set_gate(&mut frame, header);
    }
    match rng.below(8) {
        0 => frame.truncate(14 + rng.below(frame.len() - 13)),
        1 => frame.resize(frame.len() + rng.below(60), 0),
        _ => {}
    }
    frame
}
