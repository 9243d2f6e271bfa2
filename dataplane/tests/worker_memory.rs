//! The worker's loop over memory: a tap and a bearer that a test sees into.
#![allow(unsafe_code)] // a global allocator is unsafe by its trait
// A test may stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;
mod inner;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use common::{Cipher, UNBOUNDED, secret};
use inner::{Inner, PSH, State};
use rustix::event::{EventfdFlags, eventfd};
use tipsec_dataplane::bearer::memory::{Faults, MemoryBearer, MemorySizes};
use tipsec_dataplane::command::{
    Command, CommandSeq, ControlEnd, Event, RxLaneSpec, TxLaneSpec, channel,
};
use tipsec_dataplane::counters::{RxDrop, TxDrop};
use tipsec_dataplane::frame::TAP_OVERHEAD;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OuterHeader};
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::sa::RxShared;
use tipsec_dataplane::secret::Suite;
use tipsec_dataplane::tap::TapPort;
use tipsec_dataplane::tap::coalesce::HOLD;
use tipsec_dataplane::tap::vnet::{Gso, VnetBytes, VnetHeader};
use tipsec_dataplane::worker::{Pass, Polling, Worker, WorkerConfig};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MTU: usize = 1500;

/// What the host's end of a tap is to a test.
#[derive(Default)]
struct Host {
    to_read: Vec<(VnetHeader, Vec<u8>)>,
    /// Read again and again, without being taken away.
    repeated: Option<(VnetHeader, Vec<u8>)>,
    written: Vec<Vec<u8>>,
    headers: Vec<VnetHeader>,
    written_count: u64,
    keep: bool,
    full: bool,
    down: bool,
    panic: bool,
}

#[derive(Clone)]
struct MemoryTap {
    host: Arc<Mutex<Host>>,
    readable: Arc<OwnedFd>,
}

impl MemoryTap {
    fn new() -> Self {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        let host = Host {
            keep: true,
            ..Host::default()
        };
        Self {
            host: Arc::new(Mutex::new(host)),
            readable: Arc::new(eventfd(0, flags).unwrap()),
        }
    }

    /// The host sends a frame.
    fn put(&self, frame: Vec<u8>) {
        self.put_with(VnetHeader::default(), frame);
    }

    fn put_with(&self, header: VnetHeader, frame: Vec<u8>) {
        let mut host = self.host.lock().unwrap();
        host.to_read.insert(0, (header, frame));
        // Under the lock: who took the frame before it would leave the tap readable.
        rustix::io::write(&self.readable, &1u64.to_ne_bytes()).unwrap();
    }

    /// What the host was given, with headers.
    fn take(&self) -> Vec<(VnetHeader, Vec<u8>)> {
        let mut host = self.host.lock().unwrap();
        let headers = std::mem::take(&mut host.headers);
        headers
            .into_iter()
            .zip(std::mem::take(&mut host.written))
            .collect()
    }

    fn written(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.host.lock().unwrap().written)
    }
}

impl TapPort for MemoryTap {
    fn read(
        &mut self,
        header: &mut VnetBytes,
        room: &mut [u8],
        overflow: &mut [u8],
    ) -> io::Result<Option<usize>> {
        let mut give = |from: &VnetHeader, frame: &[u8]| {
            *header = from.encode();
            let length = frame.len().min(room.len() + overflow.len());
            let (head, rest) = frame[..length].split_at(length.min(room.len()));
            room[..head.len()].copy_from_slice(head);
            overflow[..rest.len()].copy_from_slice(rest);
            Ok(Some(length))
        };
        let mut host = self.host.lock().unwrap();
        assert!(!host.panic, "the tap of a test that wants a panic");
        if host.down {
            return Err(io::ErrorKind::Other.into());
        }
        if let Some((header, frame)) = &host.repeated {
            return give(header, frame);
        }
        let Some((header, frame)) = host.to_read.pop() else {
            return Ok(None);
        };
        let _ = rustix::io::read(&self.readable, &mut [0; 8]);
        give(&header, &frame)
    }

    fn write(&mut self, header: &VnetBytes, frame: &[u8]) -> io::Result<bool> {
        let mut host = self.host.lock().unwrap();
        if host.down {
            return Err(io::ErrorKind::Other.into());
        }
        if host.full {
            return Ok(false);
        }
        host.written_count += 1;
        if host.keep {
            host.written.push(frame.to_vec());
            host.headers.push(VnetHeader::decode(header));
        }
        Ok(true)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.readable.as_fd())
    }
}

