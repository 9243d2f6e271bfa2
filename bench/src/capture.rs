//! Captures on the bridge's ports, where every frame of every node passes (a
//! node's own device does not show AF_XDP frames). Imports `filter`,
//! `numbers`, `sys`, `topology`, `wire`.
//!
//! Per port, all decided by filters in the kernel:
//!
//! * *alarms*: both ways; frames that are not Tipsec's, and frames with digits
//!   where the marker would be. Complete under any load, since the kernel
//!   counts even what it has no room to keep.
//! * *pairs*: data frames from this port to each other node, counted exactly.
//! * *samples*: our frames as they come in, searched whole for the marker, their
//!   packet numbers noted: all of them at a moderate load, else what a bounded
//!   effort can take; how many is reported.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::Result;
use crate::filter;
use crate::numbers::{Found, LaneSeen, Numbers};
use crate::sys::{Direction, PacketSocket};
use crate::topology::Topology;
use crate::wire::{Seen, What, has_marker, mac_text};

/// Room for frames that wait to be searched, in bytes, per port.
const SAMPLE_BUFFER_BYTES: usize = 16 << 20;
/// Room for alarms.
const ALARM_BUFFER_BYTES: usize = 256 << 10;
/// Counted frames are not kept.
const COUNT_BUFFER_BYTES: usize = 4096;
/// Frames searched per port and round when the effort is bounded.
const BOUNDED_FRAMES: usize = 128;
/// Time between rounds.
const ROUND: Duration = Duration::from_millis(10);
/// Alarms described; more are only counted.
const ALARMS_KEPT: usize = 20;
/// 64 MB: 537 million packet numbers.
const NUMBER_PAGES_MAX: usize = 128 << 10;

/// What all captures have found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// Frames that were not Tipsec's.
    pub foreign: u64,
    /// Frames in which the marker was seen.
    pub marked: u64,
    /// Those of them that the search has found.
    pub marked_by_search: u64,
    /// Frames that raised an alarm in the kernel, both of the above and those
    /// for which it had no room.
    pub alarms: u64,
    /// Words on the first of them.
    pub descriptions: Vec<String>,
    /// Frames of ours that came in on a port.
    pub frames: u64,
    /// Those of them that were searched whole.
    pub searched: u64,
    /// Packet numbers noted.
    pub numbers: u64,
    /// Packet numbers seen before on the same lane.
    pub repeated: u64,
}

struct Socket {
    port: usize,
    socket: PacketSocket,
}

struct Shared {
    findings: Mutex<Findings>,
    numbers: Mutex<Numbers>,
    /// A node between two lives: its lanes are not looked at.
    between_lives: Mutex<Option<[u8; 6]>>,
    bounded: AtomicBool,
    stop: AtomicBool,
}

/// The captures of a topology, while they run.
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// By (from, to), both port indexes: the counting socket and its sum.
    pairs: BTreeMap<(usize, usize), (PacketSocket, u64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Capture {
    /// Opens every socket and starts the thread that reads them.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn start(topology: &Topology) -> Result<Self> {
        let (alarms, samples, pairs) = topology.hub.run(|| open(topology))?;
        let shared = Arc::new(Shared {
            findings: Mutex::default(),
            numbers: Mutex::new(Numbers::new(NUMBER_PAGES_MAX)),
            between_lives: Mutex::default(),
            bounded: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let reader = Arc::clone(&shared);
        let thread = std::thread::spawn(move || read(&reader, &alarms, &samples));
        Ok(Self {
            shared,
            thread: Some(thread),
            pairs,
        })
    }

    /// Search only what a bounded effort can take, so that a saturating load is
    /// limited by the nodes and not by the search.
    pub fn bound_effort(&self, bounded: bool) {
        self.shared.bounded.store(bounded, Ordering::Relaxed);
    }

    /// What has been found so far.
    pub fn findings(&self) -> Findings {
        lock(&self.shared.findings).clone()
    }

    /// Forgets all findings: the proof that the captures can see is over.
    pub fn reset(&self) {
        *lock(&self.shared.findings) = Findings::default();
    }

    /// From the kill of a node's process until its successor has all links
    /// (`None`), numbers on its lanes are not noted: on the wire, its new SAs
    /// cannot be told from old ones with the same SPI. Then they start afresh.
    pub fn set_between_lives(&self, mac: Option<[u8; 6]>) {
        let before = std::mem::replace(&mut *lock(&self.shared.between_lives), mac);
        for mac in before.into_iter().chain(mac) {
            lock(&self.shared.numbers).forget(mac);
        }
    }

    /// Data frames so far that went from one port's node to another's, by
    /// their indexes. Exact.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn pairs(&mut self) -> Result<BTreeMap<(usize, usize), u64>> {
        let mut counts = BTreeMap::new();
        for (pair, (socket, sum)) in &mut self.pairs {
            *sum += u64::from(socket.passed_since_last()?);
            counts.insert(*pair, *sum);
        }
        Ok(counts)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the reader has been printed; there is nothing to save.
            let _ = thread.join();
        }
    }
}

