//! The product at both ends of the wire: XDP program, AF_XDP bearer, lanes and
//! pipelines, with a message of the wanted length in each frame. All that this
//! benchmark asks of the data plane is here. Imports `link`, `measure`,
//! `accounting`, `counts`.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tipsec_dataplane::aead::Aead;
use tipsec_dataplane::attach::{Attachment, Interface, MTU_MAX, Mode};
use tipsec_dataplane::bearer::xdp::{XdpBearer, XdpConfig, XdpFrame, XdpStatistics};
use tipsec_dataplane::bearer::{Bearer, FrameMemory};
use tipsec_dataplane::burst::{BURST, Burst};
use tipsec_dataplane::command::{Budget, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::counters::{RxDrop, TxDrop, WorkerCounters};
use tipsec_dataplane::frame::{DataHeader, PAYLOAD_OFFSET};
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OUTER_LEN_MAX, OuterHeader};
use tipsec_dataplane::payload::Payload;
use tipsec_dataplane::rx::{Opened, open_burst};
use tipsec_dataplane::sa::{RxLane, TxLane};
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::table::{RxTable, TxTable};
use tipsec_dataplane::tx::{Plain, Sealed, seal_burst};
use tipsec_dataplane::window::Window;
use tipsec_xdp::wire::{ETH_HEADER_LEN, HEADER_LEN, TAG_LEN};

use super::accounting::Book;
use super::link::{Link, pin_napi};
use super::measure::{Flow, Plan, ReadBook, Received, Sent, Sink, Source, measure_all};
use super::options::{FrameSize, Profile};
use crate::counts::{DeviceDrops, device_drops};
use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::results::{Sample, Series};
use crate::rounds::Contender;
use crate::seed::Random;

mod paced;

/// EtherType unless configured.
const ETHERTYPE: u16 = 0x88b5;
/// The lane of frames that no pipeline made.
const SPI: Spi = match Spi::new(1) {
    Some(spi) => spi,
    None => unreachable!(),
};

/// Bytes before a frame's plaintext on the wire.
pub(super) const HEADERS_LEN: usize = ETH_HEADER_LEN + HEADER_LEN;
/// Bytes of a frame that are not plaintext.
pub(super) const OVERHEAD: usize = HEADERS_LEN + TAG_LEN;
/// MTU of the pair: the largest that the product takes.
pub(super) const MTU: u32 = MTU_MAX;
/// The longest frame, in bytes on the wire.
pub(super) const FRAME_MAX: usize = MTU_MAX as usize + ETH_HEADER_LEN;

/// For `map_err` on an error of the product, with all its causes.
pub(super) fn failed<E: StdError>(what: &str) -> impl FnOnce(E) -> Error {
    let what = what.to_owned();
    move |error| {
        let mut detail = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            detail.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Error::Failed { what, detail }
    }
}

fn attach(device: &str, node: u32) -> Result<Attachment> {
    let interface = Interface::check(device).map_err(failed("use the veth pair"))?;
    let node = NodeId::new(node).ok_or(Error::NotRoot)?;
    let encapsulation = Encapsulation::ethernet(interface.mac, ETHERTYPE, None);
    Attachment::attach(&interface, node, encapsulation, Mode::NativeCopy)
        .map_err(failed("attach the XDP program"))
}

/// The XDP programs at both ends of a link; they stay while bearers come and
/// go, one pair a sample.
pub(super) struct Ends<'a> {
    pub(super) link: &'a Link,
    left: RefCell<Attachment>,
    right: RefCell<Attachment>,
    /// NAPI threads of the receiving device.
    pub(super) napi: Vec<i32>,
}

/// Counts that live longer than a sample, at its start.
pub(super) struct Baseline {
    xdp: Vec<(&'static str, u64)>,
    left: DeviceDrops,
    right: DeviceDrops,
}

/// What the program does not count as a drop.
const ACCEPTED: [&str; 4] = ["not_ours", "data", "control", "unknown_master"];

impl<'a> Ends<'a> {
    /// Attaches the programs, lets one SA's frames through, and puts the
    /// receiver's NAPI where the profile wants it.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Command`].
    pub(super) fn attach(link: &'a Link, receive_core: usize) -> Result<Self> {
        Self::attach_for(link, receive_core, 1)
    }

