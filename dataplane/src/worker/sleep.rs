//! How a worker waits: one `poll`, and what it must look at before.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Worker;
use super::polling::{Polling, Rest};
use crate::aead::Aead;
use crate::bearer::Bearer;
use crate::burst::Burst;
use crate::tap::TapPort;

/// Longest sleep: a deleted device makes no sound, so look this often.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// First sleep while frames are in flight, whose completion no event tells;
/// doubled while nothing moves.
const BACKPRESSURE_INTERVAL: Duration = Duration::from_micros(100);
/// How often it is doubled: to 3.2 ms.
const BACKPRESSURE_DOUBLINGS: u32 = 5;
/// While segments are held for the tap, frames gather for this long before the
/// worker looks again (docs/adr/0022).
const GATHER_INTERVAL: Duration = Duration::from_micros(20);
/// A tap that cannot be read is not asked again for this long.
const TAP_REST: Duration = Duration::from_millis(100);
/// What a sleep waits for, and how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wait {
    bearer: bool,
    tap: bool,
    timeout: Duration,
}

/// A tap whose device is gone or down answers every poll at once; it gets a
/// rest, and so does the processor.
#[derive(Default)]
pub(super) struct TapRest(Option<Instant>);

impl TapRest {
    pub(super) fn start(&mut self) {
        self.0 = Some(Instant::now() + TAP_REST);
    }

    /// Whether it is to be left alone.
    pub(super) fn is_resting(&mut self) -> bool {
        // The clock is read only while there is something to wait for.
        if self.0.is_some_and(|until| Instant::now() >= until) {
            self.0 = None;
        }
        self.0.is_some()
    }
}

impl<A: Aead, B: Bearer, T: TapPort> Worker<A, B, T> {
    /// Waits for something to do.
    pub(super) fn wait(&mut self) {
        self.wait_at_most(LOOK_INTERVAL);
    }

    /// The same, but never longer than `limit`.
    pub(super) fn wait_at_most(&mut self, limit: Duration) {
        // A command that came since the pass began was announced by an eventfd
        // that may be cleared already.
        if self.channel.has_commands() {
            return;
        }
        let rest = self.idle.on_nothing(self.config.polling, Instant::now);
        self.take(rest, limit);
    }

    /// One turn of a loop that never sleeps.
    pub(super) fn spin(&mut self) {
        let rest = self.idle.on_nothing(Polling::Spin, Instant::now);
        self.take(rest, Duration::ZERO);
    }

    fn take(&mut self, rest: Rest, limit: Duration) {
        match rest {
            Rest::Sleep => {
                let mut wait = self.what_to_wait_for();
                wait.timeout = wait.timeout.min(limit);
                self.sleep(wait);
            }
            Rest::Spin => std::hint::spin_loop(),
            Rest::SpinAndLook => {
                self.channel.clear_wake();
                self.look_at_bearer();
            }
        }
    }

    /// Which descriptors matter now.
    fn what_to_wait_for(&mut self) -> Wait {
        let resting = self.tap_rest.is_resting();
        let Some(bearer) = &mut self.bearer else {
            // Nothing can be sent: leave the tap's frames to its own queue.
            return Wait {
                bearer: false,
                tap: false,
                timeout: LOOK_INTERVAL,
            };
        };
        let unsent = bearer.unsent() > 0;
        let waiting = self.group.is_pending()
            || self.segmenter.is_pending()
            || !self.plain.is_empty()
            || !self.sealed.is_empty();
        let room = bearer.transmit_room() > 0;
        // Segments that are held for the tap wait for more, and go out in time.
        let until_due = match self.coalescer.next_due() {
            Some(due) => due.saturating_duration_since(Instant::now()),
            None => LOOK_INTERVAL,
        };
        // Whoever brings that more need not wake this worker frame by frame.
        let gathers = self.coalescer.is_holding() && self.tap.poll_fd().is_some();
        let backs_off = unsent || waiting || !room;
        Wait {
            // In copy mode `poll` on an AF_XDP socket sends what is queued and
            // keeps the error to itself, so frames could be lost uncounted.
            bearer: !unsent && !gathers,
            tap: room && !waiting && !unsent && !resting,
            timeout: match (gathers, backs_off, resting) {
                (true, ..) => GATHER_INTERVAL,
                (false, true, _) => {
                    let doublings = self.stalled.min(BACKPRESSURE_DOUBLINGS);
                    self.stalled = doublings + 1;
                    BACKPRESSURE_INTERVAL * (1 << doublings)
                }
                (false, false, true) => TAP_REST,
                (false, false, false) => LOOK_INTERVAL,
            }
            .min(until_due),
        }
    }