type Opened = (
    Vec<Socket>,
    Vec<Socket>,
    BTreeMap<(usize, usize), (PacketSocket, u64)>,
);

fn open(topology: &Topology) -> Result<Opened> {
    let (mut alarms, mut samples) = (Vec::new(), Vec::new());
    let mut pairs = BTreeMap::new();
    for (port, from) in topology.ports.iter().enumerate() {
        let device = from.device.as_str();
        alarms.push(Socket {
            port,
            socket: PacketSocket::open(
                device,
                Direction::Both,
                &filter::alarms(),
                ALARM_BUFFER_BYTES,
            )?,
        });
        samples.push(Socket {
            port,
            socket: PacketSocket::open(
                device,
                Direction::Received,
                &filter::ours(),
                SAMPLE_BUFFER_BYTES,
            )?,
        });
        for (other, to) in topology.ports.iter().enumerate() {
            if other == port {
                continue;
            }
            let filter = filter::data_to(to.mac);
            let socket =
                PacketSocket::open(device, Direction::Received, &filter, COUNT_BUFFER_BYTES)?;
            pairs.insert((port, other), (socket, 0));
        }
    }
    Ok((alarms, samples, pairs))
}

/// The reading thread.
fn read(shared: &Shared, alarms: &[Socket], samples: &[Socket]) {
    let mut buffer = vec![0; 70_000];
    while !shared.stop.load(Ordering::Relaxed) {
        for socket in alarms {
            drain_alarms(shared, socket, &mut buffer);
        }
        let mut left_over = false;
        for socket in samples {
            left_over |= drain_samples(shared, socket, &mut buffer);
        }
        if !left_over {
            rest(alarms);
        }
    }
}

