//! Many datagrams in one call: sendmmsg(2), recvmmsg(2), and the options that
//! make one buffer of many datagrams (`UDP_SEGMENT`, `UDP_GRO`; udp(7)).
//! rustix has the first only. Imports nothing.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Most datagrams in one call.
pub(crate) const BATCH: usize = BATCH_LEN as usize;
/// The same as system calls want it.
const BATCH_LEN: c_uint = 64;

const SOL_UDP: c_int = libc::IPPROTO_UDP;

fn set_udp(socket: &UdpSocket, option: c_int, value: c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or(4);
    // SAFETY: the pointer and the length describe `value`, which outlives the
    // call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            SOL_UDP,
            option,
            std::ptr::from_ref(&value).cast(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What is written is cut into datagrams of `bytes` each.
///
/// # Errors
/// The kernel's.
pub(crate) fn segment_at(socket: &UdpSocket, bytes: u16) -> io::Result<()> {
    set_udp(socket, libc::UDP_SEGMENT, c_int::from(bytes))
}

/// Datagrams of one train may be read as one buffer.
///
/// # Errors
/// The kernel's.
pub(crate) fn coalesce(socket: &UdpSocket) -> io::Result<()> {
    set_udp(socket, libc::UDP_GRO, 1)
}

fn empty_message() -> libc::mmsghdr {
    // SAFETY: all fields are integers and pointers, for which zero is valid.
    unsafe { std::mem::zeroed() }
}

fn message(part: &mut libc::iovec) -> libc::mmsghdr {
    let mut message = empty_message();
    message.msg_hdr.msg_iov = part;
    message.msg_hdr.msg_iovlen = 1;
    message
}

/// Sends datagrams of these lengths on a connected socket; waits for room. Each
/// starts `stride` bytes of `payload` behind the one before it: with 0 all are
/// alike. Says how many the kernel took.
///
/// # Errors
/// The kernel's, if it took none.
pub(crate) fn send(
    socket: &UdpSocket,
    payload: &[u8],
    stride: usize,
    lengths: &[usize],
) -> io::Result<usize> {
    let count = c_uint::try_from(lengths.len()).map_or(BATCH_LEN, |count| count.min(BATCH_LEN));
    let mut parts = [libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: 0,
    }; BATCH];
    let mut messages = [empty_message(); BATCH];
    let slots = parts.iter_mut().zip(&mut messages);
    for (place, ((part, slot), &length)) in slots.zip(lengths).enumerate() {
        let own = payload.get(place * stride..).unwrap_or_default();
        part.iov_base = own.as_ptr().cast_mut().cast();
        part.iov_len = length.min(own.len());
        *slot = message(part);
    }
    // SAFETY: `count` headers are initialised; each points to one entry of
    // `parts`, which points into `payload` and not beyond; all of them outlive
    // the call, and sendmmsg only reads the payload.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Buffers for received datagrams.
pub(crate) struct Inbox {
    memory: Box<[u8]>,
    slot_bytes: usize,
}

impl Inbox {
    /// Room for [`BATCH`] datagrams, or coalesced trains of them, of at most
    /// `slot_bytes`.
    pub(crate) fn new(slot_bytes: usize) -> Self {
        Self {
            memory: vec![0; slot_bytes * BATCH].into(),
            slot_bytes,
        }
    }

    /// Reads what is there without waiting, and shows each.
    ///
    /// # Errors
    /// The kernel's; nothing to read is none.
    pub(crate) fn receive(
        &mut self,
        socket: &UdpSocket,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let mut messages = [empty_message(); BATCH];
        let mut parts = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        let slots = self.memory.chunks_exact_mut(self.slot_bytes);
        for ((part, header), slot) in parts.iter_mut().zip(&mut messages).zip(slots) {
            part.iov_base = slot.as_mut_ptr().cast();
            part.iov_len = slot.len();
            *header = message(part);
        }
        // SAFETY: every header points to one entry of `parts`, which describes
        // one slot of `memory`; slots do not overlap, and all of them outlive
        // the call. No address, no control data, no timeout is asked for.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH_LEN,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };
        let slots = self.memory.chunks_exact(self.slot_bytes);
        for (message, slot) in messages[..count].iter().zip(slots) {
            // Never more than the slot, since the true length was not asked for.
            each(slot.get(..message.msg_len as usize).unwrap_or(slot));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        from.connect(to.local_addr().unwrap()).unwrap();
        (from, to)
    }

    #[test]
    fn lengths_arrive_as_sent() {
        let (from, to) = pair();
        let mut inbox = Inbox::new(2048);
        assert_eq!(inbox.receive(&to, |_| ()).unwrap(), 0, "nothing yet");
        assert_eq!(send(&from, &[7; 1000], 0, &[10, 1000, 0, 5000]).unwrap(), 4);
        let mut lengths = Vec::new();
        assert_eq!(inbox.receive(&to, |d| lengths.push(d.len())).unwrap(), 4);
        assert_eq!(lengths, [10, 1000, 0, 1000], "never more than there is");
        assert_eq!(inbox.memory[..11], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]);
    }

    #[test]
    fn datagrams_a_stride_apart_differ() {
        let (from, to) = pair();
        let payload = [1, 1, 2, 2, 3];
        assert_eq!(send(&from, &payload, 2, &[2, 2, 2, 2]).unwrap(), 4);
        let mut seen = Vec::new();
        let count = Inbox::new(16).receive(&to, |datagram| seen.push(datagram.to_vec()));
        assert_eq!(count.unwrap(), 4);
        assert_eq!(seen, [vec![1, 1], vec![2, 2], vec![3], vec![]]);
    }

    #[test]
    fn a_train_is_cut_into_datagrams() {
        let (from, to) = pair();
        segment_at(&from, 100).unwrap();
        assert_eq!(send(&from, &[7; 1000], 0, &[1000]).unwrap(), 1);
        let mut bytes = 0;
        let count = Inbox::new(2048).receive(&to, |datagram| {
            assert_eq!(datagram.len(), 100);
            bytes += datagram.len();
        });
        assert_eq!((count.unwrap(), bytes), (10, 1000));
    }
}
