//! Where opened frames go: the tap, an answer, an event.

use super::Worker;
use super::commands::write_probe;
use crate::aead::Aead;
use crate::bearer::Bearer;
use crate::command::Event;
use crate::counters::{RxDrop, TxDrop};
use crate::payload::{PROBE_LEN, Payload, Probe, ProbeOp};
use crate::rx::Opened;
use crate::tap::TapPort;
use crate::tx::Plain;

impl<A: Aead, B: Bearer, T: TapPort> Worker<A, B, T> {
    /// Hands every opened frame to whom it is for.
    pub(super) fn deliver(&mut self) {
        let mut opened = std::mem::take(&mut self.opened);
        for frame in opened.drain(..) {
            match frame.payload() {
                Payload::Tap { .. } => self.deliver_to_tap(frame),
                Payload::Probe => self.on_probe(frame),
                Payload::Message => self.refuse(frame, RxDrop::NoReceiver),
            }
        }
    }

    fn deliver_to_tap(&mut self, mut frame: Opened<B::Frame>) {
        let Some(bearer) = &mut self.bearer else {
            return;
        };
        // No version of this crate leaves a checksum to the receiver yet, and
        // a frame that claims so would be delivered with a wrong one.
        let pending = matches!(
            frame.payload(),
            Payload::Tap {
                checksum_pending: true,
                ..
            }
        );
        let outcome = match frame.tap_frame_mut(bearer, self.config.node) {
            Some(ethernet) if !pending => match self.tap.write(ethernet) {
                Ok(true) => None,
                Ok(false) => Some(RxDrop::TapFull),
                Err(_) => Some(RxDrop::TapDown),
            },
            _ => Some(RxDrop::BadPayload),
        };
        match outcome {
            None => bearer.release(frame.into_frame()),
            Some(reason) => self.refuse(frame, reason),
        }
    }

    fn on_probe(&mut self, mut frame: Opened<B::Frame>) {
        let Some(bearer) = &mut self.bearer else {
            return;
        };
        let (peer, spi) = (frame.peer(), frame.spi());
        let Some(probe) = Probe::decode(frame.plaintext_mut(bearer)) else {
            return self.refuse(frame, RxDrop::BadPayload);
        };
        match probe.op {
            ProbeOp::Request => {
                let reply = Probe {
                    op: ProbeOp::Reply,
                    id: probe.id,
                    phase: self.rx.lane(spi).map_or(0, |lane| lane.highest_phase()),
                };
                let mut frame = frame.into_frame();
                write_probe(bearer, &mut frame, &reply);
                let answer = Plain::probe(frame, peer, PROBE_LEN);
                if let Err(full) = self.plain.try_push(answer) {
                    bearer.release(full.element().into_frame());
                    let counters = self.counters.peer(peer);
                    counters.tx_drop(TxDrop::NoMemory, 1);
                }
            }
            ProbeOp::Reply => {
                bearer.release(frame.into_frame());
                self.emit(Event::ProbeReply { peer, spi, probe });
            }
        }
    }

    fn refuse(&mut self, frame: Opened<B::Frame>, reason: RxDrop) {
        self.counters.peer(frame.peer()).rx_drop(reason);
        if let Some(bearer) = &mut self.bearer {
            bearer.release(frame.into_frame());
        }
    }
}
