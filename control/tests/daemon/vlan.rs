//! Bearers with a VLAN and without: what is on the wire, who becomes a peer,
//! and what becomes of frames of another VLAN.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use tipsec_control::admin::{LinkState, PeerReport};
use tipsec_control::shell::packet_socket::PacketSocket;
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::VlanId;

use crate::lab::{Lab, NIC, mac, port, run, wait_for};
use crate::node::{Daemon, KEY, PATIENCE, cluster_of, config_with};
use crate::raw::{Capture, ETHERTYPE, RawSocket, is_data, is_tipsec};
use crate::traffic::{Sink, Source, address, tcp};

/// A configuration of node `i` on this VLAN, or without a tag.
fn on_vlan(lab: &Lab, i: usize, vlan: Option<u16>) -> String {
    let key = vlan.map(|vlan| format!("vlan = {vlan}\n"));
    let bearer = format!(
        "[[bearer]]\ninterface = \"{NIC}\"\n{}",
        key.unwrap_or_default()
    );
    config_with(lab, i, &bearer)
}

/// A lab whose hub leaves tags in the frames that it forwards: a bridge hands
/// them on beside the frame, and a veth, unless told otherwise, takes them so,
/// where no XDP program sees them. `None`, and a line that says so, without root
/// or ethtool.
fn lab(nodes: usize) -> Option<Lab> {
    if Command::new("ethtool").arg("--version").output().is_err() {
        println!("SKIPPED (needs ethtool)");
        return None;
    }
    let lab = Lab::alone(nodes)?;
    for i in 1..=nodes {
        let words = ["netns", "exec", &lab.hub(), "ethtool", "-K", &port(i)];
        run("ip", &[&words[..], &["txvlan", "off"]].concat());
    }
    Some(lab)
}

/// A frame without its tag, and the tag's two values.
fn untagged(frame: &[u8]) -> (Vec<u8>, Option<[u8; 4]>) {
    match frame.get(12..16) {
        Some(&[0x81, 0x00, a, b]) => {
            let rest = [&frame[..12], &frame[16..]].concat();
            (rest, Some([0x81, 0x00, a, b]))
        }
        _ => (frame.to_vec(), None),
    }
}

/// The tag of this VLAN with priority 0.
fn tag(vlan: Option<u16>) -> Option<[u8; 4]> {
    let [a, b] = vlan?.to_be_bytes();
    Some([0x81, 0x00, a, b])
}

/// The same frame with this tag.
fn tagged(frame: &[u8], tag: &[u8]) -> Vec<u8> {
    [&frame[..12], tag, &frame[12..]].concat()
}

fn xdp_count(daemon: &Daemon, name: &str) -> u64 {
    daemon.status().xdp.get(name).copied().unwrap_or_default()
}

fn replayed(daemon: &Daemon) -> u64 {
    let status = daemon.status();
    let drops = &status.workers[0].drops;
    drops.get("rx_replayed").copied().unwrap_or_default()
}

