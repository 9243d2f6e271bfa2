//! AF_XDP bearer over xsk-rs: one socket, one queue, one UMEM.
//!
//! The safe side of it: who owns which chunk, when rings are fed, what the
//! kernel's answers mean. `umem` and `ring` hold the unsafe calls. Imports
//! `attach`, `bearer`, `burst`, `frame` and `tx`.
//!
//! Chunks move in a circle: free list → fill ring → kernel → RX ring → token →
//! free list, and free list → token → TX ring → kernel → completion ring →
//! free list. The free list is last in, first out, so that what is in the
//! cache is used again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Bearer, BearerError, FrameMemory, FrameToken, Transmitted};
use crate::attach::{Attachment, Hook};
use crate::burst::{BURST, Burst};
use crate::tx::Sealed;

mod open;
mod rings;
mod umem;

pub use open::{OpenError, XdpConfig};
use rings::Rings;
use umem::{CHUNK_LEN, Umem};

/// Calls to the kernel in one [`Bearer::transmit`]: it takes 32 frames a call
/// unless told otherwise, and a burst may follow a backlog.
const KICKS_MAX: usize = 8;

/// The mode that a bearer got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BearerMode {
    /// The NIC reads and writes frame memory itself.
    ZeroCopy,
    /// XDP in the driver, frames copied.
    NativeCopy,
    /// XDP in the network stack, frames copied.
    Generic,
}

impl BearerMode {
    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero-copy",
            Self::NativeCopy => "native-copy",
            Self::Generic => "generic",
        }
    }
}

/// What a bearer got, for status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BearerReport {
    /// The NIC.
    pub interface: String,
    /// Its queue.
    pub queue: u32,
    /// As read back from the socket.
    pub mode: BearerMode,
    /// Frame memory in bytes.
    pub umem_bytes: u64,
}

/// The kernel's counts of one AF_XDP socket (`XDP_STATISTICS`, if_xdp.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct XdpStatistics {
    /// Received, but the frame was too long or the socket otherwise refused it.
    pub rx_dropped: u64,
    /// Received, but the RX ring was full.
    pub rx_ring_full: u64,
    /// Received, but the fill ring was empty. Zero-copy drivers count here
    /// every time they looked and found none.
    pub rx_fill_ring_empty: u64,
    /// Descriptors of the fill ring that the kernel refused: a bug of ours.
    pub rx_invalid_descriptors: u64,
    /// Descriptors of the TX ring that the kernel refused: a bug of ours.
    pub tx_invalid_descriptors: u64,
}

impl XdpStatistics {
    /// Reads the counts of a socket; from any thread that holds a copy of its
    /// descriptor (see [`XdpBearer::statistics_fd`]).
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(socket: impl AsFd) -> io::Result<Self> {
        let counts = rustix::net::sockopt::xdp_statistics(socket)?;
        Ok(Self {
            rx_dropped: counts.rx_dropped,
            rx_ring_full: counts.rx_ring_full.unwrap_or(0),
            rx_fill_ring_empty: counts.rx_fill_ring_empty_descs.unwrap_or(0),
            rx_invalid_descriptors: counts.rx_invalid_descs,
            tx_invalid_descriptors: counts.tx_invalid_descs,
        })
    }
}

/// A chunk of one bearer's UMEM and the frame in it.
pub struct XdpFrame {
    chunk: u32,
    /// In the room.
    start: u16,
    end: u16,
    bearer: u32,
}

impl FrameToken for XdpFrame {
    fn segments(&self) -> usize {
        1
    }
}

/// One (NIC, queue).
pub struct XdpBearer {
    // Before `umem`: sockets close before their memory goes.
    rings: Rings,
    umem: Umem,
    free: Vec<u32>,
    /// Chunks that the kernel may write to: in the fill ring or the RX ring.
    lent: usize,
    lent_target: usize,
    in_flight: usize,
    in_flight_max: usize,
    /// Chunks that receive never takes, so that there is always something to send from.
    reserve: usize,
    lost_unreported: usize,
    gone: bool,
    id: u32,
    report: BearerReport,
}

