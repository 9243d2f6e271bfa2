//! Joins received TCP segments of one connection into large frames for the
//! host (GRO in software), as the kernel's own `tcp_gro_receive` would.
//!
//! What is joined differs in nothing but position, length, checksum and IPv4
//! identification, so that the kernel can cut it into the same segments again.
//! Everything else goes straight through, and nothing overtakes within a
//! connection. UDP is not joined: few sockets ask for it, and the others would
//! have the kernel cut it again. Time is an argument. Imports `packet`,
//! `partial`, `vnet`, `ids`.

use std::time::{Duration, Instant};

use super::packet::{ETH_LEN, Packet, TCP_ACK, TCP_PSH, Transport, Version, may_carry_tcp, word};
use super::partial::{is_right, reopen};
use super::vnet::{Gso, VnetHeader};
use crate::ids::PeerIndex;

/// Longest time from a connection's first held segment to the host, if nothing
/// else ends the wait: long enough for the rest of a burst, far shorter than
/// what TCP takes for a loss.
pub const HOLD: Duration = Duration::from_micros(60);

/// Connections whose segments are held at the same time.
pub const FLOWS: usize = 8;

/// Longest frame that is made, in bytes: lengths in the headers have 16 bits,
/// and the host's own limit is 65,536.
const JOINED_MAX: usize = 65_535;

/// One received frame, as it is offered.
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub peer: PeerIndex,
    /// The Ethernet frame, at least its header, with the addresses that `rx`
    /// writes: frames of one peer to this node differ in none.
    pub frame: &'a mut [u8],
    /// Its checksum is open: the field means nothing.
    pub checksum_pending: bool,
}

/// One frame for the host: as it was received, or made of several.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// Who sent it.
    pub peer: PeerIndex,
    /// What the kernel must know of it.
    pub header: VnetHeader,
    /// The Ethernet frame.
    pub frame: &'a [u8],
    /// Received frames in it.
    pub frames: u64,
}

/// The sender left a checksum open that is not to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSuchChecksum;

/// Which connection of which peer, and which way.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FlowKey {
    peer: PeerIndex,
    ports: [u8; 4],
    version: Version,
    addresses: [u8; 32],
}

impl FlowKey {
    fn new(peer: PeerIndex, packet: &Packet, frame: &[u8]) -> Self {
        let mut addresses = [0; 32];
        for (place, byte) in addresses.iter_mut().zip(packet.addresses(frame)) {
            *place = *byte;
        }
        let at = packet.transport_at;
        Self {
            peer,
            ports: [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]],
            version: packet.version,
            addresses,
        }
    }
}

/// A segment that can be joined, as far as it alone tells.
struct Candidate {
    packet: Packet,
    sequence: u32,
    payload_len: usize,
    pushes: bool,
}

impl Candidate {
    /// Data, no flags but ACK and PSH, plain headers, a checksum known to be
    /// right: its own goes, and a wrong one must not become a right one.
    fn new(packet: Packet, frame: &[u8], checksum_pending: bool) -> Option<Self> {
        let at = packet.transport_at;
        let payload_len = frame.len() - packet.payload_at;
        let joinable = packet.is_plain
            && packet.ip_at == ETH_LEN
            && frame[0] & 1 == 0
            && frame[at + 13] & !TCP_PSH == TCP_ACK
            && frame[at + 12] & 0x0f == 0
            && payload_len > 0
            && (checksum_pending || is_right(&packet, frame));
        joinable.then(|| Self {
            packet,
            sequence: sequence(frame, at),
            payload_len,
            pushes: frame[at + 13] & TCP_PSH != 0,
        })
    }
}

/// A connection's held segments, joined so far.
struct Flow {
    key: FlowKey,
    /// Of its first segment, which gave the headers.
    packet: Packet,
    /// Bytes used of its buffer.
    len: usize,
    segments: u64,
    /// Payload bytes of every segment but the last.
    segment_len: usize,
    next_sequence: u32,
    /// Whether the first segment's checksum is open.
    checksum_pending: bool,
    /// How IPv4 identifications go on; unknown until the second segment.
    id_step: Option<u16>,
    due: Instant,
}

struct Slot {
    flow: Option<Flow>,
    buffer: Box<[u8]>,
}

/// Holds segments of a few connections for a short time.
pub struct Coalescer {
    slots: [Slot; FLOWS],
    held: usize,
}

