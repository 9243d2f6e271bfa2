//! The bare forwarder: the same rings, sizes, depth and wake-ups as the
//! product's bearer, headers written in place, and nothing else. What it
//! reaches is what AF_XDP leaves for a pipeline. Imports `ends`, `measure`,
//! `sys`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::slice::from_ref;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::ends::{Ends, HEADERS_LEN};
use super::measure::{Flow, Plan, ReadBook, Received, Sent, Sink, Source, measure};
use super::options::FrameSize;
use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::results::{Sample, Series};
use crate::rounds::Contender;
use crate::sys::xsk::{BURST, BareSocket, Sizes};

mod paced;

/// A closed socket frees its queue some milliseconds later.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
/// Kernel calls in one pass: as many as the product's bearer makes.
const KICKS_MAX: usize = 8;
/// Where the Tipsec header's length and packet number lie in a frame.
const LENGTH_AT: usize = HEADERS_LEN - 14;
const NUMBER_AT: usize = HEADERS_LEN - 8;

/// See the module.
pub(super) struct Bare<'a> {
    ends: &'a Ends<'a>,
    series: Series,
    size: FrameSize,
    sizes: Sizes,
    plan: Plan,
}

impl<'a> Bare<'a> {
    /// Takes part under the name and labels of `series`.
    pub(super) fn new(ends: &'a Ends<'a>, series: Series, size: FrameSize, plan: Plan) -> Self {
        Self {
            ends,
            series,
            size,
            // The product's own, see its architecture page.
            sizes: Sizes {
                chunks: 4096,
                rx_ring: 2048,
                tx_ring: 1024,
                in_flight_max: plan.depth,
            },
            plan,
        }
    }

    fn open(&self, namespace: &Namespace) -> Result<BareSocket> {
        let device = self.ends.link.xdp.as_str();
        let sizes = self.sizes;
        let deadline = Instant::now() + BUSY_PATIENCE;
        namespace.run(move || {
            loop {
                match BareSocket::open(device, sizes) {
                    Err(error)
                        if error.kind() == io::ErrorKind::ResourceBusy
                            && Instant::now() < deadline =>
                    {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    result => {
                        return result.map_err(Error::io("open a bare AF_XDP socket"));
                    }
                }
            }
        })
    }
}

impl Bare<'_> {
    /// Both halves on fresh sockets, and the book of what they do, for `run`.
    fn with_flow<T>(
        &mut self,
        run: impl FnOnce(Flow<'_, Writer<'_>, Reader<'_>>, ReadBook<'_>) -> Result<T>,
    ) -> Result<T> {
        let ends = self.ends;
        let left = self.open(&ends.link.left)?;
        let right = self.open(&ends.link.right)?;
        ends.register(&right)?;
        let statistics = right
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::io("copy a socket's descriptor"))?;
        let (sent, received) = (Sent::default(), Received::default());
        let baseline = ends.baseline()?;
        let flow = Flow {
            source: Writer {
                socket: left,
                headers: ends.headers(),
                next_number: 0,
                lengths: self.size.pattern().iter().cycle(),
                sent: &sent,
            },
            sink: Reader {
                socket: right,
                received: &received,
            },
            napi: &ends.napi,
            received: &received,
        };
        run(flow, &|| {
            ends.book(
                &baseline,
                from_ref(&sent),
                from_ref(&received),
                from_ref(&statistics),
            )
        })
    }
}

impl Contender for Bare<'_> {
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

struct Writer<'a> {
    socket: BareSocket,
    headers: [u8; HEADERS_LEN],
    next_number: u64,
    lengths: std::iter::Cycle<std::slice::Iter<'static, usize>>,
    sent: &'a Sent,
}

impl Writer<'_> {
    /// Tells the kernel of frames that wait, until it takes no more now.
    fn kick(&mut self) -> Result<()> {
        if !self.socket.needs_wakeup() {
            return Ok(());
        }
        let mut waiting = self.socket.unsent();
        for _ in 0..KICKS_MAX {
            if waiting == 0 {
                break;
            }
            let result = send(&self.socket, &[], SendFlags::DONTWAIT);
            let before = std::mem::replace(&mut waiting, self.socket.unsent());
            match result {
                Ok(_) | Err(Errno::INTR) => {}
                // Its budget for a call, the completion ring or the buffer is
                // used up; what it has not taken stays in the ring.
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => self.socket.reap(),
                // One frame was taken and dropped.
                Err(Errno::BUSY) => {
                    self.sent.lost.add(1);
                    break;
                }
                Err(errno) => return Err(Error::errno("send from a bare AF_XDP socket")(errno)),
            }
            if waiting == before {
                break;
            }
        }
        self.socket.reap();
        Ok(())
    }
}

impl Writer<'_> {
    /// Sends at most `most` frames; `write` gets what follows the headers of
    /// each. Says how many went into the ring.
    fn send(&mut self, most: usize, mut write: impl FnMut(&mut [u8])) -> Result<usize> {
        let room = self.socket.send_room().min(most);
        let (headers, number) = (&mut self.headers, &mut self.next_number);
        let lengths = &mut self.lengths;
        let length = || lengths.next().copied().unwrap_or(HEADERS_LEN);
        let count = self.socket.send(room, length, |frame| {
            let behind = u16::try_from(frame.len() - HEADERS_LEN).unwrap_or(u16::MAX);
            headers[LENGTH_AT..][..2].copy_from_slice(&behind.to_be_bytes());
            headers[NUMBER_AT..].copy_from_slice(&number.to_be_bytes());
            *number += 1;
            let (own, message) = frame.split_at_mut(HEADERS_LEN);
            own.copy_from_slice(headers);
            write(message);
        });
        self.sent.submitted.add(count as u64);
        self.kick()?;
        Ok(count)
    }
}

impl Source for Writer<'_> {
    fn pass(&mut self) -> Result<bool> {
        Ok(self.send(BURST, |_| ())? > 0)
    }

    fn flush(&mut self) -> Result<()> {
        self.kick()
    }
}

struct Reader<'a> {
    socket: BareSocket,
    received: &'a Received,
}

impl Sink for Reader<'_> {
    fn pass(&mut self) -> Result<usize> {
        let (frames, bytes) = self.socket.receive();
        if frames > 0 {
            self.received.bytes.add(bytes as u64);
            self.received.frames.add(frames as u64);
        }
        Ok(frames)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}
