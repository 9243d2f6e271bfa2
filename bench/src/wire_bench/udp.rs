//! The kernel's UDP in clear, as a program that wants speed uses it: sendmmsg
//! and recvmmsg, one core each side. Imports `link`, `measure`, `message`,
//! `counts`, `sys`.
//!
//! With `UDP_SEGMENT` and `UDP_GRO` one system call moves a train of
//! datagrams, and veth never cuts the train into frames: a figure of that
//! series says how fast memory is handed over, and compares with nothing that
//! makes frames.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::accounting::Book;
use super::link::{LEFT_ADDRESS, Link, RIGHT_ADDRESS, pin_napi};
use super::measure::{Flow, Plan, ReadBook, Received, Sent, Sink, Source, measure};
use super::message;
use super::options::{FrameSize, Profile};
use crate::counts::{DeviceDrops, device_drops};
use crate::error::{Error, Result};
use crate::results::{Sample, Series};
use crate::rounds::Contender;
use crate::sys::mmsg::{self, BATCH, Inbox};

mod paced;

/// Ethernet, IPv4 and UDP headers.
const HEADERS_LEN: usize = 14 + 20 + 8;
/// The receiving socket's buffer, in bytes: not the bottleneck.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Most bytes of a train: what IPv4's length field leaves.
const TRAIN_MAX: usize = 65_535 - 20 - 8;
/// Most datagrams of a train.
const SEGMENTS_MAX: usize = 64;

/// See the module.
pub(super) struct Udp<'a> {
    link: &'a Link,
    series: Series,
    size: FrameSize,
    /// Datagrams in a train; 1 without UDP_SEGMENT.
    segments: usize,
    plan: Plan,
}

impl<'a> Udp<'a> {
    /// Takes part under the name and labels of `series`; in trains if
    /// `segmented`, for which all frames have to be of one size.
    pub(super) fn new(
        link: &'a Link,
        series: Series,
        size: FrameSize,
        segmented: bool,
        plan: Plan,
    ) -> Self {
        let payload = size.longest() - HEADERS_LEN;
        let segments = if segmented {
            (TRAIN_MAX / payload).min(SEGMENTS_MAX)
        } else {
            1
        };
        Self {
            link,
            series,
            size,
            segments,
            plan,
        }
    }

    fn sockets(&self) -> Result<(UdpSocket, UdpSocket)> {
        let what = |step: &str| format!("{step} a UDP socket");
        let to = self
            .link
            .right
            .run(|| UdpSocket::bind((RIGHT_ADDRESS, 0)).map_err(Error::io(what("bind"))))?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&to, RECEIVE_BUFFER)
            .map_err(Error::errno(what("size")))?;
        let from = self
            .link
            .left
            .run(|| UdpSocket::bind((LEFT_ADDRESS, 0)).map_err(Error::io(what("bind"))))?;
        let address = to.local_addr().map_err(Error::io(what("look at")))?;
        from.connect(address).map_err(Error::io(what("connect")))?;
        if self.segments > 1 {
            let bytes = u16::try_from(self.size.longest() - HEADERS_LEN).unwrap_or(u16::MAX);
            mmsg::segment_at(&from, bytes).map_err(Error::io(what("set UDP_SEGMENT of")))?;
            mmsg::coalesce(&to).map_err(Error::io(what("set UDP_GRO of")))?;
        }
        Ok((from, to))
    }

    fn baseline(&self) -> Result<Counts> {
        let device = &self.link.udp;
        Ok(Counts {
            receiver: udp_counters(&self.link.right)?,
            left: device_drops(&self.link.left, device)?,
            right: device_drops(&self.link.right, device)?,
        })
    }

    fn book(&self, before: &Counts, sent: &Sent, received: &Received) -> Result<Book> {
        let now = self.baseline()?;
        let mut book = Book {
            submitted: sent.submitted.value(),
            delivered: received.frames.value(),
            ..Book::default()
        };
        // A train is lost as a whole and counted once.
        let train = self.segments as u64;
        let grown = |of: fn(&Counts) -> u64| of(&now).saturating_sub(of(before)) * train;
        book.lose("socket buffer full", grown(|c| c.receiver("RcvbufErrors")));
        let all = grown(|c| c.receiver("InErrors"));
        book.lose_beyond("udp in errors", all, &["socket buffer full"]);
        book.lose("udp no port", grown(|c| c.receiver("NoPorts")));
        book.lose("qdisc", grown(|c| c.left.qdisc));
        // What the receiver's backlog refuses, both devices count.
        book.lose("veth rx dropped", grown(|c| c.right.rx));
        let refused = grown(|c| c.left.tx);
        book.lose_beyond("veth tx dropped", refused, &["veth rx dropped"]);
        Ok(book)
    }
}

/// Everything that counts datagrams on the way.
struct Counts {
    receiver: BTreeMap<String, u64>,
    left: DeviceDrops,
    right: DeviceDrops,
}

impl Counts {
    fn receiver(&self, name: &str) -> u64 {
        self.receiver.get(name).copied().unwrap_or(0)
    }
}