/// Nodes 1 and 2 on one VLAN, 3 and 4 on others of the same wire, all under one
/// master key.
fn apart(own: Option<u16>, others: [Option<u16>; 2]) {
    let Some(lab) = lab(4) else { return };
    let capture = Capture::start(&lab, &lab.hub(), &port(1), |frame| {
        is_tipsec(&untagged(frame).0)
    });
    let strangers: Vec<_> = (3..)
        .zip(others)
        .map(|(i, vlan)| {
            let daemon = Daemon::start_with(&lab, i, &on_vlan(&lab, i, vlan));
            daemon.set_master(KEY);
            daemon
        })
        .collect();
    let nodes = cluster_of(&lab, &[1, 2].map(|i| on_vlan(&lab, i, own)));
    let status = nodes[0].status();
    assert_eq!(status.bearers[0].vlan, own);
    // A tag is not part of the MTU.
    assert_eq!(status.tap.unwrap().mtu, 1500 - 35);

    let sinks = [Sink::start(&lab, 2), Sink::start(&lab, 1)];
    let gap = Duration::from_millis(2);
    let sources = [
        Source::start(&lab, 1, 2, gap),
        Source::start(&lab, 2, 1, gap),
    ];
    wait_for("datagrams both ways", PATIENCE, || {
        let arrived = sinks.each_ref().map(Sink::received);
        (arrived[0] > 100 && arrived[1] > 100).then_some(())
    });
    drop(sources);
    tcp(&lab, 1 << 20);

    // Everybody hears beacons of other VLANs, refuses and counts them.
    for daemon in nodes.iter().chain(&strangers) {
        wait_for("frames of other VLANs are counted", PATIENCE, || {
            let refused = daemon.status().control["other_vlan"];
            (refused >= 3 && xdp_count(daemon, "not_ours") >= refused).then_some(())
        });
    }
    for stranger in &strangers {
        let status = stranger.status();
        assert!(stranger.peers().is_empty(), "{:?}", stranger.peers());
        assert_eq!(status.control["frames_received"], 0, "{:?}", status.control);
        assert_eq!(status.workers[0].received_frames, 0);
    }
    for (node, other) in [(&nodes[0], 2), (&nodes[1], 1)] {
        let peers = node.peers();
        assert_eq!(peers.len(), 1, "{peers:?}");
        assert!(node.peer(other).is_some());
    }

    let frames = capture.finish();
    let (mut data, mut control) = (0, 0);
    let mut senders = BTreeSet::new();
    for frame in &frames {
        let (inner, found) = untagged(frame);
        let source: [u8; 6] = *inner[6..].first_chunk().unwrap();
        let vlan = (1..=4)
            .zip([own, own, others[0], others[1]])
            .find_map(|(i, vlan)| (source == mac(i)).then_some(vlan));
        assert_eq!(found, tag(vlan.unwrap()), "{frame:02x?}");
        senders.insert(source);
        *(if is_data(&inner) {
            &mut data
        } else {
            &mut control
        }) += 1;
    }
    println!("{own:?}: {data} data frames and {control} control frames looked at");
    assert!(data > 200 && control > 10 && senders.len() == 4);

    // Data that node 1 has opened before: on its VLAN it is known again, on
    // any other it does not get to the worker.
    let mut inner = frames.iter().map(|frame| untagged(frame).0);
    let opened = inner
        .rfind(|frame| is_data(frame) && frame[..6] == mac(1))
        .unwrap();
    let wire = RawSocket::open(&lab, &lab.hub(), &port(1));
    let known = match tag(own) {
        Some(tag) => tagged(&opened, &tag),
        None => opened.clone(),
    };
    let before = replayed(&nodes[0]);
    assert!(wire.send(&known));
    wait_for("a replay is counted", PATIENCE, || {
        (replayed(&nodes[0]) == before + 1).then_some(())
    });
    let (received, not_ours) = (
        nodes[0].status().workers[0].received_frames,
        xdp_count(&nodes[0], "not_ours"),
    );
    for vlan in others {
        let frame = tag(vlan).map_or_else(|| opened.clone(), |tag| tagged(&opened, &tag));
        for _ in 0..100 {
            assert!(wire.send(&frame));
        }
    }
    wait_for("data of other VLANs is passed by", PATIENCE, || {
        (xdp_count(&nodes[0], "not_ours") >= not_ours + 200).then_some(())
    });
    // Behind them all: had any of them been taken, it would be counted before.
    assert!(wire.send(&known));
    wait_for("the last replay is counted", PATIENCE, || {
        (replayed(&nodes[0]) > before + 1).then_some(())
    });
    assert_eq!(replayed(&nodes[0]), before + 2);
    let probes = nodes[0].status().workers[0].received_frames - received;
    assert!(probes < 150, "{probes} frames got to the worker");
}

#[test]
fn nodes_on_a_vlan_know_no_others() {
    apart(Some(100), [Some(101), None]);
}

#[test]
fn nodes_without_a_vlan_know_none_on_one() {
    apart(None, [Some(100), Some(4094)]);
}

/// As with a NIC that takes tags off: the hub's devices keep them beside frames.
#[test]
fn a_tag_that_xdp_does_not_see_lets_no_data_through() {
    let Some(lab) = Lab::alone(2) else { return };
    let nodes = [1, 2].map(|i| Daemon::start_with(&lab, i, &on_vlan(&lab, i, Some(100))));
    for node in &nodes {
        node.set_master(KEY);
    }
    for node in &nodes {
        wait_for("it is said that lanes carry nothing", 2 * PATIENCE, || {
            let events = node.events();
            events
                .iter()
                .any(|event| event.kind == "unconfirmed")
                .then_some(())
        });
        let status = node.status();
        assert_eq!(status.workers[0].received_frames, 0);
        assert_eq!(status.control["other_vlan"], 0);
        let up = |peer: &PeerReport| peer.link == LinkState::Up;
        assert!(!node.peers().iter().any(up), "{:?}", node.peers());
    }
}

