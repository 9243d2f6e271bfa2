//! Target `driver`: three readers of one frame must not disagree. The XDP
//! program steers by `classify`, a worker parses again, and so does the control
//! plane: what the driver gives to one of them must be what it takes, and what
//! one would take must not have been for the other. Imports `input`.

use std::net::SocketAddr;

use tipsec_control::derive::ClusterKeys;
use tipsec_control::frame::{ClearHeader, ControlFrame, MessageType, encode, encode_clear};
use tipsec_dataplane::frame::DataHeader;
use tipsec_dataplane::ids::{Epoch, NodeId, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OUTER_LEN_MAX, OuterHeader, VlanId};
use tipsec_xdp::wire::{
    DEFAULT_ETHERTYPE, GROUP_IPV4_MAC, GROUP_IPV6_MAC, GROUP_MAC, HEADER_LEN, MAX_CONTROL_LENGTH,
    MIN_CONTROL_LENGTH, MIN_DATA_LENGTH,
};
use tipsec_xdp::{Kind, Reason, Verdict, classify};

use crate::Target;
use crate::input::Input;

pub(crate) const TARGET: Target = Target {
    name: "driver",
    run,
    seeds,
};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const NODE: u32 = 1001;
const SENDER: u32 = 1002;

/// The carriers, each untagged and tagged.
const WRAPPINGS: usize = 6;

/// The bearer's encapsulation and the header that its peer writes.
fn wrapping(choice: usize) -> (Encapsulation, OuterHeader) {
    let vlan = VlanId::new(7).filter(|_| choice % 2 == 1);
    let udp = |from: &str, to: &str| {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let outer = OuterHeader::udp(PEER, OWN, vlan, from, to).unwrap();
        (Encapsulation::udp(OWN, to, vlan), outer)
    };
    match choice / 2 {
        0 => (
            Encapsulation::ethernet(OWN, DEFAULT_ETHERTYPE, vlan),
            OuterHeader::ethernet(PEER, OWN, DEFAULT_ETHERTYPE, vlan),
        ),
        1 => udp("10.0.0.2:40000", "10.0.0.1:6119"),
        _ => udp("[fd00::2]:40000", "[fd00::1]:6119"),
    }
}

/// A byte that chooses the wrapping, then the frame.
fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (encapsulation, _) = wrapping(input.below(WRAPPINGS));
    let frame = input.rest();
    let config = encapsulation.config(NodeId::new(NODE).unwrap());
    let verdict = classify(&config, frame);
    let worker = read_as_worker(&encapsulation, frame);
    match verdict {
        // Steered to a worker: it finds the same SPI.
        Verdict::Data { spi } => {
            let header = worker.expect("the worker takes what the driver steers to it");
            assert_eq!(header.spi.value(), spi);
            assert!(header.length >= MIN_DATA_LENGTH);
        }
        Verdict::Control(control) => {
            assert_eq!(worker, None, "a control frame is no data");
            let tipsec = &frame[encapsulation.outer_len()..];
            let read = ControlFrame::decode(tipsec).expect("the control plane takes it");
            let header = read.header();
            assert_eq!(read.clear(), control.clear);
            assert_eq!(header.sender.value(), control.sender());
            assert_eq!(header.master.0, control.master_id());
            let receiver = header.receiver.map_or(0, NodeId::value);
            assert_eq!(receiver, control.receiver());
            assert_eq!(control.kind == Kind::Beacon, receiver == 0);
            assert!(receiver == 0 || receiver == NODE);
            let length = u16::try_from(read.to_bytes().len() - HEADER_LEN).unwrap();
            assert!((MIN_CONTROL_LENGTH..=MAX_CONTROL_LENGTH).contains(&length));
        }
        // What the driver stops, no worker would open, but for a datagram whose
        // lengths contradict each other: they are outside of what is sealed, and
        // a worker does not look at them.
        Verdict::Drop(reason) => {
            let lengths = reason == Reason::BadLength && encapsulation.overhead() > 0;
            assert!(worker.is_none() || lengths, "{reason:?}: {worker:?}");
        }
        Verdict::Pass => assert_eq!(worker, None, "not ours, says the driver"),
    }
}

/// As `rx` reads a frame that has arrived.
fn read_as_worker(encapsulation: &Encapsulation, frame: &[u8]) -> Option<DataHeader> {
    let inner = encapsulation.inner(frame)?;
    let (header, rest) = inner.split_first_chunk::<HEADER_LEN>()?;
    DataHeader::decode(header, rest.len())
}

fn seeds() -> Vec<Vec<u8>> {
    let data = || {
        let header = DataHeader {
            spi: Spi::new(0x0010_0005).unwrap(),
            packet_number: 9,
            length: 40,
        };
        [&header.encode()[..], &[0xaa; 40]].concat()
    };
    let keys = ClusterKeys::derive(&[1; 32], &"fuzz".parse().unwrap());
    let control = |message: MessageType| {
        let header = ClearHeader {
            message,
            sender: NodeId::new(SENDER).unwrap(),
            receiver: NodeId::new(NODE).filter(|_| message != MessageType::Beacon),
            exchange: 3,
            epoch: Epoch(4),
            master: keys.id(),
            chain: 5,
            suites: 1,
        };
        let clear = encode_clear(&header, 40, &keys);
        encode(message, &clear, &[0xbb; 40], &keys)
    };
    let mut seeds = Vec::new();
    for choice in 0..WRAPPINGS {
        let (_, outer) = wrapping(choice);
        for inner in [
            data(),
            control(MessageType::M1),
            control(MessageType::Beacon),
        ] {
            let mut place = [0; OUTER_LEN_MAX];
            outer.write(&mut place, inner.len());
            let start = OUTER_LEN_MAX - outer.len();
            let mut frame = [&place[start..], &inner].concat();
            let is_beacon = inner[0] == Kind::Beacon.version_byte();
            if is_beacon {
                to_group(&mut frame, choice);
            }
            frame.insert(0, u8::try_from(choice).unwrap());
            seeds.push(frame);
        }
    }
    seeds
}

/// Addresses a frame to everybody.
fn to_group(frame: &mut [u8], choice: usize) {
    let ip = 14 + choice % 2 * 4;
    let mac = match choice / 2 {
        0 => GROUP_MAC,
        1 => {
            let group = tipsec_xdp::wire::GROUP_IPV4.octets();
            frame[ip + 16..ip + 20].copy_from_slice(&group);
            GROUP_IPV4_MAC
        }
        _ => {
            let group = tipsec_xdp::wire::GROUP_IPV6.octets();
            frame[ip + 24..ip + 40].copy_from_slice(&group);
            GROUP_IPV6_MAC
        }
    };
    frame[..6].copy_from_slice(&mac);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_reach_their_readers() {
        let mut seen = (0, 0);
        for seed in seeds() {
            let (encapsulation, _) = wrapping(seed[0].into());
            let config = encapsulation.config(NodeId::new(NODE).unwrap());
            match classify(&config, &seed[1..]) {
                Verdict::Data { .. } => seen.0 += 1,
                Verdict::Control(_) => seen.1 += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, (WRAPPINGS, 2 * WRAPPINGS));
    }
}
