//! AF_XDP bearer over xsk-rs: one socket, one queue, one UMEM.
//!
//! The safe side of it: who owns which chunk, when rings are fed, when the
//! kernel is woken. `umem`, `rings` and `open` hold the unsafe calls, `wakeup`
//! what the kernel's answers mean. Imports `attach`, `bearer`, `burst`, `frame`,
//! `sys` and `tx`.
//!
//! Chunks move in a circle: free list → fill ring → kernel → RX ring → token →
//! free list, and free list → token → TX ring → kernel → completion ring →
//! free list. The free list is last in, first out, so that what is in the
//! cache is used again.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Bearer, BearerError, Transmitted};
use crate::attach::{Attachment, Hook};
use crate::burst::{BURST, Burst};
use crate::sys::demote::Demotion;
use crate::tx::Sealed;

mod config;
mod fill;
mod join;
mod memory;
mod open;
mod options;
mod report;
mod rings;
mod umem;
mod wakeup;

pub use config::{BusyPoll, NapiProfile, XdpConfig};
use fill::FillLevel;
use join::{Gathered, Step};
pub use memory::XdpFrame;
use open::Bound;
pub use open::OpenError;
use options::Options;
pub use report::{BearerMode, BearerReport, RefusedOption, XdpStatistics};
use rings::{Received, Rings};
use umem::{CHUNK_DATA_LEN, TakenBack, Umem};
pub use wakeup::WakeUps;
use wakeup::{Answer, unknown_answer, wake_transmit};

/// Calls to the kernel in one [`Bearer::transmit`]: before Linux 6.17 it takes
/// 32 frames a call, and a burst may follow a backlog.
const KICKS_MAX: usize = 8;

