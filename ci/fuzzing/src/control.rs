//! Targets `control` and `messages`: control frames, and what is inside them.
//! Imports `input`.

use std::sync::OnceLock;
use std::time::Duration;

use tipsec_control::address::{Address, Addresses, Network};
use tipsec_control::derive::{ClusterKeys, Sek};
use tipsec_control::frame::{ClearHeader, ControlFrame, MessageType, encode, encode_clear};
use tipsec_control::masters::Masters;
use tipsec_control::message::{
    Beacon, COOKIE_LEN, Hello, Holdings, MAX_LANES, MAX_OFFER_LEN, Offer, Start,
};
use tipsec_dataplane::ids::{Epoch, Incarnation, MasterId, NodeId, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::secret::Suite;
use tipsec_xdp::wire::{
    CLEAR_HEADER_LEN, CONTROL_MAC_LEN, HEADER_LEN, MAX_CONTROL_LENGTH, OFFSET_GATE,
};

use crate::Target;
use crate::input::Input;

pub(crate) const TARGET: Target = Target {
    name: "control",
    run,
    seeds,
};

pub(crate) const MESSAGES: Target = Target {
    name: "messages",
    run: run_messages,
    seeds: message_seeds,
};

/// Keys under which frames are made.
fn keys() -> &'static ClusterKeys {
    static KEYS: OnceLock<ClusterKeys> = OnceLock::new();
    KEYS.get_or_init(|| ClusterKeys::derive(&[1; 32], &"fuzz".parse().unwrap()))
}

/// A frame from its Tipsec header on, padding perhaps behind it.
fn run(data: &[u8]) {
    let Some(frame) = ControlFrame::decode(data) else {
        return;
    };
    let header = *frame.header();
    let bytes = frame.to_bytes();
    assert!(data.starts_with(&bytes), "the frame is what arrived");
    let end = bytes.len() - CONTROL_MAC_LEN;
    assert_eq!(frame.clear()[..], bytes[..CLEAR_HEADER_LEN]);
    assert_eq!(frame.body(), &bytes[CLEAR_HEADER_LEN..end]);
    assert!(bytes.len() <= HEADER_LEN + usize::from(MAX_CONTROL_LENGTH));
    assert_eq!(
        header.receiver.is_none(),
        header.message == MessageType::Beacon
    );

    // Written from what was read, it is the same but for what proves it.
    let clear = encode_clear(&header, frame.body().len(), keys());
    let unproven = |clear: &[u8; CLEAR_HEADER_LEN]| {
        let mut clear = *clear;
        clear[OFFSET_GATE..OFFSET_GATE + 8].fill(0);
        clear
    };
    assert_eq!(unproven(&clear), unproven(frame.clear()));
    let written = encode(header.message, &clear, frame.body(), keys());
    let read = ControlFrame::decode(&written).expect("what we write can be read");
    assert_eq!(*read.header(), header);
    assert_eq!(read.body(), frame.body());
    assert_eq!(read.verify(keys()), header.master == keys().id());
    // Nobody without the key writes another frame that fits.
    assert_eq!(
        frame.verify(keys()),
        bytes == written && read.verify(keys())
    );
    assert!(ControlFrame::decode(&bytes[..bytes.len() - 1]).is_none());
}

fn seeds() -> Vec<Vec<u8>> {
    let written = MessageType::ALL.map(|message| {
        let header = ClearHeader {
            message,
            sender: NodeId::new(1).unwrap(),
            receiver: NodeId::new(2).filter(|_| message != MessageType::Beacon),
            exchange: 3,
            epoch: Epoch(4),
            master: keys().id(),
            chain: 5,
            suites: 6,
        };
        let clear = encode_clear(&header, 24, keys());
        encode(message, &clear, &[0xbb; 24], keys())
    });
    let mut padded = written[0].clone();
    padded.extend([0; 9]);
    // Each byte of the clear header changed a little.
    let spoilt = (0..CLEAR_HEADER_LEN).map(|at| {
        let mut frame = written[0].clone();
        frame[at] ^= 1;
        frame
    });
    let mut seeds: Vec<Vec<u8>> = spoilt.collect();
    seeds.extend(written);
    seeds.push(padded);
    seeds
}