impl XdpBearer {
    /// Makes a UMEM and a socket, binds it to `queue` in the best mode that
    /// the attachment allows, fills the fill ring and enters the socket in the
    /// program's map.
    ///
    /// # Errors
    /// [`OpenError`]; then nothing is left behind.
    pub fn open(
        attachment: &mut Attachment,
        queue: u32,
        config: &XdpConfig,
    ) -> Result<Self, OpenError> {
        attachment.interface().check_queue(queue)?;
        config.check()?;
        let (umem, rings, mode) = open::bind(attachment, queue, config)?;
        let chunks = config.chunks;
        let mut bearer = Self {
            rings,
            umem,
            free: (0..chunks).rev().collect(),
            lent: 0,
            lent_target: config.lent_target(),
            in_flight: 0,
            in_flight_max: config.in_flight_max,
            reserve: config.in_flight_max + BURST,
            lost_unreported: 0,
            gone: false,
            id: open::next_id(),
            report: BearerReport {
                interface: attachment.interface().name.clone(),
                queue,
                mode,
                umem_bytes: u64::from(chunks) * CHUNK_LEN as u64,
            },
        };
        bearer.refill();
        // Says at once what would otherwise show at the first frame.
        match send(bearer.rings.fd(), &[], SendFlags::DONTWAIT) {
            Err(Errno::NXIO | Errno::OPNOTSUPP | Errno::INVAL) if attachment.is_attached() => {
                return Err(OpenError::Unusable {
                    interface: bearer.report.interface,
                    queue,
                    mode: mode.name(),
                });
            }
            _ => {}
        }
        attachment.register_socket(queue, &bearer.rings.fd())?;
        Ok(bearer)
    }

    /// Interface, queue and the mode that it got.
    pub fn report(&self) -> &BearerReport {
        &self.report
    }

    /// A second descriptor of the socket, for [`XdpStatistics::read`] by
    /// another thread. While it is open, the queue stays taken.
    ///
    /// # Errors
    /// The kernel's, if no descriptor is to be had.
    pub fn statistics_fd(&self) -> io::Result<std::os::fd::OwnedFd> {
        self.rings.fd().try_clone_to_owned()
    }

    /// Feeds the fill ring from the free list.
    fn refill(&mut self) {
        let spare = self.free.len().saturating_sub(self.reserve);
        let want = self.lent_target.saturating_sub(self.lent).min(spare);
        let mut left = want;
        while left > 0 {
            let at = self.free.len() - left.min(BURST);
            let given = self.rings.fill(&mut self.umem, &self.free[at..]);
            if given == 0 {
                break;
            }
            // What was given is the beginning of that slice.
            self.free.drain(at..at + given);
            self.lent += given;
            left -= given;
        }
        if self.rings.fill_needs_wakeup() {
            // Copy mode never asks; a failure shows at the next call.
            let _ = recv(self.rings.fd(), &mut [0u8; 0][..], RecvFlags::DONTWAIT);
        }
    }

    /// Takes back chunks that the kernel has sent.
    fn reap(&mut self) {
        loop {
            let mut done = Burst::<u32>::new();
            self.rings.completed(self.umem.room(), &mut done);
            if done.is_empty() {
                return;
            }
            self.in_flight = self.in_flight.saturating_sub(done.len());
            for chunk in done {
                if self.umem.take_back(chunk) {
                    self.free.push(chunk);
                }
            }
        }
    }

    /// Tells the kernel that frames wait in the TX ring, until it has taken
    /// them all or takes no more now.
    fn kick(&mut self) -> Result<(), BearerError> {
        if !self.rings.transmit_needs_wakeup() {
            return Ok(());
        }
        let mut waiting = self.rings.unsent();
        for _ in 0..KICKS_MAX {
            if waiting == 0 {
                return Ok(());
            }
            let result = send(self.rings.fd(), &[], SendFlags::DONTWAIT);
            let before = std::mem::replace(&mut waiting, self.rings.unsent());
            match result {
                Err(Errno::INTR) => {}
                Ok(_) if waiting == before => return Ok(()),
                Ok(_) => {}
                // The kernel's budget for one call, its completion ring or the
                // send buffer is spent; what it has not taken stays queued.
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                    self.reap();
                    if waiting == before {
                        return Ok(());
                    }
                }
                // One frame was taken and dropped (no room at the other end of
                // a veth without qdisc, or no carrier). More now would go the
                // same way: leave them for the next pass.
                Err(Errno::BUSY) => {
                    self.lost_unreported += 1;
                    self.reap();
                    return Ok(());
                }
                // Administratively down: frames stay queued until it is up.
                Err(Errno::NETDOWN) => return Ok(()),
                Err(Errno::NXIO | Errno::NODEV) => {
                    // Said by the next call, after this one has told the losses.
                    self.lost_unreported += waiting;
                    self.gone = true;
                    return Ok(());
                }
                Err(source) => {
                    return Err(BearerError::Io {
                        what: "send from an AF_XDP socket",
                        source: source.into(),
                    });
                }
            }
        }
        Ok(())
    }

    fn alive(&self) -> Result<(), BearerError> {
        if self.gone {
            return Err(BearerError::DeviceGone);
        }
        Ok(())
    }

    /// The chunk of a token, which must be one of this bearer's.
    fn chunk_of(&self, frame: &XdpFrame) -> u32 {
        // A token of another bearer would give two owners to one chunk.
        assert_eq!(frame.bearer, self.id, "frame token of another bearer");
        frame.chunk
    }
}

