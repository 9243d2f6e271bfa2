//! A relay in the place of the bridge between two nodes: what one end's cable
//! delivers leaves by the other's, except for what [`Mangle`] does to it.
//! Imports `mangle`, `sys`, `topology`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::mangle::{Log, Mangle, Rates};
use crate::error::Result;
use crate::filter;
use crate::load::Task;
use crate::sys::{Direction, PacketSocket};
use crate::topology::Topology;

/// Room for frames that wait to be relayed, in bytes, each way.
const BUFFER_BYTES: usize = 64 << 20;
/// Held frames are let go when nothing has come for so long.
const IDLE: Duration = Duration::from_millis(5);
/// Frames relayed one way before the other gets its turn.
const FRAMES_A_TURN: usize = 64;

/// One way through it.
struct Way {
    inlet: usize,
    mangle: Mangle,
    /// Frames that came, by the kernel's count: those that it had no room for
    /// are lost by the relay without being in its log.
    passed: u64,
    taken: u64,
    /// Frames that the other end did not take.
    unsent: u64,
}

impl Way {
    fn new(inlet: usize, mangle: Mangle) -> Self {
        Self {
            inlet,
            mangle,
            passed: 0,
            taken: 0,
            unsent: 0,
        }
    }

    fn flush(&mut self, outlet: &PacketSocket) {
        let unsent = &mut self.unsent;
        self.mangle
            .flush(|frame| *unsent += u64::from(outlet.send(frame).is_err()));
    }
}

/// A relay that runs until it is dropped.
pub(super) struct Relay {
    ways: Arc<Mutex<[Way; 2]>>,
    _task: Task,
}

/// What one way through the relay came to.
#[derive(Debug)]
pub(super) struct Relayed {
    pub(super) log: Log,
    /// Frames that it lost against its will: its log is then worth nothing.
    pub(super) own_losses: u64,
}

fn lock(ways: &Mutex<[Way; 2]>) -> MutexGuard<'_, [Way; 2]> {
    ways.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Takes the ports of the first two nodes from the bridge and relays
    /// between them, from `seed`.
    ///
    /// # Errors
    /// What `ip` or the kernel refuse.
    pub(super) fn start(topology: &Topology, seed: u64, rates: Rates) -> Result<Self> {
        let devices = [0, 1].map(|at: usize| topology.ports[at].device.as_str());
        for device in devices {
            topology.hub.ip(&format!("link set {device} nomaster"))?;
        }
        let open =
            |device| PacketSocket::open(device, Direction::Received, &filter::ours(), BUFFER_BYTES);
        let sockets = topology
            .hub
            .run(|| Ok([open(devices[0])?, open(devices[1])?]))?;
        let ways = [0, 1].map(|at| Way::new(at, Mangle::new(seed ^ at as u64, rates)));
        let ways = Arc::new(Mutex::new(ways));
        let shared = Arc::clone(&ways);
        let task = Task::spawn(move |stop| relay(&sockets, stop, &shared));
        Ok(Self { ways, _task: task })
    }

    /// Does harm from now on, or lets everything pass.
    pub(super) fn harm(&self, active: bool) {
        for way in lock(&self.ways).iter_mut() {
            way.mangle.active = active;
        }
    }

    /// What it has done so far, from the first node to the second and back.
    pub(super) fn relayed(&self) -> [Relayed; 2] {
        let ways = lock(&self.ways);
        [&ways[0], &ways[1]].map(|way| Relayed {
            log: way.mangle.log.clone(),
            // A frame that came just now is not taken yet.
            own_losses: way.passed.saturating_sub(way.taken + 1) + way.unsent,
        })
    }
}

fn relay(sockets: &[PacketSocket; 2], stop: &AtomicBool, ways: &Mutex<[Way; 2]>) {
    let mut buffer = vec![0; 70_000];
    let timeout = Timespec::try_from(IDLE).ok();
    while !stop.load(Ordering::Relaxed) {
        let mut moved = false;
        for way in lock(ways).iter_mut() {
            moved |= turn(way, sockets, &mut buffer);
        }
        if moved {
            continue;
        }
        let mut fds = [
            PollFd::new(&sockets[0], PollFlags::IN),
            PollFd::new(&sockets[1], PollFlags::IN),
        ];
        // Interrupted or not, both are looked at.
        if poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready == 0) {
            for way in lock(ways).iter_mut() {
                way.flush(&sockets[1 - way.inlet]);
            }
        }
    }
}

/// Relays what waits at one inlet; true if anything did.
fn turn(way: &mut Way, sockets: &[PacketSocket; 2], buffer: &mut [u8]) -> bool {
    let (inlet, outlet) = (&sockets[way.inlet], &sockets[1 - way.inlet]);
    let before = way.taken;
    if !way.mangle.active {
        // The end of the harm is the end of all of it, whatever still flows.
        way.flush(outlet);
    }
    for _ in 0..FRAMES_A_TURN {
        // The devices are gone with the topology: nothing more will come.
        let Ok(Some(len)) = inlet.receive(buffer) else {
            break;
        };
        way.taken += 1;
        let unsent = &mut way.unsent;
        way.mangle.pass(&buffer[..len], |frame| {
            *unsent += u64::from(outlet.send(frame).is_err());
        });
    }
    if way.taken == before
        && let Ok(passed) = inlet.passed_since_last()
    {
        // Read when nothing waits, so that all that passed is taken or lost.
        way.passed += u64::from(passed);
    }
    way.taken > before
}
