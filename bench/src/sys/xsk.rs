//! An AF_XDP socket over xsk-rs with nothing above it: the floor that the
//! product's bearer and pipelines are measured against. Same rings, same
//! chunks, same fill and reap discipline as the product's; no ownership table,
//! no tokens, no pipeline. Imports `error`.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::net::sockopt;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

/// Most frames in one call.
pub(crate) const BURST: usize = 64;
/// Bytes of a chunk.
const CHUNK_LEN: u32 = 4096;
/// The longest frame, in bytes: a chunk less the kernel's headroom (256) and
/// the tail that it keeps for itself (320).
pub(crate) const FRAME_MAX: usize = 4096 - 256 - 320;

/// Sizes, in frames; rings are powers of two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Chunks of the UMEM.
    pub(crate) chunks: u32,
    /// Entries of the RX ring; the fill ring has twice as many.
    pub(crate) rx_ring: u32,
    /// Entries of the TX ring and of the completion ring.
    pub(crate) tx_ring: u32,
    /// Most frames sent and not completed.
    pub(crate) in_flight_max: usize,
}

/// One socket on one queue, and its UMEM.
pub(crate) struct BareSocket {
    // Before `umem`: the socket closes before its memory goes.
    fill: FillQueue,
    completion: CompQueue,
    rx: RxQueue,
    tx: TxQueue,
    umem: Umem,
    /// Chunks that are neither in a ring nor at the kernel; last in, first out.
    free: Vec<FrameDesc>,
    lent: usize,
    lent_target: usize,
    in_flight: usize,
    sizes: Sizes,
}

impl BareSocket {
    /// Binds to queue 0 of a device of the calling thread's namespace, in copy
    /// mode (all that veth has), and fills the fill ring.
    ///
    /// # Errors
    /// The kernel's; EBUSY while the queue's former socket is being closed.
    pub(crate) fn open(interface: &str, sizes: Sizes) -> io::Result<Self> {
        let size = |entries| QueueSize::new(entries).map_err(io::Error::other);
        let umem_config = UmemConfig::builder()
            .frame_size(FrameSize::new(CHUNK_LEN).map_err(io::Error::other)?)
            .frame_headroom(0)
            .fill_queue_size(size(2 * sizes.rx_ring)?)
            .comp_queue_size(size(sizes.tx_ring)?)
            .build()
            .map_err(io::Error::other)?;
        let socket_config = SocketConfig::builder()
            .rx_queue_size(size(sizes.rx_ring)?)
            .tx_queue_size(size(sizes.tx_ring)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name: Interface = interface.parse().map_err(io::Error::other)?;
        let chunks = NonZeroU32::new(sizes.chunks).unwrap_or(NonZeroU32::MIN);
        let (umem, free) =
            Umem::new(umem_config, chunks, false).map_err(|error| kernels(&error))?;
        // SAFETY: no other socket shares this UMEM; it was made above.
        let (tx, rx, rings) = unsafe { Socket::new(socket_config, &umem, &name, 0) }
            .map_err(|error| kernels(&error))?;
        let (fill, completion) =
            rings.ok_or_else(|| io::Error::from(io::ErrorKind::ResourceBusy))?;
        let left = (sizes.chunks as usize).saturating_sub(sizes.in_flight_max + 4 * BURST);
        let mut socket = Self {
            fill,
            completion,
            rx,
            tx,
            umem,
            free,
            lent: 0,
            lent_target: left.min(2 * sizes.rx_ring as usize),
            in_flight: 0,
            sizes,
        };
        let bytes = (sizes.in_flight_max + BURST) * 2 * CHUNK_LEN as usize;
        // Too small is no error: it shows as EAGAIN.
        let _ = sockopt::set_socket_send_buffer_size(socket.as_fd(), bytes);
        socket.refill();
        Ok(socket)
    }

    /// How many frames may be sent now.
    pub(crate) fn send_room(&mut self) -> usize {
        self.reap();
        let ring = self.tx.nb_free_exact() as usize;
        let allowed = self.sizes.in_flight_max.saturating_sub(self.in_flight);
        allowed.min(ring).min(self.free.len()).min(BURST)
    }

    /// Puts `count` frames, at most the room, into the TX ring. `lengths` says
    /// how long each is, `write` fills it.
    pub(crate) fn send(
        &mut self,
        count: usize,
        mut lengths: impl FnMut() -> usize,
        mut write: impl FnMut(&mut [u8]),
    ) -> usize {
        let mut descriptors = [FrameDesc::default(); BURST];
        let count = count.min(self.free.len()).min(BURST);
        for slot in &mut descriptors[..count] {
            let Some(mut descriptor) = self.free.pop() else {
                break;
            };
            // SAFETY: the descriptor came from this UMEM's free list, so the
            // chunk is in no ring and nobody else has a slice of it.
            let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
            data.cursor().set_pos(lengths());
            write(data.contents_mut());
            *slot = descriptor;
        }
        // SAFETY: the descriptors are this UMEM's, taken off the free list.
        let sent = unsafe { self.tx.produce(&descriptors[..count]) };
        // The ring takes all or none.
        if sent == 0 {
            self.free.extend_from_slice(&descriptors[..count]);
        }
        self.in_flight += sent;
        sent
    }

    /// Entries of the TX ring that the kernel has not taken.
    pub(crate) fn unsent(&mut self) -> usize {
        (self.sizes.tx_ring as usize).saturating_sub(self.tx.nb_free_exact() as usize)
    }

    /// Whether the kernel waits to be told of them.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.tx.needs_wakeup()
    }