    /// The same for the frames of `sas` SAs.
    ///
    /// # Errors
    /// As [`Self::attach`], and if the program's map has not that many places.
    pub(super) fn attach_for(link: &'a Link, receive_core: usize, sas: u32) -> Result<Self> {
        let left = link.left.run(|| attach(&link.xdp, 1))?;
        let mut right = link.right.run(|| attach(&link.xdp, 2))?;
        for sa in 0..sas {
            let spi = spi_of(sa)?;
            right.add_spi(spi).map_err(failed("let a lane through"))?;
        }
        let napi = match link.profile {
            Profile::Inline => Vec::new(),
            Profile::Threaded => {
                link.thread_napi(&link.xdp)?;
                pin_napi(&link.xdp, receive_core)?
            }
        };
        Ok(Self {
            link,
            napi,
            left: RefCell::new(left),
            right: RefCell::new(right),
        })
    }

    pub(super) fn bearers(&self, queue: u32, depth: usize) -> Result<(XdpBearer, XdpBearer)> {
        let config = XdpConfig {
            in_flight_max: depth,
            ..XdpConfig::default()
        };
        let open = |namespace: &Namespace, end: &RefCell<Attachment>| {
            let mut end = end.borrow_mut();
            let attachment: &mut Attachment = &mut end;
            namespace.run(|| {
                XdpBearer::open(attachment, queue, &config).map_err(failed("open an AF_XDP bearer"))
            })
        };
        Ok((
            open(&self.link.left, &self.left)?,
            open(&self.link.right, &self.right)?,
        ))
    }

    /// Data of the right end goes to this socket.
    pub(super) fn register(&self, socket: &impl std::os::fd::AsFd) -> Result<()> {
        self.right
            .borrow_mut()
            .register_socket(0, socket)
            .map_err(failed("enter the socket in the program's map"))
    }

    /// The headers of a frame as they travel, for a sender without pipeline;
    /// length and packet number are for it to fill in.
    pub(super) fn headers(&self) -> [u8; HEADERS_LEN] {
        let mut headers = [0; HEADERS_LEN];
        let (outer, own) = headers.split_at_mut(ETH_HEADER_LEN);
        let mut place = [0; OUTER_LEN_MAX];
        self.path().write(&mut place, 0);
        outer.copy_from_slice(&place[OUTER_LEN_MAX - ETH_HEADER_LEN..]);
        let header = DataHeader {
            spi: SPI,
            packet_number: 0,
            length: 0,
        };
        own.copy_from_slice(&header.encode());
        headers
    }

    /// The way from left to right.
    pub(super) fn path(&self) -> OuterHeader {
        let mac = |end: &RefCell<Attachment>| -> MacAddr { end.borrow().interface().mac };
        OuterHeader::ethernet(mac(&self.left), mac(&self.right), ETHERTYPE, None)
    }

    /// What frames to the right end look like.
    pub(super) fn encapsulation(&self) -> Encapsulation {
        Encapsulation::ethernet(self.right.borrow().interface().mac, ETHERTYPE, None)
    }

    fn drops(&self) -> Result<(DeviceDrops, DeviceDrops)> {
        let link = self.link;
        Ok((
            device_drops(&link.left, &link.xdp)?,
            device_drops(&link.right, &link.xdp)?,
        ))
    }

    fn counters(&self) -> Result<Vec<(&'static str, u64)>> {
        let counters = self.right.borrow().counters();
        counters.map_err(failed("read the XDP program's counters"))
    }

    /// Reads what is to be subtracted later.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Command`].
    pub(super) fn baseline(&self) -> Result<Baseline> {
        let (left, right) = self.drops()?;
        Ok(Baseline {
            xdp: self.counters()?,
            left,
            right,
        })
    }

