//! Two AF_XDP bearers on a veth pair, with the pipelines and without a worker:
//! what one seals and sends, the other receives and opens, byte for byte.
#![cfg(feature = "io")]
// A test may stop at the first surprise, and says what it measured.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout
)]

mod netns;

use netns::{ETHERTYPE, NetNs, eventually, is_root, secret, veth_pair};
use tipsec_dataplane::attach::{Attachment, Interface, Mode};
use tipsec_dataplane::bearer::xdp::{
    BusyPoll, OpenError, XdpBearer, XdpConfig, XdpFrame, XdpStatistics,
};
use tipsec_dataplane::bearer::{Bearer, BearerError, FrameMemory};
use tipsec_dataplane::burst::Burst;
use tipsec_dataplane::command::{Budget, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::counters::{RxDrop, WorkerCounters};
use tipsec_dataplane::frame::PAYLOAD_OFFSET;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::outer::{Encapsulation, OuterHeader};
use tipsec_dataplane::payload::Payload;
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::rx::{Opened, open_burst};
use tipsec_dataplane::sa::{RxLane, RxShared, TxLane};
use tipsec_dataplane::table::{RxTable, TxTable};
use tipsec_dataplane::tx::{Plain, Sealed, seal_burst};

#[cfg(feature = "crypto-aws-lc")]
type Cipher = tipsec_dataplane::aead::aws_lc::AwsLc;
#[cfg(not(feature = "crypto-aws-lc"))]
type Cipher = tipsec_dataplane::aead::ring::Ring;

const PEER: PeerIndex = PeerIndex(1);
const SPI: Spi = match Spi::new(1) {
    Some(spi) => spi,
    None => unreachable!(),
};
/// Header, tag and payload byte: what a message of this test adds to its bytes.
const OVERHEAD: usize = 16 + 16 + 1;

/// One end: a bearer, and the tables for one peer.
struct End {
    bearer: XdpBearer,
    encapsulation: Encapsulation,
    rx: RxTable<Cipher>,
    tx: TxTable<Cipher>,
    counters: WorkerCounters,
    received: Burst<XdpFrame>,
    opened: Burst<Opened<XdpFrame>>,
    plain: Burst<Plain<XdpFrame>>,
    sealed: Burst<Sealed<XdpFrame>>,
    /// Frames lost by the kernel, as the bearer tells.
    lost: usize,
    socket: std::os::fd::OwnedFd,
    // Last: the namespace goes after what is attached in it.
    attachment: Attachment,
    ns: NetNs,
}

fn encapsulation(of: &Interface) -> Encapsulation {
    Encapsulation::ethernet(of.mac, ETHERTYPE, None)
}

impl End {
    fn open(ns: NetNs, id: u32, mode: Mode, config: &XdpConfig) -> Self {
        let (mut attachment, bearer) = ns.run(|| {
            let interface = Interface::check("nic").unwrap();
            let node = NodeId::new(id).unwrap();
            let mut attachment =
                Attachment::attach(&interface, node, encapsulation(&interface), mode).unwrap();
            let bearer = XdpBearer::open(&mut attachment, 0, config).unwrap();
            (attachment, bearer)
        });
        attachment.add_spi(SPI).unwrap();
        let mac = attachment.interface().mac;
        Self {
            socket: bearer.statistics_fd().unwrap(),
            bearer,
            encapsulation: Encapsulation::ethernet(mac, ETHERTYPE, None),
            rx: RxTable::new(16),
            tx: TxTable::new(2),
            counters: WorkerCounters::new(2),
            received: Burst::new(),
            opened: Burst::new(),
            plain: Burst::new(),
            sealed: Burst::new(),
            lost: 0,
            attachment,
            ns,
        }
    }

    fn connect(&mut self, other: &mut Self) {
        let node = |id| NodeId::new(id).unwrap();
        let (own, theirs) = (
            self.attachment.interface().mac,
            other.attachment.interface().mac,
        );
        self.tx.set_path(
            PEER,
            Some(OuterHeader::ethernet(own, theirs, ETHERTYPE, None)),
        );
        let tx = TxLaneSpec {
            spi: SPI,
            peer: PEER,
            node: node(2),
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: secret(1),
            next: None,
            phase_bits: PhaseBits::PROTOCOL,
            budget: Budget {
                soft: u64::MAX,
                hard: u64::MAX,
            },
        };
        self.tx.install(TxLane::new(tx)).unwrap();
        let rx = RxLaneSpec {
            spi: SPI,
            peer: PEER,
            node: node(1),
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: secret(1),
            next: None,
            phase_bits: PhaseBits::PROTOCOL,
            shared: RxShared::of_single_lane(1 << 20),
        };
        other.rx.insert(RxLane::new(rx)).unwrap();
    }

    /// Seals one message of `len` bytes that `number` decides.
    fn seal(&mut self, number: usize, len: usize) {
        let mut frame = self.bearer.allocate().unwrap();
        let room = self.bearer.room_mut(&mut frame);
        let place = &mut room[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 1 + len];
        place[0] = Payload::Message.encode();
        fill(number, &mut place[1..]);
        self.plain.push(Plain::data(frame, PEER, 1 + len));
        seal_burst(
            &mut self.tx,
            &mut self.bearer,
            &mut self.plain,
            &mut self.sealed,
            &self.counters,
            |_| (),
        );
    }

    /// Sends what is sealed as far as the bearer takes it.
    fn send(&mut self) {
        self.lost += self.bearer.transmit(&mut self.sealed).unwrap().lost;
    }

    /// Opens what has arrived and gives the messages to `deliver`.
    fn receive(&mut self, mut deliver: impl FnMut(&[u8])) {
        self.bearer.receive(&mut self.received).unwrap();
        open_burst(
            &mut self.rx,
            &self.encapsulation,
            &mut self.bearer,
            &mut self.received,
            &mut self.opened,
            &self.counters,
            |_| (),
        );
        for mut opened in self.opened.drain(..) {
            deliver(&opened.plaintext_mut(&mut self.bearer)[1..]);
            self.bearer.release(opened.into_frame());
        }
    }

    fn rx_drops(&self, reason: RxDrop) -> u64 {
        self.counters.nobody.rx_drops(reason) + self.counters.peer(PEER).rx_drops(reason)
    }

    fn statistics(&self) -> XdpStatistics {
        XdpStatistics::read(&self.socket).unwrap()
    }
}

/// Bytes that `number` decides, each place different.
fn fill(number: usize, bytes: &mut [u8]) {
    bytes[..4].copy_from_slice(&(number as u32).to_be_bytes());
    for (at, byte) in bytes.iter_mut().enumerate().skip(4) {
        *byte = (number.wrapping_mul(31) + at + (at >> 8) * 7) as u8;
    }
}

fn ends(purpose: &str, mtu: u32, mode: Mode, config: &XdpConfig) -> (End, End) {
    let (ns_a, ns_b) = veth_pair(purpose);
    for ns in [&ns_a, &ns_b] {
        ns.ip(&format!("link set nic mtu {mtu}"));
    }
    let mut a = End::open(ns_a, 1, mode, config);
    let mut b = End::open(ns_b, 2, mode, config);
    a.connect(&mut b);
    (a, b)
}

/// Sends messages of these lengths from a to b in bursts of `at_once` and
/// checks that all arrive as they were.
fn exchange(a: &mut End, b: &mut End, lengths: &[usize], at_once: usize) {
    let mut arrived = 0;
    let mut expected = vec![0; 9000];
    for (burst, lengths_of_burst) in lengths.chunks(at_once).enumerate() {
        for (at, &len) in lengths_of_burst.iter().enumerate() {
            a.seal(burst * at_once + at, len);
        }
        let wanted = arrived + lengths_of_burst.len();
        let in_time = eventually(|| {
            a.send();
            b.receive(|message| {
                let len = lengths[arrived];
                fill(arrived, &mut expected[..len]);
                assert!(message == &expected[..len], "message {arrived} of {len} B");
                arrived += 1;
            });
            arrived == wanted
        });
        assert!(
            in_time,
            "{arrived} of {wanted}: lost {}, {:?}",
            a.lost,
            b.statistics()
        );
    }
    assert_eq!((a.lost, b.rx_drops(RxDrop::Fragmented)), (0, 0));
}

/// Major and minor version of this kernel.
fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn a_burst_takes_one_call_where_the_kernel_has_a_budget() {
    if !is_root("a_burst_takes_one_call_where_the_kernel_has_a_budget") {
        return;
    }
    let config = XdpConfig::default();
    let (mut a, mut b) = ends("budget", 1500, Mode::Auto, &config);
    let report = a.bearer.report();
    assert_eq!(report.refused, []);
    let has_budget = kernel() >= (6, 17);
    assert_eq!(report.tx_budget, has_budget.then_some(config.tx_ring));
    let wakeups = a.bearer.wakeups();
    let before = wakeups.calls.value();
    for number in 0..64 {
        a.seal(number, 1000);
    }
    a.send();
    assert!(a.sealed.is_empty());
    let calls = wakeups.calls.value() - before;
    if has_budget {
        assert_eq!((calls, wakeups.again.value()), (1, 0));
    } else {
        assert!((2..=3).contains(&calls), "{calls}");
    }
    let mut arrived = 0;
    assert!(eventually(|| {
        b.receive(|_| arrived += 1);
        arrived == 64
    }));
    // An empty burst wakes nobody.
    let calls = wakeups.calls.value();
    a.send();
    assert_eq!(wakeups.calls.value(), calls);
}

#[test]
fn frames_of_one_chunk_arrive_as_they_were() {
    if !is_root("frames_of_one_chunk_arrive_as_they_were") {
        return;
    }
    let largest = 3506 - OVERHEAD;
    let (mut a, mut b) = ends("chunk", 3506, Mode::Auto, &XdpConfig::default());
    let lengths: Vec<_> = (0..200).map(|i| [4, 64, 1400, largest][i % 4]).collect();
    exchange(&mut a, &mut b, &lengths, 64);
}

#[test]
fn chunks_that_leave_the_caches_keep_what_they_hold() {
    if !is_root("chunks_that_leave_the_caches_keep_what_they_hold") {
        return;
    }
    let config = XdpConfig {
        filled_elsewhere: true,
        ..few_chunks()
    };
    let known = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let demotes = known.split_whitespace().any(|flag| flag == "cldemote");
    println!("this processor demotes: {demotes}");
    for mtu in [3506, 9000] {
        let (mut a, mut b) = ends("demote", mtu, Mode::NativeCopy, &config);
        assert_eq!(b.bearer.report().demotes, demotes);
        // Each chunk is lent several times, after frames of other lengths.
        let lengths: Vec<_> = (0..4000).map(|i| [4, 64, 1400, 3400][i % 4]).collect();
        exchange(&mut a, &mut b, &lengths, 64);
    }
    let (a, _b) = ends("demote", 1500, Mode::NativeCopy, &few_chunks());
    assert!(!a.bearer.report().demotes, "only where it was wished for");
}

/// Lengths in bytes on the wire around the edges: of one chunk, of what veth
/// puts in one buffer, of two and of three chunks.
const JUMBO_FRAMES: [usize; 9] = [1400, 3500, 3600, 3840, 3841, 7680, 7681, 8900, 9014];

fn message_len(frame_len: usize) -> usize {
    frame_len - 14 - OVERHEAD
}

/// So few chunks that any which do not come back are soon missed.
fn few_chunks() -> XdpConfig {
    XdpConfig {
        chunks: 1024,
        rx_ring: 512,
        ..XdpConfig::default()
    }
}

fn jumbo_frames_arrive(purpose: &str, mode: Mode) {
    let (mut a, mut b) = ends(purpose, 9000, mode, &few_chunks());
    assert!(a.bearer.report().multi_buffer);
    assert_eq!(a.bearer.report().refused, []);
    let lengths = JUMBO_FRAMES.map(message_len);
    // Each alone, then mixed in bursts, more of them than there are rooms.
    exchange(&mut a, &mut b, &lengths, 1);
    let mixed: Vec<_> = (0..1500)
        .map(|i| lengths[(i * 7 + i / 64) % lengths.len()])
        .collect();
    exchange(&mut a, &mut b, &mixed, 64);
    assert_eq!(b.statistics().rx_dropped, 0);
    assert_eq!(a.statistics().tx_invalid_descriptors, 0);
    assert_eq!(b.statistics().rx_invalid_descriptors, 0);
}

fn has_multi_buffer(test: &str) -> bool {
    let has = kernel() >= (6, 6);
    if !has {
        println!("SKIPPED (needs Linux 6.6): {test}");
    }
    has
}

#[test]
fn jumbo_frames_arrive_as_they_were() {
    let name = "jumbo_frames_arrive_as_they_were";
    if is_root(name) && has_multi_buffer(name) {
        jumbo_frames_arrive("jumbo", Mode::Auto);
    }
}

#[test]
fn jumbo_frames_arrive_by_generic_xdp() {
    let name = "jumbo_frames_arrive_by_generic_xdp";
    if is_root(name) && has_multi_buffer(name) {
        jumbo_frames_arrive("jgen", Mode::Generic);
    }
}

#[test]
fn frames_without_a_free_room_are_counted_and_their_memory_returns() {
    let name = "frames_without_a_free_room_are_counted_and_their_memory_returns";
    if !is_root(name) || !has_multi_buffer(name) {
        return;
    }
    let config = XdpConfig {
        wide_rooms: 64,
        ..few_chunks()
    };
    let (mut a, mut b) = ends("room", 9000, Mode::Auto, &config);
    // All rooms of the receiver are taken.
    let mut held: Vec<_> = std::iter::from_fn(|| b.bearer.allocate()).collect();
    assert_eq!(held.len(), 64);
    let send = |a: &mut End, first: usize, len: usize| {
        for number in first..first + 32 {
            a.seal(number, len);
        }
        a.send();
    };
    // More than there are chunks, if they did not come back.
    let rounds = 50;
    for round in 1..=rounds {
        send(&mut a, 0, 8000);
        assert!(eventually(|| {
            a.send();
            b.receive(|_| panic!("opened without a room"));
            b.rx_drops(RxDrop::Fragmented) == 32 * round
        }));
    }
    // Frames of one chunk need none.
    send(&mut a, 0, 1000);
    let mut arrived = 0;
    assert!(eventually(|| {
        b.receive(|message| {
            assert_eq!(message.len(), 1000);
            arrived += 1;
        });
        arrived == 32
    }));
    held.drain(..).for_each(|frame| b.bearer.release(frame));
    send(&mut a, 7, 8000);
    let mut expected = vec![0; 8000];
    assert!(eventually(|| {
        b.receive(|message| {
            fill(arrived - 32 + 7, &mut expected);
            assert!(message == expected);
            arrived += 1;
        });
        arrived == 64
    }));
    assert_eq!(b.rx_drops(RxDrop::Fragmented), 32 * rounds);
    assert_eq!((a.lost, b.statistics().rx_dropped), (0, 0));
}

#[test]
fn frames_that_go_with_their_device_are_counted_as_frames() {
    if !is_root("frames_that_go_with_their_device_are_counted_as_frames") {
        return;
    }
    let mtu = if kernel() >= (6, 6) { 9000 } else { 1500 };
    let (mut a, _b) = ends("lost", mtu, Mode::Auto, &XdpConfig::default());
    // Down: what is sent waits in the TX ring.
    a.ns.ip("link set nic down");
    for number in 0..10 {
        let len = [mtu as usize - OVERHEAD, 100][number % 2];
        a.seal(number, len);
    }
    a.send();
    assert_eq!((a.sealed.len(), a.bearer.unsent(), a.lost), (0, 10, 0));
    assert!(a.bearer.check().is_ok(), "down is not gone");
    assert!(a.bearer.wakeups().down.value() > 0);
    a.ns.ip("link del nic");
    assert!(eventually(|| a.bearer.check().is_err()));
    assert_eq!(a.bearer.unsent(), 10, "all of them, each once");
    assert!(matches!(
        a.bearer.transmit(&mut a.sealed),
        Err(BearerError::DeviceGone)
    ));
}

#[test]
fn zero_copy_for_long_frames_is_refused_by_name() {
    let name = "zero_copy_for_long_frames_is_refused_by_name";
    if !is_root(name) || !has_multi_buffer(name) {
        return;
    }
    let (a, b) = veth_pair("mbzc");
    for ns in [&a, &b] {
        ns.ip("link set nic mtu 9000");
    }
    a.run(|| {
        let interface = Interface::check("nic").unwrap();
        let node = NodeId::new(1).unwrap();
        let mut attachment =
            Attachment::attach(&interface, node, encapsulation(&interface), Mode::ZeroCopy)
                .unwrap();
        let error = XdpBearer::open(&mut attachment, 0, &XdpConfig::default())
            .err()
            .unwrap();
        let text = error.to_string();
        assert!(
            matches!(error, OpenError::MultiBuffer { mtu: 9000, .. }),
            "{text}"
        );
        assert!(
            text.contains("zero-copy") && text.contains("mtu 3506"),
            "{text}"
        );
    });
}

#[test]
fn busy_polling_is_off_unless_asked_for_and_reported() {
    if !is_root("busy_polling_is_off_unless_asked_for_and_reported") {
        return;
    }
    let (a, _b) = ends("nobusy", 1500, Mode::Auto, &XdpConfig::default());
    assert!(!a.bearer.report().busy_poll);
    let config = XdpConfig {
        busy_poll: Some(BusyPoll::default()),
        ..XdpConfig::default()
    };
    let (mut a, mut b) = ends("busy", 1500, Mode::Auto, &config);
    let report = a.bearer.report();
    // On, or said why not; kernels can be built without.
    assert_eq!(report.busy_poll, report.refused.is_empty(), "{report:?}");
    println!("busy polling: {}, {:?}", report.busy_poll, report.refused);
    exchange(&mut a, &mut b, &[64, 1400].repeat(500), 64);
}

/// CPU time of this thread in nanoseconds.
fn cpu_ns() -> i128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// Sends `frames` frames from a to b and opens them, all on this thread;
/// nanoseconds of its CPU time a frame.
fn cost(a: &mut End, b: &mut End, frames: usize, len: usize) -> f64 {
    let (start, mut sent, mut arrived) = (cpu_ns(), 0, 0);
    while arrived + a.lost < frames {
        while sent < frames && !a.sealed.is_full() {
            let Some(mut frame) = a.bearer.allocate() else {
                break;
            };
            a.bearer.room_mut(&mut frame)[PAYLOAD_OFFSET] = Payload::Message.encode();
            a.plain.push(Plain::data(frame, PEER, 1 + len));
            sent += 1;
            if a.plain.len() + a.sealed.len() == 64 {
                break;
            }
        }
        seal_burst(
            &mut a.tx,
            &mut a.bearer,
            &mut a.plain,
            &mut a.sealed,
            &a.counters,
            |_| (),
        );
        a.send();
        b.receive(|_| arrived += 1);
    }
    (cpu_ns() - start) as f64 / frames as f64
}

#[test]
#[ignore = "prints costs; run it alone on a quiet machine"]
fn cost_by_configuration() {
    if !is_root("cost_by_configuration") {
        return;
    }
    let default = XdpConfig {
        huge_pages: false,
        ..XdpConfig::default()
    };
    let filled = |level| XdpConfig {
        fill_min: level,
        fill_max: level,
        ..default
    };
    let huge_pages = XdpConfig {
        huge_pages: true,
        ..default
    };
    let busy_poll = XdpConfig {
        busy_poll: Some(BusyPoll::default()),
        ..default
    };
    let rows = [
        ("default", 1500, default),
        ("fill level 128", 1500, filled(128)),
        ("fill level 256", 1500, filled(256)),
        ("fill level 512", 1500, filled(512)),
        ("fill level 1024", 1500, filled(1024)),
        ("fill level 3776", 1500, filled(3776)),
        ("huge pages", 1500, huge_pages),
        ("busy poll", 1500, busy_poll),
        ("MTU 9000", 9000, default),
    ];
    let mut pairs: Vec<_> = rows
        .iter()
        .map(|(_, mtu, config)| ends("cost", *mtu, Mode::Auto, config))
        .collect();
    for len in [64, 1400] {
        let mut costs = vec![Vec::new(); rows.len()];
        for _ in 0..150 {
            for ((a, b), costs) in pairs.iter_mut().zip(&mut costs) {
                costs.push(cost(a, b, 64 * 64, len));
            }
        }
        let reference = costs[0].clone();
        for ((name, ..), costs) in rows.iter().zip(&costs) {
            // Of each round, since what else runs here changes between them.
            let ratios = costs.iter().zip(&reference).map(|(cost, of)| cost / of);
            let (cost, ratio) = (sorted(costs.iter().copied()), sorted(ratios));
            let at = |sorted: &[f64], q: usize| sorted[(sorted.len() - 1) * q / 100];
            println!(
                "{len} B, {name}: {:.0} ns a frame in the best tenth, {:.0} median; {:.3} of the \
                 default (quartiles {:.3}, {:.3})",
                at(&cost, 10),
                at(&cost, 50),
                at(&ratio, 50),
                at(&ratio, 25),
                at(&ratio, 75),
            );
        }
    }
    println!("huge pages: {}", pairs[6].0.bearer.report().huge_pages);
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Huge pages that nobody has taken.
fn free_huge_pages() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let value = |name: &str| -> u64 {
        let line = info.lines().find(|line| line.starts_with(name));
        line.map_or(0, |line| {
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        })
    };
    match value("Hugepagesize:") {
        2048 => value("HugePages_Free:") - value("HugePages_Rsvd:"),
        _ => 0,
    }
}

#[test]
fn memory_is_of_huge_pages_where_there_are_any_and_of_the_workers_core() {
    if !is_root("memory_is_of_huge_pages_where_there_are_any_and_of_the_workers_core") {
        return;
    }
    let affinity = || {
        let set = rustix::thread::sched_getaffinity(None).unwrap();
        (0..64).filter(|&core| set.is_set(core)).collect::<Vec<_>>()
    };
    let before = affinity();
    let config = XdpConfig {
        core: before.last().copied(),
        // With the wide rooms not a whole number of huge pages.
        wide_rooms: 100,
        ..XdpConfig::default()
    };
    for (mtu, needed) in [(1500, 8), (9000, 9)] {
        let free = free_huge_pages();
        let (mut a, mut b) = ends("huge", mtu, Mode::Auto, &config);
        let report = a.bearer.report();
        println!("{free} huge pages free: {}", report.huge_pages);
        // Other tests may take some at the same time.
        if free == 0 || free >= 8 * needed {
            assert_eq!(report.huge_pages, free > 0);
        }
        let unit = if report.huge_pages { 2 << 20 } else { 4096 };
        assert_eq!(report.umem_bytes % unit, 0);
        exchange(&mut a, &mut b, &[100, 1400, mtu as usize - OVERHEAD], 3);
    }
    assert_eq!(affinity(), before, "the caller's is its own");
    let config = XdpConfig {
        huge_pages: false,
        ..XdpConfig::default()
    };
    let (a, _b) = ends("small", 1500, Mode::Auto, &config);
    assert!(!a.bearer.report().huge_pages);
    assert_eq!(a.bearer.report().umem_bytes, config.umem_bytes());
}
