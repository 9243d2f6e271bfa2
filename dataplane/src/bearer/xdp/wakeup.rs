//! Telling the kernel that frames wait in the TX ring, and what its answers
//! mean.
//!
//! The answers are those of `xsk_sendmsg` in net/xdp/xsk.c, read at Linux 6.1
//! and 6.18. In copy mode the call itself sends; in zero-copy mode it wakes the
//! driver, and the answer is the driver's (`ndo_xsk_wakeup`). Imports
//! `counters` and the bearer's error.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::report::BearerMode;
use crate::bearer::BearerError;
use crate::counters::Counter;

/// What the kernel said to a wake-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Done. Before Linux 6.6 also if the completion ring was full; so who
    /// waits for progress looks at the ring.
    Done,
    /// The budget of one call, the send buffer, the completion ring or the
    /// device's queue was spent. What was not taken stays queued: take
    /// completions back and call again.
    Again,
    /// Copy mode: one frame was taken and dropped, because the other end of a
    /// veth has no room and no qdisc holds frames back, or there is no carrier.
    LostOne,
    /// Administratively down, or the driver is setting its queues up anew.
    /// Frames stay queued until it is done.
    Down,
    /// The device was deleted.
    Gone,
    /// None of what the kernel's sources show.
    Unknown(Errno),
}

impl Answer {
    fn of(result: Result<usize, Errno>, mode: BearerMode) -> Self {
        let zero_copy = mode == BearerMode::ZeroCopy;
        match result {
            Ok(_) => Self::Done,
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => Self::Again,
            // A driver that is woken takes no frame, so it loses none.
            Err(Errno::BUSY) if zero_copy => Self::Again,
            Err(Errno::BUSY) => Self::LostOne,
            Err(Errno::NETDOWN) => Self::Down,
            // Queues that exist no more, or not yet: i40e, ice and mlx5 say so
            // while they reset. A device that is gone says ENXIO.
            Err(Errno::INVAL) if zero_copy => Self::Down,
            Err(Errno::NXIO | Errno::NODEV) => Self::Gone,
            Err(errno) => Self::Unknown(errno),
        }
    }
}

/// Wakes the kernel once.
pub(super) fn wake_transmit(socket: impl AsFd, mode: BearerMode, counts: &WakeUps) -> Answer {
    let answer = Answer::of(send(socket, &[], SendFlags::DONTWAIT), mode);
    counts.note(answer);
    answer
}

/// The error of an answer that nothing here understands.
pub(super) fn unknown_answer(errno: Errno) -> BearerError {
    BearerError::Io {
        what: "send from an AF_XDP socket",
        source: errno.into(),
    }
}

/// Wake-ups of one bearer, by answer; for any thread.
#[derive(Default, Debug)]
pub struct WakeUps {
    /// System calls to have frames sent.
    pub calls: Counter,
    /// Of them, ended before all frames were taken (EAGAIN, ENOBUFS, ENOMEM).
    pub again: Counter,
    /// Of them, lost a frame (EBUSY in copy mode).
    pub lost: Counter,
    /// Of them, found the device down or in reset (ENETDOWN).
    pub down: Counter,
}

impl WakeUps {
    fn note(&self, answer: Answer) {
        self.calls.add(1);
        match answer {
            Answer::Again => self.again.add(1),
            Answer::LostOne => self.lost.add(1),
            Answer::Down => self.down.add(1),
            Answer::Done | Answer::Gone | Answer::Unknown(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        use BearerMode::{Generic, NativeCopy, ZeroCopy};
        let of = |errno, mode| Answer::of(Err(errno), mode);
        assert_eq!(Answer::of(Ok(0), NativeCopy), Answer::Done);
        for errno in [Errno::AGAIN, Errno::NOBUFS, Errno::NOMEM, Errno::INTR] {
            assert_eq!(of(errno, NativeCopy), Answer::Again, "{errno}");
        }
        assert_eq!(of(Errno::BUSY, NativeCopy), Answer::LostOne);
        assert_eq!(of(Errno::BUSY, Generic), Answer::LostOne);
        assert_eq!(of(Errno::BUSY, ZeroCopy), Answer::Again, "nothing is lost");
        assert_eq!(of(Errno::NETDOWN, ZeroCopy), Answer::Down);
        assert_eq!(of(Errno::INVAL, ZeroCopy), Answer::Down, "a reset");
        let invalid = Answer::Unknown(Errno::INVAL);
        assert_eq!(of(Errno::INVAL, NativeCopy), invalid);
        assert_eq!(of(Errno::NXIO, ZeroCopy), Answer::Gone);
        assert_eq!(of(Errno::NODEV, NativeCopy), Answer::Gone);
    }

    #[test]
    fn every_call_is_counted_and_failures_by_kind() {
        let counts = WakeUps::default();
        for answer in [
            Answer::Done,
            Answer::Again,
            Answer::Again,
            Answer::LostOne,
            Answer::Down,
            Answer::Gone,
        ] {
            counts.note(answer);
        }
        let values = [&counts.calls, &counts.again, &counts.lost, &counts.down].map(Counter::value);
        assert_eq!(values, [6, 2, 1, 1]);
    }
}