    /// The book of frames that went from socket to socket, or from several to
    /// several: everything that can become of them between the two.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Command`], [`Error::Io`].
    pub(super) fn book(
        &self,
        baseline: &Baseline,
        sent: &[Sent],
        received: &[Received],
        statistics: &[OwnedFd],
    ) -> Result<Book> {
        let mut book = Book {
            submitted: sent.iter().map(|s| s.submitted.value()).sum(),
            delivered: received.iter().map(|r| r.frames.value()).sum(),
            ..Book::default()
        };
        book.lose("tx link lost", sent.iter().map(|s| s.lost.value()).sum());
        for ((name, now), (_, before)) in self.counters()?.iter().zip(&baseline.xdp) {
            if !ACCEPTED.contains(name) {
                book.lose(format!("xdp {name}"), now.saturating_sub(*before));
            }
        }
        for socket in statistics {
            let socket = XdpStatistics::read(socket)
                .map_err(Error::io("read the statistics of an AF_XDP socket"))?;
            book.lose("xsk rx dropped", socket.rx_dropped);
            book.lose("xsk rx ring full", socket.rx_ring_full);
        }
        let (left, right) = self.drops()?;
        let tx = left.tx.saturating_sub(baseline.left.tx);
        book.lose_beyond("veth tx dropped", tx, &["tx link lost"]);
        book.lose("qdisc", left.qdisc.saturating_sub(baseline.left.qdisc));
        // The device counts what the socket refused as its own drop as well.
        let rx = right.rx.saturating_sub(baseline.right.rx);
        book.lose_beyond(
            "veth rx dropped",
            rx,
            &["xsk rx dropped", "xsk rx ring full"],
        );
        Ok(book)
    }
}

/// SPI of the SA with this number, from 0 on.
fn spi_of(sa: u32) -> Result<Spi> {
    Spi::from_parts(sa + SPI.value(), 0).ok_or_else(|| Error::Failed {
        what: "number an SA".into(),
        detail: format!("{sa} is beyond an SPI"),
    })
}

/// The product with cipher `A`.
pub(super) struct Tipsec<'a, A> {
    ends: &'a Ends<'a>,
    series: Series,
    suite: Suite,
    size: FrameSize,
    plan: Plan,
    /// A queue each, from 0 on: the cores of its sender and its receiver.
    cores: Vec<(usize, usize)>,
    /// SAs of each queue, each of a peer of its own; a frame is for any.
    sas: u16,
    /// Which frame is for which SA.
    seed: u64,
    /// Samples taken: each gets keys of its own.
    samples: u64,
    cipher: PhantomData<A>,
}

impl<'a, A: Aead> Tipsec<'a, A> {
    /// Takes part under the name and labels of `series`, with one SA on one
    /// queue.
    pub(super) fn new(
        ends: &'a Ends<'a>,
        series: Series,
        suite: Suite,
        size: FrameSize,
        plan: Plan,
    ) -> Self {
        Self {
            ends,
            series,
            suite,
            size,
            plan,
            cores: vec![(plan.send_core, plan.receive_core)],
            sas: 1,
            seed: 0,
            samples: 0,
            cipher: PhantomData,
        }
    }

    /// The same with as many SAs, drawn from frame by frame.
    #[must_use]
    pub(super) fn with_sas(self, sas: u16, seed: u64) -> Self {
        Self { sas, seed, ..self }
    }

    /// The same on several queues: for each the cores of its sender and its
    /// receiver.
    #[must_use]
    pub(super) fn with_queues(self, cores: Vec<(usize, usize)>) -> Self {
        Self { cores, ..self }
    }

    /// The lanes of one queue at both ends. Their keys protect nothing; they
    /// are only never the same.
    fn tables(&self, queue: u32) -> Result<(TxTable<A>, RxTable<A>)> {
        let sas = u32::from(self.sas);
        let last = spi_of((queue + 1) * sas)?;
        let (mut tx, mut rx) = (TxTable::new(self.sas.into()), RxTable::new(last.index()));
        for number in 0..self.sas {
            let spi = spi_of(queue * sas + u32::from(number))?;
            let (epoch, lane, peer) = (Epoch(1), LaneIndex(0), PeerIndex(number));
            let node = NodeId::new(u32::from(number) + 1).ok_or(Error::NotRoot)?;
            let mut key = [0x5a; 32];
            key[..8].copy_from_slice(&self.samples.to_be_bytes());
            key[8..12].copy_from_slice(&spi.value().to_be_bytes());
            let mut iv = [0xa5; 12];
            iv[..8].copy_from_slice(&self.samples.to_be_bytes());
            let secret = LaneSecret::new(self.suite, key, iv);
            rx.insert(RxLane::new(RxLaneSpec {
                spi,
                peer,
                node,
                epoch,
                lane,
                secret: secret.duplicate(),
                window: Arc::new(Window::new()),
                failed_opens_limit: u64::MAX,
            }))
            .map_err(failed("install a lane"))?;
            tx.set_path(peer, Some(self.ends.path()));
            tx.install(TxLane::new(TxLaneSpec {
                spi,
                peer,
                node,
                epoch,
                lane,
                secret,
                budget: Budget {
                    soft: u64::MAX,
                    hard: u64::MAX,
                },
            }))
            .map_err(failed("install a lane"))?;
        }
        Ok((tx, rx))
    }

