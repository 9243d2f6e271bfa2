//! Two whole nodes over AF_XDP on a veth pair, with real applications' traffic
//! through their taps.
#![cfg(feature = "io")]
// A test may stop at the first surprise, and says what it measured.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout
)]

mod netns;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netns::{Node, connect, eventually, is_root, rekey, veth_pair};
use tipsec_dataplane::aead::Aead;
use tipsec_dataplane::attach::Mode;
use tipsec_dataplane::bearer::BearerError;
use tipsec_dataplane::bearer::xdp::BearerMode;
use tipsec_dataplane::command::{Command, Event};
use tipsec_dataplane::counters::{RxDrop, TxDrop};
use tipsec_dataplane::ids::Spi;
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::phase::Phase;
use tipsec_dataplane::worker::Polling;

fn nodes<A: Aead>(purpose: &str, mode: Mode) -> (Node, Node) {
    nodes_at::<A>(purpose, mode, 1500)
}

fn nodes_at<A: Aead>(purpose: &str, mode: Mode, mtu: u32) -> (Node, Node) {
    let (ns_a, ns_b) = veth_pair(purpose);
    for ns in [&ns_a, &ns_b] {
        ns.ip(&format!("link set nic mtu {mtu}"));
    }
    let mut a = Node::start::<A>(ns_a, 1, mode, Polling::Sleep);
    let mut b = Node::start::<A>(ns_b, 2, mode, Polling::Sleep);
    connect(&mut a, &mut b);
    (a, b)
}

/// Sends `bytes` by TCP from a to b and waits for all of them.
fn tcp(a: &Node, b: &Node, bytes: usize) -> Duration {
    let address = (b.address(), 5001);
    let (listening, ready) = std::sync::mpsc::channel();
    let server = b.ns.start(move || {
        let listener = TcpListener::bind(address).unwrap();
        listening.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(netns::PATIENCE)).unwrap();
        let (mut buffer, mut total, mut sum) = (vec![0; 1 << 16], 0, 0u64);
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => return (total, sum),
                n => {
                    total += n;
                    sum += buffer[..n].iter().map(|&b| u64::from(b)).sum::<u64>();
                }
            }
        }
    });
    ready.recv().unwrap();
    let start = Instant::now();
    let client = a.ns.start(move || {
        let mut stream = TcpStream::connect_timeout(&address.into(), netns::PATIENCE).unwrap();
        stream.set_write_timeout(Some(netns::PATIENCE)).unwrap();
        let block: Vec<u8> = (0..1u32 << 16).map(|i| (i * 7) as u8).collect();
        let (mut left, mut sum) = (bytes, 0u64);
        while left > 0 {
            let n = left.min(block.len());
            stream.write_all(&block[..n]).unwrap();
            sum += block[..n].iter().map(|&b| u64::from(b)).sum::<u64>();
            left -= n;
        }
        sum
    });
    let sent = client.join().unwrap();
    assert_eq!(server.join().unwrap(), (bytes, sent), "TCP content");
    start.elapsed()
}

/// Sends datagrams of `len` bytes from a to b one after the other, and waits
/// for each to come back as it was.
fn echo(a: &Node, b: &Node, len: usize, datagrams: u32) {
    let address = (b.address(), 5002);
    let (bound, ready) = std::sync::mpsc::channel();
    let server = b.ns.start(move || {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(netns::PATIENCE)).unwrap();
        bound.send(()).unwrap();
        let mut buffer = vec![0; 1 << 16];
        for _ in 0..datagrams {
            let (n, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..n], from).unwrap();
        }
    });
    ready.recv().unwrap();
    let client = a.ns.start(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(netns::PATIENCE)).unwrap();
        socket.connect(address).unwrap();
        let mut buffer = vec![0; 1 << 16];
        for i in 0..datagrams {
            let sent: Vec<u8> = (0..len).map(|at| (at as u32 * 7 + i) as u8).collect();
            socket.send(&sent).unwrap();
            let n = socket.recv(&mut buffer).unwrap();
            assert!(buffer[..n] == sent, "datagram {i} of {len} bytes");
        }
    });
    client.join().unwrap();
    server.join().unwrap();
}

