//! Where opened frames go: the tap, an answer, an event, a program.

use std::io::ErrorKind;
use std::time::Instant;

use super::Worker;
use super::commands::write_probe;
use crate::aead::Aead;
use crate::bearer::Bearer;
use crate::command::Event;
use crate::counters::{RxDrop, TxDrop, WorkerCounters};
use crate::payload::{PROBE_LEN, Payload, Probe, ProbeOp};
use crate::phase::Phase;
use crate::rx::Opened;
use crate::tap::TapPort;
use crate::tap::coalesce::{Delivery, Received};
use crate::tx::Plain;

impl<A: Aead, B: Bearer, T: TapPort> Worker<A, B, T> {
    /// Hands every opened frame to whom it is for.
    pub(super) fn deliver(&mut self) {
        let mut opened = std::mem::take(&mut self.opened);
        let now = Instant::now();
        for frame in opened.drain(..) {
            match frame.payload() {
                Payload::Tap {
                    checksum_pending, ..
                } => self.deliver_to_tap(frame, checksum_pending, now),
                Payload::Probe => self.on_probe(frame),
                Payload::Message => self.on_message(frame),
            }
        }
        // There were none before, so the first is now the last.
        self.messages.reverse();
    }

    /// Keeps a message for the program, if there is one.
    fn on_message(&mut self, frame: Opened<B::Frame>) {
        if !self.takes_messages {
            return self.refuse(frame, RxDrop::NoReceiver);
        }
        // A burst was received, so a burst of messages at most; they fit.
        if let Err(full) = self.messages.try_push(frame) {
            self.refuse(full.element(), RxDrop::NoReceiver);
        }
    }

    fn deliver_to_tap(
        &mut self,
        mut frame: Opened<B::Frame>,
        checksum_pending: bool,
        now: Instant,
    ) {
        let Some(bearer) = &mut self.bearer else {
            return;
        };
        let peer = frame.peer();
        let (tap, counters) = (&mut self.tap, &self.counters);
        let ethernet = frame.tap_frame_mut(bearer, self.config.node);
        let taken = ethernet.is_some_and(|frame| {
            let received = Received {
                peer,
                frame,
                checksum_pending,
            };
            let mut out = |delivery: Delivery<'_>| write(tap, counters, &delivery);
            self.coalescer.offer(received, now, &mut out).is_ok()
        });
        match taken {
            true => bearer.release(frame.into_frame()),
            false => self.refuse(frame, RxDrop::BadPayload),
        }
    }

    /// Hands over what has been held for long enough.
    pub(super) fn flush_due(&mut self) {
        if self.coalescer.is_holding() {
            let (tap, counters) = (&mut self.tap, &self.counters);
            self.coalescer.flush_due(Instant::now(), &mut |delivery| {
                write(tap, counters, &delivery)
            });
        }
    }

    /// Hands over everything that is held.
    pub(super) fn flush_all(&mut self) {
        let (tap, counters) = (&mut self.tap, &self.counters);
        self.coalescer
            .flush_all(&mut |delivery| write(tap, counters, &delivery));
    }

    fn on_probe(&mut self, mut frame: Opened<B::Frame>) {
        let Some(bearer) = &mut self.bearer else {
            return;
        };
        let (peer, spi) = (frame.peer(), frame.spi());
        let Some(probe) = Probe::decode(frame.plaintext_mut(bearer)) else {
            return self.refuse(frame, RxDrop::BadPayload);
        };
        self.counters.probes_taken.add(1);
        match probe.op {
            ProbeOp::Request => {
                self.counters.probes_begun.add(1);
                let lane = self.rx.lane(spi);
                let reply = Probe {
                    op: ProbeOp::Reply,
                    id: probe.id,
                    phase: lane.map_or(Phase::FIRST, |lane| lane.shared().reported_phase()),
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

/// Hands one frame to the host, or counts all that were joined in it.
fn write<T: TapPort>(tap: &mut T, counters: &WorkerCounters, delivery: &Delivery<'_>) {
    let reason = match tap.write(&delivery.header.encode(), delivery.frame) {
        Ok(true) => return counters.tap_writes.add(1),
        Ok(false) => RxDrop::TapFull,
        Err(error) if error.kind() == ErrorKind::InvalidInput => RxDrop::BadPayload,
        Err(_) => RxDrop::TapDown,
    };
    let peer = counters.peer(delivery.peer);
    peer.rx_drop_joined(reason, delivery.frames);
}
