//! Slot R: the peer started the exchange.

use std::time::Duration;

use tipsec_dataplane::ids::{Epoch, Incarnation};

use super::initiator::{InitiatorSlot, matches_header, prologue};
use super::peer::Peer;
use super::sas::{MAX_RX_SAS, common_suite};
use super::{Context, Count, Defect, EventKind};
use crate::address::{Addresses, Network};
use crate::frame::{ClearHeader, ControlFrame, MessageType, encode, encode_clear};
use crate::message::{COOKIE_LEN, Hello, Offer, Start};
use crate::noise::{Responder, Session};
use crate::time::Instant;

/// How long an answered m1 is remembered.
const ANSWER_LIFE: Duration = Duration::from_secs(10);

/// Lives of a peer whose m1 are remembered.
const MAX_LIVES: usize = 32;

/// Slot R.
pub(super) enum ResponderSlot {
    /// Nothing under way.
    Idle,
    /// R1: m2 is out, or will be as soon as the own SA is installed.
    Answered(Box<Answered>),
}

/// R1.
pub(super) struct Answered {
    exchange: u64,
    initiator: Incarnation,
    /// The frame that is answered, to know it again.
    m1: Vec<u8>,
    m2: Vec<u8>,
    /// Where m2 goes: from inside m1.
    to: Addresses,
    /// The network that m1 came by first.
    by: Network,
    session: Session,
    epoch: Epoch,
    installed: bool,
    since: Instant,
}

impl ResponderSlot {
    /// Ends an exchange with another life of the peer.
    pub(super) fn forget_others(&mut self, present: Incarnation) {
        if matches!(self, Self::Answered(answered) if answered.initiator != present) {
            *self = Self::Idle;
        }
    }

    /// When it wants attention.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Idle => None,
            Self::Answered(answered) => Some(answered.since + ANSWER_LIFE),
        }
    }
}

impl Peer {
    pub(super) fn on_m1(
        &mut self,
        cx: &mut Context<'_>,
        frame: &ControlFrame<'_>,
        raw: &[u8],
        by: Network,
    ) {
        if let ResponderSlot::Answered(answered) = &self.responder
            && answered.exchange == frame.header().exchange
            && raw.starts_with(&answered.m1)
            && !cx.has(Defect::ResealedM2)
        {
            cx.core.counts.add(Count::Repeated);
            return self.send_m2(cx, by);
        }
        if !self.m1_bucket.take(cx.now) {
            return cx.core.counts.add(Count::RateLimited);
        }
        self.accept_m1(cx, frame, by);
    }

    /// Records the newest m1 of a life of the peer; the newest life is last.
    pub(super) fn saw_m1(&mut self, life: Incarnation, counter: u64) {
        self.m1_seen.retain(|(seen, _)| *seen != life);
        if self.m1_seen.len() == MAX_LIVES {
            self.m1_seen.pop_front();
        }
        self.m1_seen.push_back((life, counter));
    }

    /// Whether this life of the peer was seen, and another one since.
    pub(super) fn is_former_life(&self, life: Incarnation) -> bool {
        self.incarnation != Some(life) && self.m1_seen.iter().any(|&(seen, _)| seen == life)
    }

    /// The rows for an m1 that is not the current one.
    pub(super) fn accept_m1(
        &mut self,
        cx: &mut Context<'_>,
        frame: &ControlFrame<'_>,
        by: Network,
    ) {
        let header = *frame.header();
        let prologue = prologue(frame.clear(), cx);
        let read = Responder::read(cx.keys.psk(), &prologue, cx.random, frame.body());
        let Some((noise, start)) = read
            .ok()
            .and_then(|(noise, payload)| Some((noise, Start::decode(&payload)?)))
        else {
            return cx.core.counts.add(Count::Refused);
        };
        let seen = |&(life, counter): &(Incarnation, u64)| {
            let is_old =
                start.counter < counter || start.counter == counter && !cx.has(Defect::ResealedM2);
            life == start.initiator && is_old && !cx.has(Defect::StaleM1)
        };
        let stale =
            start.responder != Some(cx.core.settings.incarnation) || self.m1_seen.iter().any(seen);
        if stale {
            return self.send_hello(cx, header.exchange, (&start.addresses, by), false);
        }
        if cx.has(Defect::TrustedM1) {
            self.adopt(cx, start.initiator);
        } else if self.is_alive_as_other(start.initiator) {
            return self.suspect(cx, start.initiator, Some((frame, by)));
        }
        let Some(suite) = common_suite(&cx.core.settings.suites, header.suites) else {
            cx.core.counts.add(Count::Refused);
            let text = format!(
                "node {} allows no cipher suite that this node allows; compare [crypto] suites \
                 in both configurations",
                self.node
            );
            let kind = EventKind::Incompatible;
            return cx
                .core
                .journal
                .note_rarely(cx.now, kind, Some(self.node), text);
        };
        if self.rx.len() >= MAX_RX_SAS {
            return self.send_hello(cx, header.exchange, (&start.addresses, by), true);
        }
        self.saw_m1(start.initiator, start.counter);
        if cx.has(Defect::TieBreakOnM1) && cx.core.settings.node > self.node {
            self.initiator = InitiatorSlot::Idle;
        }
        let Some(offer) = self.draw_offer(cx, suite, start.lanes) else {
            return self.send_hello(cx, header.exchange, (&start.addresses, by), true);
        };
        self.answer(cx, (frame, by), noise, &start, &offer);
    }

