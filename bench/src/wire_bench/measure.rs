//! One sample of one contender: a sending thread and a receiving thread, each
//! on its core, or several such pairs side by side; a warm-up, a window in
//! which frames and CPU time are counted, and the balance of the books after
//! the last frame. Imports `accounting`,
//! `cpu`, `wait`.

use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CpuSet, gettid, sched_setaffinity, set_current_timer_slack};
use tipsec_dataplane::counters::Counter;

use super::accounting::Book;
use super::cpu;
use crate::error::{Error, Result};
use crate::results::{CPU_NS, MPPS, Sample};
use crate::wait::{self, Look};

/// Name of the metric: CPU time charged to the threads that did the work.
pub(super) const CPU_THREADS_NS: &str = "cpu of threads";
/// Frames flow this long before they count: caches, schedulers, clocks.
const WARM_UP: Duration = Duration::from_millis(50);
/// The books must balance this long after the last frame was sent.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks at them.
pub(super) const SETTLE_INTERVAL: Duration = Duration::from_millis(2);
/// A receiver looks at least this often whether it is to end.
pub(super) const LISTEN_FOR: Duration = Duration::from_millis(20);
/// The same for poll(2).
pub(super) const LISTEN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: LISTEN_FOR.subsec_nanos() as i64,
};
/// A sender that can do nothing sleeps this long: what it waits for, frames
/// that the other side consumes, is told by no event.
const BLOCKED_INTERVAL: Duration = Duration::from_micros(20);
/// Threads run by then.
pub(super) const START_WITHIN: Duration = Duration::from_secs(10);

/// The sending half of a contender.
pub(super) trait Source: Send {
    /// Sends up to a burst; false if nothing could be sent now.
    ///
    /// # Errors
    /// Whatever ends the measurement.
    fn pass(&mut self) -> Result<bool>;

    /// Sends what was begun, and nothing new.
    ///
    /// # Errors
    /// As [`Self::pass`].
    fn flush(&mut self) -> Result<()>;
}

/// The receiving half.
pub(super) trait Sink: Send {
    /// Takes up to a burst; says how many frames there were, of any fate.
    ///
    /// # Errors
    /// Whatever ends the measurement.
    fn pass(&mut self) -> Result<usize>;

    /// Readable when frames have arrived; `None` if [`Self::pass`] itself waits
    /// for them, for [`LISTEN_FOR`] at most.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// What a sender counts. On lines of its own: the other thread's counts would
/// fight over them.
#[derive(Default, Debug)]
#[repr(align(128))]
pub(super) struct Sent {
    /// Frames that it started with.
    pub(super) submitted: Counter,
    /// Frames of these that the device lost, as its socket says.
    pub(super) lost: Counter,
}

/// What a receiver counts.
#[derive(Default, Debug)]
#[repr(align(128))]
pub(super) struct Received {
    /// Frames delivered.
    pub(super) frames: Counter,
    /// Bytes of these on the wire.
    pub(super) bytes: Counter,
}

/// Where and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Core of the sending thread.
    pub(super) send_core: usize,
    /// Core of the receiving thread.
    pub(super) receive_core: usize,
    /// Length of the window.
    pub(super) window: Duration,
    /// Most frames in flight, for contenders that bound them.
    pub(super) depth: usize,
}

/// One direction of one contender.
pub(super) struct Flow<'a, S, R> {
    pub(super) source: S,
    pub(super) sink: R,
    /// Kernel threads that work for it.
    pub(super) napi: &'a [i32],
    pub(super) received: &'a Received,
}

/// Reads all counts that a contender's frames can end in.
pub(super) type ReadBook<'a> = &'a dyn Fn() -> Result<Book>;

/// Tells the threads to end, also when an error ends the observation.
#[derive(Default)]
struct Control {
    stop_sending: AtomicBool,
    stop: AtomicBool,
    /// Threads that run.
    threads: Mutex<Vec<i32>>,
}

impl Control {
    fn started(&self) {
        let id = gettid().as_raw_nonzero().get();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(id);
    }

