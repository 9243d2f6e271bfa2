//! From program to program by `Endpoint`: two embedded nodes, each one thread
//! on a core of its own, with keys of the real exchange and no tap. The
//! program's thread is the worker, so nothing is handed over between the two.
//!
//! The sender reserves, copies its message into frame memory and commits, a
//! burst at a time, then polls once, which seals and sends the burst; when the
//! socket takes nothing, it sleeps as every sender here does. The receiver
//! waits in the endpoint, which sleeps in poll(2), and reads each message in
//! place. Imports `ends`, `link`, `measure`, `message`; `nodes` has the nodes
//! and their books.

use std::iter::Cycle;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::slice::Iter;
use std::time::Duration;

use tipsec_control::embed::{Aead, Endpoint, NodeId};
use tipsec_dataplane::frame::MESSAGE_OVERHEAD;
use tipsec_dataplane::secret::Suite;
use tipsec_xdp::wire::ETH_HEADER_LEN;

use super::ends::failed;
use super::link::Link;
use super::measure::{Flow, LISTEN_FOR, Plan, Received, Sent, Sink, Source, measure};
use super::message;
use super::options::FrameSize;
use crate::error::{Error, Result};
use crate::results::{Sample, Series};
use crate::rounds::Contender;

mod nodes;

use nodes::Nodes;
pub(super) use nodes::depth;

/// Bytes of a frame on the wire that are not the message: Ethernet header 14,
/// our header 16, payload byte 1, tag 16.
const OVERHEAD: usize = ETH_HEADER_LEN + MESSAGE_OVERHEAD;

/// Bytes of the message that makes a frame of `frame` bytes on the wire.
const fn message_len(frame: usize) -> usize {
    frame.saturating_sub(OVERHEAD)
}

/// See the module.
pub(super) struct Program<'a, A> {
    link: &'a Link,
    series: Series,
    suite: Suite,
    size: FrameSize,
    plan: Plan,
    cipher: PhantomData<A>,
}

impl<'a, A: Aead> Program<'a, A> {
    /// Takes part under the name and labels of `series`.
    pub(super) fn new(
        link: &'a Link,
        series: Series,
        suite: Suite,
        size: FrameSize,
        plan: Plan,
    ) -> Self {
        Self {
            link,
            series,
            suite,
            size,
            plan,
            cipher: PhantomData,
        }
    }

    /// Whether the longest message goes in one frame.
    fn check_room(&self, endpoint: &Endpoint<A>) -> Result<()> {
        let (longest, room) = (message_len(self.size.longest()), endpoint.max_message());
        if longest <= room {
            return Ok(());
        }
        Err(Error::Failed {
            what: format!("send messages of {longest} bytes"),
            detail: format!("the endpoint takes {room} at most"),
        })
    }
}

impl<A: Aead> Contender for Program<'_, A> {
    fn series(&self) -> Series {
        self.series.clone()
    }

    /// Of nodes that live no longer: nothing of them runs beside the others.
    fn sample(&mut self, duration: Duration) -> Result<Sample> {
        let plan = Plan {
            window: duration,
            ..self.plan
        };
        let (nodes, [left, right]) = Nodes::start::<A>(self.link, self.suite, &plan)?;
        self.check_room(&left)?;
        let (sent, received) = (Sent::default(), Received::default());
        let flow = Flow {
            source: Sender {
                endpoint: left,
                to: nodes::RIGHT,
                lengths: self.size.pattern().iter().cycle(),
                message: message::buffer(message_len(self.size.longest())),
                sent: &sent,
            },
            sink: Receiver {
                endpoint: right,
                from: nodes::LEFT,
                received: &received,
            },
            napi: &nodes.napi,
            received: &received,
        };
        measure(flow, &plan, &|| nodes.book(&sent, &received))
    }
}

struct Sender<'a, A: Aead> {
    endpoint: Endpoint<A>,
    to: NodeId,
    /// Of frames on the wire.
    lengths: Cycle<Iter<'static, usize>>,
    message: Box<[u8]>,
    sent: &'a Sent,
}

impl<A: Aead> Sender<'_, A> {
    /// Writes and commits messages until the endpoint has room for no more.
    fn commit_all(&mut self) -> Result<u64> {
        let mut committed = 0;
        loop {
            let mut frame = match self.endpoint.reserve(self.to) {
                Ok(frame) => frame,
                // A burst waits; or there is no key for a moment.
                Err(refused) if refused.is_transient() => return Ok(committed),
                Err(refused) => return Err(failed("reserve a frame")(refused)),
            };
            let length = self.lengths.next().copied().map_or(0, message_len);
            frame.payload_mut()[..length].copy_from_slice(&self.message[..length]);
            if let Err(refused) = frame.commit(length) {
                return Err(failed("commit a message")(refused));
            }
            committed += 1;
        }
    }

    /// Words for an error are made where there is one, not for each frame.
    fn poll(&mut self) -> Result<bool> {
        let polled = self.endpoint.poll();
        polled.map_err(|stopped| failed("poll an endpoint")(stopped))
    }
}

impl<A: Aead> Source for Sender<'_, A> {
    fn pass(&mut self) -> Result<bool> {
        let committed = self.commit_all()?;
        self.sent.submitted.add(committed);
        // Whether the socket took any, which may be some of earlier ones.
        self.poll()
    }

    fn flush(&mut self) -> Result<()> {
        self.poll().map(drop)
    }
}

struct Receiver<'a, A: Aead> {
    endpoint: Endpoint<A>,
    from: NodeId,
    received: &'a Received,
}

impl<A: Aead> Sink for Receiver<'_, A> {
    fn pass(&mut self) -> Result<usize> {
        let waited = self.endpoint.wait(LISTEN_FOR);
        waited.map_err(|stopped| failed("wait in an endpoint")(stopped))?;
        let (mut frames, mut bytes) = (0, 0);
        let from = self.from;
        let count = self.endpoint.receive(|mut message| {
            if message.from() == from {
                let payload = message.payload_mut();
                message::read(payload);
                frames += 1;
                bytes += payload.len() + OVERHEAD;
            }
        });
        self.received.bytes.add(bytes as u64);
        self.received.frames.add(frames);
        Ok(count)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // It has waited already.
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_room_for_a_message() {
        assert_eq!(message_len(1400), 1400 - 14 - 16 - 1 - 16);
        assert_eq!(message_len(0), 0);
        for size in FrameSize::ALL {
            for &length in size.pattern() {
                assert!(message_len(length) > 0, "{}", size.name());
            }
        }
    }
}
