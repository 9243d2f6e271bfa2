//! Cuts a large frame of the host into frames that fit (TSO and USO in
//! software): each gets the headers with its own lengths, numbers and flags.
//!
//! The frame waits here while the bearer has no room. Imports `packet`,
//! `partial`, `vnet`.

use super::FRAME_MAX;
use super::packet::{
    Packet, TCP_CWR, TCP_FIN, TCP_PSH, Transport, Version, length_word, put_word, word,
};
use super::partial::{change_length, fill};
use super::vnet::{Gso, OpenChecksum, VnetHeader};

/// Longest IP packet, in bytes, that TCP is cut into, even where the tap's MTU
/// is larger: what one buffer of frame memory carries when it is sealed (an MTU
/// of 3,506 less [`crate::frame::TAP_OVERHEAD`]).
pub const TCP_PACKET_MAX: usize = 3471;

/// Why a large frame is not cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Uncut {
    /// The kernel's header and the frame contradict each other, or it wants
    /// what this device does not offer.
    BadOffload,
    /// A segment would be longer than the tap's MTU allows.
    TooLong,
}

/// One segment, written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its length in bytes, from the Ethernet header on.
    pub len: usize,
    /// Whether its checksum is open and zero, or complete.
    pub checksum_pending: bool,
}

/// Holds one large frame and gives it out in segments.
pub struct Segmenter {
    frame: Box<[u8]>,
    job: Option<Job>,
}

struct Job {
    packet: Packet,
    /// End of the frame.
    end: usize,
    /// The payload byte that the next segment starts with.
    next: usize,
    /// Payload bytes of a segment.
    step: usize,
    index: u16,
}

impl Segmenter {
    /// With all the memory that it will ever take.
    pub fn new() -> Self {
        Self {
            frame: vec![0; FRAME_MAX].into(),
            job: None,
        }
    }

    /// Where the part of a frame goes that is read behind its first `head_len`
    /// bytes. Only while nothing [`Self::is_pending`].
    pub fn overflow_mut(&mut self, head_len: usize) -> &mut [u8] {
        debug_assert!(self.job.is_none());
        self.frame.get_mut(head_len..).unwrap_or_default()
    }

    /// Takes up a frame of `len` bytes: `head`, and behind it what was read to
    /// [`Self::overflow_mut`]. No segment will be longer than `limit` bytes.
    ///
    /// # Errors
    /// [`Uncut`]; then nothing is taken up.
    pub fn start(
        &mut self,
        header: &VnetHeader,
        head: &[u8],
        len: usize,
        limit: usize,
    ) -> Result<(), Uncut> {
        // As long as the buffer: perhaps longer, and cut by the read.
        if len >= self.frame.len() {
            return Err(Uncut::TooLong);
        }
        let head = head.get(..head.len().min(len)).unwrap_or_default();
        (self.frame.get_mut(..head.len()))
            .ok_or(Uncut::TooLong)?
            .copy_from_slice(head);
        let frame = self.frame.get(..len).ok_or(Uncut::TooLong)?;
        let packet = Packet::parse(frame).ok_or(Uncut::BadOffload)?;
        let wanted = match (header.gso, packet.transport, packet.version) {
            (Gso::TcpV4, Transport::Tcp, Version::V4)
            | (Gso::TcpV6, Transport::Tcp, Version::V6)
            | (Gso::Udp, Transport::Udp, _) => OpenChecksum {
                start: length_word(packet.transport_at),
                offset: length_word(packet.checksum_offset()),
            },
            _ => return Err(Uncut::BadOffload),
        };
        let gso_size = usize::from(header.gso_size);
        if header.checksum != Some(wanted) || gso_size == 0 {
            return Err(Uncut::BadOffload);
        }
        let step = match packet.transport {
            // A stream may be cut anywhere, datagrams only where they end.
            Transport::Tcp => {
                let headers = packet.payload_at - packet.ip_at;
                gso_size.min(TCP_PACKET_MAX.saturating_sub(headers).max(1))
            }
            Transport::Udp => gso_size,
        };
        if packet.payload_at + step.min(len - packet.payload_at) > limit {
            return Err(Uncut::TooLong);
        }
        self.job = Some(Job {
            packet,
            end: len,
            next: packet.payload_at,
            step,
            index: 0,
        });
        Ok(())
    }

    /// Whether a frame is in work.
    pub fn is_pending(&self) -> bool {
        self.job.is_some()
    }

    /// Writes the next segment to the start of `room`; `None` if there is none.
    /// Room of fewer than the `limit` bytes promised at the start ends the job.
    pub fn next(&mut self, room: &mut [u8]) -> Option<Segment> {
        let mut job = self.job.take()?;
        let packet = job.packet;
        let headers_len = packet.payload_at;
        let payload_end = (job.next + job.step).min(job.end);
        let payload = self.frame.get(job.next..payload_end)?;
        let len = headers_len + payload.len();
        let segment = room.get_mut(..len)?;
        let (headers, place) = segment.split_at_mut(headers_len);
        headers.copy_from_slice(self.frame.get(..headers_len)?);
        place.copy_from_slice(payload);

        let offset = job.next - headers_len;
        let is_last = payload_end == job.end;
        job.write_ip(segment);
        job.write_transport(segment, offset, is_last);
        let checksum_pending = job.write_checksum(segment);
        job.next = payload_end;
        job.index = job.index.wrapping_add(1);
        if !is_last {
            self.job = Some(job);
        }
        Some(Segment {
            len,
            checksum_pending,
        })
    }

    /// Gives the frame up; returns how many segments were still to come.
    pub fn abandon(&mut self) -> usize {
        self.job
            .take()
            .map_or(0, |job| (job.end - job.next).div_ceil(job.step).max(1))
    }
}

impl Default for Segmenter {
    fn default() -> Self {
        Self::new()
    }
}

impl Job {
    fn write_ip(&self, segment: &mut [u8]) {
        if self.packet.version == Version::V4 {
            let id_at = self.packet.ip_at + 4;
            let id = word(segment, id_at).wrapping_add(self.index);
            put_word(segment, id_at, id);
        }
        self.packet.write_ip_length(segment);
    }

    fn write_transport(&self, segment: &mut [u8], offset: usize, is_last: bool) {
        let transport_len = segment.len() - self.packet.transport_at;
        let header = &mut segment[self.packet.transport_at..];
        match self.packet.transport {
            Transport::Udp => put_word(header, 4, length_word(transport_len)),
            Transport::Tcp => {
                let first = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                // Frames are far shorter than 2^32 bytes.
                #[allow(clippy::cast_possible_truncation)]
                let sequence = first.wrapping_add(offset as u32);
                header[4..8].copy_from_slice(&sequence.to_be_bytes());
                if !is_last {
                    header[13] &= !(TCP_FIN | TCP_PSH);
                }
                if self.index > 0 || offset > 0 {
                    header[13] &= !TCP_CWR;
                }
            }
        }
    }

    /// Leaves the checksum open if the receiver can find it; true if it did.
    fn write_checksum(&self, segment: &mut [u8]) -> bool {
        let packet = &self.packet;
        if packet.is_plain {
            put_word(segment, packet.checksum_at(), 0);
            return true;
        }
        // The kernel's sum is of the whole frame's pseudo-header.
        let (from, to) = (self.end, segment.len());
        let at = packet.checksum_at();
        change_length(
            segment,
            at,
            from - packet.transport_at,
            to - packet.transport_at,
        );
        // The field lies inside: the header was parsed.
        let _ = fill(segment, packet.transport_at, packet.checksum_offset());
        false
    }
}