    /// One queue's sender and receiver.
    fn flow<'b>(
        &'b self,
        queue: Queue<A>,
        counts: &'b Counts,
        sent: &'b Sent,
        received: &'b Received,
    ) -> Flow<'b, Sealer<'b, A>, Opener<'b, A>> {
        let (tx, rx) = queue.tables;
        let (left, right) = queue.bearers;
        Flow {
            source: Sealer {
                bearer: left,
                table: tx,
                counters: &counts.tx,
                sent,
                lengths: self.size.pattern().iter().cycle(),
                peers: self.sas,
                random: Random::new(self.seed),
                plain: Burst::new(),
                sealed: Burst::new(),
            },
            sink: Opener {
                bearer: right,
                table: rx,
                encapsulation: self.ends.encapsulation(),
                counters: &counts.rx,
                delivered: received,
                received: Burst::new(),
                opened: Burst::new(),
            },
            napi: &self.ends.napi,
            received,
        }
    }

    /// Enters what the pipelines lost.
    fn enter_drops(&self, counts: &[Counts], book: &mut Book) {
        let peers = || (0..self.sas).map(PeerIndex);
        for Counts { tx, rx } in counts {
            for &reason in TxDrop::ALL {
                let lost = peers().map(|peer| tx.peer(peer).tx_drops(reason));
                book.lose(reason.name(), lost.sum());
            }
            for &reason in RxDrop::ALL {
                let lost = peers().map(|peer| rx.peer(peer).rx_drops(reason));
                book.lose(
                    reason.name(),
                    lost.sum::<u64>() + rx.nobody.rx_drops(reason),
                );
            }
        }
    }
}

/// What the pipelines of one queue count.
struct Counts {
    tx: WorkerCounters,
    rx: WorkerCounters,
}

/// Everything of one queue that is made before frames flow.
struct Queue<A: Aead> {
    tables: (TxTable<A>, RxTable<A>),
    bearers: (XdpBearer, XdpBearer),
    cores: (usize, usize),
}

/// A flow a queue, with the cores of its sender and its receiver.
type Flows<'a, A> = Vec<(Flow<'a, Sealer<'a, A>, Opener<'a, A>>, (usize, usize))>;

impl<A: Aead> Tipsec<'_, A> {
    /// Both halves of each queue on fresh sockets, lanes and keys, and the book
    /// of what they do, for `run`.
    fn with_flows<T>(
        &mut self,
        run: impl FnOnce(Flows<'_, A>, ReadBook<'_>) -> Result<T>,
    ) -> Result<T> {
        self.samples += 1;
        let ends = self.ends;
        let (mut queues, mut statistics) = (Vec::new(), Vec::new());
        let (mut counts, mut sent, mut received) = (Vec::new(), Vec::new(), Vec::new());
        for (number, &cores) in (0..).zip(&self.cores) {
            let bearers = ends.bearers(number, self.plan.depth)?;
            let fd = bearers.1.statistics_fd();
            statistics.push(fd.map_err(Error::io("copy a socket's descriptor"))?);
            queues.push(Queue {
                tables: self.tables(number)?,
                bearers,
                cores,
            });
            let peers = usize::from(self.sas);
            let (tx, rx) = (WorkerCounters::new(peers), WorkerCounters::new(peers));
            counts.push(Counts { tx, rx });
            sent.push(Sent::default());
            received.push(Received::default());
        }
        let baseline = ends.baseline()?;
        let ledgers = counts.iter().zip(&sent).zip(&received);
        let mut flows = Vec::new();
        for (queue, ((counts, sent), received)) in queues.into_iter().zip(ledgers) {
            let cores = queue.cores;
            flows.push((self.flow(queue, counts, sent, received), cores));
        }
        run(flows, &|| {
            let mut book = ends.book(&baseline, &sent, &received, &statistics)?;
            self.enter_drops(&counts, &mut book);
            Ok(book)
        })
    }
}

impl<A: Aead> Contender for Tipsec<'_, A> {
    fn series(&self) -> Series {
        self.series.clone()
    }

    fn sample(&mut self, duration: Duration) -> Result<Sample> {
        self.with_flows(|flows, read_book| measure_all(flows, duration, read_book))
    }
}

