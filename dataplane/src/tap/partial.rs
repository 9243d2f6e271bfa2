//! Checksums that the kernel left open, at both ends of the way.
//!
//! A host does not compute the TCP or UDP checksum of what it sends through a
//! tap: the AEAD covers the frame better. The sender marks such a frame
//! (docs/protocol.md, "Inside a data frame"), and the receiver hands it to its
//! host as one whose checksum is still open: a socket there takes it as it is,
//! and a host that forwards it fills it in. Imports `checksum`, `packet`, `vnet`.

use super::checksum::Sum;
use super::packet::{Packet, length_word, put_word, word};
use super::vnet::{OpenChecksum, VnetHeader};

/// The kernel's header and the frame behind it contradict each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadOffload;

/// For a single frame from the kernel: true if its checksum stays open on its
/// way and is zeroed; else it is complete. What the receiver could not find
/// again (options, extension headers, tunnels) is computed here.
///
/// # Errors
/// [`BadOffload`] if the checksum lies outside of the frame.
pub fn settle(header: &VnetHeader, frame: &mut [u8]) -> Result<bool, BadOffload> {
    let Some(open) = header.checksum else {
        return Ok(false);
    };
    let (start, offset) = (usize::from(open.start), usize::from(open.offset));
    match Packet::parse(frame) {
        Some(packet)
            if packet.is_plain
                && (packet.transport_at, packet.checksum_offset()) == (start, offset) =>
        {
            put_word(frame, packet.checksum_at(), 0);
            Ok(true)
        }
        _ => fill(frame, start, offset).map(|()| false),
    }
}

/// Computes an open checksum: over everything from `start`, where the field
/// itself holds the pseudo-header's sum.
///
/// # Errors
/// [`BadOffload`] if it lies outside of the frame.
pub(super) fn fill(frame: &mut [u8], start: usize, offset: usize) -> Result<(), BadOffload> {
    let summed = frame.get_mut(start..).ok_or(BadOffload)?;
    if offset + 2 > summed.len() {
        return Err(BadOffload);
    }
    let checksum = match Sum::default().with(summed).checksum() {
        // To UDP, 0 says that there is none; to TCP the two are the same.
        0 => 0xffff,
        checksum => checksum,
    };
    put_word(summed, offset, checksum);
    Ok(())
}

/// For a frame that arrived with its checksum open, or was joined from some:
/// writes the pseudo-header's sum where the kernel expects it, and says where.
/// `packet` is the frame's, and plain.
pub(super) fn reopen(packet: &Packet, frame: &mut [u8]) -> OpenChecksum {
    let transport_len = frame.len() - packet.transport_at;
    let pseudo = packet.pseudo_sum(frame, transport_len).fold();
    put_word(frame, packet.checksum_at(), pseudo);
    OpenChecksum {
        start: length_word(packet.transport_at),
        offset: length_word(packet.checksum_offset()),
    }
}

/// Whether the checksum of a plain packet, which is complete, is right.
pub(super) fn is_right(packet: &Packet, frame: &[u8]) -> bool {
    let Some(summed) = frame.get(packet.transport_at..) else {
        return false;
    };
    let pseudo = packet.pseudo_sum(frame, summed.len());
    pseudo.with(summed).checksum() == 0
}

/// Changes the length in an open checksum's pseudo-header sum.
pub(super) fn change_length(frame: &mut [u8], checksum_at: usize, from: usize, to: usize) {
    let sum = Sum::default()
        .with_word(word(frame, checksum_at))
        .with_word(!length_word(from))
        .with_word(length_word(to));
    put_word(frame, checksum_at, sum.fold());
}
