//! How a socket gets bound: the ladder of modes, retries, and what can fail.
//!
//! Imports `attach`, `rings` and `umem`.

#![allow(unsafe_code)]

use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt;
use tipsec_xdp::wire::ETH_HEADER_LEN;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface as XskInterface, LibxdpFlags, QueueSize, SocketConfig,
    UmemConfig,
};
use xsk_rs::{Socket, Umem as XskUmem};

use super::rings::Rings;
use super::umem::{CHUNK_LEN, Room, Umem};
use super::{BURST, BearerMode, Hook};
use crate::attach::{Attachment, InterfaceError, MapUpdateError, Mode};
use crate::outer::OUTER_LEN_MAX;

/// A closed socket frees its queue some milliseconds later; on a machine that is
/// busy, and after a kill, it has been seen to take more than a second.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);

/// Sizes of one bearer; counts of frames, powers of two where said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpConfig {
    /// Chunks of 4096 bytes in the UMEM.
    pub chunks: u32,
    /// Entries of the RX ring, a power of two; the fill ring is twice that.
    pub rx_ring: u32,
    /// Entries of the TX ring and of the completion ring, a power of two.
    pub tx_ring: u32,
    /// Most frames sent and not completed: 64 where the receiver's NAPI runs
    /// inline, about 192 with threaded NAPI.
    pub in_flight_max: usize,
    /// Bytes of the outer header of every frame:
    /// [`crate::outer::Encapsulation::outer_len`].
    pub outer_len: usize,
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self {
            chunks: 4096,
            rx_ring: 2048,
            tx_ring: 1024,
            in_flight_max: 64,
            outer_len: ETH_HEADER_LEN,
        }
    }
}

impl XdpConfig {
    /// Bytes of memory that one bearer locks.
    pub fn umem_bytes(&self) -> u64 {
        u64::from(self.chunks) * CHUNK_LEN as u64
    }

    /// Chunks that the kernel may hold to receive into.
    pub(super) fn lent_target(&self) -> usize {
        let left = self.chunks as usize - self.reserved();
        left.min(2 * self.rx_ring as usize)
    }

    /// Chunks for sending, and for what one pass holds in its hands.
    fn reserved(&self) -> usize {
        self.in_flight_max + 4 * BURST
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let sound = self.rx_ring.is_power_of_two()
            && self.tx_ring.is_power_of_two()
            && self.rx_ring <= 1 << 16
            && (1..=self.tx_ring as usize).contains(&self.in_flight_max)
            && (self.chunks as usize) >= self.reserved() + BURST
            && self.chunks <= 1 << 20
            && (ETH_HEADER_LEN..=OUTER_LEN_MAX).contains(&self.outer_len);
        sound.then_some(()).ok_or(OpenError::Sizes(*self))
    }
}

