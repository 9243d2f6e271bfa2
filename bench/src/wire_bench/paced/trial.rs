//! One trial: a sender that keeps to the schedule on its core, a receiver on
//! another, and the books after the last frame. Imports `schedule`, `clock`,
//! `measure`, `wait`.
//!
//! The sender spins, and sends in one burst all that has fallen due since its
//! last look, 64 frames at most: where a system call takes longer than an
//! interval, bursts grow by themselves.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::set_current_timer_slack;
use tipsec_dataplane::burst::Burst;

use super::schedule::Schedule;
use super::{Order, PacedSource, StampedSink, Trial, Wait, clock};
use crate::error::{Error, Result};
use crate::wait::{self, Look};
use crate::wire_bench::measure::{
    Flow, LISTEN, Plan, ReadBook, SETTLE_INTERVAL, START_WITHIN, join, pin, settle,
};

/// What fell due may be sent so much longer after the end of the schedule: a
/// hundredth of it, and at least this. Less would call the last burst late,
/// more would let a queue stand for a rate.
const GRACE_MIN: Duration = Duration::from_millis(2);
/// See [`GRACE_MIN`].
const GRACE_SHARE: u32 = 100;
/// From the decision to start to the first frame.
const HEAD_START: Duration = Duration::from_millis(1);
/// The longest latency that is told from longer ones, in ns.
const LATENCY_MAX: u64 = 60 * clock::SECOND;
/// Decimal digits that a histogram keeps.
const DIGITS: u8 = 3;
/// The name of frames that fell due and were not sent.
const NOT_SENT: &str = "not sent in time";

/// What the threads tell each other.
struct Control {
    receives: AtomicBool,
    sent_all: AtomicBool,
    stop: AtomicBool,
    /// Latencies of frames due from here on count.
    record_from: AtomicU64,
}

/// An empty histogram of times in ns.
pub(super) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_MAX, DIGITS).map_err(|error| Error::Failed {
        what: "make a histogram".into(),
        detail: error.to_string(),
    })
}

/// Runs `order` with both halves of `flow`.
///
/// # Errors
/// Those of the halves and of `read_book`, and [`Error::Interrupted`].
/// Unaccounted frames are no error here: they are in the book.
pub(in crate::wire_bench) fn trial<S: PacedSource, R: StampedSink>(
    flow: Flow<'_, S, R>,
    plan: &Plan,
    order: &Order,
    read_book: ReadBook<'_>,
) -> Result<Trial> {
    let control = Control {
        receives: AtomicBool::new(false),
        sent_all: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        record_from: AtomicU64::new(u64::MAX),
    };
    let (latency, lateness) = (histogram()?, histogram()?);
    let Flow { source, sink, .. } = flow;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            pin(plan.receive_core)?;
            receive(sink, order.wait, latency, &control)
        });
        let mut sender = None;
        let observe = || -> Result<_> {
            until(&control.receives, START_WITHIN, || receiver.is_finished())?;
            let sending = sender.insert(scope.spawn(|| {
                pin(plan.send_core)?;
                send(source, order, lateness, &control)
            }));
            wait::pass(order.warm_up + order.duration)?;
            until(&control.sent_all, START_WITHIN, || {
                sending.is_finished() || receiver.is_finished()
            })?;
            settle(read_book)
        };
        let outcome = observe();
        control.stop.store(true, Ordering::Relaxed);
        // What a thread says is the cause of what was observed.
        let sent = sender.map(join).transpose()?;
        let latency = join(receiver)?;
        let mut book = outcome?;
        let (due, lateness) = sent.ok_or(Error::Interrupted)?;
        book.lose(NOT_SENT, due.saturating_sub(book.submitted));
        book.submitted = due;
        Ok(Trial {
            book,
            latency,
            lateness,
        })
    })
}

/// Waits for a thread to say something; the other end of it is that a thread
/// has ended, whose error the caller will find.
fn until(flag: &AtomicBool, within: Duration, ended: impl Fn() -> bool) -> Result<()> {
    wait::until("a thread of a trial", within, SETTLE_INTERVAL, || {
        if flag.load(Ordering::Relaxed) {
            return Ok(Look::Done(()));
        }
        if ended() {
            return Err(Error::Failed {
                what: "measure: a thread ended early".into(),
                detail: String::new(),
            });
        }
        Ok(Look::NotYet("not so far".into()))
    })
}

/// Sends on schedule; says how many frames fell due, and how late they were
/// taken up.
fn send(
    mut source: impl PacedSource,
    order: &Order,
    mut lateness: Histogram<u64>,
    control: &Control,
) -> Result<(u64, Histogram<u64>)> {
    // Sleeps end when they should, and not up to 50 µs later.
    let _ = set_current_timer_slack(NonZeroU64::new(1_000));
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let start = clock::now() + ns(HEAD_START);
    let length = order.warm_up + order.duration;
    let schedule = Schedule::new(start, order.load, length);
    let record_from = start + ns(order.warm_up);
    control.record_from.store(record_from, Ordering::Relaxed);
    let deadline = schedule.end() + ns((length / GRACE_SHARE).max(GRACE_MIN));
    let mut next = 0;
    while next < schedule.frames() && !control.stop.load(Ordering::Relaxed) {
        let now = clock::now();
        if now >= deadline {
            break;
        }
        let due = schedule.due(now);
        let mut stamps = Burst::<u64>::new();
        let room = stamps.capacity();
        stamps.extend((next..due).take(room).map(|number| schedule.at(number)));
        if stamps.is_empty() {
            // The kernel may not have taken all of an earlier burst.
            source.flush()?;
            std::hint::spin_loop();
            continue;
        }
        let taken = source.submit(&stamps)?;
        for &stamp in stamps[..taken].iter().filter(|&&s| s >= record_from) {
            lateness.saturating_record(now.saturating_sub(stamp).max(1));
        }
        next += taken as u64;
    }
    control.sent_all.store(true, Ordering::Relaxed);
    while !control.stop.load(Ordering::Relaxed) {
        // Also after all is sent: a lost frame may be told late.
        source.flush()?;
        thread::sleep(SETTLE_INTERVAL);
    }
    Ok((schedule.frames(), lateness))
}

/// Receives until told to stop; gives back latencies.
fn receive(
    mut sink: impl StampedSink,
    wait: Wait,
    mut latency: Histogram<u64>,
    control: &Control,
) -> Result<Histogram<u64>> {
    control.receives.store(true, Ordering::Relaxed);
    while !control.stop.load(Ordering::Relaxed) {
        let mut stamps = Burst::<u64>::new();
        let count = sink.take_stamps(|stamp| {
            // A burst of a sink is no longer than one of ours.
            let _ = stamps.try_push(stamp);
        })?;
        if count > 0 {
            // One look at the clock for all that were handed over together.
            let now = clock::now();
            let record_from = control.record_from.load(Ordering::Relaxed);
            for &stamp in stamps.iter().filter(|&&s| s >= record_from) {
                latency.saturating_record(now.saturating_sub(stamp).max(1));
            }
            continue;
        }
        match wait {
            Wait::Spin => std::hint::spin_loop(),
            Wait::Sleep => {
                let mut fds: Burst<PollFd<'_>> = Burst::new();
                fds.extend(
                    sink.fd()
                        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
                );
                // Interrupted or timed out: look again either way.
                let _ = poll(&mut fds, Some(&LISTEN));
            }
        }
    }
    Ok(latency)
}
