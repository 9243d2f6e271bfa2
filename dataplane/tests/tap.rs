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
use tipsec_dataplane::tap::device::{Tap, TapConfig, TapError, TapQueue};
use tipsec_dataplane::tap::vnet::{VNET_LEN, VnetHeader};
use tipsec_dataplane::tap::{FRAME_MAX, TapPort};

fn config() -> TapConfig {
    TapConfig {
        name: "tipsec0".into(),
        node: NodeId::new(0x0102_0304).unwrap(),
        mtu: 1465,
        ipv4: Some((Ipv4Addr::new(10, 1, 2, 3), 24)),
        ipv6: None,
    }
}

/// The device, once a former one of its name is gone: a child that another test
/// is about to start holds this process's descriptors for a moment.
fn create(ns: &NetNs, queues: usize) -> Vec<TapQueue> {
    let mut made = None;
    assert!(eventually(|| {
        made = ns.run(|| match Tap::create(&config(), queues) {
            Err(TapError::NameTaken { .. }) => None,
            other => Some(other.unwrap().into_queues()),
        });
        made.is_some()
    }));
    made.unwrap()
}

/// Reads one frame whole; `None` if none waits.
fn read(tap: &mut TapQueue) -> Option<(VnetHeader, Vec<u8>)> {
    let (mut header, mut room) = ([0; VNET_LEN], vec![0; FRAME_MAX]);
    let (head, overflow) = room.split_at_mut(1000);
    let length = tap.read(&mut header, head, overflow).unwrap()?;
    room.truncate(length);
    Some((VnetHeader::decode(&header), room))
}

fn write(tap: &mut TapQueue, frame: &[u8]) -> std::io::Result<bool> {
    tap.write(&[0; VNET_LEN], frame)
}

#[test]
fn frames_pass_both_ways_without_waiting() {
    if !is_root("frames_pass_both_ways_without_waiting") {
        return;
    }
    let ns = NetNs::new("tap");
    let mut tap = create(&ns, 1).remove(0);
    ns.run(|| {
        let retry = "/proc/sys/net/ipv4/neigh/tipsec0/retrans_time_ms";
        assert_eq!(std::fs::read_to_string(retry).unwrap().trim(), "100");
        // Out: a broadcast that the stack sends, with the tap's own address.
        let socket = UdpSocket::bind("10.1.2.3:4000").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(b"hello", "10.1.2.255:4001").unwrap();
        let mut found = None;
        assert!(eventually(|| {
            found = read(&mut tap).filter(|(_, frame)| frame.ends_with(b"hello"));
            found.is_some()
        }));
        let (_, mut frame) = found.unwrap();
        assert_eq!(frame[..6], MacAddr::BROADCAST.0);
        assert_eq!(frame[6..12], MacAddr::of_tap(config().node).0);
        // In: the same frame, from somebody else.
        frame[6..12].copy_from_slice(&MacAddr::of_tap(NodeId::new(9).unwrap()).0);
        assert!(write(&mut tap, &frame).unwrap());
        while read(&mut tap).is_some() {}
        assert!(read(&mut tap).is_none(), "nothing more waits");
    });
    drop(tap);
    drop(create(&ns, 1));
}

#[test]
fn failures_are_told_apart() {
    if !is_root("failures_are_told_apart") {
        return;
    }
    let ns = NetNs::new("tapbad");
    let mut tap = create(&ns, 1).remove(0);
    assert!(matches!(
        ns.run(|| Tap::create(&config(), 1).err()),
        Some(TapError::NameTaken { name }) if name == "tipsec0"
    ));
    let refused = write(&mut tap, &[0xff; 10]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput, "runt");
    ns.ip("link set tipsec0 down");
    assert!(write(&mut tap, &[0xff; 60]).is_err(), "down");
    ns.ip("link set tipsec0 up");
    assert!(write(&mut tap, &[0xff; 60]).unwrap());
    ns.ip("link del tipsec0");
    assert!(write(&mut tap, &[0xff; 60]).is_err(), "deleted");
    let gone = tap.read(&mut [0; VNET_LEN], &mut [0; 100], &mut []);
    assert!(gone.is_err(), "deleted");
    // A persistent tap of somebody else's is not adopted.
    ns.ip("tuntap add dev tipsec0 mode tap");
    assert!(matches!(
        ns.run(|| Tap::create(&config(), 1).err()),
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
        let _tap = Tap::create(&settings, 1).unwrap();
        assert!(eventually(|| UdpSocket::bind((address, 0)).is_ok()));
    });
}

/// Sends `count` broadcasts from as many sockets, so that the kernel spreads
/// them over the queues.
fn broadcast(ns: &NetNs, count: usize) {
    ns.run(|| {
        for _ in 0..count {
            let socket = UdpSocket::bind("10.1.2.3:0").unwrap();
            socket.set_broadcast(true).unwrap();
            socket.send_to(b"spread", "10.1.2.255:4001").unwrap();
        }
    });
}

/// How many of those wait in a queue.
fn drain(tap: &mut TapQueue) -> usize {
    let mut count = 0;
    while let Some((_, frame)) = read(tap) {
        count += usize::from(frame.ends_with(b"spread"));
    }
    count
}

#[test]
fn detached_queue_gets_no_flows() {
    if !is_root("detached_queue_gets_no_flows") {
        return;
    }
    let ns = NetNs::new("tapmq");
    let mut queues = create(&ns, 3);
    broadcast(&ns, 64);
    let counts: Vec<_> = queues.iter_mut().map(drain).collect();
    assert_eq!(counts.iter().sum::<usize>(), 64);
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");

    broadcast(&ns, 64);
    let lost = queues[1].detach().unwrap();
    assert!(lost > 0);
    assert!(queues[1].detach().is_err(), "it is already");
    let counts: Vec<_> = queues.iter_mut().map(drain).collect();
    assert_eq!(counts[1], 0);
    assert_eq!(counts.iter().sum::<usize>() as u64 + lost, 64);

    broadcast(&ns, 64);
    let counts: Vec<_> = queues.iter_mut().map(drain).collect();
    assert_eq!((counts[1], counts[0] + counts[2]), (0, 64), "{counts:?}");

    queues[1].attach().unwrap();
    broadcast(&ns, 64);
    let counts: Vec<_> = queues.iter_mut().map(drain).collect();
    assert_eq!(counts.iter().sum::<usize>(), 64);
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    // The only queue of a device stays.
    drop(queues);
    let mut queues = create(&ns, 1);
    assert_eq!(queues[0].detach().unwrap(), 0);
    broadcast(&ns, 3);
    assert_eq!(drain(&mut queues[0]), 3);
}