struct End {
    worker: Worker<Cipher, MemoryBearer, MemoryTap>,
    control: ControlEnd,
    tap: MemoryTap,
    node: NodeId,
}

fn node(id: u32) -> NodeId {
    NodeId::new(id).unwrap()
}

fn outer(id: NodeId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, id.value() as u8])
}

/// The peer index of a node, the same everywhere here.
fn peer(id: NodeId) -> PeerIndex {
    PeerIndex(id.value() as u16)
}

impl End {
    fn new(node: NodeId, bearer: MemoryBearer) -> Self {
        let (control, channel) = channel().unwrap();
        let tap = MemoryTap::new();
        let config = WorkerConfig {
            node,
            encapsulation: Encapsulation::ethernet(outer(node), 0x88b5, None),
            mtu: MTU,
            peers: 16,
            spis: 64,
            polling: Polling::Sleep,
        };
        Self {
            worker: Worker::new(config, channel, bearer, tap.clone()),
            control,
            tap,
            node,
        }
    }

    fn send(&self, command: Command) {
        assert!(self.control.send(command).is_ok());
    }

    /// A lane from this end to `to` under `spi`, opened by `other`.
    fn lane(&mut self, other: &mut Self, to: NodeId, spi: u32) {
        let seq = CommandSeq(u64::from(spi));
        let (spi, seed) = (Spi::new(spi).unwrap(), u64::from(spi));
        other.send(Command::InstallRx {
            seq,
            lane: Box::new(RxLaneSpec {
                spi,
                peer: peer(self.node),
                node: self.node,
                epoch: Epoch(1),
                lane: LaneIndex(0),
                secret: secret(Suite::Aes128Gcm, seed),
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
                shared: RxShared::of_single_lane(1 << 30),
            }),
        });
        other.pass();
        assert_eq!(other.control.receive(), Some(Event::Done { seq }));
        self.send(Command::SetPath {
            peer: peer(to),
            path: Some(OuterHeader::ethernet(
                outer(self.node),
                outer(other.node),
                0x88b5,
                None,
            )),
        });
        self.send(Command::InstallTx {
            seq,
            lane: Box::new(TxLaneSpec {
                spi,
                peer: peer(to),
                node: to,
                epoch: Epoch(1),
                lane: LaneIndex(0),
                secret: secret(Suite::Aes128Gcm, seed),
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
                budget: UNBOUNDED,
            }),
        });
        self.pass();
        assert_eq!(self.control.receive(), Some(Event::Done { seq }));
    }

    fn pass(&mut self) -> Pass {
        self.worker.pass()
    }

    /// Passes until there is nothing left to do, and nothing is held.
    fn settle(&mut self) {
        while self.pass() == Pass::Busy {}
        let held_until = Instant::now() + HOLD;
        while Instant::now() < held_until || self.pass() == Pass::Busy {}
    }

    fn nobody_tx(&self, reason: TxDrop) -> u64 {
        self.worker.counters().nobody.tx_drops(reason)
    }
}

/// Two ends with a lane each way, nodes 1 and 2.
fn ends(sizes: MemorySizes) -> (End, End) {
    let (a, b) = MemoryBearer::pair(sizes, Faults::default(), 1).unwrap();
    let (mut a, mut b) = (End::new(node(1), a), End::new(node(2), b));
    a.lane(&mut b, node(2), 1);
    b.lane(&mut a, node(1), 2);
    (a, b)
}

/// An Ethernet frame that the host of `from` sends.
fn ethernet(to: MacAddr, from: NodeId, payload: &[u8]) -> Vec<u8> {
    let mut frame = to.0.to_vec();
    frame.extend(MacAddr::of_tap(from).0);
    frame.extend([0x08, 0x00]);
    frame.extend(payload);
    frame
}

#[test]
fn frames_arrive_with_addresses_that_nobody_can_claim() {
    let (mut a, mut b) = ends(MemorySizes::default());
    // The host lies about its source address; the receiver rebuilds it.
    let unicast = ethernet(MacAddr::of_tap(node(2)), node(9), b"to one");
    let broadcast = ethernet(MacAddr::BROADCAST, node(9), b"to all");
    a.tap.put(unicast);
    a.tap.put(broadcast);
    a.settle();
    b.settle();
    assert_eq!(
        b.tap.written(),
        [
            ethernet(MacAddr::of_tap(node(2)), node(1), b"to one"),
            ethernet(MacAddr::BROADCAST, node(1), b"to all"),
        ]
    );
    let counters = b.worker.counters();
    assert_eq!(counters.peer(peer(node(1))).opened_frames.value(), 2);
    assert_eq!(counters.received_frames.value(), 2);
}