/// The sending worker's path, with frames made on the spot.
struct Sealer<'a, A: Aead> {
    bearer: XdpBearer,
    table: TxTable<A>,
    counters: &'a WorkerCounters,
    sent: &'a Sent,
    lengths: std::iter::Cycle<std::slice::Iter<'static, usize>>,
    /// A frame is for any of so many.
    peers: u16,
    random: Random,
    plain: Burst<Plain<XdpFrame>>,
    sealed: Burst<Sealed<XdpFrame>>,
}

impl<A: Aead> Sealer<'_, A> {
    fn transmit(&mut self) -> Result<usize> {
        let transmitted = self
            .bearer
            .transmit(&mut self.sealed)
            .map_err(failed("send"))?;
        self.sent.lost.add(transmitted.lost as u64);
        Ok(transmitted.accepted)
    }
}

impl<A: Aead> Sealer<'_, A> {
    /// Seals and sends at most `most` frames; `write` gets the memory of each
    /// message, payload byte first. Says how many frames were begun and how
    /// many the socket took, which may be some of earlier ones.
    fn send(&mut self, most: usize, mut write: impl FnMut(&mut [u8])) -> Result<(usize, usize)> {
        let room = self.bearer.transmit_room().min(most);
        for _ in 0..room.min(self.plain.remaining_capacity()) {
            let Some(mut frame) = self.bearer.allocate() else {
                break;
            };
            // What the message says does not matter: the chunk's former
            // contents go, as a program's would.
            let room = self.bearer.room_mut(&mut frame);
            if let Some(message) = room.get_mut(PAYLOAD_OFFSET..) {
                if let Some(first) = message.first_mut() {
                    *first = Payload::Message.encode();
                }
                write(message);
            }
            let length = self.lengths.next().map_or(0, |length| length - OVERHEAD);
            let peer = match self.peers {
                1 => 0,
                peers => u16::try_from(self.random.below(peers.into())).unwrap_or(0),
            };
            let plain = Plain::data(frame, PeerIndex(peer), length);
            self.plain.push(plain);
        }
        let begun = self.plain.len();
        self.sent.submitted.add(begun as u64);
        seal_burst(
            &mut self.table,
            &mut self.bearer,
            &mut self.plain,
            &mut self.sealed,
            self.counters,
            |_| (),
        );
        Ok((begun, self.transmit()?))
    }
}

impl<A: Aead> Source for Sealer<'_, A> {
    fn pass(&mut self) -> Result<bool> {
        let (_, accepted) = self.send(BURST, |_| ())?;
        Ok(accepted > 0)
    }

    fn flush(&mut self) -> Result<()> {
        self.transmit().map(drop)
    }
}

/// The receiving worker's path up to the opened frame.
struct Opener<'a, A: Aead> {
    bearer: XdpBearer,
    table: RxTable<A>,
    encapsulation: Encapsulation,
    counters: &'a WorkerCounters,
    delivered: &'a Received,
    received: Burst<XdpFrame>,
    opened: Burst<Opened<XdpFrame>>,
}

impl<A: Aead> Opener<'_, A> {
    /// Takes up to a burst and opens it; `look` gets each frame that opened.
    /// Says how many frames there were, of any fate.
    fn take(
        &mut self,
        mut look: impl FnMut(&mut XdpBearer, &mut Opened<XdpFrame>),
    ) -> Result<usize> {
        self.bearer
            .receive(&mut self.received)
            .map_err(failed("receive"))?;
        let count = self.received.len();
        if count == 0 {
            return Ok(0);
        }
        open_burst(
            &mut self.table,
            &self.encapsulation,
            &mut self.bearer,
            &mut self.received,
            &mut self.opened,
            self.counters,
            |_| (),
        );
        let frames = self.opened.len() as u64;
        let mut bytes = 0;
        for mut opened in self.opened.drain(..) {
            look(&mut self.bearer, &mut opened);
            bytes += opened.plaintext_range().len() + OVERHEAD;
            self.bearer.release(opened.into_frame());
        }
        self.delivered.bytes.add(bytes as u64);
        self.delivered.frames.add(frames);
        Ok(count)
    }
}

impl<A: Aead> Sink for Opener<'_, A> {
    fn pass(&mut self) -> Result<usize> {
        self.take(|_, _| ())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.bearer.poll_fd()
    }
}