impl Coalescer {
    /// With all the memory that it will ever take.
    pub fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| Slot {
                flow: None,
                buffer: vec![0; JOINED_MAX].into(),
            }),
            held: 0,
        }
    }

    /// Takes one received frame, and gives to `out` what is ready for the host:
    /// perhaps this frame, perhaps earlier ones, perhaps nothing yet.
    ///
    /// # Errors
    /// [`NoSuchChecksum`] if its checksum is said to be open and it is no plain
    /// TCP or UDP packet. The frame is then not delivered.
    pub fn offer(
        &mut self,
        received: Received<'_>,
        now: Instant,
        out: &mut impl FnMut(Delivery<'_>),
    ) -> Result<(), NoSuchChecksum> {
        let packet = Packet::parse(received.frame);
        if received.checksum_pending && !packet.is_some_and(|packet| packet.is_plain) {
            return Err(NoSuchChecksum);
        }
        if let Some(packet) = packet
            && packet.transport == Transport::Tcp
        {
            self.offer_tcp(packet, received, now, out);
            return Ok(());
        }
        if self.held > 0 && packet.is_none() && may_carry_tcp(received.frame) {
            self.flush_peer(received.peer, out);
        }
        pass(received, packet.as_ref(), out);
        Ok(())
    }

    fn offer_tcp(
        &mut self,
        packet: Packet,
        received: Received<'_>,
        now: Instant,
        out: &mut impl FnMut(Delivery<'_>),
    ) {
        let frame: &[u8] = received.frame;
        let key = FlowKey::new(received.peer, &packet, frame);
        let candidate = Candidate::new(packet, frame, received.checksum_pending);
        let at = self.position(&key);
        if let (Some(at), Some(candidate)) = (at, &candidate)
            && self.slots[at].join(candidate, frame)
        {
            if self.slots[at].is_complete(candidate) {
                self.flush(at, out);
            }
            return;
        }
        if let Some(at) = at {
            self.flush(at, out);
        } else if !packet.is_plain {
            // Behind a routing header, its connection has another address.
            self.flush_peer(received.peer, out);
        }
        match candidate {
            // A segment that pushes is complete by itself.
            Some(candidate) if !candidate.pushes && frame.len() <= JOINED_MAX => {
                let at = self.free_slot(out);
                self.slots[at].start(key, &candidate, &received, now);
                self.held += 1;
            }
            _ => pass(received, Some(&packet), out),
        }
    }

    /// Gives out what has been held for long enough.
    pub fn flush_due(&mut self, now: Instant, out: &mut impl FnMut(Delivery<'_>)) {
        self.flush_where(|flow| flow.due <= now, out);
    }

    /// Gives out everything.
    pub fn flush_all(&mut self, out: &mut impl FnMut(Delivery<'_>)) {
        self.flush_where(|_| true, out);
    }

    /// Whether anything is held.
    pub fn is_holding(&self) -> bool {
        self.held > 0
    }

    /// When [`Self::flush_due`] has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        if self.held == 0 {
            return None;
        }
        let flows = self.slots.iter().filter_map(|slot| slot.flow.as_ref());
        flows.map(|flow| flow.due).min()
    }

    fn flush_peer(&mut self, peer: PeerIndex, out: &mut impl FnMut(Delivery<'_>)) {
        self.flush_where(|flow| flow.key.peer == peer, out);
    }

    fn flush_where(&mut self, which: impl Fn(&Flow) -> bool, out: &mut impl FnMut(Delivery<'_>)) {
        for at in 0..FLOWS {
            if self.held > 0 && self.slots[at].flow.as_ref().is_some_and(&which) {
                self.flush(at, out);
            }
        }
    }

    fn flush(&mut self, at: usize, out: &mut impl FnMut(Delivery<'_>)) {
        let slot = &mut self.slots[at];
        let Some(flow) = slot.flow.take() else {
            return;
        };
        self.held -= 1;
        let Some(frame) = slot.buffer.get_mut(..flow.len) else {
            return;
        };
        flow.deliver(frame, out);
    }

    fn position(&self, key: &FlowKey) -> Option<usize> {
        if self.held == 0 {
            return None;
        }
        let is_it = |slot: &Slot| slot.flow.as_ref().is_some_and(|flow| flow.key == *key);
        self.slots.iter().position(is_it)
    }

    /// A slot without a flow; the flow that waits longest makes room.
    fn free_slot(&mut self, out: &mut impl FnMut(Delivery<'_>)) -> usize {
        let mut oldest: Option<(Instant, usize)> = None;
        for (at, slot) in self.slots.iter().enumerate() {
            let Some(flow) = &slot.flow else {
                return at;
            };
            if oldest.is_none_or(|(due, _)| flow.due < due) {
                oldest = Some((flow.due, at));
            }
        }
        let at = oldest.map_or(0, |(_, at)| at);
        self.flush(at, out);
        at
    }
}

impl Default for Coalescer {
    fn default() -> Self {
        Self::new()
    }
}

impl Slot {
    fn start(
        &mut self,
        key: FlowKey,
        candidate: &Candidate,
        received: &Received<'_>,
        now: Instant,
    ) {
        let frame: &[u8] = received.frame;
        if let Some(place) = self.buffer.get_mut(..frame.len()) {
            place.copy_from_slice(frame);
        }
        self.flow = Some(Flow {
            key,
            packet: candidate.packet,
            len: frame.len(),
            segments: 1,
            segment_len: candidate.payload_len,
            next_sequence: candidate.next_sequence(),
            checksum_pending: received.checksum_pending,
            id_step: None,
            due: now + HOLD,
        });
    }

    /// Appends the segment if it continues the flow; false if it does not.
    fn join(&mut self, candidate: &Candidate, frame: &[u8]) -> bool {
        let Some(flow) = &mut self.flow else {
            return false;
        };
        let (Some(first), Some(payload)) = (
            self.buffer.get(..flow.packet.payload_at),
            frame.get(candidate.packet.payload_at..),
        ) else {
            return false;
        };
        if candidate.sequence != flow.next_sequence
            || candidate.payload_len > flow.segment_len
            || candidate.packet != flow.packet
            || !flow.same_headers(first, frame)
        {
            return false;
        }
        let id_step = match flow.id_step_to(first, frame) {
            Ok(step) => step,
            Err(()) => return false,
        };
        let end = flow.len + payload.len();
        let Some(place) = self.buffer.get_mut(flow.len..end) else {
            return false;
        };
        place.copy_from_slice(payload);
        if candidate.pushes {
            self.buffer[flow.packet.transport_at + 13] |= TCP_PSH;
        }
        flow.len = end;
        flow.segments += 1;
        flow.next_sequence = candidate.next_sequence();
        flow.id_step = id_step;
        true
    }

    /// Whether nothing can follow the segment that was just joined.
    fn is_complete(&self, last: &Candidate) -> bool {
        self.flow.as_ref().is_none_or(|flow| {
            last.pushes
                || last.payload_len < flow.segment_len
                || flow.len + flow.segment_len > self.buffer.len()
        })
    }
}

impl Candidate {
    fn next_sequence(&self) -> u32 {
        // A frame is far shorter than 2^32 bytes.
        #[allow(clippy::cast_possible_truncation)]
        self.sequence.wrapping_add(self.payload_len as u32)
    }
}

impl Flow {
    /// Whether all that a cut would copy to every segment is equal: type of
    /// service, DF, time to live; acknowledgement, window, options.
    fn same_headers(&self, first: &[u8], frame: &[u8]) -> bool {
        let (ip, tcp) = (self.packet.ip_at, self.packet.transport_at);
        let same = |range: std::ops::Range<usize>| first.get(range.clone()) == frame.get(range);
        let same_ip = match self.packet.version {
            // Without length, identification, checksum and addresses.
            Version::V4 => same(ip..ip + 2) && same(ip + 6..ip + 10),
            Version::V6 => same(ip..ip + 4) && same(ip + 6..ip + 8),
        };
        // Without ports, sequence number, flags and checksum.
        same_ip
            && same(tcp + 8..tcp + 13)
            && same(tcp + 14..tcp + 16)
            && same(tcp + 18..self.packet.payload_at)
    }

    /// The step of identifications if the segment keeps to it: 1, or 0 for
    /// atomic datagrams (RFC 6864), whose identification means nothing.
    fn id_step_to(&self, first: &[u8], frame: &[u8]) -> Result<Option<u16>, ()> {
        if self.packet.version == Version::V6 {
            return Ok(None);
        }
        let at = self.packet.ip_at;
        let is_atomic = frame[at + 6] & 0x40 != 0;
        let distance = word(frame, at + 4).wrapping_sub(word(first, at + 4));
        let step = match self.id_step {
            Some(step) => step,
            None if distance == 0 && is_atomic => 0,
            None => 1,
        };
        // As the identification, the count wraps.
        #[allow(clippy::cast_possible_truncation)]
        let expected = step.wrapping_mul(self.segments as u16);
        (distance == expected).then_some(Some(step)).ok_or(())
    }

    fn deliver(&self, frame: &mut [u8], out: &mut impl FnMut(Delivery<'_>)) {
        let (packet, peer) = (&self.packet, self.key.peer);
        if self.segments == 1 {
            let received = Received {
                peer,
                frame,
                checksum_pending: self.checksum_pending,
            };
            return pass(received, Some(packet), out);
        }
        packet.write_ip_length(frame);
        let header = VnetHeader {
            checksum: Some(reopen(packet, frame)),
            gso: match packet.version {
                Version::V4 => Gso::TcpV4,
                Version::V6 => Gso::TcpV6,
            },
            // Both shorter than a frame.
            gso_size: u16::try_from(self.segment_len).unwrap_or(u16::MAX),
            header_len: u16::try_from(packet.payload_at).unwrap_or(u16::MAX),
        };
        out(Delivery {
            peer,
            header,
            frame,
            frames: self.segments,
        });
    }
}

/// Gives one frame out as it came.
fn pass(received: Received<'_>, packet: Option<&Packet>, out: &mut impl FnMut(Delivery<'_>)) {
    let Received { peer, frame, .. } = received;
    let open = packet.filter(|_| received.checksum_pending);
    let header = VnetHeader {
        checksum: open.map(|packet| reopen(packet, frame)),
        ..VnetHeader::default()
    };
    out(Delivery {
        peer,
        header,
        frame,
        frames: 1,
    });
}

fn sequence(frame: &[u8], tcp_at: usize) -> u32 {
    u32::from(word(frame, tcp_at + 4)) << 16 | u32::from(word(frame, tcp_at + 6))
}