    /// Takes back what the kernel has sent.
    pub(crate) fn reap(&mut self) {
        let mut descriptors = [FrameDesc::default(); BURST];
        loop {
            // SAFETY: the ring's UMEM lives as long as `self`.
            let count = unsafe { self.completion.consume(&mut descriptors) };
            if count == 0 {
                return;
            }
            self.in_flight = self.in_flight.saturating_sub(count);
            self.free.extend_from_slice(&descriptors[..count]);
        }
    }

    /// Takes up to a burst of received frames, gives their chunks back, and
    /// says how many frames and bytes they were.
    pub(crate) fn receive(&mut self) -> (usize, usize) {
        self.take(|_, descriptors| descriptors.iter().map(|d| d.lengths().data()).sum())
    }

    /// The same, and shows each frame.
    pub(crate) fn receive_each(&mut self, mut each: impl FnMut(&[u8])) -> (usize, usize) {
        self.take(|umem, descriptors| {
            let mut bytes = 0;
            for descriptor in descriptors {
                // SAFETY: the kernel gave this chunk of this UMEM back in the
                // RX ring; it is in no other ring and on no list before `take`
                // goes on, so that nobody writes to it.
                let data = unsafe { umem.data(descriptor) };
                bytes += data.contents().len();
                each(data.contents());
            }
            bytes
        })
    }

    /// Takes up to a burst; `look` says how many bytes it is.
    fn take(&mut self, look: impl FnOnce(&Umem, &[FrameDesc]) -> usize) -> (usize, usize) {
        let mut descriptors = [FrameDesc::default(); BURST];
        // SAFETY: the ring's UMEM lives as long as `self`.
        let count = unsafe { self.rx.consume(&mut descriptors) };
        let received = &descriptors[..count];
        let bytes = look(&self.umem, received);
        self.free.extend_from_slice(received);
        self.lent = self.lent.saturating_sub(count);
        if count > 0 {
            self.refill();
        }
        (count, bytes)
    }

    /// Feeds the fill ring from the free list.
    fn refill(&mut self) {
        let reserve = self.sizes.in_flight_max + BURST;
        let spare = self.free.len().saturating_sub(reserve);
        let want = self.lent_target.saturating_sub(self.lent).min(spare);
        let at = self.free.len() - want;
        // SAFETY: the descriptors are this UMEM's and leave the free list if
        // the ring takes them, which is all or none.
        let given = unsafe { self.fill.produce(&self.free[at..]) };
        if given > 0 {
            self.free.truncate(at);
            self.lent += given;
        }
    }
}

impl AsFd for BareSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the queues keep the socket open as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }
}

/// The kernel's error at the bottom of one of xsk-rs'.
fn kernels(error: &dyn std::error::Error) -> io::Error {
    let source = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    match source.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}
