//! The kernel's TCP through two taps, two nodes' workers and a wire in memory:
//! large frames go in and come out.
#![cfg(feature = "io")]
// A test may stop at the first surprise, and says what it measured.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout
)]

mod netns;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command as Process;
use std::thread::JoinHandle;

use netns::{NetNs, PATIENCE, eventually, is_root, secret};
use tipsec_dataplane::bearer::memory::{Faults, MemoryBearer, MemorySizes};
use tipsec_dataplane::command::{
    Budget, Command, CommandSeq, ControlEnd, Event, RxLaneSpec, TxLaneSpec, channel,
};
use tipsec_dataplane::counters::{RxDrop, TxDrop, WorkerCounters};
use tipsec_dataplane::frame::TAP_OVERHEAD;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OuterHeader};
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::sa::RxShared;
use tipsec_dataplane::tap::device::{Tap, TapConfig};
use tipsec_dataplane::worker::{Polling, Worker, WorkerConfig, WorkerHandle, spawn};

#[cfg(feature = "crypto-aws-lc")]
type Cipher = tipsec_dataplane::aead::aws_lc::AwsLc;
#[cfg(not(feature = "crypto-aws-lc"))]
type Cipher = tipsec_dataplane::aead::ring::Ring;

const MTU: usize = 1500;

struct Node {
    id: NodeId,
    ns: NetNs,
    workers: Vec<WorkerHandle>,
    controls: Vec<ControlEnd>,
}

fn outer(id: u32) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, id as u8])
}

fn v4(id: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, id as u8)
}

fn v6(id: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, id as u16)
}

impl Node {
    /// A tap with as many queues as there are bearers, and a worker for each.
    fn start(purpose: &str, id: u32, bearers: Vec<MemoryBearer>) -> Self {
        let ns = NetNs::new(purpose);
        let node = NodeId::new(id).unwrap();
        let settings = TapConfig {
            name: "tap".into(),
            node,
            mtu: (MTU - TAP_OVERHEAD) as u16,
            ipv4: Some((v4(id), 24)),
            ipv6: Some((v6(id), 64)),
        };
        let tap = ns.run(|| {
            let path = "/proc/sys/net/ipv6/conf/default";
            let _ = std::fs::write(format!("{path}/disable_ipv6"), "0");
            let _ = std::fs::write(format!("{path}/accept_dad"), "0");
            Tap::create(&settings, bearers.len()).unwrap()
        });
        println!("{}: kernel cuts UDP for us: {}", tap.name(), tap.cuts_udp());
        let (mut workers, mut controls) = (Vec::new(), Vec::new());
        for (bearer, queue) in bearers.into_iter().zip(tap.into_queues()) {
            let config = WorkerConfig {
                node,
                encapsulation: Encapsulation::ethernet(outer(id), 0x88b5, None),
                mtu: MTU,
                peers: 8,
                spis: 16,
                polling: Polling::Sleep,
            };
            let (control, end) = channel().unwrap();
            let worker = Worker::<Cipher, _, _>::new(config, end, bearer, queue);
            workers.push(spawn(worker, None, "tap-tcp").unwrap());
            controls.push(control);
        }
        Self {
            id: node,
            ns,
            workers,
            controls,
        }
    }

    fn peer(&self) -> PeerIndex {
        PeerIndex(self.id.value() as u16)
    }

    /// Lanes from here to `other`, one for each worker.
    fn lanes(&self, other: &Self) {
        let (from, to) = (self.id.value(), other.id.value());
        for (index, (sender, receiver)) in self.controls.iter().zip(&other.controls).enumerate() {
            let seq = CommandSeq(index as u64);
            let spi = Spi::new(1 + index as u32).unwrap();
            let key = || secret(from << 8 | index as u32);
            assert!(
                receiver
                    .send(Command::InstallRx {
                        seq,
                        lane: Box::new(RxLaneSpec {
                            spi,
                            peer: self.peer(),
                            node: self.id,
                            epoch: Epoch(1),
                            lane: LaneIndex(0),
                            secret: key(),
                            next: None,
                            phase_bits: PhaseBits::PROTOCOL,
                            shared: RxShared::of_single_lane(1 << 20),
                        }),
                    })
                    .is_ok()
            );
            assert!(eventually(
                || receiver.receive() == Some(Event::Done { seq })
            ));
            let path = OuterHeader::ethernet(outer(from), outer(to), 0x88b5, None);
            assert!(
                sender
                    .send(Command::SetPath {
                        peer: other.peer(),
                        path: Some(path),
                    })
                    .is_ok()
            );
            assert!(
                sender
                    .send(Command::InstallTx {
                        seq,
                        lane: Box::new(TxLaneSpec {
                            spi,
                            peer: other.peer(),
                            node: other.id,
                            epoch: Epoch(1),
                            lane: LaneIndex(0),
                            secret: key(),
                            next: None,
                            phase_bits: PhaseBits::PROTOCOL,
                            budget: Budget {
                                soft: u64::MAX,
                                hard: u64::MAX,
                            },
                        }),
                    })
                    .is_ok()
            );
            assert!(eventually(|| sender.receive() == Some(Event::Done { seq })));
        }
    }

