//! Network namespaces and whole nodes in them, for tests that need root.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command as Process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tipsec_dataplane::aead::Aead;
use tipsec_dataplane::attach::{Attachment, Interface, Mode};
use tipsec_dataplane::bearer::xdp::{BearerReport, XdpBearer, XdpConfig, XdpStatistics};
use tipsec_dataplane::command::{
    Budget, Command, CommandSeq, ControlEnd, Event, RxLaneSpec, TxLaneSpec, channel,
};
use tipsec_dataplane::counters::{RxDrop, TxDrop};
use tipsec_dataplane::frame::TAP_OVERHEAD;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OuterHeader};
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::sa::RxShared;
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::tap::device::{Tap, TapConfig};
use tipsec_dataplane::worker::{Polling, Worker, WorkerConfig, WorkerHandle, spawn};

pub const ETHERTYPE: u16 = 0x88b5;
pub const PATIENCE: Duration = Duration::from_secs(10);

/// True for root; else says that the test is skipped.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED (needs root): {test}");
    }
    root
}

/// Runs `ip` with these words; panics with its output if it fails.
pub fn ip(words: &str) {
    let output = Process::new("ip")
        .args(words.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A network namespace, removed when dropped, also by a panic.
pub struct NetNs {
    pub name: String,
    file: File,
}

impl NetNs {
    pub fn new(purpose: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tsc-{purpose}-{}-{number}", std::process::id());
        ip(&format!("netns add {name}"));
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        let ns = Self { name, file };
        ns.run(|| {
            let path = "/proc/sys/net/ipv6/conf";
            for which in ["all", "default"] {
                let _ = std::fs::write(format!("{path}/{which}/disable_ipv6"), "1");
            }
        });
        ns
    }

    /// A thread of this namespace; what it starts is of it too.
    pub fn start<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> JoinHandle<R> {
        let file: OwnedFd = self.file.as_fd().try_clone_to_owned().unwrap();
        thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }

    /// Does something in this namespace and waits for it.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                work()
            });
            match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    pub fn ip(&self, words: &str) {
        ip(&format!("-n {} {words}", self.name));
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        let _ = Process::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// Two namespaces and a veth pair between them, up: `nic` at both ends.
pub fn veth_pair(purpose: &str) -> (NetNs, NetNs) {
    let (a, b) = (NetNs::new(purpose), NetNs::new(purpose));
    ip(&format!(
        "link add nic netns {} numrxqueues 1 numtxqueues 1 type veth peer name nic netns {} \
         numrxqueues 1 numtxqueues 1",
        a.name, b.name
    ));
    for ns in [&a, &b] {
        ns.ip("link set lo up");
        ns.ip("link set nic up");
    }
    (a, b)
}

/// Waits until `condition` holds; false if it does not in time.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

/// One node: program, bearer, tap and a running worker in a namespace.
pub struct Node {
    pub id: NodeId,
    pub mac: MacAddr,
    pub ns: NetNs,
    pub attachment: Attachment,
    pub control: ControlEnd,
    pub worker: Option<WorkerHandle>,
    pub report: BearerReport,
    socket: OwnedFd,
    events: Vec<Event>,
    next_seq: u64,
}

impl Node {
    pub fn start<A: Aead>(ns: NetNs, id: u32, mode: Mode, polling: Polling) -> Self {
        let id = NodeId::new(id).unwrap();
        let (control, worker_end) = channel().unwrap();
        let (attachment, socket, report, worker) = ns.run(|| {
            let interface = Interface::check("nic").unwrap();
            let encapsulation = Encapsulation::ethernet(interface.mac, ETHERTYPE, None);
            let mut attachment = Attachment::attach(&interface, id, encapsulation, mode).unwrap();
            let bearer = XdpBearer::open(&mut attachment, 0, &XdpConfig::default()).unwrap();
            let settings = TapConfig {
                name: "tap".into(),
                node: id,
                mtu: u16::try_from(interface.mtu as usize - TAP_OVERHEAD).unwrap(),
                ipv4: Some((address(id), 24)),
                ipv6: None,
            };
            let tap = Tap::create(&settings, 1).unwrap();
            let tap = tap.into_queues().swap_remove(0);
            let config = WorkerConfig {
                node: id,
                encapsulation,
                mtu: interface.mtu as usize,
                peers: 8,
                spis: 1024,
                polling,
            };
            let (socket, report) = (bearer.statistics_fd().unwrap(), bearer.report().clone());
            let worker = Worker::<A, _, _>::new(config, worker_end, bearer, tap);
            let handle = spawn(worker, None, "test-worker").unwrap();
            (attachment, socket, report, handle)
        });
        Self {
            id,
            mac: attachment.interface().mac,
            ns,
            attachment,
            control,
            worker: Some(worker),
            report,
            socket,
            events: Vec::new(),
            next_seq: 0,
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        address(self.id)
    }

    /// How the other node is numbered here.
    pub fn peer(other: &Self) -> PeerIndex {
        PeerIndex(u16::try_from(other.id.value()).unwrap())
    }

    pub fn send(&self, command: Command) {
        assert!(self.control.send(command).is_ok());
    }

    fn seq(&mut self) -> CommandSeq {
        self.next_seq += 1;
        CommandSeq(self.next_seq)
    }

    /// Waits for an event, keeping the others.
    pub fn expect(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let mut found = None;
        let in_time = eventually(|| {
            while let Some(event) = self.control.receive() {
                self.events.push(event);
            }
            let at = self.events.iter().position(&wanted);
            found = at.map(|at| self.events.remove(at));
            found.is_some()
        });
        assert!(in_time, "no such event among {:?}", self.events);
        found.unwrap()
    }

    fn expect_done(&mut self, seq: CommandSeq) {
        self.expect(|event| *event == Event::Done { seq });
    }

    /// Opens the lane here, and waits until it is open.
    pub fn install_rx(&mut self, from: &Self, spi: Spi, epoch: u32, secret: &LaneSecret) {
        let seq = self.seq();
        self.send(Command::InstallRx {
            seq,
            lane: Box::new(RxLaneSpec {
                spi,
                peer: Self::peer(from),
                node: from.id,
                epoch: Epoch(epoch),
                lane: LaneIndex(0),
                secret: secret.duplicate(),
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
                shared: RxShared::of_single_lane(1 << 20),
            }),
        });
        self.expect_done(seq);
        self.attachment.add_spi(spi).unwrap();
    }

    pub fn remove_rx(&mut self, spi: Spi) {
        self.attachment.remove_spi(spi).unwrap();
        let seq = self.seq();
        self.send(Command::RemoveRx { seq, spi });
        self.expect_done(seq);
    }

    pub fn install_tx(&mut self, to: &Self, spi: Spi, epoch: u32, secret: LaneSecret) {
        self.send(Command::SetPath {
            peer: Self::peer(to),
            path: Some(OuterHeader::ethernet(self.mac, to.mac, ETHERTYPE, None)),
        });
        let seq = self.seq();
        self.send(Command::InstallTx {
            seq,
            lane: Box::new(TxLaneSpec {
                spi,
                peer: Self::peer(to),
                node: to.id,
                epoch: Epoch(epoch),
                lane: LaneIndex(0),
                secret,
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
                budget: Budget {
                    soft: u64::MAX,
                    hard: u64::MAX,
                },
            }),
        });
        self.expect_done(seq);
    }

    pub fn statistics(&self) -> XdpStatistics {
        XdpStatistics::read(&self.socket).unwrap()
    }

    pub fn xdp_counter(&self, name: &str) -> u64 {
        let counters = self.attachment.counters().unwrap();
        counters.iter().find(|(n, _)| *n == name).unwrap().1
    }

    pub fn sealed(&self, to: &Self) -> u64 {
        let counters = self.worker.as_ref().unwrap().counters();
        counters.peer(Self::peer(to)).sealed_frames.value()
    }

    pub fn opened(&self, from: &Self) -> u64 {
        let counters = self.worker.as_ref().unwrap().counters();
        counters.peer(Self::peer(from)).opened_frames.value()
    }

    /// Drops that name a reason: of received frames, all peers together.
    pub fn rx_drops(&self, which: impl Fn(RxDrop) -> bool) -> u64 {
        let counters = self.worker.as_ref().unwrap().counters();
        let of = |peer: &tipsec_dataplane::counters::PeerCounters| {
            (RxDrop::ALL.iter().filter(|&&reason| which(reason)))
                .map(|&reason| peer.rx_drops(reason))
                .sum::<u64>()
        };
        of(&counters.nobody) + (0..8).map(|i| of(counters.peer(PeerIndex(i)))).sum::<u64>()
    }

    /// The same of frames to send.
    pub fn tx_drops(&self, which: impl Fn(TxDrop) -> bool) -> u64 {
        let counters = self.worker.as_ref().unwrap().counters();
        let of = |peer: &tipsec_dataplane::counters::PeerCounters| {
            (TxDrop::ALL.iter().filter(|&&reason| which(reason)))
                .map(|&reason| peer.tx_drops(reason))
                .sum::<u64>()
        };
        of(&counters.nobody) + (0..8).map(|i| of(counters.peer(PeerIndex(i)))).sum::<u64>()
    }

    /// Stops the worker; panics if it did not end well.
    pub fn stop(mut self) {
        self.send(Command::Stop);
        self.worker.take().unwrap().join().unwrap();
    }
}

fn address(id: NodeId) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(id.value()).unwrap())
}

/// A secret that no other number makes.
pub fn secret(number: u32) -> LaneSecret {
    let mut key = [7; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    let mut iv = [9; 12];
    iv[..4].copy_from_slice(&number.to_be_bytes());
    LaneSecret::new(Suite::Aes256Gcm, key, iv)
}

/// New keys for one direction, receiver first; the former SPI is returned by
/// the caller's own bookkeeping.
pub fn rekey(from: &mut Node, to: &mut Node, spi: Spi, epoch: u32) {
    let number = spi.value() ^ from.id.value() << 24;
    to.install_rx(from, spi, epoch, &secret(number));
    from.install_tx(to, spi, epoch, secret(number));
}

/// Keys for both directions.
pub fn connect(a: &mut Node, b: &mut Node) {
    rekey(a, b, Spi::new(1).unwrap(), 1);
    rekey(b, a, Spi::new(1).unwrap(), 1);
}
