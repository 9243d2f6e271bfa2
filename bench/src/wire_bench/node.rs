//! The product at both ends of the wire: XDP program, AF_XDP bearer, lanes and
//! pipelines, with a message of the wanted length in each frame. What this
//! benchmark asks of the data plane is here and in `ends`. Imports `accounting`,
//! `ends`, `measure`.

use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tipsec_dataplane::aead::Aead;
use tipsec_dataplane::bearer::xdp::{XdpBearer, XdpFrame};
use tipsec_dataplane::bearer::{Bearer, FrameMemory};
use tipsec_dataplane::burst::{BURST, Burst};
use tipsec_dataplane::command::{Budget, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::counters::{RxDrop, TxDrop, WorkerCounters};
use tipsec_dataplane::frame::PAYLOAD_OFFSET;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex};
use tipsec_dataplane::outer::Encapsulation;
use tipsec_dataplane::payload::Payload;
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::rx::{Opened, open_burst};
use tipsec_dataplane::sa::{RxLane, RxShared, TxLane};
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::table::{RxTable, TxTable};
use tipsec_dataplane::tx::{Plain, Sealed, seal_burst};

use super::accounting::Book;
use super::ends::{Ends, OVERHEAD, failed, spi_of};
use super::measure::{Flow, Plan, ReadBook, Received, Sent, Sink, Source, measure_all};
use super::options::FrameSize;
use crate::error::{Error, Result};
use crate::results::{Sample, Series};
use crate::rounds::Contender;
use crate::seed::Random;

mod paced;

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
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
                shared: RxShared::of_single_lane(u64::MAX),
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
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
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