    fn answer(
        &mut self,
        cx: &mut Context<'_>,
        (frame, by): (&ControlFrame<'_>, Network),
        noise: Responder,
        start: &Start,
        offer: &Offer,
    ) {
        let Ok((session, body)) = noise.answer(&offer.encode()) else {
            cx.core.spis.unused(offer.spis.clone());
            return cx.core.counts.add(Count::Refused);
        };
        let header = ClearHeader {
            message: MessageType::M2,
            sender: cx.core.settings.node,
            receiver: Some(self.node),
            exchange: frame.header().exchange,
            epoch: offer.epoch,
            master: cx.keys.id(),
            chain: 0,
            suites: offer.suite.code(),
        };
        let clear = encode_clear(&header, body.len(), &cx.keys);
        self.install_rx(cx, offer, session.hash(), start.initiator);
        self.responder = ResponderSlot::Answered(Box::new(Answered {
            exchange: header.exchange,
            initiator: start.initiator,
            m1: [frame.clear().as_slice(), frame.body()].concat(),
            m2: encode(MessageType::M2, &clear, &body, &cx.keys),
            to: start.addresses,
            by,
            session,
            epoch: offer.epoch,
            installed: false,
            since: cx.now,
        }));
        if cx.has(Defect::OfferBeforeInstall) {
            self.responder_installed(cx, offer.epoch);
        }
    }

    /// The own SA of this epoch is installed: m2 may leave.
    pub(super) fn responder_installed(&mut self, cx: &mut Context<'_>, epoch: Epoch) {
        if let ResponderSlot::Answered(answered) = &mut self.responder
            && answered.epoch == epoch
        {
            answered.installed = true;
            let by = answered.by;
            self.send_m2(cx, by);
        }
    }

    fn send_m2(&mut self, cx: &mut Context<'_>, by: Network) {
        let ResponderSlot::Answered(answered) = &self.responder else {
            return;
        };
        if answered.installed {
            cx.core.answer(&answered.to, by, &answered.m2);
            let epoch = answered.epoch;
            self.note_offered(epoch, cx.now);
        }
    }

    pub(super) fn on_m3(&mut self, cx: &mut Context<'_>, frame: &ControlFrame<'_>, by: Network) {
        let exchange = frame.header().exchange;
        match &mut self.responder {
            ResponderSlot::Answered(answered) if answered.exchange == exchange => {
                let offer = match answered.session.open(frame.body()) {
                    Ok(payload) => Offer::decode(&payload),
                    Err(_) => return cx.core.counts.add(Count::Refused),
                };
                let (hash, initiator) = (*answered.session.hash(), answered.initiator);
                self.responder = ResponderSlot::Idle;
                match offer.filter(|offer| matches_header(offer, frame)) {
                    Some(offer) => self.accept_m3(cx, exchange, initiator, &hash, &offer),
                    None => cx.core.counts.add(Count::Refused),
                }
            }
            _ if self.last_completed == Some(exchange) => {
                cx.core.counts.add(Count::Repeated);
                self.confirm(cx);
            }
            _ => match self.addresses {
                Some(addresses) => self.send_hello(cx, exchange, (&addresses, by), false),
                None => cx.core.counts.add(Count::Stale),
            },
        }
    }

    fn accept_m3(
        &mut self,
        cx: &mut Context<'_>,
        exchange: u64,
        initiator: Incarnation,
        handshake_hash: &[u8; 32],
        offer: &Offer,
    ) {
        if !self.allows(cx, offer) {
            return;
        }
        self.adopt(cx, initiator);
        if matches!(self.initiator, InitiatorSlot::Started(_)) {
            // The peer's exchange did what ours was for.
            self.initiator = InitiatorSlot::Idle;
        }
        self.install_tx(cx, offer, handshake_hash, initiator);
        self.last_completed = Some(exchange);
        self.completed(cx);
    }

    /// Answers without keeping state.
    fn send_hello(
        &mut self,
        cx: &mut Context<'_>,
        exchange: u64,
        (to, by): (&Addresses, Network),
        busy: bool,
    ) {
        if !self.hello_bucket.take(cx.now) {
            return cx.core.counts.add(Count::RateLimited);
        }
        let settings = &cx.core.settings;
        let hello = Hello {
            incarnation: settings.incarnation,
            busy,
            cookie: [0; COOKIE_LEN],
            addresses: settings.addresses,
        };
        let header = ClearHeader {
            message: MessageType::Hello,
            sender: settings.node,
            receiver: Some(self.node),
            exchange,
            epoch: Epoch(0),
            master: cx.keys.id(),
            chain: 0,
            suites: 0,
        };
        let clear = encode_clear(&header, Hello::LEN, &cx.keys);
        let frame = encode(MessageType::Hello, &clear, &hello.encode(), &cx.keys);
        cx.core.counts.add(Count::HelloSent);
        cx.core.answer(to, by, &frame);
    }

    pub(super) fn responder_timer(&mut self, now: Instant) {
        if self
            .responder
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.responder = ResponderSlot::Idle;
        }
    }
}
