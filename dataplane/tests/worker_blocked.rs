//! A bearer that takes nothing (carrier lost, a full wire) holds data up, and
//! nothing else.
#![cfg(feature = "crypto-ring")]
#![allow(clippy::unwrap_used)] // a test may stop

use std::os::fd::BorrowedFd;
use tipsec_dataplane::aead::ring::Ring;
use tipsec_dataplane::bearer::memory::{Faults, MemoryBearer, MemorySizes};
use tipsec_dataplane::command::{self, Budget, Command, CommandSeq, Event, TxLaneSpec};
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, PeerIndex, Spi};
use tipsec_dataplane::mac::MacAddr;
use tipsec_dataplane::outer::{Encapsulation, OuterHeader};
use tipsec_dataplane::payload::{Probe, ProbeOp};
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::tap::TapPort;
use tipsec_dataplane::tap::vnet::VnetBytes;
use tipsec_dataplane::worker::{Pass, Polling, Worker, WorkerConfig};
struct NoTap;
impl TapPort for NoTap {
    fn read(
        &mut self,
        _: &mut VnetBytes,
        _: &mut [u8],
        _: &mut [u8],
    ) -> std::io::Result<Option<usize>> {
        Ok(None)
    }
    fn write(&mut self, _: &VnetBytes, _: &[u8]) -> std::io::Result<bool> {
        Ok(true)
    }
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
#[test]
fn stop_gets_through_a_blocked_bearer() {
    let sizes = MemorySizes {
        wire_frames: 4,
        ..MemorySizes::default()
    };
    let (a, _b) = MemoryBearer::pair(sizes, Faults::default(), 1).unwrap();
    let (control, end) = command::channel().unwrap();
    let config = WorkerConfig {
        node: NodeId::new(1).unwrap(),
        encapsulation: Encapsulation::ethernet(MacAddr([2; 6]), 0x88b5, None),
        mtu: 1500,
        peers: 4,
        spis: 16,
        polling: Polling::Sleep,
    };
    let mut worker: Worker<Ring, _, _> = Worker::new(config, end, a, NoTap);
    let lane = TxLaneSpec {
        spi: Spi::new(7).unwrap(),
        peer: PeerIndex(0),
        node: NodeId::new(2).unwrap(),
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: LaneSecret::new(Suite::Aes256Gcm, [1; 32], [2; 12]),
        next: None,
        phase_bits: PhaseBits::PROTOCOL,
        budget: Budget {
            soft: u64::MAX,
            hard: u64::MAX,
        },
    };
    let path = OuterHeader::ethernet(MacAddr([2; 6]), MacAddr([2, 0, 0, 0, 0, 9]), 0x88b5, None);
    assert!(
        control
            .send(Command::SetPath {
                peer: PeerIndex(0),
                path: Some(path),
            })
            .is_ok()
    );
    assert!(
        control
            .send(Command::InstallTx {
                seq: CommandSeq(1),
                lane: Box::new(lane)
            })
            .is_ok()
    );
    for id in 0..200 {
        assert!(
            control
                .send(Command::SendProbe {
                    peer: PeerIndex(0),
                    probe: Probe {
                        op: ProbeOp::Request,
                        id,
                        phase: Phase::FIRST
                    }
                })
                .is_ok()
        );
    }
    for _ in 0..100 {
        worker.pass();
    }
    assert!(
        control
            .send(Command::RemoveTx {
                seq: CommandSeq(2),
                peer: PeerIndex(0)
            })
            .is_ok()
    );
    assert!(control.send(Command::Stop).is_ok());
    let mut passes = Vec::new();
    for _ in 0..10_000 {
        passes.push(worker.pass());
    }
    let stopped = passes.contains(&Pass::Stopped);
    assert!(stopped, "never stops");
    let mut done = Vec::new();
    while let Some(event) = control.receive() {
        if let Event::Done { seq } = event {
            done.push(seq.0);
        }
    }
    assert_eq!(done, [1, 2], "key commands are served");
}