/// The UDP counters of a namespace.
fn udp_counters(namespace: &crate::netns::Namespace) -> Result<BTreeMap<String, u64>> {
    // Not /proc/net, which is that of the process' first thread.
    let path = "/proc/thread-self/net/snmp";
    let text =
        namespace.run(|| fs::read_to_string(path).map_err(Error::io(format!("read {path}"))))?;
    parse_udp(&text).ok_or_else(|| Error::Unreadable {
        what: path.into(),
        detail: "no UDP counters in it".into(),
    })
}

/// The two lines that start with `Udp:`: names, then values.
fn parse_udp(snmp: &str) -> Option<BTreeMap<String, u64>> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let names = lines.next()?.split_whitespace().map(str::to_owned);
    let values = lines.next()?.split_whitespace();
    let values: Option<Vec<u64>> = values.map(|value| value.parse().ok()).collect();
    Some(names.zip(values?).collect())
}

impl Udp<'_> {
    /// Both halves on fresh sockets, and the book of what they do, for `run`.
    fn with_flow<T>(
        &mut self,
        run: impl FnOnce(Flow<'_, Sender<'_>, Receiver<'_>>, ReadBook<'_>) -> Result<T>,
    ) -> Result<T> {
        let (from, to) = self.sockets()?;
        let (sent, received) = (Sent::default(), Received::default());
        let napi = match self.link.profile {
            Profile::Inline => Vec::new(),
            Profile::Threaded => pin_napi(&self.link.udp, self.plan.receive_core)?,
        };
        let before = self.baseline()?;
        let payload_of = |frame: &usize| (frame - HEADERS_LEN) * self.segments;
        let stride = payload_of(&self.size.longest());
        let cycle = self.size.pattern().iter().cycle();
        let flow = Flow {
            source: Sender {
                socket: from,
                // One period more, so that every start in it is followed by a
                // whole batch.
                lengths: cycle
                    .take(BATCH + self.size.pattern().len())
                    .map(payload_of)
                    .collect(),
                period: self.size.pattern().len(),
                next: 0,
                payload: message::buffer(stride * if self.segments > 1 { 1 } else { BATCH }),
                stride,
                datagrams: self.segments as u64,
                sent: &sent,
            },
            sink: Receiver {
                socket: to,
                inbox: Inbox::new(if self.segments > 1 {
                    TRAIN_MAX
                } else {
                    self.size.longest()
                }),
                datagram: self.size.longest() - HEADERS_LEN,
                trains: self.segments > 1,
                received: &received,
            },
            napi: &napi,
            received: &received,
        };
        run(flow, &|| self.book(&before, &sent, &received))
    }
}

impl Contender for Udp<'_> {
    fn series(&self) -> Series {
        self.series.clone()
    }

    fn sample(&mut self, duration: Duration) -> Result<Sample> {
        let plan = Plan {
            window: duration,
            ..self.plan
        };
        self.with_flow(|flow, read_book| measure(flow, &plan, read_book))
    }
}

struct Sender<'a> {
    socket: UdpSocket,
    /// Bytes of the messages of a batch, from any place in the pattern.
    lengths: Vec<usize>,
    period: usize,
    next: usize,
    /// Room for each datagram of a batch, or for one train.
    payload: Box<[u8]>,
    /// Bytes of that room for one of them.
    stride: usize,
    datagrams: u64,
    sent: &'a Sent,
}

impl Source for Sender<'_> {
    fn pass(&mut self) -> Result<bool> {
        let batch = &self.lengths[self.next..][..BATCH];
        let taken = mmsg::send(&self.socket, &self.payload, 0, batch).map_err(Error::io("send"))?;
        self.next = (self.next + taken) % self.period;
        self.sent.submitted.add(taken as u64 * self.datagrams);
        Ok(taken > 0)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

struct Receiver<'a> {
    socket: UdpSocket,
    inbox: Inbox,
    /// Bytes of a datagram, where they are all the same.
    datagram: usize,
    trains: bool,
    received: &'a Received,
}

impl Sink for Receiver<'_> {
    fn pass(&mut self) -> Result<usize> {
        let (mut frames, mut bytes) = (0, 0);
        let (trains, datagram) = (self.trains, self.datagram);
        let count = self.inbox.receive(&self.socket, |buffer| {
            message::read(buffer);
            let length = buffer.len();
            let datagrams = if trains { length / datagram } else { 1 };
            frames += datagrams;
            bytes += length + datagrams * HEADERS_LEN;
        });
        let count = count.map_err(Error::io("receive"))?;
        self.received.bytes.add(bytes as u64);
        self.received.frames.add(frames as u64);
        Ok(count)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_counters_are_told_from_udplite() {
        let snmp = "Tcp: a\nTcp: 1\nUdp: InDatagrams NoPorts InErrors\nUdp: 5 6 7\n\
                    UdpLite: InDatagrams\nUdpLite: 9\n";
        let counters = parse_udp(snmp).unwrap();
        assert_eq!((counters["InDatagrams"], counters["InErrors"]), (5, 7));
        assert_eq!(counters.len(), 3);
        assert_eq!(parse_udp("Udp: a\n"), None);
        assert_eq!(parse_udp("Udp: a\nUdp: x\n"), None);
    }
}
