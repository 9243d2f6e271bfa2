//! What threads meet in: atomics, the queue of a channel and its bell. Under
//! `--cfg loom` the same names are loom's, so that its tests go through every
//! order of steps of the code that uses them (docs/testing.md). Imports nothing
//! from this crate.

#[cfg(not(loom))]
pub(crate) use real::{AtomicBool, AtomicU32, AtomicU64, Bell, Ordering, Queue};

#[cfg(loom)]
pub(crate) use model::{AtomicBool, AtomicU32, AtomicU64, Bell, Ordering, Queue};

#[cfg(not(loom))]
mod real {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

    /// Bounded, lock-free, in order.
    pub(crate) use crossbeam::queue::ArrayQueue as Queue;
    use rustix::event::{EventfdFlags, PollFd, Timespec, eventfd};

    /// Wakes who sleeps in `poll`: an eventfd, which stays readable from a ring
    /// to the next [`Bell::clear`].
    pub(crate) struct Bell(OwnedFd);

    impl Bell {
        pub(crate) fn new() -> io::Result<Self> {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok(Self(fd))
        }

        pub(crate) fn ring(&self) {
            // The only failure is a counter at its maximum, and then it is readable.
            let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
        }

        pub(crate) fn clear(&self) {
            // Fails when it is clear already.
            let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
        }

        pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }

        /// Sleeps until one of `fds`, which has this bell's, is readable or the
        /// time is over; how many are.
        pub(crate) fn poll(
            &self,
            fds: &mut [PollFd<'_>],
            timeout: &Timespec,
        ) -> rustix::io::Result<usize> {
            rustix::event::poll(fds, Some(timeout))
        }
    }
}

/// The same in a model: queue and bell are as strong as crossbeam's queue and
/// the kernel's eventfd promise to be, and a sleep has no end but the bell's, so
/// that a wake-up that is lost is a deadlock.
#[cfg(loom)]
mod model {
    use std::collections::VecDeque;
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
    use loom::sync::{Condvar, Mutex, MutexGuard};
    use rustix::event::{EventfdFlags, PollFd, Timespec, eventfd};

    pub(crate) struct Queue<T> {
        items: Mutex<VecDeque<T>>,
        capacity: usize,
    }

    impl<T> Queue<T> {
        pub(crate) fn new(capacity: usize) -> Self {
            Self {
                items: Mutex::new(VecDeque::new()),
                capacity,
            }
        }

        fn items(&self) -> MutexGuard<'_, VecDeque<T>> {
            match self.items.lock() {
                Ok(items) => items,
                Err(poisoned) => poisoned.into_inner(),
            }
        }

        pub(crate) fn push(&self, item: T) -> Result<(), T> {
            let mut items = self.items();
            if items.len() == self.capacity {
                return Err(item);
            }
            items.push_back(item);
            Ok(())
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.items().pop_front()
        }

        pub(crate) fn len(&self) -> usize {
            self.items().len()
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.items().is_empty()
        }
    }

    /// An eventfd, and beside it what a model can wait for.
    pub(crate) struct Bell {
        rung: Mutex<bool>,
        waiting: Condvar,
        fd: OwnedFd,
    }

    impl Bell {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self {
                rung: Mutex::new(false),
                waiting: Condvar::new(),
                fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            })
        }

        fn rung(&self) -> MutexGuard<'_, bool> {
            match self.rung.lock() {
                Ok(rung) => rung,
                Err(poisoned) => poisoned.into_inner(),
            }
        }

        pub(crate) fn ring(&self) {
            let mut rung = self.rung();
            *rung = true;
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
            self.waiting.notify_all();
        }

        pub(crate) fn clear(&self) {
            let mut rung = self.rung();
            *rung = false;
            let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
        }

        pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
            self.fd.as_fd()
        }

        /// Until it rings, whatever else there is to wait for.
        pub(crate) fn wait(&self) {
            let mut rung = self.rung();
            while !*rung {
                rung = match self.waiting.wait(rung) {
                    Ok(rung) => rung,
                    Err(poisoned) => poisoned.into_inner(),
                };
            }
        }

        pub(crate) fn poll(
            &self,
            fds: &mut [PollFd<'_>],
            _: &Timespec,
        ) -> rustix::io::Result<usize> {
            self.wait();
            rustix::event::poll(fds, Some(&Timespec::default()))
        }
    }
}