/// Every frame that `from` sealed for `to` is opened there or lost for a
/// reason that something counted.
fn accounted(from: &Node, to: &Node) -> bool {
    let statistics = to.statistics();
    let lost = from.tx_drops(|reason| reason == TxDrop::LinkLost)
        + statistics.rx_dropped
        + statistics.rx_ring_full
        + [
            "unknown_spi",
            "no_socket",
            "bad_length",
            "malformed",
            "not_for_us",
        ]
        .map(|name| to.xdp_counter(name))
        .iter()
        .sum::<u64>()
        + to.rx_drops(|reason| {
            matches!(
                reason,
                RxDrop::Malformed
                    | RxDrop::Fragmented
                    | RxDrop::UnknownSpi
                    | RxDrop::Replayed
                    | RxDrop::OpenFailed
            )
        });
    from.sealed(to) == to.opened(from) + lost
}

fn assert_no_key_drops(node: &Node) {
    assert_eq!(node.rx_drops(RxDrop::is_key_related), 0, "node {}", node.id);
    assert_eq!(node.tx_drops(TxDrop::is_key_related), 0, "node {}", node.id);
    assert_eq!(node.xdp_counter("unknown_spi"), 0, "node {}", node.id);
}

fn applications_work_through_the_taps<A: Aead>(purpose: &str, mode: Mode, got: BearerMode) {
    let (a, b) = nodes::<A>(purpose, mode);
    assert_eq!(a.report.mode, got);
    let bytes = 32 << 20;
    let took = tcp(&a, &b, bytes);
    let mbit = bytes as f64 * 8.0 / took.as_secs_f64() / 1e6;
    println!("{} {}: TCP {mbit:.0} Mbit/s", A::NAME, got.name());
    for (from, to) in [(&a, &b), (&b, &a)] {
        assert!(eventually(|| accounted(from, to)));
        assert_no_key_drops(from);
    }
    a.stop();
    b.stop();
}

#[cfg(feature = "crypto-ring")]
#[test]
fn ring_native() {
    use tipsec_dataplane::aead::ring::Ring;
    if is_root("ring_native") {
        applications_work_through_the_taps::<Ring>("ring", Mode::Auto, BearerMode::NativeCopy);
    }
}

#[cfg(feature = "crypto-aws-lc")]
#[test]
fn aws_lc_generic() {
    use tipsec_dataplane::aead::aws_lc::AwsLc;
    if is_root("aws_lc_generic") {
        applications_work_through_the_taps::<AwsLc>("awslc", Mode::Generic, BearerMode::Generic);
    }
}

#[cfg(feature = "crypto-aws-lc")]
type Cipher = tipsec_dataplane::aead::aws_lc::AwsLc;
#[cfg(not(feature = "crypto-aws-lc"))]
type Cipher = tipsec_dataplane::aead::ring::Ring;

#[test]
fn long_frames_go_through_the_taps() {
    if !is_root("long_frames_go_through_the_taps") {
        return;
    }
    let (a, b) = nodes_at::<Cipher>("long", Mode::Auto, 9000);
    assert!(a.report.multi_buffer);
    tcp(&a, &b, 32 << 20);
    for (from, to) in [(&a, &b), (&b, &a)] {
        assert!(eventually(|| accounted(from, to)));
        assert_no_key_drops(from);
    }
    // TCP is cut to what one chunk holds; datagrams are not. The tap's MTU is
    // 8965, and this is the largest datagram that it does not fragment.
    let worker = a.worker.as_ref().unwrap();
    let to_b = worker.counters().peer(Node::peer(&b));
    let before = (to_b.sealed_bytes.value(), to_b.sealed_frames.value());
    echo(&a, &b, 8937, 50);
    let bytes = to_b.sealed_bytes.value() - before.0;
    let frames = to_b.sealed_frames.value() - before.1;
    assert!(bytes / frames > 4096, "{bytes} bytes in {frames} frames");
    assert!(eventually(|| accounted(&a, &b) && accounted(&b, &a)));
    assert_eq!(b.rx_drops(|reason| reason == RxDrop::Fragmented), 0);
    a.stop();
    b.stop();
}

