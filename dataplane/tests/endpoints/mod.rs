//! Endpoints over memory, and the control thread's part of them.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use tipsec_dataplane::bearer::memory::{Faults, MemoryBearer, MemorySizes};
use tipsec_dataplane::command::{
    Command, CommandSeq, ControlEnd, Event, RxLaneSpec, TxLaneSpec, channel,
};
use tipsec_dataplane::endpoint::Endpoint;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OuterHeader};
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::sa::RxShared;
use tipsec_dataplane::secret::Suite;
use tipsec_dataplane::tap::NoTap;
use tipsec_dataplane::worker::{Polling, WorkerConfig};

use crate::common::{Cipher, UNBOUNDED, secret};

pub const MTU: usize = 1500;

/// An endpoint, and the control thread's end of it.
pub struct End {
    pub endpoint: Endpoint<Cipher, MemoryBearer>,
    pub control: ControlEnd,
}

pub fn node(id: u32) -> NodeId {
    NodeId::new(id).unwrap()
}

/// The peer index of a node, the same everywhere here.
pub fn peer(id: u32) -> PeerIndex {
    PeerIndex(id as u16)
}

fn outer(id: NodeId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, id.value() as u8])
}

impl End {
    pub fn new(id: u32, bearer: MemoryBearer) -> Self {
        let (control, channel) = channel().unwrap();
        let node = node(id);
        let config = WorkerConfig {
            node,
            encapsulation: Encapsulation::ethernet(outer(node), 0x88b5, None),
            mtu: MTU,
            peers: 16,
            spis: 64,
            polling: Polling::Sleep,
        };
        Self {
            endpoint: Endpoint::new(config, channel, bearer, NoTap),
            control,
        }
    }

    pub fn command(&self, command: Command) {
        assert!(self.control.send(command).is_ok());
    }

    /// A lane from this end to node `to` under `spi`, opened by `other` as
    /// node `from`'s.
    pub fn lane(&mut self, other: &mut Self, from: u32, to: u32, spi: u32) {
        let seq = CommandSeq(u64::from(spi));
        let (spi, seed) = (Spi::new(spi).unwrap(), u64::from(spi));
        other.command(Command::InstallRx {
            seq,
            lane: Box::new(RxLaneSpec {
                spi,
                peer: peer(from),
                node: node(from),
                epoch: Epoch(1),
                lane: LaneIndex(0),
                secret: secret(Suite::Aes128Gcm, seed),
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
                shared: RxShared::of_single_lane(1 << 30),
            }),
        });
        other.endpoint.poll().unwrap();
        assert_eq!(other.control.receive(), Some(Event::Done { seq }));
        let path = OuterHeader::ethernet(
            outer(self.endpoint.node()),
            outer(other.endpoint.node()),
            0x88b5,
            None,
        );
        self.command(Command::SetPath {
            peer: peer(to),
            path: Some(path),
        });
        self.command(Command::InstallTx {
            seq,
            lane: Box::new(TxLaneSpec {
                spi,
                peer: peer(to),
                node: node(to),
                epoch: Epoch(1),
                lane: LaneIndex(0),
                secret: secret(Suite::Aes128Gcm, seed),
                next: None,
                phase_bits: PhaseBits::PROTOCOL,
                budget: UNBOUNDED,
            }),
        });
        self.endpoint.poll().unwrap();
        assert_eq!(self.control.receive(), Some(Event::Done { seq }));
    }

    /// Asks for a probe of a node.
    pub fn probe(&self, to: u32, id: u64) {
        let op = ProbeOp::Request;
        let probe = Probe {
            op,
            id,
            phase: Phase::FIRST,
        };
        let peer = peer(to);
        self.command(Command::SendProbe { peer, probe });
    }

    /// Polls until there is nothing to do.
    pub fn settle(&mut self) {
        while self.endpoint.poll().unwrap() {}
    }

    /// Everything that has come and comes: senders and messages.
    pub fn take(&mut self) -> Vec<(u32, Vec<u8>)> {
        let mut taken = Vec::new();
        loop {
            self.settle();
            let count = self.endpoint.receive(|mut message| {
                taken.push((message.from().value(), message.payload_mut().to_vec()));
            });
            if count == 0 {
                return taken;
            }
        }
    }

    pub fn free_frames(&self) -> usize {
        self.endpoint.bearer().unwrap().free_frames()
    }
}

/// Two ends with a lane each way, nodes 1 and 2.
pub fn ends(sizes: MemorySizes) -> (End, End) {
    let (a, b) = MemoryBearer::pair(sizes, Faults::default(), 1).unwrap();
    let (mut a, mut b) = (End::new(1, a), End::new(2, b));
    a.lane(&mut b, 1, 2, 1);
    b.lane(&mut a, 2, 1, 2);
    (a, b)
}