    fn threads(&self) -> Vec<i32> {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.clone()
    }

    fn end(&self) {
        self.stop_sending.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What happened in the window.
struct Window {
    frames: u64,
    bytes: u64,
    elapsed: Duration,
    cores: Duration,
    threads: Duration,
}

/// Lets frames flow and counts them. `read_book` reads all counts that the
/// contender's frames can end in.
///
/// # Errors
/// Those of the halves and of `read_book`, [`Error::Interrupted`], and
/// [`Error::Failed`] if not one frame arrived. Unaccounted frames are no error
/// here: they are in the sample.
pub(super) fn measure<S: Source, R: Sink>(
    flow: Flow<'_, S, R>,
    plan: &Plan,
    read_book: ReadBook<'_>,
) -> Result<Sample> {
    let cores = (plan.send_core, plan.receive_core);
    measure_all(vec![(flow, cores)], plan.window, read_book)
}

/// [`measure`] for several flows at once, each with the cores of its sender
/// and its receiver. Flows may share cores.
///
/// # Errors
/// As [`measure`].
pub(super) fn measure_all<S: Source, R: Sink>(
    flows: Vec<(Flow<'_, S, R>, (usize, usize))>,
    window: Duration,
    read_book: ReadBook<'_>,
) -> Result<Sample> {
    let control = &Control::default();
    let mut watched = Watched::default();
    let (window, book) = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (flow, (send_core, receive_core)) in flows {
            let Flow {
                source,
                sink,
                napi,
                received,
            } = flow;
            watched.received.push(received);
            watched.napi.extend_from_slice(napi);
            watched.cores.extend([send_core, receive_core]);
            threads.push(scope.spawn(move || {
                pin(send_core)?;
                send(source, control)
            }));
            threads.push(scope.spawn(move || {
                pin(receive_core)?;
                receive(sink, control)
            }));
        }
        watched.cores.sort_unstable();
        watched.cores.dedup();
        watched.threads = threads.len();
        let running = || threads.iter().all(|thread| !thread.is_finished());
        let outcome = observe(control, window, &watched, running, read_book);
        control.end();
        // What a thread says is the cause of what was observed.
        for thread in threads {
            join(thread)?;
        }
        outcome
    })?;
    if window.frames == 0 {
        return Err(Error::Failed {
            what: "measure: no frame arrived".into(),
            detail: format!("{book:?}"),
        });
    }
    Ok(window.sample(book))
}

/// What is read at both ends of the window.
#[derive(Default)]
struct Watched<'a> {
    received: Vec<&'a Received>,
    /// Kernel threads.
    napi: Vec<i32>,
    /// Each once.
    cores: Vec<usize>,
    /// How many threads are ours.
    threads: usize,
}

fn observe(
    control: &Control,
    window: Duration,
    watched: &Watched<'_>,
    running: impl Fn() -> bool,
    read_book: ReadBook<'_>,
) -> Result<(Window, Book)> {
    let ended = || Error::Failed {
        what: "measure: a thread ended early".into(),
        detail: String::new(),
    };
    wait::until("the threads", START_WITHIN, SETTLE_INTERVAL, || {
        if !running() {
            return Err(ended());
        }
        Ok(if control.threads().len() == watched.threads {
            Look::Done(())
        } else {
            Look::NotYet("not started".into())
        })
    })?;
    wait::pass(WARM_UP)?;
    let read = || -> Result<_> {
        let ours = control.threads().into_iter();
        let threads = ours
            .chain(watched.napi.iter().copied())
            .map(cpu::of_thread)
            .sum::<Result<Duration>>()?;
        let idle = cpu::idle(&watched.cores)?;
        let received = watched.received.iter();
        let (frames, bytes) = received.fold((0, 0), |(frames, bytes), one| {
            (frames + one.frames.value(), bytes + one.bytes.value())
        });
        Ok((Instant::now(), frames, bytes, idle, threads))
    };
    let before = read()?;
    wait::pass(window)?;
    let after = read()?;
    if !running() {
        return Err(ended());
    }
    control.stop_sending.store(true, Ordering::Relaxed);
    let book = settle(read_book)?;
    let elapsed = after.0 - before.0;
    let wall = elapsed * u32::try_from(watched.cores.len()).unwrap_or(1);
    let window = Window {
        frames: after.1 - before.1,
        bytes: after.2 - before.2,
        elapsed,
        cores: wall.saturating_sub(after.3.saturating_sub(before.3)),
        threads: after.4.saturating_sub(before.4),
    };
    Ok((window, book))
}