#[test]
fn frames_that_cannot_be_sent_are_counted() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let longest = MTU + 14 - TAP_OVERHEAD - 14;
    let to_b = MacAddr::of_tap(node(2));
    let frames = [
        ethernet(to_b, node(1), &vec![1; longest]),
        ethernet(to_b, node(1), &vec![1; longest + 1]),
        ethernet(MacAddr::of_tap(node(3)), node(1), b"no such node"),
        ethernet(MacAddr([2, 9, 9, 9, 9, 9]), node(1), b"bridged"),
        vec![0; 13],
        ethernet(to_b, node(1), b""),
    ];
    for frame in frames.clone() {
        a.tap.put(frame);
    }
    a.settle();
    b.settle();
    assert_eq!(b.tap.written(), [frames[0].clone(), frames[5].clone()]);
    assert_eq!(a.nobody_tx(TxDrop::TooLong), 1);
    assert_eq!(a.nobody_tx(TxDrop::UnknownDestination), 2);
    assert_eq!(a.nobody_tx(TxDrop::TooShort), 1);

    a.send(Command::RemoveTx {
        seq: CommandSeq(9),
        peer: peer(node(2)),
    });
    a.tap.put(frames[0].clone());
    a.settle();
    let counters = a.worker.counters();
    assert_eq!(counters.peer(peer(node(2))).tx_drops(TxDrop::NoKey), 1);
}

#[test]
fn group_frames_go_to_every_peer_within_their_rate() {
    let (mut a, mut b) = ends(MemorySizes::default());
    // Node 1 believes in two more nodes; their lanes end at b, too.
    a.lane(&mut b, node(3), 3);
    a.lane(&mut b, node(4), 4);
    a.send(Command::AllowData {
        peer: peer(node(4)),
        allowed: false,
    });
    let offered = 600;
    for _ in 0..offered {
        a.tap.put(ethernet(MacAddr::BROADCAST, node(1), b"who has"));
    }
    for _ in 0..offered {
        a.pass();
        b.pass();
    }
    let counters = a.worker.counters();
    let sealed = |id| counters.peer(peer(node(id))).sealed_frames.value();
    assert_eq!(sealed(2), sealed(3));
    assert_eq!(sealed(4), 0, "may carry no data");
    assert!((256..offered).contains(&sealed(2)), "{}", sealed(2));
    assert_eq!(sealed(2) + a.nobody_tx(TxDrop::GroupLimited), offered);
    assert_eq!(b.tap.written().len() as u64, 2 * sealed(2));
}

#[test]
fn full_bearer_leaves_frames_in_the_tap() {
    let (mut a, mut b) = ends(MemorySizes {
        wire_frames: 8,
        ..MemorySizes::default()
    });
    let offered: Vec<_> = (0..100u8)
        .map(|i| ethernet(MacAddr::of_tap(node(2)), node(1), &[i; 40]))
        .collect();
    for frame in offered.clone() {
        a.tap.put(frame);
    }
    a.settle();
    assert_eq!(a.tap.host.lock().unwrap().to_read.len(), 92);
    for _ in 0..100 {
        b.settle();
        a.settle();
    }
    b.settle();
    let mut got = b.tap.written();
    for frame in &mut got {
        frame[6..12].copy_from_slice(&MacAddr::of_tap(node(1)).0);
    }
    assert_eq!(got, offered, "all of them, in order");
}

#[test]
fn probes_are_answered_at_once() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let ask = |id| Command::SendProbe {
        peer: peer(node(2)),
        probe: Probe {
            op: ProbeOp::Request,
            id,
            phase: Phase::FIRST,
        },
    };
    for id in 0..150 {
        a.send(ask(id));
    }
    // More commands than fit a burst: none is lost, none waits for another wake-up.
    for _ in 0..10 {
        a.settle();
        b.settle();
    }
    let mut ids = Vec::new();
    while let Some(event) = a.control.receive() {
        if let Event::ProbeReply {
            peer: from, probe, ..
        } = event
        {
            assert_eq!((from, probe.op), (peer(node(2)), ProbeOp::Reply));
            ids.push(probe.id);
        }
    }
    assert_eq!(ids, (0..150).collect::<Vec<_>>());
    assert!(b.tap.written().is_empty());
    for end in [&a, &b] {
        let counters = end.worker.counters();
        let probes = (counters.probes_begun.value(), counters.probes_taken.value());
        assert_eq!(probes, (150, 150), "requests one way, replies the other");
    }
}