#[test]
fn full_frames_fit_with_their_tag() {
    // The last makes frames that fit one buffer of a NIC's without their tag alone.
    for mtu in [1500_u32, 3502, 3506] {
        let Some(lab) = lab(2) else { return };
        for i in [1, 2] {
            let text = mtu.to_string();
            lab.ip(&lab.hub(), &["link", "set", &port(i), "mtu", &text]);
            lab.ip(&lab.node(i), &["link", "set", NIC, "mtu", &text]);
        }
        let nodes = cluster_of(&lab, &[1, 2].map(|i| on_vlan(&lab, i, Some(7))));
        let status = nodes[0].status();
        assert_eq!(status.bearers[0].multi_buffer, mtu > 3502);
        let tap_mtu = status.tap.unwrap().mtu;
        assert_eq!(tap_mtu, mtu - 35);
        // With headers of IPv4 and UDP.
        let full = vec![0x5a; tap_mtu as usize - 28];
        let receiver = lab.inside(&lab.node(2), || {
            UdpSocket::bind((address(2), 7002)).unwrap()
        });
        receiver.set_nonblocking(true).unwrap();
        let sender = lab.inside(&lab.node(1), || UdpSocket::bind((address(1), 0)).unwrap());
        let to = SocketAddr::from((address(2), 7002));
        wait_for("a datagram that fills a frame", PATIENCE, || {
            sender.send_to(&full, to).unwrap();
            let mut datagram = [0; 4096];
            let len = receiver.recv(&mut datagram).ok()?;
            assert!(datagram[..len] == full);
            Some(())
        });
        tcp(&lab, 1 << 20);
    }
}

/// What a control socket of this VLAN takes, and what it counts as another's.
#[test]
fn only_frames_of_the_vlan_get_in() {
    let Some(lab) = Lab::new(1) else { return };
    let shown = lab.ip(&lab.node(1), &["-o", "link", "show", "dev", NIC]);
    let ifindex = shown.split(':').next().unwrap().parse().unwrap();
    let ours = u16::from_be_bytes(ETHERTYPE);
    let wire = RawSocket::open(&lab, &lab.hub(), &port(1));
    // Tags before the EtherType, and the VLAN that takes such a frame.
    let frames: [(&[u8], Option<Option<u16>>); 7] = [
        (&[], Some(None)),
        (&[0x81, 0x00, 0x00, 100], Some(Some(100))),
        // Priority 5 and the drop bit.
        (&[0x81, 0x00, 0xb0, 100], Some(Some(100))),
        (&[0x81, 0x00, 0x00, 101], Some(Some(101))),
        // Priority alone.
        (&[0x81, 0x00, 0x60, 0], None),
        (&[0x81, 0x00, 0x0f, 0xff], None),
        // A provider's tag.
        (&[0x88, 0xa8, 0x00, 100], None),
    ];
    for vlan in [None, Some(100), Some(101)] {
        let id = vlan.map(|vlan| VlanId::new(vlan).unwrap());
        let (sender, socket) = lab.inside(&lab.node(1), || {
            let open = |vlan| PacketSocket::open(ifindex, ours, vlan, MacAddr(mac(1))).unwrap();
            (open(None), open(id))
        });
        let last = tag(vlan).map_or_else(Vec::new, |tag| tag.to_vec());
        let mut expected = Vec::new();
        let mut elsewhere = 0;
        // What this node itself sends does not come back.
        sender.send(MacAddr(mac(1)), &[0xee; 60]).unwrap();
        let all = frames.iter().copied().chain([(&last[..], Some(vlan))]);
        for (number, (tags, taken)) in (0..).zip(all) {
            let frame = |ethertype: [u8; 2]| {
                let start = [&mac(1)[..], &[2, 0, 0, 0, 0, 9], tags, &ethertype].concat();
                [&start[..], &[number; 60]].concat()
            };
            // Others' EtherTypes are neither, whatever the VLAN.
            assert!(wire.send(&frame([0x88, 0xb6])) && wire.send(&frame(ETHERTYPE)));
            // Nor is what lies behind a second tag.
            let two = tagged(&frame(ETHERTYPE), &[0x81, 0x00, 0x00, 100]);
            assert!(tags.is_empty() || wire.send(&two));
            match taken {
                Some(of) if of == vlan => expected.push(number),
                _ => elsewhere += 1,
            }
        }
        let mut seen = Vec::new();
        wait_for("the last frame", PATIENCE, || {
            let mut buffer = [0; 2048];
            while let Some((source, bytes)) = socket.receive(&mut buffer) {
                assert_eq!(source, MacAddr([2, 0, 0, 0, 0, 9]));
                assert_eq!(bytes, [bytes[0]; 60]);
                seen.push(bytes[0]);
            }
            (seen.last() == Some(&7)).then_some(())
        });
        assert_eq!(seen, expected, "{vlan:?}");
        assert_eq!(socket.take_other_vlan(), elsewhere, "{vlan:?}");
        assert_eq!((socket.take_other_vlan(), socket.take_dropped()), (0, 0));
    }
}
