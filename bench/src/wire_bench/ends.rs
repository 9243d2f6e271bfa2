//! The XDP programs at both ends of the wire, and the book of the frames between
//! them: what the product and the bare forwarder share. Imports `link`,
//! `measure`, `accounting`, `counts`.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::os::fd::OwnedFd;

use tipsec_dataplane::attach::{Attachment, Interface, MTU_MAX, Mode};
use tipsec_dataplane::bearer::xdp::{XdpBearer, XdpConfig, XdpStatistics};
use tipsec_dataplane::frame::DataHeader;
use tipsec_dataplane::ids::{NodeId, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OUTER_LEN_MAX, OuterHeader};
use tipsec_xdp::wire::{ETH_HEADER_LEN, HEADER_LEN, TAG_LEN};

use super::accounting::Book;
use super::link::{Link, pin_napi};
use super::measure::{Received, Sent};
use super::options::Profile;
use crate::counts::{DeviceDrops, device_drops};
use crate::error::{Error, Result};
use crate::netns::Namespace;
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
            // As `tipsecd` has it: both ends are of a veth.
            filled_elsewhere: self.link.profile.napi().fills_elsewhere(true),
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
pub(super) fn spi_of(sa: u32) -> Result<Spi> {
    Spi::from_parts(sa + SPI.value(), 0).ok_or_else(|| Error::Failed {
        what: "number an SA".into(),
        detail: format!("{sa} is beyond an SPI"),
    })
}
