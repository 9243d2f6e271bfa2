//! Frames in UDP over IPv4 and IPv6: what is on the wire, through a router,
//! and while MTU and next hop change.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tipsec_control::admin::LinkState;
use tipsec_control::shell::udp_socket::UdpSocket as ControlSocket;
use tipsec_xdp::wire::{GROUP_IPV4, GROUP_IPV4_MAC, GROUP_IPV6, GROUP_IPV6_MAC};

use crate::lab::{Lab, NIC, SECOND_NIC, TAP, Wiring, mac, port, wait_for};
use crate::node::{Daemon, PATIENCE, cluster_of, config_with};
use crate::raw::{Capture, RawSocket};
use crate::traffic::{Sink, Source, tcp};

const PORT: u16 = 6119;
/// Bytes before the Tipsec header, and where in them the IP header starts.
const IP: usize = 14;
const LANE_PORT: u16 = 49_152;

/// A family of addresses, and what it costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn address(self, network: u8, host: u8) -> IpAddr {
        let text = match self {
            Self::V4 => format!("10.1.{network}.{host}"),
            Self::V6 => format!("fd01:{network}::{host}"),
        };
        text.parse().unwrap()
    }

    fn overhead(self) -> u32 {
        match self {
            Self::V4 => 28,
            Self::V6 => 48,
        }
    }
}

/// Gives a device an address.
fn give(lab: &Lab, ns: &str, device: &str, address: IpAddr) {
    lab.inside(ns, || {
        let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
        fs::write(path, if address.is_ipv6() { "0" } else { "1" }).unwrap();
    });
    let (prefix, rest): (u8, &[&str]) = match address {
        IpAddr::V4(_) => (24, &[]),
        IpAddr::V6(_) => (64, &["nodad"]),
    };
    let text = format!("{address}/{prefix}");
    let add = ["address", "add", &text, "dev", device];
    lab.ip(ns, &[&add[..], rest].concat());
}

fn bearer(interface: &str, more: &str) -> String {
    format!("[[bearer]]\ninterface = \"{interface}\"\nencapsulation = \"udp\"\n{more}")
}

/// Two nodes on one link.
fn pair(lab: &Lab, family: Family) -> Vec<Daemon> {
    for i in [1, 2] {
        let host = u8::try_from(i).unwrap();
        give(lab, &lab.node(i), NIC, family.address(0, host));
    }
    let configs = [1, 2].map(|i| config_with(lab, i, &bearer(NIC, "")));
    cluster_of(lab, &configs)
}

/// Whether a frame is IP, and of which protocol.
fn protocol(frame: &[u8]) -> Option<u8> {
    match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(IP + 9).copied(),
        [0x86, 0xdd] => frame.get(IP + 6).copied(),
        _ => None,
    }
}

/// An answer to a datagram that nobody wants.
fn is_unreachable(frame: &[u8]) -> bool {
    match protocol(frame) {
        Some(1) => frame.get(IP + 20) == Some(&3),
        Some(58) => frame.get(IP + 40) == Some(&1),
        _ => false,
    }
}

/// The UDP header and what follows, if the frame is one to our port.
fn ours(frame: &[u8]) -> Option<&[u8]> {
    if protocol(frame) != Some(17) {
        return None;
    }
    let ip_len = if frame[12..14] == [0x08, 0x00] {
        20
    } else {
        40
    };
    let udp = frame.get(IP + ip_len..)?;
    (udp.get(2..4)? == PORT.to_be_bytes()).then_some(udp)
}

fn is_data(udp: &[u8]) -> bool {
    udp.get(8) == Some(&0x10)
}

/// Lets numbered datagrams flow both ways until some have arrived.
fn carries(lab: &Lab, [there, back]: [&Sink; 2], what: &str) {
    let before = [there.received(), back.received()];
    let gap = Duration::from_millis(2);
    let _sources = [Source::start(lab, 1, 2, gap), Source::start(lab, 2, 1, gap)];
    wait_for(what, PATIENCE, || {
        let now = [there.received(), back.received()];
        (now[0] > before[0] + 100 && now[1] > before[1] + 100).then_some(())
    });
}

fn counts_of(daemon: &Daemon, names: &[&str]) -> u64 {
    let status = daemon.status();
    let xdp = names.iter().filter_map(|&name| status.xdp.get(name));
    xdp.sum()
}

