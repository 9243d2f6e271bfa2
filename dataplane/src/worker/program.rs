//! What a worker does for a program that drives it: messages in and out.
//!
//! [`crate::endpoint`] is the face of it. Messages go through the same bursts
//! as everything else, so nothing of theirs is unbounded: at most a burst waits
//! to be taken, and at most a burst to be sent.

use std::time::Duration;

use tipsec_xdp::wire::TAG_LEN;

use super::Worker;
use crate::aead::Aead;
use crate::bearer::{Bearer, BearerError};
use crate::burst::BURST;
use crate::counters::TxDrop;
use crate::endpoint::SendError;
use crate::frame::{MESSAGE_OFFSET, MESSAGE_OVERHEAD, PAYLOAD_OFFSET};
use crate::ids::{NodeId, PeerIndex};
use crate::payload::Payload;
use crate::rx::Opened;
use crate::sa::Class;
use crate::table::{RxTable, TxTable};
use crate::tap::TapPort;
use crate::tx::Plain;

impl<A: Aead, B: Bearer, T: TapPort> Worker<A, B, T> {
    /// From now on messages are kept for the program.
    pub(crate) fn take_messages(&mut self) {
        self.takes_messages = true;
    }

    /// Whether the control thread has gone without a word.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.channel.is_orphaned()
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.config.node
    }

    /// Longest message in bytes.
    pub(crate) fn message_max(&self) -> usize {
        self.config.mtu.saturating_sub(MESSAGE_OVERHEAD)
    }

    /// Why the device was given up, if it was.
    pub(crate) fn fault(&self) -> Option<&BearerError> {
        self.fault.get()
    }

    /// The device, while it is there.
    pub(crate) fn bearer(&self) -> Option<&B> {
        self.bearer.as_ref()
    }

    /// Messages that wait to be taken.
    pub(crate) fn messages_waiting(&self) -> usize {
        self.messages.len()
    }

    /// The next message, in order of arrival.
    pub(crate) fn next_message(&mut self) -> Option<Opened<B::Frame>> {
        self.messages.pop()
    }

    /// Whether one more message can be lined up to be sent. What the bearer has
    /// not taken yet counts, so that a burst is all that ever waits.
    pub(crate) fn has_room(&self) -> bool {
        self.plain.len() + self.sealed.len() < BURST
    }

    /// A frame for a message, and for whom.
    pub(crate) fn reserve(&mut self, to: NodeId) -> Result<(B::Frame, PeerIndex), SendError> {
        if self.bearer.is_none() {
            return Err(SendError::Gone);
        }
        let peer = self.tx.peer_of(to).ok_or(SendError::UnknownNode(to))?;
        self.admit(to, peer)?;
        let frame = self.bearer.as_mut().and_then(B::allocate);
        Ok((frame.ok_or(SendError::NoMemory)?, peer))
    }

    /// Whether data for a peer may be lined up now.
    fn admit(&mut self, to: NodeId, peer: PeerIndex) -> Result<(), SendError> {
        let has_room = self.has_room();
        match self.tx.ready(peer, Class::Data) {
            Ok(_) if has_room => Ok(()),
            Ok(_) => Err(SendError::Full),
            Err(TxDrop::NoPath) => Err(SendError::NoPath(to)),
            Err(_) => Err(SendError::NoKey(to)),
        }
    }

    /// Makes the frame of a message the frame of its answer, which begins as
    /// the message; releases it if there is no way to answer now.
    pub(crate) fn reserve_answer(
        &mut self,
        message: Opened<B::Frame>,
    ) -> Result<(B::Frame, PeerIndex), SendError> {
        let peer = message.peer();
        if let Err(error) = self.admit(message.node(), peer) {
            self.release(message.into_frame());
            return Err(error);
        }
        let Some(bearer) = &mut self.bearer else {
            return Err(SendError::Gone);
        };
        let plaintext = message.plaintext_range();
        let mut frame = message.into_frame();
        let (segment, _) = bearer.extent(&frame);
        let start = segment + plaintext.start;
        // AF_XDP receives to where it is sent from; other memory may not.
        if start != PAYLOAD_OFFSET {
            let room = bearer.room_mut(&mut frame);
            let end = (start + plaintext.len()).min(room.len());
            let fits = end.saturating_sub(start) <= room.len().saturating_sub(PAYLOAD_OFFSET);
            if fits {
                room.copy_within(start..end, PAYLOAD_OFFSET);
            }
        }
        Ok((frame, peer))
    }

    /// Where the message of a reserved frame is written.
    pub(crate) fn message_room<'a>(&'a mut self, frame: &'a mut B::Frame) -> &'a mut [u8] {
        let end = MESSAGE_OFFSET + self.message_max();
        let Some(bearer) = &mut self.bearer else {
            return &mut [];
        };
        let room = bearer.room_mut(frame);
        // An allocated room holds the longest frame, whose tag comes behind the
        // message; that of an answer may be a single buffer.
        let end = end.min(room.len().saturating_sub(TAG_LEN));
        room.get_mut(MESSAGE_OFFSET..end).unwrap_or_default()
    }

    /// Lines a message of `len` bytes up to be sealed. There is room: it was
    /// seen when the frame was reserved, and nothing came between.
    pub(crate) fn commit(&mut self, mut frame: B::Frame, to: PeerIndex, len: usize) {
        let Some(bearer) = &mut self.bearer else {
            return;
        };
        if let Some(kind) = bearer.room_mut(&mut frame).get_mut(PAYLOAD_OFFSET) {
            *kind = Payload::Message.encode();
        }
        if let Err(full) = self.plain.try_push(Plain::data(frame, to, 1 + len)) {
            bearer.release(full.element().into_frame());
            self.counters.peer(to).tx_drop(TxDrop::NoMemory, 1);
        }
    }

    /// The message in a received frame.
    pub(crate) fn message_mut<'a>(&'a mut self, message: &'a mut Opened<B::Frame>) -> &'a mut [u8] {
        let bearer = self.bearer.as_mut();
        let plaintext = bearer.map(|bearer| message.plaintext_mut(bearer));
        // The payload byte, then the message.
        plaintext
            .and_then(<[u8]>::split_first_mut)
            .map(|(_, message)| message)
            .unwrap_or_default()
    }

    /// Gives frame memory back.
    pub(crate) fn release(&mut self, frame: B::Frame) {
        if let Some(bearer) = &mut self.bearer {
            bearer.release(frame);
        }
    }

    /// Seals what is lined up and offers it to the bearer, which need not take
    /// all of it; says how many frames it took.
    pub(crate) fn flush(&mut self) -> usize {
        self.seal();
        let sent = self.transmit().unwrap_or_else(|error| {
            self.lose_bearer(error);
            0
        });
        if sent > 0 {
            self.stalled = 0;
            self.idle.on_frames();
        }
        self.wake_control();
        sent
    }

    /// Sleeps for a program until there is something to do, or spins.
    pub(crate) fn rest(&mut self, limit: Duration) {
        self.wait_at_most(limit);
    }

    /// Says that a program found nothing to do and does not sleep.
    pub(crate) fn idle(&mut self) {
        self.spin();
    }

    /// Asks whether the device is still there: a system call.
    pub(crate) fn look(&mut self) {
        self.look_at_bearer();
    }

    /// Wipes all keys and closes the bearer: for a worker that was told to stop
    /// and is not dropped at once.
    pub(crate) fn retire(&mut self) {
        self.rx = RxTable::new(0);
        self.tx = TxTable::new(0);
        self.plain.clear();
        self.sealed.clear();
        self.messages.clear();
        self.bearer = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::AnyAead;
    use crate::bearer::memory::{Faults, MemoryBearer, MemorySizes};
    use crate::command::{Budget, ControlEnd, RxLaneSpec, TxLaneSpec, channel};
    use crate::counters::RxDrop;
    use crate::ids::{Epoch, LaneIndex, Spi};
    use crate::mac::MacAddr;
    use crate::outer::{Encapsulation, OuterHeader};
    use crate::phase::PhaseBits;
    use crate::sa::{RxLane, RxShared, TxLane};
    use crate::secret::{LaneSecret, Suite};
    use crate::tap::NoTap;
    use crate::worker::{Pass, Polling, WorkerConfig};

    const PEER: PeerIndex = PeerIndex(0);
    const ETHERTYPE: u16 = 0x88b5;

    type MemoryWorker = Worker<AnyAead, MemoryBearer, NoTap>;

    fn node(id: u32) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn mac(id: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, id])
    }

    fn worker(id: u8, bearer: MemoryBearer) -> (ControlEnd, MemoryWorker) {
        let (control, channel) = channel().unwrap();
        let config = WorkerConfig {
            node: node(id.into()),
            encapsulation: Encapsulation::ethernet(mac(id), ETHERTYPE, None),
            mtu: 1500,
            peers: 1,
            spis: 4,
            polling: Polling::Sleep,
        };
        let mut worker = Worker::new(config, channel, bearer, NoTap);
        worker.take_messages();
        (control, worker)
    }

    fn secret() -> LaneSecret {
        LaneSecret::new(Suite::Aes128Gcm, [1; 32], [2; 12])
    }

    /// A lane from node 1 to node 2.
    fn join(from: &mut MemoryWorker, to: &mut MemoryWorker) {
        let spi = Spi::new(1).unwrap();
        let path = OuterHeader::ethernet(mac(1), mac(2), ETHERTYPE, None);
        from.tx.set_path(PEER, Some(path));
        let installed = from.tx.install(TxLane::new(TxLaneSpec {
            spi,
            peer: PEER,
            node: node(2),
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: secret(),
            next: None,
            phase_bits: PhaseBits::PROTOCOL,
            budget: Budget {
                soft: u64::MAX,
                hard: u64::MAX,
            },
        }));
        assert_eq!(installed, Ok(()));
        let inserted = to.rx.insert(RxLane::new(RxLaneSpec {
            spi,
            peer: PEER,
            node: node(1),
            epoch: Epoch(1),
            lane: LaneIndex(0),
            secret: secret(),
            next: None,
            phase_bits: PhaseBits::PROTOCOL,
            shared: RxShared::of_single_lane(1),
        }));
        assert_eq!(inserted, Ok(()));
    }

    #[test]
    fn messages_that_go_with_the_device_are_counted() {
        let sizes = MemorySizes::default();
        let (a, b) = MemoryBearer::pair(sizes, Faults::default(), 1).unwrap();
        let ((_, mut a), (_, mut b)) = (worker(1, a), worker(2, b));
        join(&mut a, &mut b);
        for _ in 0..5 {
            let (frame, to) = a.reserve(node(2)).unwrap();
            a.commit(frame, to, 10);
        }
        assert_eq!(a.flush(), 5);
        assert_eq!(b.pass(), Pass::Busy);
        let taken = b.next_message().unwrap();
        b.release(taken.into_frame());
        assert_eq!(b.messages_waiting(), 4);
        b.lose_bearer(BearerError::DeviceGone);
        assert_eq!(b.messages_waiting(), 0);
        assert_eq!(b.counters.peer(PEER).rx_drops(RxDrop::NoReceiver), 4);

        for _ in 0..3 {
            let (frame, to) = a.reserve(node(2)).unwrap();
            a.commit(frame, to, 10);
        }
        a.lose_bearer(BearerError::DeviceGone);
        assert_eq!(a.counters.peer(PEER).tx_drops(TxDrop::LinkLost), 3);
        assert_eq!(a.reserve(node(2)).err(), Some(SendError::Gone));
        assert_eq!(a.flush(), 0);
    }
}
