//! The tap device: how unchanged applications reach the cluster.
//!
//! [`TapPort`] is what a worker sees; [`device::TapQueue`] is the kernel's. The
//! host gives and takes large frames, which never travel: [`segment`] cuts
//! them, [`coalesce`] joins segments again, and [`partial`] leaves checksums
//! open on the way. These and what they are made of ([`packet`], [`checksum`],
//! [`vnet`]) touch no descriptor.

use std::io;
use std::os::fd::BorrowedFd;

use vnet::VnetBytes;

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

/// Ethernet frames from and to the host, without waiting, each with its
/// virtio-net header ([`vnet::VnetHeader`]).
pub trait TapPort {
    /// Reads one frame: its header, then as much as fits into `room`, the rest
    /// into `overflow`, which is [`FRAME_MAX`] bytes less `room`'s; returns the
    /// frame's length in bytes without the header, `None` if no frame waits.
    ///
    /// # Errors
    /// The kernel's: the device is gone or down.
    fn read(
        &mut self,
        header: &mut VnetBytes,
        room: &mut [u8],
        overflow: &mut [u8],
    ) -> io::Result<Option<usize>>;

    /// Writes one frame; false if the device takes no more now.
    ///
    /// # Errors
    /// The kernel's: the device is gone or down; `InvalidInput` if it does not
    /// take this frame.
    fn write(&mut self, header: &VnetBytes, frame: &[u8]) -> io::Result<bool>;

    /// Readable when a frame waits.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Takes this queue out of the kernel's choice, so that it steers flows to
    /// the device's other queues; returns how many frames waited here, which
    /// are lost. Does nothing to the only queue of a device.
    ///
    /// # Errors
    /// The kernel's; then the queue stays as it is.
    fn detach(&mut self) -> io::Result<u64> {
        Ok(0)
    }

    /// Makes a detached queue one of the device's again.
    ///
    /// # Errors
    /// The kernel's; then the queue stays as it is.
    fn attach(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// No tap: nothing to read, and whatever is written to it is refused
/// (`rx_tap_down`).
#[derive(Clone, Copy, Default, Debug)]
pub struct NoTap;

impl TapPort for NoTap {
    fn read(&mut self, _: &mut VnetBytes, _: &mut [u8], _: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn write(&mut self, _: &VnetBytes, _: &[u8]) -> io::Result<bool> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A tap that there may be; without one it is [`NoTap`].
impl<T: TapPort> TapPort for Option<T> {
    fn read(
        &mut self,
        header: &mut VnetBytes,
        room: &mut [u8],
        overflow: &mut [u8],
    ) -> io::Result<Option<usize>> {
        match self {
            Some(tap) => tap.read(header, room, overflow),
            None => NoTap.read(header, room, overflow),
        }
    }

    fn write(&mut self, header: &VnetBytes, frame: &[u8]) -> io::Result<bool> {
        match self {
            Some(tap) => tap.write(header, frame),
            None => NoTap.write(header, frame),
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.as_ref()?.poll_fd()
    }

    fn detach(&mut self) -> io::Result<u64> {
        self.as_mut().map_or(Ok(0), T::detach)
    }

    fn attach(&mut self) -> io::Result<()> {
        self.as_mut().map_or(Ok(()), T::attach)
    }
}
