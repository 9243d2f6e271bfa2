//! The kernel's tap device.
#![cfg(feature = "io")]
// A test may stop at the first surprise, and says what it measured.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout
)]

mod netns;

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use netns::{NetNs, eventually, is_root};
use tipsec_dataplane::ids::NodeId;
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::tap::TapPort;
use tipsec_dataplane::tap::device::{Tap, TapConfig, TapError};

fn config() -> TapConfig {
    TapConfig {
        name: "tipsec0".into(),
        node: NodeId::new(0x0102_0304).unwrap(),
        mtu: 1465,
        ipv4: Some((Ipv4Addr::new(10, 1, 2, 3), 24)),
        ipv6: None,
    }
}

#[test]
fn frames_pass_both_ways_without_waiting() {
    if !is_root("frames_pass_both_ways_without_waiting") {
        return;
    }
    let ns = NetNs::new("tap");
    ns.run(|| {
        let mut tap = Tap::create(&config()).unwrap();
        let retry = "/proc/sys/net/ipv4/neigh/tipsec0/retrans_time_ms";
        assert_eq!(std::fs::read_to_string(retry).unwrap().trim(), "100");
        let mut room = [0; 2048];
        // Out: a broadcast that the stack sends, with the tap's own address.
        let socket = UdpSocket::bind("10.1.2.3:4000").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(b"hello", "10.1.2.255:4001").unwrap();
        let mut length = None;
        assert!(eventually(|| {
            length = tap.read(&mut room).unwrap();
            length.is_some_and(|n| room[..n].ends_with(b"hello"))
        }));
        assert_eq!(room[..6], MacAddr::BROADCAST.0);
        assert_eq!(room[6..12], MacAddr::of_tap(config().node).0);
        // In: the same frame, from somebody else.
        let frame = &mut room[..length.unwrap()];
        frame[6..12].copy_from_slice(&MacAddr::of_tap(NodeId::new(9).unwrap()).0);
        assert!(tap.write(frame).unwrap());
        assert!(!eventually_none(&mut tap), "nothing more waits");
    });
    assert!(
        ns.run(|| Tap::create(&config()).is_ok()),
        "gone when dropped"
    );
}

fn eventually_none(tap: &mut Tap) -> bool {
    let mut room = [0; 2048];
    while let Ok(Some(_)) = tap.read(&mut room) {}
    tap.read(&mut room).unwrap().is_some()
}

#[test]
fn failures_are_told_apart() {
    if !is_root("failures_are_told_apart") {
        return;
    }
    let ns = NetNs::new("tapbad");
    let mut tap = ns.run(|| Tap::create(&config())).unwrap();
    assert!(matches!(
        ns.run(|| Tap::create(&config()).err()),
        Some(TapError::NameTaken { name }) if name == "tipsec0"
    ));
    ns.ip("link set tipsec0 down");
    assert!(tap.write(&[0xff; 60]).is_err(), "down");
    ns.ip("link set tipsec0 up");
    assert!(tap.write(&[0xff; 60]).unwrap());
    ns.ip("link del tipsec0");
    assert!(tap.write(&[0xff; 60]).is_err(), "deleted");
    assert!(tap.read(&mut [0; 100]).is_err(), "deleted");
    // A persistent tap of somebody else's is not adopted.
    ns.ip("tuntap add dev tipsec0 mode tap");
    assert!(matches!(
        ns.run(|| Tap::create(&config()).err()),
        Some(TapError::NameTaken { .. })
    ));
}

#[test]
fn ipv6_address_is_set() {
    if !is_root("ipv6_address_is_set") {
        return;
    }
    let ns = NetNs::new("tap6");
    ns.run(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0").unwrap();
        let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
        let settings = TapConfig {
            ipv6: Some((address, 64)),
            ..config()
        };
        let _tap = Tap::create(&settings).unwrap();
        assert!(eventually(|| UdpSocket::bind((address, 0)).is_ok()));
    });
}