impl FrameMemory for XdpBearer {
    type Frame = XdpFrame;

    fn allocate(&mut self) -> Option<XdpFrame> {
        let chunk = self.free.pop()?;
        self.umem.hand_out(chunk);
        Some(XdpFrame {
            chunk,
            start: 0,
            end: 0,
            bearer: self.id,
        })
    }

    fn release(&mut self, frame: XdpFrame) {
        let chunk = self.chunk_of(&frame);
        if self.umem.give_back(chunk) {
            self.free.push(chunk);
        }
    }

    fn segment_mut<'a>(&'a mut self, frame: &'a mut XdpFrame, index: usize) -> &'a mut [u8] {
        let extent = usize::from(frame.start)..usize::from(frame.end);
        if index > 0 {
            return &mut [];
        }
        self.room_mut(frame).get_mut(extent).unwrap_or_default()
    }

    fn room_mut<'a>(&'a mut self, frame: &'a mut XdpFrame) -> &'a mut [u8] {
        let chunk = self.chunk_of(frame);
        self.umem.room_mut(chunk)
    }

    fn extent(&self, frame: &XdpFrame) -> (usize, usize) {
        (
            usize::from(frame.start),
            usize::from(frame.end - frame.start),
        )
    }

    fn set_extent(&mut self, frame: &mut XdpFrame, start: usize, end: usize) {
        let frame_start = self.umem.room().frame_start();
        let room = self.room_mut(frame);
        let mut range = start..end.min(room.len()).max(start.min(room.len()));
        if start != frame_start && range.start < range.end {
            // Sockets send from one place in a chunk (xsk-rs fixes it). Frames
            // of the encapsulation that this bearer is for are there already.
            let length = range.len().min(room.len() - frame_start);
            room.copy_within(range.start..range.start + length, frame_start);
            range = frame_start..frame_start + length;
        }
        // A room is shorter than a chunk, 4096 bytes.
        #[allow(clippy::cast_possible_truncation)]
        {
            frame.start = range.start as u16;
            frame.end = range.end as u16;
        }
    }
}

impl Bearer for XdpBearer {
    fn receive(&mut self, burst: &mut Burst<XdpFrame>) -> Result<(), BearerError> {
        self.alive()?;
        let mut received = Burst::new();
        self.rings
            .received(self.umem.room(), burst.remaining_capacity(), &mut received);
        let taken = received.len();
        for (chunk, start, end) in received {
            if !self.umem.receive(chunk) {
                // Not lent: taking it would give a chunk two owners.
                continue;
            }
            burst.push(XdpFrame {
                chunk,
                start,
                end,
                bearer: self.id,
            });
        }
        if taken > 0 {
            self.lent = self.lent.saturating_sub(taken);
            self.refill();
        }
        Ok(())
    }

    fn transmit_room(&mut self) -> usize {
        self.reap();
        (self.in_flight_max.saturating_sub(self.in_flight)).min(self.rings.transmit_free())
    }

    fn transmit(
        &mut self,
        burst: &mut Burst<Sealed<XdpFrame>>,
    ) -> Result<Transmitted, BearerError> {
        self.alive()?;
        let room = self.transmit_room().min(burst.len());
        let mut out = Burst::<(u32, u16)>::new();
        for sealed in burst.drain(..room) {
            let frame = sealed.into_frame();
            let chunk = self.chunk_of(&frame);
            self.umem.send(chunk);
            out.push((chunk, frame.end - frame.start));
        }
        self.rings.transmit(&self.umem, &out);
        self.in_flight += room;
        self.kick()?;
        self.reap();
        Ok(Transmitted {
            accepted: room,
            lost: std::mem::take(&mut self.lost_unreported),
        })
    }

    fn unsent(&mut self) -> usize {
        if self.gone {
            return self.lost_unreported;
        }
        // A zero-copy driver that is at work needs no second offer.
        if self.rings.transmit_needs_wakeup() {
            self.rings.unsent()
        } else {
            0
        }
    }

    fn check(&mut self) -> Result<(), BearerError> {
        self.alive()?;
        match send(self.rings.fd(), &[], SendFlags::DONTWAIT) {
            Err(Errno::NXIO | Errno::NODEV) => {
                self.gone = true;
                self.lost_unreported += self.rings.unsent();
            }
            Err(Errno::BUSY) => self.lost_unreported += 1,
            _ => {}
        }
        self.alive()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rings.fd())
    }
}