    fn total(&self, count: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.workers
            .iter()
            .map(|worker| count(worker.counters()))
            .sum()
    }

    /// Frames of this node's tap: read from it, cut into, and back.
    fn flow(&self, other: &Self) -> Flow {
        Flow {
            reads: self.total(|counters| counters.tap_reads.value()),
            sealed: self.total(|counters| counters.peer(other.peer()).sealed_frames.value()),
            opened: other.total(|counters| counters.peer(self.peer()).opened_frames.value()),
            writes: other.total(|counters| counters.tap_writes.value()),
        }
    }

    /// Every frame that opened was delivered; none was given up on its way in.
    fn assert_no_loss(&self, other: &Self) {
        for reason in RxDrop::ALL {
            let lost = other.total(|counters| counters.peer(self.peer()).rx_drops(*reason));
            assert_eq!(lost, 0, "{}", reason.name());
        }
        for reason in [TxDrop::BadOffload, TxDrop::TooLong, TxDrop::NoMemory] {
            let lost = self.total(|counters| counters.nobody.tx_drops(reason));
            assert_eq!(lost, 0, "{}", reason.name());
        }
    }

    fn stop(self) {
        for control in &self.controls {
            assert!(control.send(Command::Stop).is_ok());
        }
        for worker in self.workers {
            worker.join().unwrap();
        }
    }
}

fn has_ethtool(test: &str) -> bool {
    let found = Process::new("ethtool").arg("--version").output().is_ok();
    if !found {
        println!("SKIPPED (needs ethtool): {test}");
    }
    found
}