/// Sleeps a round, or until an alarm.
fn rest(alarms: &[Socket]) {
    let mut fds: Vec<PollFd<'_>> = alarms
        .iter()
        .map(|socket| PollFd::new(&socket.socket, PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(ROUND).ok();
    // Interrupted or not, the next round looks at every socket.
    let _ = poll(&mut fds, timeout.as_ref());
}

fn drain_alarms(shared: &Shared, alarm: &Socket, buffer: &mut [u8]) {
    let mut findings = lock(&shared.findings);
    if let Ok(passed) = alarm.socket.passed_since_last() {
        findings.alarms += u64::from(passed);
    }
    // The device is gone with the topology: nothing more will come.
    while let Ok(Some(len)) = alarm.socket.receive(buffer) {
        let frame = &buffer[..len];
        let Some(seen) = Seen::read(frame) else {
            continue;
        };
        let foreign = seen.what == What::Foreign;
        let marked = has_marker(frame);
        findings.foreign += u64::from(foreign);
        findings.marked += u64::from(marked);
        if findings.descriptions.len() < ALARMS_KEPT {
            findings
                .descriptions
                .push(describe(alarm.port, &seen, len, marked));
        }
    }
}

fn describe(port: usize, seen: &Seen, len: usize, marked: bool) -> String {
    format!(
        "port {}: {} -> {}, EtherType {:#06x}, {len} bytes{}{}",
        port + 1,
        mac_text(seen.source),
        mac_text(seen.destination),
        seen.ethertype,
        if seen.what == What::Foreign {
            ", not Tipsec's"
        } else {
            ""
        },
        if marked { ", shows the marker" } else { "" },
    )
}

/// Searches waiting frames; true if effort, not frames, ran out.
fn drain_samples(shared: &Shared, sample: &Socket, buffer: &mut [u8]) -> bool {
    let bounded = shared.bounded.load(Ordering::Relaxed);
    let limit = if bounded { BOUNDED_FRAMES } else { 4096 };
    let mut found = Findings::default();
    let skipped = *lock(&shared.between_lives);
    let mut numbers = lock(&shared.numbers);
    let mut taken = 0;
    while taken < limit {
        let Ok(Some(len)) = sample.socket.receive(buffer) else {
            break;
        };
        taken += 1;
        inspect(
            &buffer[..len],
            sample.port,
            skipped,
            &mut numbers,
            &mut found,
        );
    }
    drop(numbers);
    let mut findings = lock(&shared.findings);
    if let Ok(passed) = sample.socket.passed_since_last() {
        findings.frames += u64::from(passed);
    }
    findings.searched += found.searched;
    findings.marked += found.marked;
    findings.marked_by_search += found.marked_by_search;
    findings.numbers += found.numbers;
    findings.repeated += found.repeated;
    for description in found.descriptions {
        if findings.descriptions.len() < ALARMS_KEPT {
            findings.descriptions.push(description);
        }
    }
    !bounded && taken == limit
}

fn inspect(
    frame: &[u8],
    port: usize,
    skipped: Option<[u8; 6]>,
    numbers: &mut Numbers,
    found: &mut Findings,
) {
    found.searched += 1;
    let Some(seen) = Seen::read(frame) else {
        return;
    };
    if has_marker(frame) {
        found.marked += 1;
        found.marked_by_search += 1;
        found
            .descriptions
            .push(describe(port, &seen, frame.len(), true));
    }
    let skip = skipped.is_some_and(|mac| mac == seen.source || mac == seen.destination);
    if skip {
        return;
    }
    if let What::Data { spi, packet_number } = seen.what {
        let lane = LaneSeen {
            source: seen.source,
            destination: seen.destination,
            spi,
        };
        match numbers.record(lane, packet_number) {
            Found::New => found.numbers += 1,
            Found::Repeated => {
                found.repeated += 1;
                found.descriptions.push(format!(
                    "{}, SPI {spi:08x}: packet number {packet_number} again",
                    describe(port, &seen, frame.len(), false)
                ));
            }
            Found::NoRoom => {}
        }
    }
}

/// Puts frames on the wire that every detector must see: one that is not ours
/// and one that is ours by its header, both with the marker in clear.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn inject_plain(topology: &Topology, from: usize, to: usize) -> Result<()> {
    let (from, to) = (&topology.ports[from], &topology.ports[to]);
    from.namespace.run(|| {
        let socket = PacketSocket::open(
            crate::topology::BEARER,
            Direction::Received,
            &filter::nothing(),
            COUNT_BUFFER_BYTES,
        )?;
        // Not IP: netfilter on bridges would look into it and drop it.
        for head in [&[0x88, 0xb6, 0x10, 0x00][..], &[0x88, 0xb5, 0x10, 0x00]] {
            let mut frame = [&to.mac[..], &from.mac, head].concat();
            // Rest of the header: length, SPI, packet number.
            frame.extend([0x01, 0x2c, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend(crate::wire::marker_payload(300));
            socket.send(&frame)?;
        }
        Ok(())
    })
}
