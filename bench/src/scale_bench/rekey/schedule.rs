//! Frames at times that are set beforehand (an open loop: a frame that is late
//! does not make the next one late), and how late they arrive, counted from
//! the time that was set. Both ends are tap devices to their workers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tipsec_dataplane::counters::Counter;
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::tap::TapPort;
use tipsec_dataplane::tap::vnet::VnetBytes;

use super::keys::node_of;
use crate::error::{Error, Result};

/// Between two frames: 10,000 a second.
pub(super) const INTERVAL: Duration = Duration::from_micros(100);
/// Bytes of a frame as the tap sees it.
const FRAME_LEN: usize = 256;
/// Where in it the time stands at which it was meant to be sent, in ns since
/// the start, and behind it whether a rekey was under way then.
const DUE_AT: usize = 14;
const MARK_AT: usize = DUE_AT + 8;
/// Local experimental.
const ETHERTYPE: [u8; 2] = [0x88, 0xb6];
/// Latest that a frame is told apart, in ns: a minute.
const LATEST_NS: u64 = 60_000_000_000;

/// How late frames were, in ns.
pub(super) struct Lateness(Histogram<u64>);

impl Lateness {
    fn new() -> Result<Self> {
        // Three digits; takes all its memory now.
        let histogram = Histogram::new_with_bounds(1, LATEST_NS, 3);
        histogram.map(Self).map_err(|error| Error::Failed {
            what: "make a histogram".into(),
            detail: error.to_string(),
        })
    }

    fn add(&mut self, late: Duration) {
        let ns = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(ns);
    }

    /// Frames in it.
    pub(super) fn frames(&self) -> u64 {
        self.0.len()
    }

    /// That share of the frames was at most so late, in ns.
    pub(super) fn at(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share)
    }
}

/// What both ends and the control thread know.
pub(super) struct Shared {
    /// Ticks when a frame is due, once started.
    timer: OwnedFd,
    epoch: Instant,
    /// In ns since the epoch; 0 before the start.
    started: AtomicU64,
    /// Frames that were due before are not counted, the same way.
    counted_from: AtomicU64,
    stopped: AtomicBool,
    rekeying: AtomicBool,
    submitted: Counter,
    delivered: Counter,
    /// Of all frames that count, and of those that met a rekey.
    lateness: Mutex<[Lateness; 2]>,
}

impl Shared {
    pub(super) fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self {
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)
                .map_err(Error::errno("make a timer"))?,
            epoch: Instant::now(),
            started: AtomicU64::new(0),
            counted_from: AtomicU64::new(u64::MAX),
            stopped: AtomicBool::new(false),
            rekeying: AtomicBool::new(false),
            submitted: Counter::default(),
            delivered: Counter::default(),
            lateness: Mutex::new([Lateness::new()?, Lateness::new()?]),
        })
    }

    /// Time since the epoch.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, [Lateness; 2]> {
        self.lateness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first frame is due now.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn start(&self) -> Result<()> {
        self.started.store(ns(self.now()), Ordering::Release);
        let interval = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(INTERVAL.subsec_nanos()),
        };
        let timer = Itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)
            .map(drop)
            .map_err(Error::errno("start a timer"))
    }

    /// Frames that are due from now on count.
    pub(super) fn count_from_now(&self) {
        self.counted_from.store(ns(self.now()), Ordering::Relaxed);
    }

    /// Nothing more is due.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Says that a rekey is under way, or over.
    pub(super) fn set_rekeying(&self, rekeying: bool) {
        self.rekeying.store(rekeying, Ordering::Relaxed);
    }

    /// Frames made so far.
    pub(super) fn submitted(&self) -> u64 {
        self.submitted.value()
    }

    /// Frames handed over so far, those that do not count in the histograms
    /// too.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered.value()
    }

    /// How late frames were, or how late those that met a rekey.
    pub(super) fn lateness(&self, in_rekeys: bool) -> Lateness {
        Lateness(self.lock()[usize::from(in_rekeys)].0.clone())
    }

    /// The timer, to sleep on.
    pub(super) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// When frame `number` is due, if it is now; then it counts as made. The
    /// timer is silent until the next one is due.
    pub(super) fn take_due(&self, number: u64) -> Option<Due> {
        let start = self.started.load(Ordering::Acquire);
        if start == 0 || self.stopped.load(Ordering::Relaxed) {
            self.silence();
            return None;
        }
        let due_ns = start + number * ns(INTERVAL);
        if ns(self.now()) < due_ns {
            self.silence();
            // It may have become due in between, and the tick be gone.
            if ns(self.now()) < due_ns {
                return None;
            }
        }
        self.submitted.add(1);
        Some(Due {
            ns: due_ns,
            in_rekey: self.rekeying.load(Ordering::Relaxed),
        })
    }

    /// A frame arrived.
    pub(super) fn arrived(&self, due: Due) {
        let late = self.now().saturating_sub(Duration::from_nanos(due.ns));
        if due.ns >= self.counted_from.load(Ordering::Relaxed) {
            let in_rekey = due.in_rekey || self.rekeying.load(Ordering::Relaxed);
            let [all, in_rekeys] = &mut *self.lock();
            all.add(late);
            if in_rekey {
                in_rekeys.add(late);
            }
        }
        self.delivered.add(1);
    }

    fn silence(&self) {
        // Fails only when it is silent already.
        let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A frame's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Due {
    /// When it was meant to be sent, since the epoch.
    pub(super) ns: u64,
    /// Whether a rekey was under way when it was sent.
    pub(super) in_rekey: bool,
}