#[test]
fn tap_that_takes_nothing_is_counted() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let frame = ethernet(MacAddr::of_tap(node(2)), node(1), b"lost");
    let drops = |b: &End, reason| b.worker.counters().peer(peer(node(1))).rx_drops(reason);
    b.tap.host.lock().unwrap().full = true;
    a.tap.put(frame.clone());
    a.settle();
    b.settle();
    assert_eq!(drops(&b, RxDrop::TapFull), 1);
    b.tap.host.lock().unwrap().down = true;
    a.tap.put(frame);
    a.settle();
    b.settle();
    assert_eq!(drops(&b, RxDrop::TapDown), 1);
}

#[test]
fn messages_have_no_receiver_yet() {
    // A plain pipeline seals what no worker does.
    let (mut sender, receiver) = common::pair::<Cipher>(Faults::default(), 1);
    let mut b = End::new(receiver.id, receiver.bearer);
    b.send(Command::InstallRx {
        seq: CommandSeq(1),
        lane: Box::new(RxLaneSpec {
            spi: Spi::new(7).unwrap(),
            peer: PeerIndex(1),
            node: sender.id,
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: secret(Suite::Aes256Gcm, 1),
            next: None,
            phase_bits: PhaseBits::PROTOCOL,
            shared: RxShared::of_single_lane(10),
        }),
    });
    b.pass();
    sender.install_tx(7, 1, secret(Suite::Aes256Gcm, 1), UNBOUNDED);
    assert_eq!(sender.send(1, |_, _| 20), 1);
    b.settle();
    let counters = b.worker.counters();
    assert_eq!(counters.peer(PeerIndex(1)).rx_drops(RxDrop::NoReceiver), 1);
    assert!(b.tap.written().is_empty());
}

/// A large TCP frame from node 1 to node 2, as the host hands it over.
fn large(payload: usize) -> (VnetHeader, Inner) {
    let inner = Inner {
        destination: MacAddr::of_tap(node(2)).0,
        source: MacAddr::of_tap(node(1)).0,
        flags: inner::ACK | PSH,
        payload: (0..payload).map(|i| (i * 7) as u8).collect(),
        ..Inner::default()
    };
    (inner.vnet(1399), inner)
}

#[test]
fn large_frame_is_cut_and_joined_again() {
    // Room for fewer frames than there are segments.
    let (mut a, mut b) = ends(MemorySizes {
        wire_frames: 8,
        ..MemorySizes::default()
    });
    let (header, inner) = large(60_000);
    let small = ethernet(MacAddr::of_tap(node(2)), node(1), b"behind it");
    a.tap.put_with(header, inner.frame(State::Partial));
    a.tap.put(small.clone());
    a.settle();
    assert_eq!(a.worker.counters().transmitted_frames.value(), 8);
    for _ in 0..10 {
        // Passes with nothing to receive change nothing.
        while b.pass() == Pass::Busy {}
        a.settle();
    }
    b.settle();
    // The segments may have been held for longer than a joined frame waits.
    let mut got = Vec::new();
    for (header, frame) in b.tap.take() {
        if frame == small {
            assert_eq!(header, VnetHeader::default());
            got.push(b"behind it".to_vec());
            continue;
        }
        let inner = Inner::read_open(&frame);
        let gso_size = usize::from(header.gso_size);
        assert_eq!(header.checksum, inner.vnet(0).checksum);
        assert_eq!(gso_size > 0, inner.payload.len() > 1399);
        got.push(inner.payload);
    }
    assert_eq!(got.pop().unwrap(), b"behind it");
    assert_eq!(got.concat(), inner.payload);
    let counters = b.worker.counters();
    assert_eq!(counters.peer(peer(node(1))).opened_frames.value(), 44);
    assert!(counters.tap_writes.value() < 20, "joined");
    assert_eq!(a.worker.counters().tap_reads.value(), 2);
}