#[test]
fn rekeying_under_load_loses_nothing_for_key_reasons() {
    if !is_root("rekeying_under_load_loses_nothing_for_key_reasons") {
        return;
    }
    let (mut a, mut b) = nodes::<Cipher>("rekey", Mode::Auto);
    let stop = Arc::new(AtomicBool::new(false));
    let (stop_sender, stop_receiver) = (Arc::clone(&stop), Arc::clone(&stop));
    let address = (b.address(), 5002);
    let (bound, ready) = std::sync::mpsc::channel();
    let receiver = b.ns.start(move || {
        let socket = UdpSocket::bind(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        bound.send(()).unwrap();
        let (mut buffer, mut count) = ([0; 2048], 0u64);
        while !stop_receiver.load(Ordering::Relaxed) {
            if socket.recv(&mut buffer).is_ok() {
                assert_eq!(buffer[100], 0x5a);
                count += 1;
            }
        }
        count
    });
    ready.recv().unwrap();
    // As fast as the socket takes them.
    let sender = a.ns.start(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(address).unwrap();
        let mut count = 0u64;
        while !stop_sender.load(Ordering::Relaxed) {
            count += u64::from(socket.send(&[0x5a; 1200]).is_ok());
        }
        count
    });
    assert!(eventually(|| b.opened(&a) > 1000), "traffic flows");
    let rounds = 20;
    let start = Instant::now();
    for round in 0..rounds {
        let before = b.opened(&a);
        let spi = Spi::new(2 + round).unwrap();
        rekey(&mut a, &mut b, spi, 2 + round);
        let former = Spi::new(1 + round).unwrap();
        b.expect(|event| matches!(event, Event::FirstOpen { spi: s, .. } if *s == spi));
        assert!(eventually(|| b.opened(&a) > before + 1000));
        b.remove_rx(former);
    }
    let frames = b.opened(&a);
    stop.store(true, Ordering::Relaxed);
    let (sent, got) = (sender.join().unwrap(), receiver.join().unwrap());
    println!(
        "{rounds} rekeys in {:?}: UDP sent {sent}, received {got}; sealed {}, opened {frames}, \
         link lost {}, tap full {}, {:?}",
        start.elapsed(),
        a.sealed(&b),
        a.tx_drops(|reason| reason == TxDrop::LinkLost),
        b.rx_drops(|reason| reason == RxDrop::TapFull),
        b.statistics(),
    );
    assert!(eventually(|| accounted(&a, &b)), "sealed = opened + losses");
    assert_no_key_drops(&a);
    assert_no_key_drops(&b);
    a.stop();
    b.stop();
}

#[test]
fn probes_are_answered_and_reported() {
    if !is_root("probes_are_answered_and_reported") {
        return;
    }
    let (mut a, b) = nodes::<Cipher>("probe", Mode::Auto);
    let peer = Node::peer(&b);
    // A lane that may carry no data carries probes all the same.
    a.send(Command::AllowData {
        peer,
        allowed: false,
    });
    for id in 0..200 {
        let probe = Probe {
            op: ProbeOp::Request,
            id,
            phase: Phase::FIRST,
        };
        a.send(Command::SendProbe { peer, probe });
    }
    for wanted in 0..200 {
        a.expect(|event| {
            matches!(event, Event::ProbeReply { peer: p, probe, .. }
                if *p == peer && probe.op == ProbeOp::Reply && probe.id == wanted)
        });
    }
    assert!(accounted(&a, &b) && accounted(&b, &a));
    a.stop();
    b.stop();
}

#[test]
fn unknown_spi_ends_in_the_driver() {
    if !is_root("unknown_spi_ends_in_the_driver") {
        return;
    }
    let (mut a, b) = nodes::<Cipher>("spi", Mode::Auto);
    // A sends under keys that B never issued.
    a.install_tx(&b, Spi::new(77).unwrap(), 9, netns::secret(77));
    let received = b
        .worker
        .as_ref()
        .unwrap()
        .counters()
        .received_frames
        .value();
    let probe = Probe {
        op: ProbeOp::Request,
        id: 1,
        phase: Phase::FIRST,
    };
    a.send(Command::SendProbe {
        peer: Node::peer(&b),
        probe,
    });
    assert!(eventually(|| b.xdp_counter("unknown_spi") == 1));
    let now = b
        .worker
        .as_ref()
        .unwrap()
        .counters()
        .received_frames
        .value();
    assert_eq!(now, received, "no worker saw it");
    a.stop();
    b.stop();
}