/// A byte that says which message, then its bytes.
fn run_messages(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.below(4);
    let bytes = input.rest();
    match kind {
        0 => {
            let Some(start) = Start::decode(bytes) else {
                return;
            };
            // An incarnation that is not known is not looked at.
            let mut written = start.encode();
            if start.responder.is_none() {
                written[9..17].copy_from_slice(&bytes[9..17]);
            }
            assert_eq!(written, bytes);
            assert!((1..=MAX_LANES).contains(&usize::from(start.lanes)));
            check_addresses(&start.addresses);
            check_holdings(&start.holdings);
        }
        1 => {
            let Some(offer) = Offer::decode(bytes) else {
                return;
            };
            assert_eq!(offer.encode()[..], *bytes);
            assert!(bytes.len() <= MAX_OFFER_LEN, "no longer than its m1");
            assert!((1..=MAX_LANES).contains(&offer.spis.len()));
            assert!((1..=MAX_LANES).contains(&usize::from(offer.lanes)));
            let mut spis: Vec<u32> = offer.spis.iter().map(|spi| spi.value()).collect();
            spis.sort_unstable();
            spis.dedup();
            assert_eq!(spis.len(), offer.spis.len(), "two lanes, one key");
            check_addresses(&offer.addresses);
            check_holdings(&offer.holdings);
        }
        2 => {
            let Some(hello) = Hello::decode(bytes) else {
                return;
            };
            assert_eq!(hello.encode(), bytes);
            check_addresses(&hello.addresses);
        }
        _ => {
            let Some(beacon) = Beacon::decode(bytes) else {
                return;
            };
            assert_eq!(beacon.encode(), bytes);
            check_addresses(&Addresses::one(beacon.network, beacon.address));
            check_holdings(&beacon.holdings);
        }
    }
}

/// At least one, and none that several nodes could have.
fn check_addresses(addresses: &Addresses) {
    assert!(addresses.iter().next().is_some());
    for (_, address) in addresses.iter() {
        match address {
            Address::Ethernet(mac) => assert!(!mac.is_group() && mac.0 != [0; 6]),
            Address::Udp(address) => {
                let ip = address.ip();
                assert!(address.port() != 0 && !ip.is_multicast());
                assert!(!ip.is_unspecified() && !ip.is_loopback());
            }
        }
    }
}

/// One role for each key, and one that is active.
fn check_holdings(holdings: &Holdings) {
    let ids: Vec<u64> = holdings.masters.iter().map(|(_, id)| id.0).collect();
    assert!(!ids.contains(&0));
    for (at, id) in ids.iter().enumerate() {
        assert!(!ids[..at].contains(id), "one key in two roles");
    }
}

fn message_seeds() -> Vec<Vec<u8>> {
    let ethernet = Address::Ethernet(MacAddr([2, 0, 0, 0, 0, 9]));
    let everywhere = Addresses::one(Network::DEFAULT, ethernet)
        .with(
            Network::new(1).unwrap(),
            Address::Udp("10.0.0.1:6119".parse().unwrap()),
        )
        .with(
            Network::LAST,
            Address::Udp("[fd00::1]:6119".parse().unwrap()),
        );
    let holdings = Holdings {
        change: 3,
        masters: Masters::new(MasterId(1), Some(MasterId(2)), Some(MasterId(3))),
    };
    let start = |responder| Start {
        initiator: Incarnation(1),
        responder,
        counter: 3,
        lanes: 1,
        addresses: everywhere,
        holdings,
        cookie: [4; COOKIE_LEN],
    };
    let offer = |lanes: u32| Offer {
        epoch: Epoch(7),
        suite: Suite::Aes256Gcm,
        suites: 7,
        lanes: 2,
        rekey_interval: Some(Duration::from_secs(600)),
        budget: 1 << 32,
        addresses: everywhere,
        holdings,
        sek: Sek::new([5; 32]),
        spis: (1..=lanes).map(|n| Spi::new(n).unwrap()).collect(),
    };
    let hello = Hello {
        incarnation: Incarnation(9),
        busy: true,
        cookie: [7; COOKIE_LEN],
        addresses: everywhere,
    };
    let beacon = Beacon {
        network: Network::DEFAULT,
        address: ethernet,
        holdings,
    };
    let named = |kind: u8, body: &[u8]| [&[kind][..], body].concat();
    vec![
        named(0, &start(None).encode()),
        named(0, &start(Some(Incarnation(2))).encode()),
        named(1, &offer(1).encode()),
        named(1, &offer(32).encode()),
        named(2, &hello.encode()),
        named(3, &beacon.encode()),
    ]
}