/// Why there is no bearer.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The interface has no such queue.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The program's map would not take the socket.
    #[error(transparent)]
    Map(#[from] MapUpdateError),
    /// Ring sizes that do not fit together.
    #[error(
        "{0:?}: ring sizes must be powers of two, frames in flight fit the TX ring, chunks \
         suffice for both directions, and the outer header be known"
    )]
    Sizes(XdpConfig),
    /// Somebody else has the queue.
    #[error(
        "queue {queue} of interface {interface:?} is taken by another AF_XDP socket; stop its \
         owner (another tipsecd?) or choose another queue"
    )]
    QueueTaken {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The driver has no such queue or no AF_XDP.
    #[error(
        "interface {interface:?} does not take an AF_XDP socket on queue {queue} in {mode} mode: \
         no such queue (see `ethtool -l {interface}`), or not supported by its driver"
    )]
    Unusable {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The last mode that was tried.
        mode: &'static str,
    },
    /// Locked memory is limited.
    #[error(
        "no privilege to lock {needed_bytes} bytes of frame memory: raise RLIMIT_MEMLOCK \
         (systemd: LimitMEMLOCK=infinity) or give CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// What one bearer needs.
        needed_bytes: u64,
    },
    /// Not allowed.
    #[error("no privilege to open an AF_XDP socket: CAP_NET_RAW is needed")]
    NoPrivilege,
    /// Anything else.
    #[error("cannot {what} for queue {queue} of interface {interface:?}")]
    Io {
        /// The step, as a verb.
        what: &'static str,
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Tells the tokens of one bearer from another's.
pub(super) fn next_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Binds a new socket over a new UMEM in the first mode that works.
pub(super) fn bind(
    attachment: &Attachment,
    queue: u32,
    config: &XdpConfig,
) -> Result<(Umem, Rings, BearerMode), OpenError> {
    let zero_copy = BindFlags::XDP_ZEROCOPY;
    let copy = BindFlags::XDP_COPY;
    let steps: &[BindFlags] = match (attachment.hook(), attachment.mode()) {
        (Hook::Native, Mode::Auto) => &[zero_copy, copy],
        (Hook::Native, Mode::ZeroCopy) => &[zero_copy],
        _ => &[copy],
    };
    let interface = &attachment.interface().name;
    let deadline = Instant::now() + BUSY_PATIENCE;
    let mut pause = Duration::from_millis(1);
    let mut step = 0;
    loop {
        let flags = steps[step];
        let error = match try_bind(interface, queue, config, flags) {
            Ok((umem, rings)) => {
                let mode = mode_of(attachment.hook(), &rings);
                return Ok((umem, rings, mode));
            }
            Err(error) => error,
        };
        let BindFailure { what, source } = error;
        match Errno::from_io_error(&source) {
            Some(Errno::BUSY) if Instant::now() < deadline => {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            Some(Errno::BUSY) => {
                return Err(OpenError::QueueTaken {
                    interface: interface.clone(),
                    queue,
                });
            }
            Some(Errno::PERM | Errno::ACCESS) => return Err(OpenError::NoPrivilege),
            Some(Errno::NOBUFS | Errno::NOMEM) if what == UMEM => {
                return Err(OpenError::LockedMemory {
                    needed_bytes: config.umem_bytes(),
                });
            }
            _ if step + 1 < steps.len() && what == SOCKET => step += 1,
            Some(Errno::INVAL | Errno::OPNOTSUPP) if what == SOCKET => {
                return Err(OpenError::Unusable {
                    interface: interface.clone(),
                    queue,
                    mode: if flags.contains(zero_copy) {
                        Mode::ZeroCopy.name()
                    } else {
                        "copy"
                    },
                });
            }
            _ => {
                return Err(OpenError::Io {
                    what,
                    interface: interface.clone(),
                    queue,
                    source,
                });
            }
        }
    }
}

const UMEM: &str = "make frame memory";
const SOCKET: &str = "bind an AF_XDP socket";

struct BindFailure {
    what: &'static str,
    source: io::Error,
}

/// The kernel's error at the bottom of one of xsk-rs'.
fn failure(what: &'static str) -> impl Fn(&dyn Error) -> BindFailure {
    move |error| BindFailure {
        what,
        source: match error
            .source()
            .and_then(|source| source.downcast_ref::<io::Error>())
            .and_then(io::Error::raw_os_error)
        {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(error.to_string()),
        },
    }
}

fn try_bind(
    interface: &str,
    queue: u32,
    config: &XdpConfig,
    mode: BindFlags,
) -> Result<(Umem, Rings), BindFailure> {
    let invalid = |what| {
        move |_| BindFailure {
            what,
            source: Errno::INVAL.into(),
        }
    };
    let size = |entries| QueueSize::new(entries).map_err(invalid(SOCKET));
    #[allow(clippy::cast_possible_truncation)]
    let chunk = FrameSize::new(CHUNK_LEN as u32).map_err(|error| failure(UMEM)(&error))?;
    let umem_config = UmemConfig::builder()
        .frame_size(chunk)
        .frame_headroom(0)
        .fill_queue_size(size(2 * config.rx_ring)?)
        .comp_queue_size(size(config.tx_ring)?)
        .build()
        .map_err(|error| failure(UMEM)(&error))?;
    let socket_config = SocketConfig::builder()
        .rx_queue_size(size(config.rx_ring)?)
        .tx_queue_size(size(config.tx_ring)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let name: XskInterface = interface.parse().map_err(|error| failure(SOCKET)(&error))?;
    let chunks = NonZeroU32::new(config.chunks).unwrap_or(NonZeroU32::MIN);
    let (umem, descriptors) =
        XskUmem::new(umem_config, chunks, false).map_err(|error| failure(UMEM)(&error))?;
    // SAFETY: no other socket shares this UMEM; it was made above.
    let (tx, rx, rings) = unsafe { Socket::new(socket_config, &umem, &name, queue) }
        .map_err(|error| failure(SOCKET)(&error))?;
    let (fill, completion) = rings.ok_or(BindFailure {
        what: SOCKET,
        source: Errno::BUSY.into(),
    })?;
    let rings = Rings {
        fill,
        completion,
        rx,
        tx,
        tx_len: config.tx_ring as usize,
    };
    // In copy mode a frame in flight is charged as a socket buffer of at most
    // two pages. Too small is no error: it shows as EAGAIN.
    let bytes = (config.in_flight_max + BURST) * 2 * CHUNK_LEN;
    let _ = sockopt::set_socket_send_buffer_size(rings.fd(), bytes);
    let room = Room::of(config.outer_len);
    Ok((Umem::new(umem, descriptors, room), rings))
}

fn mode_of(hook: Hook, rings: &Rings) -> BearerMode {
    let options = sockopt::xdp_options(rings.fd());
    let zero_copy = options.is_ok_and(|options| {
        options.contains(rustix::net::xdp::XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY)
    });
    match (hook, zero_copy) {
        (_, true) => BearerMode::ZeroCopy,
        (Hook::Native, false) => BearerMode::NativeCopy,
        (Hook::Generic, false) => BearerMode::Generic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let good = XdpConfig::default();
        assert!(good.check().is_ok());
        assert!(good.lent_target() > good.rx_ring as usize);
        for bad in [
            XdpConfig {
                rx_ring: 1000,
                ..good
            },
            XdpConfig {
                in_flight_max: 0,
                ..good
            },
            XdpConfig {
                in_flight_max: 2000,
                ..good
            },
            XdpConfig {
                chunks: 300,
                ..good
            },
            XdpConfig {
                outer_len: 67,
                ..good
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