    fn sleep(&mut self, wait: Wait) {
        self.counters.sleeps.add(1);
        let mut fds = Burst::<PollFd<'_>>::new();
        let wake = self.channel.wake_fd();
        fds.push(PollFd::from_borrowed_fd(wake, PollFlags::IN));
        let bearer_fd = self.bearer.as_ref().filter(|_| wait.bearer);
        if let Some(fd) = bearer_fd.and_then(Bearer::poll_fd) {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        if wait.tap
            && let Some(fd) = self.tap.poll_fd()
        {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.timeout.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(wait.timeout.subsec_nanos()),
        };
        let ready = self.channel.poll(&mut fds, &timeout);
        let woken = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        if woken {
            // Before the queue is looked at again. The command may be gone
            // already: it was drained before its announcement arrived.
            self.channel.clear_wake();
        }
        if ready == Ok(0) && wait.timeout >= LOOK_INTERVAL {
            self.look_at_bearer();
        }
    }

    /// Asks whether the device is still there.
    pub(super) fn look_at_bearer(&mut self) {
        if let Some(bearer) = &mut self.bearer
            && let Err(error) = bearer.check()
        {
            self.lose_bearer(error);
            self.tell = false;
            self.channel.wake_control();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::bearer::memory::{Faults, MemoryBearer, MemorySizes};
    use crate::command::{Command, ControlEnd, channel};
    use crate::ids::{NodeId, PeerIndex};
    use crate::mac::MacAddr;
    use crate::outer::Encapsulation;
    use crate::tap::coalesce::{Delivery, HOLD, Received};
    use crate::tap::vnet::VnetBytes;
    use crate::worker::{Pass, WorkerConfig};

    #[cfg(feature = "crypto-aws-lc")]
    type Cipher = crate::aead::aws_lc::AwsLc;
    #[cfg(not(feature = "crypto-aws-lc"))]
    type Cipher = crate::aead::ring::Ring;

    /// A queue in which nothing waits, or no tap at all.
    struct SilentTap(Option<OwnedFd>);

    impl TapPort for SilentTap {
        fn read(
            &mut self,
            _: &mut VnetBytes,
            _: &mut [u8],
            _: &mut [u8],
        ) -> io::Result<Option<usize>> {
            Ok(None)
        }

        fn write(&mut self, _: &VnetBytes, _: &[u8]) -> io::Result<bool> {
            Ok(true)
        }

        fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
            self.0.as_ref().map(AsFd::as_fd)
        }
    }

    /// A worker with nothing to do, and who commands it.
    fn idle_worker(polling: Polling) -> (ControlEnd, Worker<Cipher, MemoryBearer, SilentTap>) {
        let (control, channel) = channel().unwrap();
        let sizes = MemorySizes::default();
        let (bearer, _other) = MemoryBearer::pair(sizes, Faults::default(), 1).unwrap();
        let config = WorkerConfig {
            node: NodeId::new(1).unwrap(),
            encapsulation: Encapsulation::ethernet(MacAddr([2, 0, 0, 0, 0, 1]), 0x88b5, None),
            mtu: 1500,
            peers: 1,
            spis: 1,
            polling,
        };
        let queue = eventfd(0, EventfdFlags::empty()).unwrap();
        let tap = SilentTap(Some(queue));
        (control, Worker::new(config, channel, bearer, tap))
    }

    #[test]
    fn frames_gather_while_segments_are_held_and_no_longer() {
        let (_control, mut worker) = idle_worker(Polling::Sleep);
        let idle = Wait {
            bearer: true,
            tap: true,
            timeout: LOOK_INTERVAL,
        };
        assert_eq!(worker.what_to_wait_for(), idle);
        // IPv4, TCP with ACK, one byte of data.
        let mut frame = [0; 55];
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 41, 0, 0, 0, 0, 64, 6]);
        frame[46..48].copy_from_slice(&[0x50, 0x10]);
        let now = Instant::now();
        let mut hold = |worker: &mut Worker<Cipher, MemoryBearer, SilentTap>, since| {
            let received = Received {
                peer: PeerIndex(0),
                frame: &mut frame,
                checksum_pending: true,
            };
            let mut out = |_: Delivery<'_>| panic!("it is to be held");
            let offered = worker.coalescer.offer(received, since, &mut out);
            assert_eq!(offered, Ok(()));
        };
        // Long before they are due, and when they are.
        let cases = [
            (now + LOOK_INTERVAL, GATHER_INTERVAL),
            (now - HOLD, Duration::ZERO),
        ];
        for (since, timeout) in cases {
            hold(&mut worker, since);
            let gathering = Wait {
                bearer: false,
                timeout,
                ..idle
            };
            assert_eq!(worker.what_to_wait_for(), gathering);
            worker.flush_all();
            assert_eq!(worker.what_to_wait_for(), idle);
        }
        // A program that embeds a node has no tap to hold them for.
        hold(&mut worker, now + LOOK_INTERVAL);
        worker.tap.0 = None;
        assert!(worker.what_to_wait_for().bearer);
    }

    #[test]
    fn adaptive_worker_sleeps_when_its_bound_is_over() {
        let polling = |spin| Polling::Adaptive { spin };
        for (spin, sleeps) in [(Duration::from_secs(3600), 0), (Duration::ZERO, 1)] {
            let (_control, mut worker) = idle_worker(polling(spin));
            let passes = if sleeps == 0 { 1000 } else { 1 };
            for _ in 0..passes {
                assert_eq!(worker.pass(), Pass::Idle);
                worker.wait();
            }
            assert_eq!(worker.counters().sleeps.value(), sleeps);
        }
    }

    #[test]
    fn announcement_that_comes_late_wakes_once() {
        let (control, mut worker) = idle_worker(Polling::Sleep);
        let command = Command::AllowData {
            peer: PeerIndex(0),
            allowed: true,
        };
        assert!(control.send(command).is_ok());
        assert_eq!(worker.pass(), Pass::Busy);
        // The command is done; now its announcement arrives (a push and its
        // wake-up are two steps).
        rustix::io::write(worker.channel.wake_fd(), &1u64.to_ne_bytes()).unwrap();
        worker.wait();
        assert_eq!(worker.pass(), Pass::Idle);
        let start = Instant::now();
        worker.wait();
        assert!(start.elapsed() >= LOOK_INTERVAL / 2, "it sleeps again");
    }

    #[test]
    fn unreadable_tap_rests() {
        let mut rest = TapRest::default();
        assert!(!rest.is_resting());
        rest.start();
        assert!(rest.is_resting());
        rest.0 = Some(Instant::now());
        assert!(!rest.is_resting());
    }
}