#[test]
fn held_segments_go_out_in_time_and_at_the_end() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let (header, inner) = large(2000);
    let inner = Inner {
        // Nothing says that this is the end.
        flags: inner::ACK,
        payload: inner.payload[..2 * 900].to_vec(),
        ..inner
    };
    let header = VnetHeader {
        gso_size: 900,
        ..header
    };
    for end in ["due", "stop"] {
        a.tap.put_with(header, inner.frame(State::Partial));
        a.settle();
        match end {
            "due" => b.settle(),
            _ => {
                b.pass();
                b.send(Command::Stop);
                assert_eq!(b.pass(), Pass::Stopped);
            }
        }
        let payloads: Vec<_> = (b.tap.take().iter())
            .map(|(_, frame)| Inner::read_open(frame).payload)
            .collect();
        assert_eq!(payloads.concat(), inner.payload, "{end}");
    }
}

#[test]
fn group_frames_are_cut_too() {
    let (mut a, mut b) = ends(MemorySizes::default());
    a.lane(&mut b, node(3), 3);
    let (_, mut inner) = large(10_000);
    inner.udp = true;
    inner.destination = MacAddr::BROADCAST.0;
    a.tap
        .put_with(inner.vnet(1000), inner.frame(State::Partial));
    a.settle();
    b.settle();
    let got = b.tap.take();
    assert_eq!(got.len(), 20, "10 datagrams for two peers");
    for (pair, piece) in got.chunks(2).zip(inner.cut(1000)) {
        for (header, frame) in pair {
            assert_eq!(header.checksum, inner.vnet(0).checksum);
            assert_eq!(*frame, piece.frame(State::Partial));
        }
    }
}

#[test]
fn joined_frames_that_the_tap_refuses_are_all_counted() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let drops = |b: &End, reason| b.worker.counters().peer(peer(node(1))).rx_drops(reason);
    b.tap.host.lock().unwrap().full = true;
    let (header, inner) = large(14_000);
    a.tap.put_with(header, inner.frame(State::Partial));
    a.settle();
    b.settle();
    assert_eq!(drops(&b, RxDrop::TapFull), 11);
    assert_eq!(b.worker.counters().tap_writes.value(), 0);
}

#[test]
fn offloads_that_contradict_their_frame_are_counted() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let (header, inner) = large(14_000);
    let frame = inner.frame(State::Partial);
    let with = |gso_size, gso| VnetHeader {
        gso_size,
        gso,
        ..header
    };
    a.tap.put_with(with(0, header.gso), frame.clone());
    a.tap.put_with(with(1399, Gso::Udp), frame.clone());
    a.tap.put_with(with(0, Gso::None), frame[..20].to_vec());
    a.tap.put_with(with(1414, header.gso), frame.clone());
    a.tap.put_with(with(0, Gso::None), frame.clone());
    a.settle();
    b.settle();
    assert_eq!(a.nobody_tx(TxDrop::BadOffload), 3);
    assert_eq!(a.nobody_tx(TxDrop::TooLong), 2);
    assert!(b.tap.written().is_empty());
    assert_eq!(b.worker.counters().received_frames.value(), 0);
}

#[test]
fn loop_allocates_nothing() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let (c, d) = (a.tap.clone(), b.tap.clone());
    for tap in [&c, &d] {
        tap.host.lock().unwrap().keep = false;
    }
    let repeat = |tap: &MemoryTap, header, frame| {
        tap.host.lock().unwrap().repeated = Some((header, frame));
    };
    let (header, inner) = large(50_000);
    repeat(&c, header, inner.frame(State::Partial));
    let broadcast = ethernet(MacAddr::BROADCAST, node(2), &[7; 100]);
    repeat(&d, VnetHeader::default(), broadcast);
    for _ in 0..10 {
        a.pass();
        b.pass();
    }
    let before = ALLOCATIONS.get();
    for _ in 0..2000 {
        a.pass();
        b.pass();
    }
    assert_eq!(ALLOCATIONS.get(), before);
    let counters = b.worker.counters();
    let opened = counters.peer(peer(node(1))).opened_frames.value();
    assert!(opened > 50_000, "{opened}");
    let delivered = d.host.lock().unwrap().written_count;
    assert!((1000..opened / 2).contains(&delivered), "{delivered}");
    assert!(c.host.lock().unwrap().written_count > 100, "group frames");
    // The counter counts.
    drop(std::hint::black_box(Box::new(1u8)));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