fn on_the_wire(family: Family) {
    let Some(lab) = Lab::alone(2) else { return };
    let all = Capture::start(&lab, &lab.hub(), &port(1), |frame| {
        protocol(frame).is_some()
    });
    let daemons = pair(&lab, family);
    let sinks = [Sink::start(&lab, 2), Sink::start(&lab, 1)];
    carries(&lab, sinks.each_ref(), "datagrams over UDP");
    tcp(&lab, 4 << 20);
    let status = daemons[0].status();
    let shown = &status.bearers[0];
    assert_eq!(shown.encapsulation, "udp");
    let own = SocketAddr::new(family.address(0, 1), PORT);
    assert_eq!(shown.address.as_deref(), Some(own.to_string().as_str()));
    assert_eq!(status.tap.unwrap().mtu, 1500 - family.overhead() - 35);

    // What is to our port and nonsense is dropped in the driver, and counted.
    give(&lab, &lab.hub(), "br0", family.address(0, 99));
    let from = SocketAddr::new(family.address(0, 99), 0);
    let stranger = lab.inside(&lab.hub(), || UdpSocket::bind(from).unwrap());
    let junk = ["bad_version", "bad_length", "malformed"];
    let before = counts_of(&daemons[0], &junk);
    wait_for("junk is counted", PATIENCE, || {
        for length in [0, 1, 15, 40, 400] {
            stranger.send_to(&vec![0x5a; length], own).unwrap();
        }
        (counts_of(&daemons[0], &junk) >= before + 5).then_some(())
    });
    // Data for lanes that nobody has issued.
    let unknown = counts_of(&daemons[0], &["unknown_spi"]);
    let mut stray = vec![0x10, 0, 0, 40, 0x7f, 0xff, 0xff, 0xf0];
    stray.resize(56, 0);
    wait_for("stray data is counted", PATIENCE, || {
        stranger.send_to(&stray, own).unwrap();
        (counts_of(&daemons[0], &["unknown_spi"]) > unknown).then_some(())
    });

    let frames = all.finish();
    assert!(!frames.iter().any(|frame| is_unreachable(frame)));
    let stranger = u16::to_be_bytes(stranger.local_addr().unwrap().port());
    let (mut data, mut control) = (0, 0);
    for frame in &frames {
        let Some(udp) = ours(frame).filter(|udp| udp[..2] != stranger) else {
            continue;
        };
        assert_eq!(udp[6..8], [0, 0], "without a checksum: {frame:02x?}");
        if family == Family::V4 {
            assert_eq!(frame[IP + 6..IP + 8], [0x40, 0], "DF alone: {frame:02x?}");
        }
        let source = u16::from_be_bytes([udp[0], udp[1]]);
        if is_data(udp) {
            assert_eq!(source, LANE_PORT, "lane 0's own: {frame:02x?}");
            data += 1;
        } else {
            assert_eq!(source, PORT);
            control += 1;
        }
    }
    println!("{family:?}: {data} data frames and {control} control frames looked at");
    assert!(data > 1000 && control > 2);
}

#[test]
fn over_ipv4_frames_are_as_described() {
    on_the_wire(Family::V4);
}

#[test]
fn over_ipv6_frames_are_as_described() {
    on_the_wire(Family::V6);
}

#[test]
fn every_lane_has_a_source_port() {
    let wiring = Wiring { nics: 1, queues: 2 };
    let Some(lab) = Lab::wired(2, wiring) else {
        return;
    };
    let data = Capture::start(&lab, &lab.hub(), &port(1), |frame| {
        ours(frame).is_some_and(is_data)
    });
    let mut configs = Vec::new();
    for i in [1, 2] {
        let host = u8::try_from(i).unwrap();
        give(&lab, &lab.node(i), NIC, Family::V6.address(0, host));
        configs.push(config_with(&lab, i, &bearer(NIC, "queues = [0, 1]\n")));
    }
    let _daemons = cluster_of(&lab, &configs);
    let sinks = [Sink::start(&lab, 2), Sink::start(&lab, 1)];
    carries(&lab, sinks.each_ref(), "datagrams over two lanes");
    // Each lane was confirmed by probes at least, at both ends.
    let mut seen = BTreeSet::new();
    for frame in data.finish() {
        let udp = ours(&frame).unwrap();
        let source: [u8; 6] = *frame[6..].first_chunk().unwrap();
        seen.insert((source, u16::from_be_bytes([udp[0], udp[1]])));
    }
    let lanes = [mac(1), mac(2)]
        .into_iter()
        .flat_map(|mac| [(mac, LANE_PORT), (mac, LANE_PORT + 1)]);
    assert_eq!(seen, lanes.collect());
}

