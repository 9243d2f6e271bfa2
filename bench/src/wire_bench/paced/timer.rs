//! The machine's own floor: the loop of a trial without a network. Frames fall
//! due on schedule and are there at once; what is measured is how late a
//! thread that spins, or one that sleeps until the next is due, gets to see
//! them. Imports `schedule`, `clock`.

use std::num::NonZeroU64;
use std::thread;
use std::time::Duration;

use rustix::thread::set_current_timer_slack;

use super::schedule::Schedule;
use super::trial::histogram;
use super::{Device, Order, Trial, Wait, clock};
use crate::error::Result;
use crate::interrupt;
use crate::wire_bench::accounting::Book;
use crate::wire_bench::measure::{join, pin};

/// See the module.
pub(super) struct Timer {
    /// Where the receivers run that it is the floor of.
    pub(super) core: usize,
}

impl Device for Timer {
    fn trial(&mut self, order: &Order) -> Result<Trial> {
        let core = self.core;
        // A thread of its own: where it runs and how it sleeps is not for the
        // caller's.
        thread::scope(|scope| {
            join(scope.spawn(|| {
                pin(core)?;
                observe(order)
            }))
        })
    }
}

fn observe(order: &Order) -> Result<Trial> {
    let _ = set_current_timer_slack(NonZeroU64::new(1_000));
    let mut latency = histogram()?;
    let start = clock::now();
    let schedule = Schedule::new(start, order.load, order.warm_up + order.duration);
    let record_from = start + u64::try_from(order.warm_up.as_nanos()).unwrap_or(u64::MAX);
    let mut next = 0;
    while next < schedule.frames() {
        interrupt::check()?;
        let now = clock::now();
        let due = schedule.due(now);
        if due > next {
            let stamps = (next..due).map(|number| schedule.at(number));
            for stamp in stamps.filter(|&stamp| stamp >= record_from) {
                latency.saturating_record(now.saturating_sub(stamp).max(1));
            }
            next = due;
            continue;
        }
        match order.wait {
            Wait::Spin => std::hint::spin_loop(),
            Wait::Sleep => {
                let left = schedule.at(next).saturating_sub(now);
                thread::sleep(Duration::from_nanos(left));
            }
        }
    }
    Ok(Trial {
        book: Book {
            submitted: next,
            delivered: next,
            ..Book::default()
        },
        latency,
        lateness: histogram()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_after_the_warm_up_is_seen_once() {
        for wait in Wait::ALL {
            let order = Order {
                load: 10_000,
                warm_up: Duration::from_millis(5),
                duration: Duration::from_millis(20),
                wait,
            };
            let trial = observe(&order).unwrap();
            assert_eq!(trial.book.submitted, 250);
            assert_eq!(trial.count().lost, 0);
            assert_eq!(trial.latency.len(), 200, "{wait}");
        }
    }
}