/// Reads the book until it balances, or for as long as is sensible.
pub(super) fn settle(read_book: ReadBook<'_>) -> Result<Book> {
    let deadline = Instant::now() + SETTLE_WITHIN;
    loop {
        let book = read_book()?;
        if book.unaccounted() == 0 || Instant::now() >= deadline {
            return Ok(book);
        }
        wait::pass(SETTLE_INTERVAL)?;
    }
}

impl Window {
    fn sample(&self, book: Book) -> Sample {
        let frames = self.frames as f64;
        let seconds = self.elapsed.as_secs_f64();
        Sample {
            metrics: vec![
                (MPPS, "Mpps", frames / seconds / 1e6),
                ("rate", "Gbit/s", self.bytes as f64 * 8.0 / seconds / 1e9),
                (CPU_NS, "ns/frame", self.cores.as_nanos() as f64 / frames),
                (
                    CPU_THREADS_NS,
                    "ns/frame",
                    self.threads.as_nanos() as f64 / frames,
                ),
                (
                    "efficiency",
                    "Mframes/core-s",
                    frames / 1e6 / self.cores.as_secs_f64().max(f64::MIN_POSITIVE),
                ),
            ],
            unaccounted: book.unaccounted(),
            drops: book.losses,
        }
    }
}

fn send(mut source: impl Source, control: &Control) -> Result<()> {
    // Sleeps end when they should, and not up to 50 µs later.
    let _ = set_current_timer_slack(NonZeroU64::new(1_000));
    control.started();
    while !control.stop_sending.load(Ordering::Relaxed) {
        if !source.pass()? {
            thread::sleep(BLOCKED_INTERVAL);
        }
    }
    while !control.stop.load(Ordering::Relaxed) {
        // Also after all is sent: a lost frame may be told late.
        source.flush()?;
        thread::sleep(SETTLE_INTERVAL);
    }
    Ok(())
}

fn receive(mut sink: impl Sink, control: &Control) -> Result<()> {
    control.started();
    while !control.stop.load(Ordering::Relaxed) {
        if sink.pass()? == 0
            && let Some(fd) = sink.fd()
        {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            // Interrupted or timed out: look again either way.
            let _ = poll(&mut fds, Some(&LISTEN));
        }
    }
    Ok(())
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(Error::errno(format!("run on core {core}")))
}

/// What a thread came to; its panic goes on here.
pub(super) fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_per_frame_and_per_second() {
        let window = Window {
            frames: 1_000_000,
            bytes: 64_000_000,
            elapsed: Duration::from_millis(500),
            cores: Duration::from_millis(800),
            threads: Duration::from_millis(300),
        };
        let mut book = Book {
            submitted: 12,
            delivered: 5,
            ..Book::default()
        };
        book.lose("x", 4);
        let sample = window.sample(book);
        let value = |wanted: &str| {
            let found = sample.metrics.iter().find(|(name, ..)| *name == wanted);
            let (_, _, value) = found.unwrap();
            (value * 1000.0).round() / 1000.0
        };
        assert_eq!(value(MPPS), 2.0);
        assert_eq!(value("rate"), 1.024);
        assert_eq!(value(CPU_NS), 800.0);
        assert_eq!(value(CPU_THREADS_NS), 300.0);
        assert_eq!(value("efficiency"), 1.25);
        assert_eq!((sample.unaccounted, sample.drops["x"]), (3, 4));
    }
}