impl Due {
    fn write(self, frame: &mut [u8; FRAME_LEN]) {
        frame[DUE_AT..MARK_AT].copy_from_slice(&self.ns.to_be_bytes());
        frame[MARK_AT] = u8::from(self.in_rekey);
    }

    fn read(frame: &[u8]) -> Option<Self> {
        Some(Self {
            ns: u64::from_be_bytes(frame.get(DUE_AT..MARK_AT)?.try_into().ok()?),
            in_rekey: *frame.get(MARK_AT)? != 0,
        })
    }
}

/// The left worker's tap: has a frame when one is due, to all peers in turn.
pub(super) struct Scheduled {
    pub(super) shared: Arc<Shared>,
    pub(super) peers: u16,
    /// Frames so far.
    pub(super) made: u64,
}

impl TapPort for Scheduled {
    fn read(
        &mut self,
        header: &mut VnetBytes,
        room: &mut [u8],
        _: &mut [u8],
    ) -> io::Result<Option<usize>> {
        // Whole, with nothing left to do.
        header.fill(0);
        let Some(room) = room.first_chunk_mut::<FRAME_LEN>() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let Some(due) = self.shared.take_due(self.made) else {
            return Ok(None);
        };
        let peer = u16::try_from(self.made % u64::from(self.peers)).unwrap_or(0);
        self.made += 1;
        let node = node_of(peer).map_err(io::Error::other)?;
        room[..6].copy_from_slice(&MacAddr::of_tap(node).0);
        room[6..12].fill(0);
        room[12..14].copy_from_slice(&ETHERTYPE);
        due.write(room);
        Ok(Some(FRAME_LEN))
    }

    fn write(&mut self, _: &VnetBytes, _: &[u8]) -> io::Result<bool> {
        Ok(true)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.timer())
    }
}

/// The right worker's tap: looks how late each frame is.
pub(super) struct Recorder {
    pub(super) shared: Arc<Shared>,
}

impl TapPort for Recorder {
    fn read(&mut self, _: &mut VnetBytes, _: &mut [u8], _: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn write(&mut self, _: &VnetBytes, frame: &[u8]) -> io::Result<bool> {
        match Due::read(frame) {
            Some(due) if frame.len() == FRAME_LEN => self.shared.arrived(due),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(true)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_counted_from_the_time_that_was_set() {
        let shared = Shared::new().unwrap();
        assert_eq!(shared.take_due(0), None, "not started");
        shared.start().unwrap();
        shared.count_from_now();
        let due = |ns, in_rekey| Due { ns, in_rekey };
        let counted = shared.counted_from.load(Ordering::Relaxed);
        let now = ns(shared.now());
        shared.arrived(due(counted - 1, true));
        shared.arrived(due(counted, false));
        shared.arrived(due(now, true));
        let (all, in_rekeys) = (shared.lateness(false), shared.lateness(true));
        assert_eq!((all.frames(), in_rekeys.frames()), (2, 1));
        assert_eq!(shared.delivered(), 3);
        assert!(all.at(1.0) >= all.at(0.0));
        // A frame that waited is late by as much, whoever held it.
        let late = Duration::from_millis(20);
        while shared.now() < late + Duration::from_nanos(counted) {
            std::thread::yield_now();
        }
        shared.arrived(due(counted, false));
        assert!(shared.lateness(false).at(1.0) >= 19_900_000);
    }

    #[test]
    fn a_late_frame_does_not_move_the_next_one() {
        let shared = Shared::new().unwrap();
        shared.start().unwrap();
        let start = shared.started.load(Ordering::Relaxed);
        let mut made = 0;
        while made < 5 {
            if let Some(due) = shared.take_due(made) {
                assert_eq!(due.ns, start + made * ns(INTERVAL));
                made += 1;
            }
        }
        shared.stop();
        assert_eq!((shared.take_due(5), shared.submitted()), (None, 5));
    }

    #[test]
    fn a_frame_carries_its_time() {
        let mut frame = [0; FRAME_LEN];
        let due = Due {
            ns: 0x0102_0304_0506_0708,
            in_rekey: true,
        };
        due.write(&mut frame);
        assert_eq!(Due::read(&frame), Some(due));
        assert_eq!(Due::read(&frame[..MARK_AT]), None);
    }
}