/// Node 1 on one network and node 2 on another, the hub forwarding in between;
/// no multicast gets through, so each is listed at the other.
fn routed(lab: &Lab, family: Family) -> Vec<Daemon> {
    let hub = lab.hub();
    lab.inside(&hub, || {
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
        }
    });
    // A router that forwards for others speaks to hosts from its link-local
    // address; that it has a new MAC it has to say for the other as well.
    lab.inside(&hub, || {
        fs::write("/proc/sys/net/ipv6/conf/br0/ndisc_notify", "1").unwrap();
    });
    let mut configs = Vec::new();
    for (i, interface, network) in [(1, NIC, 0), (2, SECOND_NIC, 1)] {
        let ns = lab.node(i);
        give(
            lab,
            &hub,
            &format!("br{network}"),
            family.address(network, 254),
        );
        give(lab, &ns, interface, family.address(network, 1));
        let router = family.address(network, 254).to_string();
        let which = if family == Family::V4 { "-4" } else { "-6" };
        lab.ip(&ns, &[which, "route", "add", "default", "via", &router]);
        let peer = SocketAddr::new(family.address(1 - network, 1), PORT);
        let more = format!("multicast = false\npeers = [\"{peer}\"]\n");
        configs.push(config_with(lab, i, &bearer(interface, &more)));
    }
    cluster_of(lab, &configs)
}

fn two_networks() -> Option<Lab> {
    Lab::wired(2, Wiring { nics: 2, queues: 1 })
}

#[test]
fn a_router_between_nodes_may_change_its_address() {
    for family in [Family::V4, Family::V6] {
        let Some(lab) = two_networks() else { return };
        let unreachable = Capture::start(&lab, &lab.hub(), &port(1), is_unreachable);
        let daemons = routed(&lab, family);
        let sinks = [Sink::start(&lab, 2), Sink::start(&lab, 1)];
        carries(&lab, sinks.each_ref(), "datagrams through a router");
        let downs = |daemon: &Daemon| {
            let events = daemon.events();
            events
                .iter()
                .filter(|event| event.kind == "link-down")
                .count()
        };
        lab.ip(
            &lab.hub(),
            &["link", "set", "br0", "address", "02:bb:00:00:00:77"],
        );
        let changed = std::time::Instant::now();
        // Numbered from 0 again: only those beyond the first lot are new.
        let before = sinks[0].received();
        let source = Source::start(&lab, 1, 2, Duration::from_micros(500));
        wait_for("datagrams by the new address", PATIENCE, || {
            (sinks[0].received() > before + 10).then_some(())
        });
        println!(
            "{family:?}: {:?} until datagrams arrived again",
            changed.elapsed()
        );
        drop(source);
        // It came back before anybody called the link down.
        for daemon in &daemons {
            assert_eq!(downs(daemon), 0, "{:?}", daemon.events());
            assert!(daemon.peers().iter().all(|peer| peer.link == LinkState::Up));
        }
        tcp(&lab, 1 << 20);
        assert_eq!(unreachable.finish().len(), 0);
    }
}

#[test]
fn the_mtu_is_followed_down_and_up() {
    let Some(lab) = Lab::alone(2) else { return };
    let daemons = pair(&lab, Family::V4);
    let source = Source::start(&lab, 1, 2, Duration::from_millis(2));
    let sink = Sink::start(&lab, 2);
    for mtu in [1400_u32, 1500, 2000, 1500] {
        for i in [1, 2] {
            let text = mtu.to_string();
            lab.ip(&lab.hub(), &["link", "set", &port(i), "mtu", &text]);
            lab.ip(&lab.node(i), &["link", "set", NIC, "mtu", &text]);
        }
        let expected = mtu - 28 - 35;
        for (i, daemon) in (1..).zip(&daemons) {
            wait_for("the tap's MTU", PATIENCE, || {
                let status = daemon.status();
                let shown = lab.ip(&lab.node(i), &["link", "show", "dev", TAP]);
                (status.tap?.mtu == expected
                    && status.bearers[0].mtu == mtu
                    && shown.contains(&format!(" mtu {expected} ")))
                .then_some(())
            });
        }
        // Full segments of this size, and none too long.
        tcp(&lab, 1 << 20);
        let before = sink.received();
        wait_for("datagrams", PATIENCE, || {
            (sink.received() > before + 10).then_some(())
        });
    }
    drop(source);
    let events = daemons[0].events();
    let told = events.iter().filter(|event| event.kind == "bearer-changed");
    assert_eq!(told.count(), 4, "{events:?}");
}

#[test]
fn the_address_must_be_the_interfaces_own() {
    let Some(lab) = Lab::new(1) else { return };
    let refused = |more: &str| {
        let text = config_with(&lab, 1, &bearer(NIC, more));
        let mut daemon = Daemon::spawn(&lab, 1, &text, &[]);
        assert!(!daemon.wait().success());
        let log = daemon.log_text();
        fs::remove_file(&daemon.log).unwrap();
        log
    };
    let log = refused("");
    assert!(log.contains("has no IP address"), "{log}");
    give(&lab, &lab.node(1), NIC, Family::V4.address(0, 1));
    let log = refused("address = \"10.1.0.9\"\n");
    assert!(log.contains("bearer.address"), "{log}");
    assert!(log.contains("it has: 10.1.0.1"), "{log}");
    give(&lab, &lab.node(1), NIC, Family::V6.address(0, 1));
    lab.ip(&lab.node(1), &["address", "add", "10.1.7.1/24", "dev", NIC]);
    let log = refused("");
    assert!(log.contains("10.1.0.1, 10.1.7.1"), "{log}");
    assert!(!lab.has_xdp(1));
    let text = config_with(
        &lab,
        1,
        &bearer(NIC, "address = \"[fd01:0::1]\"\nport = 7000\n"),
    );
    let daemon = Daemon::start_with(&lab, 1, &text);
    let shown = daemon.status().bearers[0].address.clone();
    assert_eq!(shown.as_deref(), Some("[fd01::1]:7000"));
}

