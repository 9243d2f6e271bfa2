//! Valid frames, and ways to spoil them.

use super::Rng;
use tipsec_xdp::gate::{GateKey, gate};
use tipsec_xdp::wire::{CLEAR_HEADER_LEN, DEFAULT_ETHERTYPE, GROUP_MAC, Kind, OFFSET_GATE};

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

/// Ethernet header, tagged if `vlan` is not 0 (priority 5, to be ignored).
pub fn ethernet(vlan: u16, destination: [u8; 6]) -> Vec<u8> {
    let mut frame = [destination, PEER].concat();
    if vlan != 0 {
        frame.extend(0x8100_u16.to_be_bytes());
        frame.extend((vlan | 5 << 13).to_be_bytes());
    }
    frame.extend(DEFAULT_ETHERTYPE.to_be_bytes());
    frame
}

pub fn data(vlan: u16, spi: u32, payload_len: u16) -> Vec<u8> {
    let mut frame = ethernet(vlan, OWN);
    frame.extend([Kind::Data.version_byte(), 0]);
    frame.extend(payload_len.to_be_bytes());
    frame.extend(spi.to_be_bytes());
    frame.extend(77_u64.to_be_bytes());
    frame.resize(frame.len() + usize::from(payload_len), 0xC5);
    frame
}

pub fn handshake(vlan: u16, sender: u32, master: u64) -> Vec<u8> {
    control(vlan, Kind::Handshake, OWN, sender, OWN_ID, master)
}

pub fn beacon(vlan: u16, sender: u32, master: u64) -> Vec<u8> {
    control(vlan, Kind::Beacon, GROUP_MAC, sender, 0, master)
}

/// A control frame of the smallest size with a valid gate.
pub fn control(
    vlan: u16,
    kind: Kind,
    destination: [u8; 6],
    sender: u32,
    receiver: u32,
    master: u64,
) -> Vec<u8> {
    let mut frame = ethernet(vlan, destination);
    let header = frame.len();
    frame.extend([kind.version_byte(), 0, 0, 56, 1, 0, 0, 0]);
    frame.extend([0; 8]);
    frame.extend(sender.to_be_bytes());
    frame.extend(receiver.to_be_bytes());
    frame.extend([0xE1; 8]);
    frame.extend(9_u32.to_be_bytes());
    frame.extend(master.to_be_bytes());
    frame.extend([0xC4; 8]);
    frame.extend([0, 1, 0, 0]);
    frame.extend([0xAC; 16]);
    set_gate(&mut frame, header);
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

/// A frame that is valid, or nearly, or not at all; mostly tagged as `usual`.
pub fn random(rng: &mut Rng, usual: u16) -> Vec<u8> {
    let vlan = if rng.one_in(10) {
        rng.pick(&[0, 7, 8])
    } else {
        usual
    };
    let master = rng.pick(&[MASTER, MASTER, MASTER, UNKNOWN_MASTER]);
    let sender = rng.pick(&[LISTED_ID, UNLISTED_ID, OWN_ID, 0]);
    let mut frame = match rng.below(4) {
        0 => data(vlan, rng.pick(&[SPI, OTHER_SPI, SPI ^ 1 << 20, 6, 0]), 40),
        1 => handshake(vlan, sender, master),
        2 => beacon(vlan, sender, master),
        _ => {
            let mut frame = ethernet(vlan, OWN);
            frame.extend((0..100).map(|_| rng.byte()));
            frame
        }
    };
    let header = if vlan == 0 { 14 } else { 18 };
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
            1 => frame[at] = rng.pick(&[0, 1, 2, 0x10, 0x11, 0x12, 0x81, 0xFF]),
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