fn ethtool(ns: &NetNs, words: &str) {
    let output = Process::new("ip")
        .args(["netns", "exec", &ns.name, "ethtool"])
        .args(words.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ethtool {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    reads: u64,
    sealed: u64,
    opened: u64,
    writes: u64,
}

fn nodes(purpose: &str, queues: usize) -> (Node, Node) {
    let pairs = (0..queues).map(|index| {
        let sizes = MemorySizes {
            frames: 1024,
            wire_frames: 256,
            ..MemorySizes::default()
        };
        MemoryBearer::pair(sizes, Faults::default(), index as u64).unwrap()
    });
    let (a, b) = pairs.unzip();
    let (a, b) = (Node::start(purpose, 1, a), Node::start(purpose, 2, b));
    a.lanes(&b);
    b.lanes(&a);
    (a, b)
}

/// The byte at a place of the stream.
fn pattern(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

fn client(ns: &NetNs, address: SocketAddr, bytes: usize) -> JoinHandle<()> {
    ns.start(move || {
        let mut stream = None;
        assert!(eventually(|| {
            stream = TcpStream::connect_timeout(&address, PATIENCE).ok();
            stream.is_some()
        }));
        let mut stream = stream.unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut block = vec![0; 1 << 16];
        for start in (0..bytes).step_by(block.len()) {
            let len = block.len().min(bytes - start);
            (block.iter_mut().enumerate()).for_each(|(i, byte)| *byte = pattern(start + i));
            stream.write_all(&block[..len]).unwrap();
        }
    })
}

/// Sends by TCP from `a` to `b` over several connections at once, and compares
/// every byte.
fn tcp(a: &NetNs, b: &NetNs, address: IpAddr, connections: usize, bytes: usize) {
    let mut listener = None;
    assert!(eventually(|| {
        listener = b.run(|| TcpListener::bind((address, 0))).ok();
        listener.is_some()
    }));
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    let clients: Vec<_> = (0..connections)
        .map(|_| client(a, address, bytes))
        .collect();
    let mut servers = Vec::new();
    for _ in 0..connections {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        servers.push(std::thread::spawn(move || {
            let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
            loop {
                let len = stream.read(&mut buffer).unwrap();
                if len == 0 {
                    return total;
                }
                let right = |(i, &byte): (usize, &u8)| byte == pattern(total + i);
                assert!(buffer[..len].iter().enumerate().all(right), "after {total}");
                total += len;
            }
        }));
    }
    for (client, server) in clients.into_iter().zip(servers) {
        client.join().unwrap();
        assert_eq!(server.join().unwrap(), bytes);
    }
}

const BYTES: usize = 16 << 20;

#[test]
fn large_frames_go_in_and_come_out() {
    if !is_root("large_frames_go_in_and_come_out") {
        return;
    }
    for v6_too in [false, true] {
        let (a, b) = nodes("gso", 1);
        let address = if v6_too { v6(2).into() } else { v4(2).into() };
        tcp(&a.ns, &b.ns, address, 1, BYTES);
        let flow = a.flow(&b);
        println!("{address}: {flow:?}");
        assert!(flow.sealed > BYTES as u64 / 1500, "{flow:?}");
        assert!(flow.reads * 4 < flow.sealed, "super-frames: {flow:?}");
        assert!(flow.writes * 2 < flow.opened, "joined: {flow:?}");
        for (from, to) in [(&a, &b), (&b, &a)] {
            from.assert_no_loss(to);
        }
        a.stop();
        b.stop();
    }
}

#[test]
fn switched_off_offloads_only_cost() {
    let test = "switched_off_offloads_only_cost";
    if !is_root(test) || !has_ethtool(test) {
        return;
    }
    let (a, b) = nodes("nogso", 1);
    for off in ["tso off", "tso off tx off"] {
        ethtool(&a.ns, &format!("-K tap {off}"));
        let before = a.flow(&b);
        tcp(&a.ns, &b.ns, v4(2).into(), 1, BYTES);
        let flow = a.flow(&b);
        println!("{off}: {before:?} to {flow:?}");
        // The host has cut them, and in the end filled its checksums in. It
        // sends a few frames of its own to whoever is there.
        let (reads, sealed) = (flow.reads - before.reads, flow.sealed - before.sealed);
        assert!(reads.abs_diff(sealed) < 20);
        assert!((flow.writes - before.writes) * 2 < flow.opened - before.opened);
        a.assert_no_loss(&b);
    }
    a.stop();
    b.stop();
}

#[test]
fn queues_share_the_connections() {
    if !is_root("queues_share_the_connections") {
        return;
    }
    let (a, b) = nodes("mq", 2);
    tcp(&a.ns, &b.ns, v4(2).into(), 12, BYTES / 12);
    for node in [&a, &b] {
        for worker in &node.workers {
            assert!(worker.counters().tap_reads.value() > 0);
            assert!(worker.counters().tap_writes.value() > 0);
        }
    }
    println!("{:?}", a.flow(&b));
    a.assert_no_loss(&b);
    a.stop();
    b.stop();
}

/// A host behind node 2, which routes: the kernel must cut what was joined, and
/// fill in what was left open, for a device that does neither.
#[test]
fn kernel_cuts_and_sums_what_it_forwards() {
    let test = "kernel_cuts_and_sums_what_it_forwards";
    if !is_root(test) || !has_ethtool(test) {
        return;
    }
    let (a, b) = nodes("fwd", 1);
    let c = NetNs::new("fwd");
    b.ns.ip(&format!(
        "link add out type veth peer name in netns {}",
        c.name
    ));
    for (ns, device, address) in [(&b.ns, "out", "10.89.0.1/24"), (&c, "in", "10.89.0.2/24")] {
        ns.ip(&format!("address add {address} dev {device}"));
        ns.ip(&format!("link set {device} up"));
        ethtool(ns, &format!("-K {device} tx off tso off gso off gro off"));
    }
    b.ns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    c.ip("route add default via 10.89.0.1");
    a.ns.ip("route add 10.89.0.0/24 via 10.88.0.2");
    let behind = Ipv4Addr::new(10, 89, 0, 2).into();
    tcp(&a.ns, &c, behind, 1, BYTES);
    let flow = a.flow(&b);
    println!("{flow:?}");
    assert!(flow.writes * 2 < flow.opened, "joined: {flow:?}");
    tcp(&c, &a.ns, v4(1).into(), 1, BYTES);
    for (from, to) in [(&a, &b), (&b, &a)] {
        from.assert_no_loss(to);
    }
    a.stop();
    b.stop();
}
