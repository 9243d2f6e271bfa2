//! The scheduler's floor: two threads on the workers' cores, woken as they are,
//! the one by the schedule and the other by an eventfd, that do nothing but
//! pass times on. Imports `schedule`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::metrics;
use super::schedule::{Due, Shared};
use super::{SETTLE_INTERVAL, SETTLE_WITHIN, WARM_UP};
use crate::error::{Error, Result};
use crate::machine;
use crate::results::{Sample, Series};
use crate::rounds::Contender;
use crate::wait::{self, Look};

/// Times that may be on their way.
const ON_THEIR_WAY: usize = 4096;
/// Threads look at least this often whether they are to end.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// See the module.
pub(super) struct Floor {
    series: Series,
    cores: (usize, usize),
}

impl Floor {
    pub(super) fn new(series: Series, cores: (usize, usize)) -> Self {
        Self { series, cores }
    }
}

fn sleep_on(fd: &impl std::os::fd::AsFd) {
    // Interrupted or timed out: look again either way.
    let _ = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&LOOK));
}

impl Contender for Floor {
    fn series(&self) -> Series {
        self.series.clone()
    }

    /// What the host does to a schedule is what it is there to show.
    fn is_short(&self) -> bool {
        false
    }

    fn sample(&mut self, duration: Duration) -> Result<Sample> {
        let shared = Shared::new()?;
        let queue = ArrayQueue::<Due>::new(ON_THEIR_WAY);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let arrived = eventfd(0, flags).map_err(Error::errno("make an eventfd"))?;
        let end = AtomicBool::new(false);
        let send = || {
            let mut made = 0;
            while !end.load(Ordering::Relaxed) {
                match shared.take_due(made) {
                    // A full queue loses it, and the books say so.
                    Some(due) => {
                        let _ = queue.push(due);
                        // Fails only when it is readable already.
                        let _ = rustix::io::write(&arrived, &1u64.to_ne_bytes());
                        made += 1;
                    }
                    None => sleep_on(&shared.timer()),
                }
            }
            Ok(())
        };
        let receive = || {
            while !end.load(Ordering::Relaxed) {
                // Before looking: what comes later makes it readable again.
                let _ = rustix::io::read(&arrived, &mut [0u8; 8]);
                match queue.pop() {
                    Some(due) => shared.arrived(due),
                    None => sleep_on(&arrived),
                }
                while let Some(due) = queue.pop() {
                    shared.arrived(due);
                }
            }
            Ok(())
        };
        let on_their_way = || shared.submitted() - shared.delivered();
        let observe = || {
            shared.start()?;
            wait::pass(WARM_UP)?;
            shared.count_from_now();
            wait::pass(duration)?;
            shared.stop();
            wait::until("the last times", SETTLE_WITHIN, SETTLE_INTERVAL, || {
                Ok(match on_their_way() {
                    0 => Look::Done(()),
                    rest => Look::NotYet(format!("{rest} are on their way")),
                })
            })
        };
        let (sender, receiver) = self.cores;
        thread::scope(|scope| {
            let threads = [
                scope.spawn(|| machine::on_core(sender, send)),
                scope.spawn(|| machine::on_core(receiver, receive)),
            ];
            let outcome = observe();
            end.store(true, Ordering::Relaxed);
            for thread in threads {
                match thread.join() {
                    Ok(result) => result?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            outcome
        })?;
        Ok(Sample {
            metrics: metrics(&shared.lateness(false)),
            ..Sample::default()
        })
    }
}