#[test]
fn bearer_memory_is_given_back() {
    let (mut a, mut b) = ends(MemorySizes {
        frames: 128,
        ..MemorySizes::default()
    });
    for round in 0..500u32 {
        a.tap
            .put(ethernet(MacAddr::of_tap(node(2)), node(1), &[1; 60]));
        a.tap.put(ethernet(MacAddr::BROADCAST, node(1), &[1; 60]));
        a.tap
            .put(ethernet(MacAddr::of_tap(node(7)), node(1), &[1; 60]));
        a.tap.put(vec![1; 5]);
        b.tap.host.lock().unwrap().full = round % 3 == 0;
        a.settle();
        b.settle();
    }
    // Both ends still have frames enough for a whole burst.
    for _ in 0..64 {
        a.tap
            .put(ethernet(MacAddr::of_tap(node(2)), node(1), &[2; 60]));
    }
    b.tap.host.lock().unwrap().full = false;
    b.tap.written();
    a.settle();
    b.settle();
    assert_eq!(b.tap.written().len(), 64);
}

#[cfg(feature = "io")]
mod threads {
    use std::time::Duration;

    use tipsec_dataplane::worker::{SpawnError, spawn};

    use super::*;

    fn eventually(mut condition: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !condition() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    #[test]
    fn sleeping_worker_wakes_for_whatever_comes() {
        let (a, b) = ends(MemorySizes::default());
        let (taps, controls) = ([a.tap.clone(), b.tap.clone()], [a.control, b.control]);
        let a = spawn(a.worker, None, "wake-a").unwrap();
        let b = spawn(b.worker, Some(0), "wake-b").unwrap();
        let counters = [Arc::clone(a.counters()), Arc::clone(b.counters())];
        for round in 0..200u64 {
            // Asleep, or about to be: the moment is a different one each time.
            let sleeps = counters[1].sleeps.value();
            if round % 2 == 0 {
                assert!(eventually(
                    || counters[1].sleeps.value() > sleeps || counters[1].passes.value() > 0
                ));
            }
            let start = Instant::now();
            let command = Command::AllowData {
                peer: PeerIndex(0),
                allowed: true,
            };
            assert!(controls[0].send(command).is_ok());
            taps[0].put(ethernet(MacAddr::of_tap(node(2)), node(1), &[1; 60]));
            assert!(eventually(|| taps[1].written().len() == 1));
            assert!(
                start.elapsed() < Duration::from_secs(1),
                "woken, not timed out"
            );
        }
        // Idle workers sleep for long, and only look after the device then.
        let silence = Instant::now();
        let (passes, sleeps) = (counters[0].passes.value(), counters[0].sleeps.value());
        assert!(eventually(|| counters[0].sleeps.value() >= sleeps + 3));
        let awake = counters[0].passes.value() - passes;
        assert!(awake < 20, "{awake} passes in silence");
        assert!(silence.elapsed() > Duration::from_millis(300), "it spins");
        for control in &controls {
            assert!(control.send(Command::Stop).is_ok());
        }
        a.join().unwrap();
        b.join().unwrap();
    }

    #[test]
    fn panic_is_seen_by_the_owner() {
        let (a, _b) = ends(MemorySizes::default());
        let (tap, control) = (a.tap.clone(), a.control);
        let handle = spawn(a.worker, None, "panics").unwrap();
        assert!(handle.panicked().is_none());
        tap.host.lock().unwrap().panic = true;
        rustix::io::write(&tap.readable, &1u64.to_ne_bytes()).unwrap();
        assert!(eventually(|| handle.panicked().is_some()));
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            control.wake_fd(),
            rustix::event::PollFlags::IN,
        )];
        let second = rustix::event::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        assert_eq!(rustix::event::poll(&mut fds, Some(&second)), Ok(1));
        let error = handle.join().unwrap_err().to_string();
        assert!(error.contains("wants a panic"), "{error}");
    }

    #[test]
    fn core_that_is_not_there_is_named() {
        let (a, _b) = ends(MemorySizes::default());
        match spawn(a.worker, Some(100_000), "no-core").err() {
            Some(SpawnError::NoSuchCore { core, available }) => {
                assert_eq!(core, 100_000);
                assert!(available.contains(&0));
            }
            other => panic!("{other:?}"),
        }
    }
}
