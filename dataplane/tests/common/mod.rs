//! A node of tables, counters and one end of a memory bearer, for tests that
//! go through the public API.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::sync::Arc;

use tipsec_dataplane::aead::Aead;
use tipsec_dataplane::bearer::memory::{Faults, MemoryBearer, MemoryFrame, MemorySizes};
use tipsec_dataplane::bearer::{Bearer, FrameMemory};
use tipsec_dataplane::burst::Burst;
use tipsec_dataplane::command::{Budget, Event, RxLaneSpec, TxLaneSpec};
use tipsec_dataplane::counters::WorkerCounters;
use tipsec_dataplane::frame::PAYLOAD_OFFSET;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OuterHeader};
use tipsec_dataplane::payload::Payload;
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::rx::{Opened, open_burst};
use tipsec_dataplane::sa::{RxLane, RxShared, TxLane};
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::table::{RxTable, TxTable};
use tipsec_dataplane::tx::{Plain, Sealed, seal_burst};

#[cfg(feature = "crypto-aws-lc")]
pub type Cipher = tipsec_dataplane::aead::aws_lc::AwsLc;
#[cfg(not(feature = "crypto-aws-lc"))]
pub type Cipher = tipsec_dataplane::aead::ring::Ring;

/// The only peer in these tests, at both ends.
pub const PEER: PeerIndex = PeerIndex(3);

pub const UNBOUNDED: Budget = Budget {
    soft: u64::MAX,
    hard: u64::MAX,
};

pub struct Node<A: Aead> {
    pub id: NodeId,
    pub bearer: MemoryBearer,
    pub encapsulation: Encapsulation,
    pub rx: RxTable<A>,
    pub tx: TxTable<A>,
    pub counters: WorkerCounters,
    pub events: Vec<Event>,
    received: Burst<MemoryFrame>,
    opened: Burst<Opened<MemoryFrame>>,
    plain: Burst<Plain<MemoryFrame>>,
    sealed: Burst<Sealed<MemoryFrame>>,
}

/// The secret of generation `seed`: no two seeds share a key or an IV.
pub fn secret(suite: Suite, seed: u64) -> LaneSecret {
    let mut key = [0x5a; 32];
    key[..8].copy_from_slice(&seed.to_be_bytes());
    let mut iv = [0xa5; 12];
    iv[4..].copy_from_slice(&seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    LaneSecret::new(suite, key, iv)
}

pub fn pair<A: Aead>(faults: Faults, seed: u64) -> (Node<A>, Node<A>) {
    let sizes = MemorySizes::default();
    let (a, b) = MemoryBearer::pair(sizes, faults, seed).unwrap();
    (Node::new(1, a), Node::new(2, b))
}

impl<A: Aead> Node<A> {
    fn new(id: u32, bearer: MemoryBearer) -> Self {
        let id = NodeId::new(id).unwrap();
        Self {
            id,
            bearer,
            encapsulation: Encapsulation::ethernet(Self::mac(id), 0x88b5, None),
            rx: RxTable::new(1024),
            tx: TxTable::new(16),
            counters: WorkerCounters::new(16),
            events: Vec::with_capacity(1024),
            received: Burst::new(),
            opened: Burst::new(),
            plain: Burst::new(),
            sealed: Burst::new(),
        }
    }

    fn mac(id: NodeId) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, id.value() as u8])
    }

    fn other(&self) -> NodeId {
        NodeId::new(3 - self.id.value()).unwrap()
    }

    pub fn install_rx(&mut self, spi: u32, epoch: u32, secret: LaneSecret) -> Arc<RxShared> {
        self.install_rx_limited(spi, epoch, secret, 1 << 36)
    }

    pub fn install_rx_limited(
        &mut self,
        spi: u32,
        epoch: u32,
        secret: LaneSecret,
        failed_opens_limit: u64,
    ) -> Arc<RxShared> {
        let shared = RxShared::of_single_lane(failed_opens_limit);
        self.rx
            .insert(RxLane::new(RxLaneSpec {
                spi: Spi::new(spi).unwrap(),
                peer: PEER,
                node: self.other(),
                epoch: Epoch(epoch),
                lane: LaneIndex(0),
                secret,
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
                shared: Arc::clone(&shared),
            }))
            .unwrap();
        shared
    }

    pub fn install_tx(&mut self, spi: u32, epoch: u32, secret: LaneSecret, budget: Budget) {
        let path = OuterHeader::ethernet(Self::mac(self.id), Self::mac(self.other()), 0x88b5, None);
        self.tx.set_path(PEER, Some(path));
        self.tx
            .install(TxLane::new(TxLaneSpec {
                spi: Spi::new(spi).unwrap(),
                peer: PEER,
                node: self.other(),
                epoch: Epoch(epoch),
                lane: LaneIndex(0),
                secret,
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
                budget,
            }))
            .unwrap();
    }

    /// Seals and sends up to `count` messages, their content made by
    /// `fill(index, room)`, which returns a length; says how many it offered.
    pub fn send(&mut self, count: usize, fill: impl FnMut(usize, &mut [u8]) -> usize) -> usize {
        self.send_as(Payload::Message.encode(), count, fill)
    }

    /// The same with another payload byte.
    pub fn send_as(
        &mut self,
        kind: u8,
        count: usize,
        mut fill: impl FnMut(usize, &mut [u8]) -> usize,
    ) -> usize {
        // Duplicates may have taken the wire's last places from sealed frames.
        let places = 64 - self.sealed.len();
        let count = count.min(places).min(self.bearer.transmit_room());
        for index in 0..count {
            let mut frame = self.bearer.allocate().unwrap();
            let room = &mut self.bearer.room_mut(&mut frame)[PAYLOAD_OFFSET..];
            room[0] = kind;
            let len = 1 + fill(index, &mut room[1..]);
            self.plain.push(Plain::data(frame, PEER, len));
        }
        let events = &mut self.events;
        seal_burst(
            &mut self.tx,
            &mut self.bearer,
            &mut self.plain,
            &mut self.sealed,
            &self.counters,
            |event| events.push(event),
        );
        self.bearer.transmit(&mut self.sealed).unwrap();
        assert!(self.plain.is_empty());
        count
    }

    /// Receives one burst and hands every message's content to `deliver`; says
    /// how many frames it received.
    pub fn receive(&mut self, mut deliver: impl FnMut(&[u8])) -> usize {
        self.bearer.receive(&mut self.received).unwrap();
        let count = self.received.len();
        let events = &mut self.events;
        open_burst(
            &mut self.rx,
            &self.encapsulation,
            &mut self.bearer,
            &mut self.received,
            &mut self.opened,
            &self.counters,
            |event| events.push(event),
        );
        assert!(self.received.is_empty());
        for mut opened in self.opened.drain(..) {
            assert_eq!(opened.peer(), PEER);
            assert_eq!(opened.payload(), Payload::Message);
            deliver(&opened.plaintext_mut(&mut self.bearer)[1..]);
            self.bearer.release(opened.into_frame());
        }
        count
    }
}