#[test]
fn deleted_device_is_reported_and_lanes_live_on() {
    if !is_root("deleted_device_is_reported_and_lanes_live_on") {
        return;
    }
    let (mut a, mut b) = nodes::<Cipher>("gone", Mode::Auto);
    let stop = Arc::new(AtomicBool::new(false));
    let stop_sender = Arc::clone(&stop);
    let address = (b.address(), 5003);
    let sender = a.ns.start(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(address).unwrap();
        while !stop_sender.load(Ordering::Relaxed) {
            let _ = socket.send(&[1; 1000]);
        }
    });
    assert!(eventually(|| b.opened(&a) > 1000), "traffic flows");
    a.ns.ip("link del nic");
    a.expect(|event| *event == Event::BearerLost);
    b.expect(|event| *event == Event::BearerLost);
    let fault = a.worker.as_ref().unwrap().bearer_fault();
    assert!(matches!(fault, Some(BearerError::DeviceGone)), "{fault:?}");
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    // Commands are still served.
    a.install_tx(&b, Spi::new(5).unwrap(), 5, netns::secret(5));
    a.stop();
    b.stop();
}

/// Sends datagrams of `payload` bytes from a to b for a while, as fast as the
/// socket takes them, and says what became of them.
fn flood(a: &Node, b: &Node, payload: usize, lasts: Duration) {
    let address = (b.address(), 5004);
    let opened = b.opened(a);
    let sender = a.ns.start(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(address).unwrap();
        let (start, block) = (Instant::now(), vec![3; payload]);
        while start.elapsed() < lasts {
            for _ in 0..64 {
                let _ = socket.send(&block);
            }
        }
    });
    sender.join().unwrap();
    assert!(eventually(|| accounted(a, b)));
    let frames = b.opened(a) - opened;
    let rate = frames as f64 / lasts.as_secs_f64() / 1e6;
    let counters = a.worker.as_ref().unwrap().counters();
    println!(
        "UDP {payload} B: {rate:.3} Mpps opened, {:.2} Gbit/s; lost on the link {}, ring full {}; \
         passes {}, sleeps {}",
        rate * payload as f64 * 8.0 / 1e3,
        a.tx_drops(|reason| reason == TxDrop::LinkLost),
        b.statistics().rx_ring_full,
        counters.passes.value(),
        counters.sleeps.value(),
    );
}

#[test]
#[ignore = "prints throughput; run it alone on a quiet machine"]
fn throughput() {
    if !is_root("throughput") {
        return;
    }
    let (a, b) = nodes::<Cipher>("speed", Mode::Auto);
    for payload in [64, 1400] {
        flood(&a, &b, payload, Duration::from_secs(2));
    }
    let bytes = 512 << 20;
    let took = tcp(&a, &b, bytes);
    let gbit = bytes as f64 * 8.0 / took.as_secs_f64() / 1e9;
    let counters = |node: &Node| Arc::clone(node.worker.as_ref().unwrap().counters());
    let (from, to) = (counters(&a), counters(&b));
    println!(
        "TCP {gbit:.2} Gbit/s; since the start {} frames sealed of {} reads, {} opened for {} writes",
        a.sealed(&b),
        from.tap_reads.value(),
        b.opened(&a),
        to.tap_writes.value(),
    );
    a.stop();
    b.stop();
}

#[test]
fn interface_that_goes_down_and_up_again_carries_on() {
    if !is_root("interface_that_goes_down_and_up_again_carries_on") {
        return;
    }
    let (mut a, b) = nodes::<Cipher>("flap", Mode::Auto);
    let probe = |id| Command::SendProbe {
        peer: Node::peer(&b),
        probe: Probe {
            op: ProbeOp::Request,
            id,
            phase: Phase::FIRST,
        },
    };
    a.send(probe(1));
    a.expect(|event| matches!(event, Event::ProbeReply { .. }));
    let mut id = 100;
    // Ours down: frames wait. Theirs down: no carrier, frames are lost, and counted.
    for ns in [&a.ns.name, &b.ns.name] {
        netns::ip(&format!("-n {ns} link set nic down"));
        let sealed = a.sealed(&b);
        for id in 2..20 {
            a.send(probe(id));
        }
        assert!(eventually(|| a.sealed(&b) == sealed + 18));
        netns::ip(&format!("-n {ns} link set nic up"));
        let first = id + 1;
        assert!(eventually(|| {
            id += 1;
            a.send(probe(id));
            a.control.receive().is_some_and(
                |event| matches!(event, Event::ProbeReply { probe, .. } if probe.id >= first),
            )
        }));
    }
    assert!(a.tx_drops(|reason| reason == TxDrop::LinkLost) > 0);
    assert!(eventually(|| accounted(&a, &b) && accounted(&b, &a)));
    a.stop();
    b.stop();
}
