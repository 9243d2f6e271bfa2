//! One operator's connection: bytes in, lines, answers, bytes out, all within
//! bounds. Imports `admin`.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;
use zeroize::{Zeroize, Zeroizing};

use super::{Handler, IDLE_TIMEOUT, REQUEST_TIMEOUT, RESPONSE_TIMEOUT};
use crate::admin::{ErrorCode, Failure, MAX_REQUEST_LEN, Request, response_to_line};

/// Requests answered in one pass, so that one client can't keep the control
/// thread from its timers.
const REQUESTS_PER_PASS: usize = 8;

pub(super) struct Connection {
    socket: OwnedFd,
    /// Received and not answered, at its beginning; may hold a key.
    input: Zeroizing<Box<[u8]>>,
    /// Bytes of `input` in use.
    filled: usize,
    /// Bytes of `input` known to hold no line end.
    scanned: usize,
    /// When the first byte of the unfinished line came.
    line_since: Option<Duration>,
    /// Answer on its way; the next request waits for it.
    output: Vec<u8>,
    /// Bytes of `output` that are sent.
    sent: usize,
    /// When a byte last went either way.
    active_at: Duration,
    /// The client will send no more.
    at_end: bool,
    /// Close when `output` is sent.
    closing: bool,
}

impl Connection {
    /// Takes over a non-blocking socket.
    pub(super) fn new(socket: OwnedFd, now: Duration) -> Self {
        Self {
            socket,
            // All room at once: a buffer that grows leaves copies of keys.
            input: Zeroizing::new(vec![0; MAX_REQUEST_LEN + 1].into_boxed_slice()),
            filled: 0,
            scanned: 0,
            line_since: None,
            output: Vec::new(),
            sent: 0,
            active_at: now,
            at_end: false,
            closing: false,
        }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.sent < self.output.len() {
            PollFlags::OUT
        } else {
            PollFlags::IN
        }
    }

    /// When to come back although nothing can be read or written.
    pub(super) fn deadline(&self) -> Duration {
        if self.sent < self.output.len() {
            return self.active_at + RESPONSE_TIMEOUT;
        }
        if self.line_end().is_some() {
            return Duration::ZERO;
        }
        match self.line_since {
            Some(since) => since + REQUEST_TIMEOUT,
            None => self.active_at + IDLE_TIMEOUT,
        }
    }

    /// Does everything that can be done now. `Break`: close it.
    pub(super) fn process(&mut self, now: Duration, handler: Handler<'_>) -> ControlFlow<()> {
        let mut answered = 0;
        loop {
            self.flush(now)?;
            if self.sent < self.output.len() {
                break;
            }
            if self.closing {
                return ControlFlow::Break(());
            }
            if let Some(end) = self.find_line_end() {
                if answered == REQUESTS_PER_PASS {
                    break;
                }
                answered += 1;
                self.answer_line(end, now, handler);
            } else if self.filled == self.input.len() {
                self.refuse(Failure::too_large());
            } else if self.at_end {
                if self.filled == 0 {
                    return ControlFlow::Break(());
                }
                self.refuse(Failure::new(
                    ErrorCode::BadRequest,
                    "the request has no line end",
                ));
            } else if !self.receive(now)? {
                break;
            }
        }
        self.check_deadlines(now)
    }

    fn check_deadlines(&mut self, now: Duration) -> ControlFlow<()> {
        if now < self.deadline() || self.line_end().is_some() {
            return ControlFlow::Continue(());
        }
        if self.sent == self.output.len() && self.line_since.is_some() {
            self.refuse(Failure::new(
                ErrorCode::Timeout,
                format!("the request did not end within {REQUEST_TIMEOUT:?}"),
            ));
            // The last chance; a reader too slow for one line has lost it.
            self.flush(now)?;
        }
        ControlFlow::Break(())
    }

    /// Sends what it can of the answer.
    fn flush(&mut self, now: Duration) -> ControlFlow<()> {
        while self.sent < self.output.len() {
            let rest = &self.output[self.sent..];
            match rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.sent += count;
                    self.active_at = now;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return ControlFlow::Continue(()),
                Err(_) => return ControlFlow::Break(()),
            }
        }
        // A large answer's memory is not kept for an idle client.
        self.output = Vec::new();
        self.sent = 0;
        ControlFlow::Continue(())
    }

    /// Reads once; false if nothing waits.
    fn receive(&mut self, now: Duration) -> ControlFlow<(), bool> {
        match rustix::io::read(&self.socket, &mut self.input[self.filled..]) {
            Ok(0) => self.at_end = true,
            Ok(count) => {
                self.filled += count;
                self.active_at = now;
                self.line_since.get_or_insert(now);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return ControlFlow::Continue(false),
            Err(_) => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(true)
    }

    /// Where the first line ends, of what was not searched yet.
    fn line_end(&self) -> Option<usize> {
        self.input[self.scanned..self.filled]
            .iter()
            .position(|&byte| byte == b'\n')
            .map(|at| self.scanned + at)
    }

    fn find_line_end(&mut self) -> Option<usize> {
        let end = self.line_end();
        if end.is_none() {
            self.scanned = self.filled;
        }
        end
    }

    /// Answers the line before `end` and wipes it.
    fn answer_line(&mut self, end: usize, now: Duration, handler: Handler<'_>) {
        let response = Request::from_line(&self.input[..end]).and_then(handler);
        self.output = response_to_line(&response);
        self.input.copy_within(end + 1..self.filled, 0);
        let rest = self.filled - (end + 1);
        self.input[rest..self.filled].zeroize();
        self.filled = rest;
        self.scanned = 0;
        self.line_since = (rest > 0).then_some(now);
    }

    /// Answers with an error and closes when that is sent.
    fn refuse(&mut self, failure: Failure) {
        self.output = response_to_line(&Err(failure));
        self.sent = 0;
        self.closing = true;
    }
}
