//! The tap device: how unchanged applications reach the cluster.
//!
//! [`TapPort`] is what a worker sees; [`device::Tap`] is the kernel's. The rest
//! touches no descriptor: [`segment`] cuts large frames, [`coalesce`] joins
//! segments, [`partial`] leaves checksums open.

use std::io;
use std::os::fd::BorrowedFd;

pub mod checksum;
pub mod coalesce;
#[cfg(feature = "io")]
pub mod device;
pub mod packet;
pub mod partial;
pub mod segment;
pub mod vnet;

/// More than the longest frame of a tap in bytes: 65,536 of IP, and its
/// Ethernet header with VLAN tags.
pub const FRAME_MAX: usize = 65_536 + 64;

/// Ethernet frames from and to the host, without waiting.
pub trait TapPort {
    /// Reads one frame into `room`; `None` if none waits.
    ///
    /// # Errors
    /// The kernel's: the device is gone or down.
    fn read(&mut self, room: &mut [u8]) -> io::Result<Option<usize>>;

    /// Writes one frame; false if the device takes no more now.
    ///
    /// # Errors
    /// The kernel's: the device is gone or down.
    fn write(&mut self, frame: &[u8]) -> io::Result<bool>;

    /// Readable when a frame waits.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;
}
