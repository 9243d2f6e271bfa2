//! What a worker does when it is told: lanes come and go, probes leave.

use super::{Pass, Worker};
use crate::aead::Aead;
use crate::bearer::{Bearer, FrameMemory};
use crate::command::{Command, CommandSeq, Event};
use crate::counters::TxDrop;
use crate::frame::PAYLOAD_OFFSET;
use crate::ids::PeerIndex;
use crate::payload::{PROBE_LEN, Probe};
use crate::sa::{RxLane, TxLane};
use crate::tap::TapPort;
use crate::tx::Plain;

/// Commands in one pass, so that a thousand rekeys don't hold data up for long.
const COMMANDS_A_PASS: usize = 256;

impl<A: Aead, B: Bearer, T: TapPort> Worker<A, B, T> {
    /// Does what the control thread asked; it is done before anything is
    /// sealed in this pass.
    pub(super) fn drain_commands(&mut self) -> Pass {
        if !self.channel.has_commands() {
            return Pass::Idle;
        }
        // Before draining: a command that comes later makes it readable again.
        self.channel.clear_wake();
        // A bearer that takes nothing leaves probes of earlier passes behind;
        // they must not keep key commands waiting, nor the end.
        let blocked = self.plain.is_full();
        for _ in 0..COMMANDS_A_PASS {
            if !blocked && self.plain.is_full() {
                break;
            }
            match self.channel.receive() {
                None => break,
                Some(Command::Stop) => return Pass::Stopped,
                Some(command) => self.on_command(command),
            }
        }
        Pass::Busy
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::InstallRx { seq, lane } => {
                let refused = self.rx.insert(RxLane::new(*lane)).is_err();
                self.answer(seq, refused);
            }
            Command::RemoveRx { seq, spi } => {
                self.rx.remove(spi);
                self.answer(seq, false);
            }
            Command::InstallTx { seq, lane } => {
                let refused = self.tx.install(TxLane::new(*lane)).is_err();
                self.answer(seq, refused);
            }
            Command::RemoveTx { seq, peer } => {
                self.tx.remove(peer);
                self.answer(seq, false);
            }
            Command::StageRx { seq, phase } => {
                let refused = self.rx.stage(&phase).is_err();
                self.answer(seq, refused);
            }
            Command::StageTx { seq, peer, phase } => {
                let refused = self.tx.stage(peer, &phase).is_err();
                self.answer(seq, refused);
            }
            Command::AllowPhase { peer, spi, phase } => self.tx.allow_phase(peer, spi, phase),
            Command::SetPath { peer, path } => self.tx.set_path(peer, path),
            Command::SetMtu { mtu } => self.config.mtu = mtu,
            Command::AllowData { peer, allowed } => self.tx.allow_data(peer, allowed),
            Command::SendProbe { peer, probe } => self.send_probe(peer, &probe),
            // Handled where commands are drained.
            Command::Stop => {}
        }
    }

    fn answer(&mut self, seq: CommandSeq, refused: bool) {
        self.emit(match refused {
            false => Event::Done { seq },
            true => {
                self.counters.installs_refused.add(1);
                Event::Refused { seq }
            }
        });
    }

    /// Queues a probe for sealing in this pass.
    fn send_probe(&mut self, to: PeerIndex, probe: &Probe) {
        self.counters.probes_begun.add(1);
        let counters = self.counters.peer(to);
        let Some(bearer) = &mut self.bearer else {
            return counters.tx_drop(TxDrop::LinkLost, 1);
        };
        // Only if the bearer is blocked. Lost, as on a wire; it is repeated.
        if self.plain.is_full() {
            return counters.tx_drop(TxDrop::NoMemory, 1);
        }
        let Some(mut frame) = bearer.allocate() else {
            return counters.tx_drop(TxDrop::NoMemory, 1);
        };
        write_probe(bearer, &mut frame, probe);
        self.plain.push(Plain::probe(frame, to, PROBE_LEN));
    }
}

/// Writes a probe where a frame's plaintext lies.
pub(super) fn write_probe<M: FrameMemory>(memory: &mut M, frame: &mut M::Frame, probe: &Probe) {
    let room = memory.room_mut(frame);
    if let Some(place) = room.get_mut(PAYLOAD_OFFSET..PAYLOAD_OFFSET + PROBE_LEN) {
        place.copy_from_slice(&probe.encode());
    }
}
