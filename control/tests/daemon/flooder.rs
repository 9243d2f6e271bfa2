//! Sends as fast as one thread can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::lab::wait_for;
use crate::node::PATIENCE;
use crate::raw::RawSocket;

/// Longest flood, should the test hang.
const FLOOD_MAX: Duration = Duration::from_secs(60);

/// Sends frames over and over from a thread of its own.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    began: Instant,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    pub(crate) fn start(wire: RawSocket, frames: Vec<Vec<u8>>) -> Self {
        Self::start_on(None, wire, frames)
    }

    /// The same on one core alone.
    pub(crate) fn start_on(core: Option<usize>, wire: RawSocket, frames: Vec<Vec<u8>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || {
                if let Some(core) = core {
                    let mut only = CpuSet::new();
                    only.set(core);
                    sched_setaffinity(None, &only).unwrap();
                }
                let end = Instant::now() + FLOOD_MAX;
                while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                    // Often enough that a long list ends in time.
                    for some in frames.chunks(1024) {
                        let count = some.iter().filter(|frame| wire.send(frame)).count();
                        sent.fetch_add(count as u64, Ordering::Relaxed);
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                }
            }
        });
        Self {
            stop,
            sent,
            began: Instant::now(),
            thread: Some(thread),
        }
    }

    /// Frames so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Frames a second so far.
    pub(crate) fn rate(&self) -> u64 {
        let millis = self.began.elapsed().as_millis().max(1);
        u64::try_from(u128::from(self.sent()) * 1000 / millis).unwrap()
    }

    /// Waits until so many frames are sent.
    pub(crate) fn wait_sent(&self, count: u64) {
        wait_for("the flood", PATIENCE, || {
            (self.sent() > count).then_some(())
        });
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
