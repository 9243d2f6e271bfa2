//! What a bearer got, and what the kernel counts for it.
//!
//! Imports nothing from this crate.

use std::io;
use std::os::fd::AsFd;

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
    /// Whether it is of huge pages.
    pub huge_pages: bool,
    /// Whether frames may be longer than one chunk carries: at an MTU above
    /// [`super::XdpConfig::mtu_single_buffer`].
    pub multi_buffer: bool,
    /// Most frames sent and not completed.
    pub in_flight_max: usize,
    /// Descriptors that the kernel takes in one call. `None` where it is the
    /// kernel's own 32: before Linux 6.17, which has no
    /// `XDP_MAX_TX_SKB_BUDGET`.
    pub tx_budget: Option<u32>,
    /// Whether the worker polls the device itself.
    pub busy_poll: bool,
    /// Whether chunks leave the worker's caches when they are lent: wished for
    /// ([`super::XdpConfig::filled_elsewhere`]), and known to the processor.
    pub demotes: bool,
    /// Socket options that were wished for and that the kernel refused; the
    /// bearer works without them.
    pub refused: Vec<RefusedOption>,
}

/// A socket option that the kernel did not take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedOption {
    /// As in the kernel's headers.
    pub name: &'static str,
    /// The kernel's reason.
    pub reason: String,
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
    /// descriptor (see [`super::XdpBearer::statistics_fd`]).
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