/// An IPv4 packet with a right header checksum; `options` in whole words.
fn ipv4(from: IpAddr, to: IpAddr, options: &[u8], udp: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
        panic!("not IPv4");
    };
    let header_len = 20 + options.len();
    let total = u16::try_from(header_len + udp.len()).unwrap();
    let mut packet = vec![0x40 | u8::try_from(header_len / 4).unwrap(), 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(options);
    let words = packet
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(udp);
    packet
}

/// An IPv6 packet; `extension` stands before UDP, under this number.
fn ipv6(from: IpAddr, to: IpAddr, extension: Option<(u8, [u8; 8])>, udp: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else {
        panic!("not IPv6");
    };
    let (next, rest) = match extension {
        None => (17, Vec::new()),
        Some((number, bytes)) => (number, bytes.to_vec()),
    };
    let len = u16::try_from(rest.len() + udp.len()).unwrap();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(rest);
    packet.extend(udp);
    packet
}

/// A datagram to our port that starts like this and ends with its number.
fn datagram(kind: u8, number: u8) -> Vec<u8> {
    let mut udp = vec![0xc0, 0x00, 0x17, 0xe7, 0, 18, 0, 0];
    udp.extend([kind, 0, 0, 0, 0, 0, 0, 0, 0, number]);
    udp
}

#[test]
fn only_plain_control_frames_get_in() {
    for family in [Family::V4, Family::V6] {
        let Some(lab) = Lab::new(2) else { return };
        let [own, other] = [1, 2].map(|host| family.address(0, host));
        give(&lab, &lab.node(1), NIC, own);
        let shown = lab.ip(&lab.node(1), &["-o", "link", "show", "dev", NIC]);
        let ifindex = shown.split(':').next().unwrap().parse().unwrap();
        let at = SocketAddr::new(own, PORT);
        let socket = lab.inside(&lab.node(1), || {
            ControlSocket::open(ifindex, at, true).unwrap()
        });
        let raw = RawSocket::open(&lab, &lab.node(2), NIC);
        let mut number = 0;
        let mut expected = Vec::new();
        let mut send = |kind: u8, group: bool, strange: bool, passes: bool| {
            number += 1;
            let udp = datagram(kind, number);
            let (ethertype, packet, mac_of_group) = match family {
                Family::V4 => {
                    let to = if group { GROUP_IPV4.into() } else { own };
                    // Four times "no operation".
                    let options: &[u8] = if strange { &[1; 4] } else { &[] };
                    (0x0800_u16, ipv4(other, to, options, &udp), GROUP_IPV4_MAC)
                }
                Family::V6 => {
                    let to = if group { GROUP_IPV6.into() } else { own };
                    // Destination options: six bytes of padding.
                    let extension = strange.then_some((60, [17, 0, 1, 4, 0, 0, 0, 0]));
                    (0x86dd, ipv6(other, to, extension, &udp), GROUP_IPV6_MAC)
                }
            };
            let to = if group { mac_of_group } else { mac(1) };
            let mut frame = [to, mac(2)].concat();
            frame.extend(ethertype.to_be_bytes());
            frame.extend(packet);
            assert!(raw.send(&frame));
            if passes {
                expected.push(number);
            }
        };
        for group in [false, true] {
            send(0x11, group, false, true);
            send(0x12, group, false, true);
            send(0x11, group, true, false);
            send(0x12, group, true, false);
            send(0x10, group, false, false);
            send(0x21, group, false, false);
        }
        send(0x11, false, false, true);
        send(0x11, true, false, true);
        let mut seen = Vec::new();
        wait_for("the last of both kinds", PATIENCE, || {
            let mut buffer = [0; 2048];
            while let Some((source, bytes)) = socket.receive(&mut buffer) {
                assert_eq!(source.ip(), other);
                seen.push(bytes[9]);
            }
            (seen.contains(&13) && seen.contains(&14)).then_some(())
        });
        seen.sort_unstable();
        assert_eq!(seen, expected, "{family:?}");
        assert_eq!(socket.take_dropped(), 8);
        assert_eq!(socket.take_dropped(), 0);
    }
}