/// One (NIC, queue).
pub struct XdpBearer {
    // Before `umem`: sockets close before their memory goes.
    rings: Rings,
    umem: Umem,
    /// Single chunks, to receive into; to send from, too, unless rooms are wide.
    free: Vec<u32>,
    /// First chunks of wide rooms; none without `multi_buffer`.
    wide_free: Vec<u32>,
    /// Whether frames may be longer than a chunk.
    multi_buffer: bool,
    /// Buffers of the frame that is arriving, of several.
    gathered: Gathered,
    /// Bytes of the longest frame of several buffers.
    frame_len_max: usize,
    /// Chunks that the kernel may write to: in the fill ring or the RX ring.
    lent: usize,
    fill_level: FillLevel,
    /// Frames sent and not completed.
    in_flight: usize,
    in_flight_max: usize,
    /// Chunks that receive never takes, so that there is always something to send from.
    reserve: usize,
    lost_unreported: usize,
    /// Frames that the kernel lost and still shows in the TX ring.
    unpublished: usize,
    gone: bool,
    wakeups: Arc<WakeUps>,
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
        let Bound {
            mut umem,
            rings,
            mode,
            huge_pages,
        } = open::bind(attachment, queue, config)?;
        let layout = umem.layout();
        let options = Options::set(rings.fd(), config, layout);
        // Where a NIC writes chunks itself, nothing was measured.
        if config.filled_elsewhere && mode != BearerMode::ZeroCopy {
            umem.demote_lent(Demotion::find());
        }
        let report = BearerReport {
            interface: attachment.interface().name.clone(),
            queue,
            mode,
            umem_bytes: umem.bytes(),
            huge_pages,
            multi_buffer: layout.wide_rooms > 0,
            in_flight_max: config.in_flight_max,
            tx_budget: options.tx_budget,
            busy_poll: options.busy_poll,
            demotes: umem.demotes(),
            refused: options.refused,
        };
        let mut bearer = Self {
            rings,
            umem,
            free: (0..layout.chunks).rev().collect(),
            wide_free: layout.wide_heads().rev().collect(),
            multi_buffer: layout.wide_rooms > 0,
            gathered: Gathered::default(),
            frame_len_max: layout.wide_chunks as usize * CHUNK_DATA_LEN,
            lent: 0,
            fill_level: config.fill_level(layout, mode),
            in_flight: 0,
            in_flight_max: config.in_flight_max,
            reserve: config.in_flight_max + BURST,
            lost_unreported: 0,
            unpublished: 0,
            gone: false,
            wakeups: Arc::default(),
            id: open::next_id(),
            report,
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

    /// Its system calls to send, counted by answer; for any thread.
    pub fn wakeups(&self) -> Arc<WakeUps> {
        Arc::clone(&self.wakeups)
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
        let want = self
            .fill_level
            .target()
            .saturating_sub(self.lent)
            .min(spare);
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
            for chunk in done {
                if let TakenBack::Room(head) = self.umem.take_back(chunk) {
                    debug_assert!(self.in_flight > 0, "completed more than was sent");
                    self.in_flight = self.in_flight.saturating_sub(1);
                    self.put_back(head);
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
            let answer = self.wake(waiting);
            let before = std::mem::replace(&mut waiting, self.rings.unsent());
            match answer {
                Answer::Done | Answer::Again if waiting != before => self.reap(),
                // More after a loss would go the same way: leave them for the
                // next pass. That the device is gone is said by the next call,
                // after this one has told the losses.
                Answer::Done | Answer::Again | Answer::Down | Answer::LostOne | Answer::Gone => {
                    return Ok(());
                }
                Answer::Unknown(errno) => return Err(unknown_answer(errno)),
            }
        }
        Ok(())
    }

    /// Wakes the kernel once, `waiting` descriptors being in the TX ring, and
    /// accounts for what it lost.
    fn wake(&mut self, waiting: usize) -> Answer {
        let answer = wake_transmit(self.rings.fd(), self.report.mode, &self.wakeups);
        match answer {
            Answer::Gone => {
                self.gone = true;
                let frames = self.rings.unsent_frames();
                self.lost_unreported += frames.saturating_sub(self.unpublished);
            }
            // A call that loses a frame and sends none leaves the ring's
            // consumer where it was, so the ring still shows the frame.
            Answer::LostOne => {
                self.lost_unreported += 1;
                self.unpublished += 1;
            }
            _ => {}
        }
        if self.rings.unsent() < waiting {
            self.unpublished = 0;
        }
        answer
    }

    /// Adds a buffer of a frame of several; once the frame's last is there,
    /// its token: whole in a wide room, or if there is none, or the frame is
    /// longer than any may be, its first buffer, marked as one of several.
    #[cold]
    fn gather(&mut self, buffer: Received) -> Option<XdpFrame> {
        let frame_start = self.umem.room().frame_start();
        if self.gathered.add(buffer, self.frame_len_max) == Step::Surplus {
            self.give_back(buffer.chunk);
        }
        if buffer.goes_on {
            return None;
        }
        let room = match self.gathered.is_sound() {
            true => self.wide_free.pop(),
            false => None,
        };
        let buffers = self.gathered.take();
        let Some(room) = room else {
            let (first, rest) = buffers.split_first()?;
            rest.iter().for_each(|buffer| self.give_back(buffer.chunk));
            let mut token = self.token(first.chunk, first.start, first.end);
            token.segments = 2;
            return Some(token);
        };
        self.umem.hand_out(room);
        let mut end = frame_start;
        for buffer in buffers {
            let bytes = usize::from(buffer.start)..usize::from(buffer.end);
            let len = bytes.len();
            self.umem.copy(buffer.chunk, bytes, room, end);
            end += len;
            self.give_back(buffer.chunk);
        }
        // A wide room is of a few chunks of 4096 bytes.
        #[allow(clippy::cast_possible_truncation)]
        let token = self.token(room, frame_start as u16, end as u16);
        Some(token)
    }

    /// Frees the chunk of a buffer that was received.
    fn give_back(&mut self, chunk: u32) {
        if self.umem.give_back(chunk) {
            self.put_back(chunk);
        }
    }

    fn alive(&self) -> Result<(), BearerError> {
        if self.gone {
            return Err(BearerError::DeviceGone);
        }
        Ok(())
    }
}

impl Bearer for XdpBearer {
    fn receive(&mut self, burst: &mut Burst<XdpFrame>) -> Result<(), BearerError> {
        self.alive()?;
        let mut received = Burst::new();
        let (room, limit) = (self.umem.room(), burst.remaining_capacity());
        self.rings.received(room, limit, &mut received);
        if received.is_empty() && self.report.busy_poll {
            // Runs the device's NAPI; what it says shows in the ring.
            let _ = recv(self.rings.fd(), &mut [0u8; 0][..], RecvFlags::DONTWAIT);
            self.rings.received(room, limit, &mut received);
        }
        let taken = received.len();
        for buffer in received {
            if !self.umem.receive(buffer.chunk, buffer.end - buffer.start) {
                // Not lent: taking it would give a chunk two owners.
                continue;
            }
            if buffer.goes_on || !self.gathered.is_empty() {
                burst.extend(self.gather(buffer));
            } else {
                burst.push(self.token(buffer.chunk, buffer.start, buffer.end));
            }
        }
        if taken > 0 {
            // With copies, what is lent and not in the fill ring has arrived.
            let used = self.lent.saturating_sub(self.rings.fill_entries());
            self.fill_level.on_receive(taken, used);
            self.lent = self.lent.saturating_sub(taken);
            self.refill();
        }
        Ok(())
    }

    fn transmit_room(&mut self) -> usize {
        self.reap();
        let entries_a_frame = self.umem.layout().wide_chunks.max(1) as usize;
        let entries = self.rings.transmit_free();
        (self.in_flight_max.saturating_sub(self.in_flight)).min(entries / entries_a_frame)
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
            let len = frame.end - frame.start;
            let parts = match usize::from(len) {
                ..=CHUNK_DATA_LEN => 1,
                len => self.umem.spread(chunk, len),
            };
            self.umem.send(chunk, parts, len);
            out.push((chunk, len));
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
            self.rings.unsent_frames()
        } else {
            0
        }
    }

    fn check(&mut self) -> Result<(), BearerError> {
        self.alive()?;
        let waiting = self.rings.unsent();
        self.wake(waiting);
        self.alive()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rings.fd())
    }
}
