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

use core_affinity::CoreId;
use rustix::io::Errno;
use rustix::net::sockopt;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface as XskInterface, LibxdpFlags, QueueSize, SocketConfig,
    UmemConfig,
};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{Socket, Umem as XskUmem};

use super::rings::Rings;
use super::umem::{CHUNK_LEN, Layout, Room, Umem};
use super::{BearerMode, Hook, XdpConfig};
use crate::attach::{Attachment, Interface, InterfaceError, MapUpdateError, Mode};

/// A closed socket frees its queue some milliseconds later; on a machine that is
/// busy, and after a kill, it has been seen to take more than a second.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);

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
    /// The driver does not take long frames so.
    #[error(
        "interface {interface:?} does not take an AF_XDP socket for frames of several buffers \
         (its MTU is {mtu} bytes) on queue {queue} in {mode} mode: set the MTU to at most \
         {fitting} (`ip link set {interface} mtu {fitting}`), or the mode to \"auto\""
    )]
    MultiBuffer {
        /// The interface.
        interface: String,
        /// In bytes.
        mtu: u32,
        /// Largest in bytes of which a frame fits one buffer.
        fitting: u32,
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

/// What [`bind`] made.
pub(super) struct Bound {
    pub(super) umem: Umem,
    pub(super) rings: Rings,
    pub(super) mode: BearerMode,
    /// Whether frame memory is of huge pages.
    pub(super) huge_pages: bool,
}

/// Binds a new socket over a new UMEM in the first mode that works; all of
/// its memory is of the NUMA node of `config.core`.
pub(super) fn bind(
    attachment: &Attachment,
    queue: u32,
    config: &XdpConfig,
) -> Result<Bound, OpenError> {
    let hook = attachment.hook();
    let wanted = attachment.mode();
    let interface = attachment.interface();
    let Some(id) = config.core else {
        return bind_here(interface, hook, wanted, queue, config);
    };
    // The kernel allocates where the caller runs (numa(7)), and what a UMEM is
    // made of is pinned at once, so it must be right from the start. A thread
    // of its own leaves the caller's affinity alone.
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // A core that is not there is refused by name where the worker is
            // started.
            core_affinity::set_for_current(CoreId { id });
            bind_here(interface, hook, wanted, queue, config)
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn bind_here(
    interface: &Interface,
    hook: Hook,
    wanted: Mode,
    queue: u32,
    config: &XdpConfig,
) -> Result<Bound, OpenError> {
    let zero_copy = BindFlags::XDP_ZEROCOPY;
    let copy = BindFlags::XDP_COPY;
    let steps: &[BindFlags] = match (hook, wanted) {
        (Hook::Native, Mode::Auto) => &[zero_copy, copy],
        (Hook::Native, Mode::ZeroCopy) => &[zero_copy],
        _ => &[copy],
    };
    let mtu = interface.mtu;
    let interface = &interface.name;
    let layout = config.layout(mtu);
    let deadline = Instant::now() + BUSY_PATIENCE;
    let mut pause = Duration::from_millis(1);
    let mut step = 0;
    loop {
        let flags = steps[step];
        let error = match try_bind(interface, queue, config, layout, flags) {
            Ok((umem, rings, huge_pages)) => {
                let mode = mode_of(hook, &rings);
                return Ok(Bound {
                    umem,
                    rings,
                    mode,
                    huge_pages,
                });
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
                    needed_bytes: config.umem_bytes_at(mtu),
                });
            }
            _ if step + 1 < steps.len() && what == SOCKET => step += 1,
            Some(Errno::INVAL | Errno::OPNOTSUPP) if what == SOCKET => {
                let mode = match flags.contains(zero_copy) {
                    true => Mode::ZeroCopy.name(),
                    false => "copy",
                };
                let interface = interface.clone();
                return Err(match layout.wide_rooms {
                    0 => OpenError::Unusable {
                        interface,
                        queue,
                        mode,
                    },
                    _ => OpenError::MultiBuffer {
                        interface,
                        mtu,
                        fitting: config.mtu_single_buffer(),
                        queue,
                        mode,
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

/// Chunks of 4 KiB in a huge page of 2 MiB; where they are larger, there are
/// none for us and ordinary ones are used.
const CHUNKS_A_HUGE_PAGE: u32 = 512;

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
    layout: Layout,
    mut flags: BindFlags,
) -> Result<(Umem, Rings, bool), BindFailure> {
    // Asked for only where it is needed: most drivers have no zero-copy then.
    let multi_buffer = layout.wide_rooms > 0;
    flags.set(BindFlags::XDP_USE_SG, multi_buffer);
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
        .bind_flags(flags | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let name: XskInterface = interface.parse().map_err(|error| failure(SOCKET)(&error))?;
    let (umem, descriptors, huge_pages) = make_umem(umem_config, layout, config.huge_pages)?;
    // SAFETY: no other socket shares this UMEM; it was made above.
    let (tx, rx, rings) = unsafe { Socket::new(socket_config, &umem, &name, queue) }
        .map_err(|error| failure(SOCKET)(&error))?;
    let memory_rings = rings.ok_or(BindFailure {
        what: SOCKET,
        source: Errno::BUSY.into(),
    })?;
    let rings = Rings::new(
        memory_rings,
        (rx, tx),
        (2 * config.rx_ring as usize, config.tx_ring as usize),
        multi_buffer,
    );
    let room = Room::of(config.outer_len);
    let umem = Umem::new(umem, descriptors, room, layout);
    Ok((umem, rings, huge_pages))
}

/// Frame memory of huge pages if they are wished for and there are enough, else
/// of ordinary ones; the last tells which.
fn make_umem(
    config: UmemConfig,
    layout: Layout,
    huge_pages: bool,
) -> Result<(XskUmem, Vec<FrameDesc>, bool), BindFailure> {
    let make = |chunks, huge| {
        let chunks = NonZeroU32::new(chunks).unwrap_or(NonZeroU32::MIN);
        XskUmem::new(config, chunks, huge).map(|(umem, frames)| (umem, frames, huge))
    };
    if huge_pages {
        // Whole pages, since only those are unmapped.
        let chunks = layout.total().next_multiple_of(CHUNKS_A_HUGE_PAGE);
        if let Ok(made) = make(chunks, true) {
            return Ok(made);
        }
    }
    make(layout.total(), false).map_err(|error| failure(UMEM)(&error))
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
