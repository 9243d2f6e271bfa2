//! Slot R: the peer started the exchange.

use std::time::Duration;

use tipsec_dataplane::ids::{Epoch, Incarnation};

use super::cookie::NO_COOKIE;
use super::initiator::{InitiatorSlot, matches_header, prologue};
use super::offers::common_suite;
use super::peer::Peer;
use super::rx::{MAX_RX_SAS, RxSa};
use super::{Context, Count, Defect, EventKind};
use crate::address::{Addresses, Network};
use crate::derive::{Chain, ClusterKeys, Sek};
use crate::frame::{
    BARE, ClearHeader, ControlFrame, ExchangeName, MessageType, encode, encode_clear,
};
use crate::message::{Hello, Offer, Start};
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

impl Context<'_> {
    /// What every hello of this node says.
    fn hello(&self) -> Hello {
        let settings = &self.core.settings;
        Hello {
            incarnation: settings.incarnation,
            busy: false,
            cookie: NO_COOKIE,
            addresses: settings.addresses,
        }
    }
}

/// R1.
pub(super) struct Answered {
    name: ExchangeName,
    /// Of the offer in m2.
    sek: Sek,
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

#[cfg(feature = "sim")]
super::digest::parts!(enum ResponderSlot: Idle, Answered(answered));

// The session follows from both messages and the SEK.
#[cfg(feature = "sim")]
super::digest::parts!(
    Answered: name, sek, initiator, m1, m2, to, by, epoch, installed, since;
    not session
);

impl ResponderSlot {
    /// Ends an exchange with another life of the peer.
    pub(super) fn forget_others(&mut self, present: Incarnation) {
        if matches!(self, Self::Answered(answered) if answered.initiator != present) {
            *self = Self::Idle;
        }
    }

    /// The exchange under way.
    pub(super) fn name(&self) -> Option<ExchangeName> {
        match self {
            Self::Idle => None,
            Self::Answered(answered) => Some(answered.name),
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
            && answered.name.id == frame.header().exchange
            && raw.starts_with(&answered.m1)
            && !cx.has(Defect::ResealedM2)
        {
            cx.core.counts.add(Count::Repeated);
            return self.send_m2(cx, by);
        }
        if self.last_completed == Some(frame.header().exchange) {
            // Its m3 came, so m2 had come: a hello would have the initiator start
            // over what is done.
            return cx.core.counts.add(Count::Repeated);
        }
        // Any member can write a bare one in the peer's name, and they must not take
        // the place of those which only the peer can write.
        if frame.header().chain == BARE && !self.m1_bucket.take(cx.now) {
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
        // One that waited may be under a key that was retired meanwhile.
        let Some(keys) = cx.masters.named(header.master).cloned() else {
            return cx.core.counts.add(Count::ForeignMaster);
        };
        if cx.refuses(self.node, header.master) {
            return cx.core.counts.add(Count::Evicted);
        }
        if cx.proves_too_little(header.master, header.chain) {
            return self.await_master(cx, header.master);
        }
        if self.is_downgrade(cx, header.master) {
            return self.refuse_downgrade(cx, header.master);
        }
        let Some(psk) = self.psk_of_chain(&keys, header.chain) else {
            return self.answer_by_hello(cx, frame, by);
        };
        let read = Responder::read(&psk, &prologue, cx.random, frame.body());
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
        let must_show = header.chain == BARE && !cx.has_cookie(self.node, &start);
        if stale || must_show {
            let hello = Hello {
                cookie: cx.cookie_for(self.node, &start),
                ..cx.hello()
            };
            return self.send_hello(cx, frame, (&start.addresses, by), &hello);
        }
        if header.chain != BARE && !self.chained_m1_bucket.take(cx.now) {
            return cx.core.counts.add(Count::RateLimited);
        }
        let is_other =
            self.is_alive_as_other(start.initiator) && !self.outranks_sa(cx, header.master);
        let is_bare = header.chain == BARE && self.is_alive_with_chain(start.initiator);
        if cx.has(Defect::TrustedM1) {
            self.adopt(cx, start.initiator);
        } else if is_bare && self.may_have_crossed(cx.now) {
            return cx.core.counts.add(Count::Stale);
        } else if is_other || is_bare {
            return self.suspect(cx, start.initiator, Some((frame, by)));
        }
        let Some(suite) = common_suite(&cx.core.settings.suites, header.suites) else {
            cx.core.counts.add(Count::Refused);
            let text = format!(
                "node {} allows no cipher suite that this node allows; compare [crypto] suites \
                 in both configurations",
                self.node
            );
            return cx.note_rarely(EventKind::Incompatible, self.node, text);
        };
        if self.rx.len() >= MAX_RX_SAS {
            return self.send_busy(cx, frame, (&start.addresses, by));
        }
        self.saw_m1(start.initiator, start.counter);
        if cx.has(Defect::TieBreakOnM1) && cx.core.settings.node > self.node {
            self.initiator = InitiatorSlot::Idle;
        }
        self.learn_holdings(cx, &start.holdings, start.initiator, header.master);
        let Some(offer) = self.draw_offer(cx, suite, start.lanes, header.chain) else {
            return self.send_busy(cx, frame, (&start.addresses, by));
        };
        self.answer(cx, (frame, by, &keys), noise, &start, &offer);
    }

    fn answer(
        &mut self,
        cx: &mut Context<'_>,
        (frame, by, keys): (&ControlFrame<'_>, Network, &ClusterKeys),
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
            master: keys.id(),
            chain: frame.header().chain,
            suites: offer.suite.code(),
        };
        let clear = encode_clear(&header, body.len(), keys);
        self.install_rx(cx, offer, (session.hash(), keys.id()), start.initiator);
        self.responder = ResponderSlot::Answered(Box::new(Answered {
            name: header.name(),
            sek: offer.sek.duplicate(),
            initiator: start.initiator,
            m1: [frame.clear().as_slice(), frame.body()].concat(),
            m2: encode(MessageType::M2, &clear, &body, keys),
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
        let named = frame.header().name();
        match &mut self.responder {
            ResponderSlot::Answered(answered) if answered.name == named => {
                let offer = match answered.session.open(frame.body()) {
                    Ok(payload) => Offer::decode(&payload),
                    Err(_) => return cx.core.counts.add(Count::Refused),
                };
                let offer = offer.filter(|offer| matches_header(offer, frame));
                let slot = std::mem::replace(&mut self.responder, ResponderSlot::Idle);
                match (slot, offer) {
                    (ResponderSlot::Answered(answered), Some(offer)) => {
                        self.accept_m3(cx, &answered, &offer);
                    }
                    _ => cx.core.counts.add(Count::Refused),
                }
            }
            _ if self.last_completed == Some(named.id) => {
                cx.core.counts.add(Count::Repeated);
                self.confirm(cx);
            }
            _ => self.answer_by_hello(cx, frame, by),
        }
    }

    /// Answers a message that does not tell where the peer receives.
    fn answer_by_hello(&mut self, cx: &mut Context<'_>, frame: &ControlFrame<'_>, by: Network) {
        match self.addresses {
            Some(addresses) => {
                let hello = cx.hello();
                self.send_hello(cx, frame, (&addresses, by), &hello);
            }
            None => cx.core.counts.add(Count::Stale),
        }
    }

    fn accept_m3(&mut self, cx: &mut Context<'_>, answered: &Answered, offer: &Offer) {
        let (hash, master) = (answered.session.hash(), answered.name.master);
        if !self.allows(cx, offer) {
            return;
        }
        if self.is_downgrade(cx, master) {
            return self.refuse_downgrade(cx, master);
        }
        let initiator = answered.initiator;
        self.adopt(cx, initiator);
        self.learn_from_exchange(cx, &offer.holdings, initiator, master);
        let chain = Chain::of_exchange(hash, &answered.sek, &offer.sek);
        self.keep_chain(cx.now, chain, answered.epoch, true);
        if matches!(self.initiator, InitiatorSlot::Started(_)) {
            // The peer's exchange did what ours was for.
            self.initiator = InitiatorSlot::Idle;
        }
        self.install_tx(cx, offer, (hash, master), initiator);
        self.last_completed = Some(answered.name.id);
        self.completed(cx);
    }

    /// Ends the exchange that was answered, and takes back what was offered.
    pub(super) fn withdraw_answer(&mut self, cx: &mut Context<'_>) {
        let ResponderSlot::Answered(answered) =
            std::mem::replace(&mut self.responder, ResponderSlot::Idle)
        else {
            return;
        };
        let is_offered = |sa: &mut RxSa| sa.epoch == answered.epoch;
        let offered: Vec<RxSa> = self.rx.extract_if(.., is_offered).collect();
        for sa in offered {
            sa.remove(cx);
        }
    }

    /// "Not now": there is no room for another SA.
    fn send_busy(
        &mut self,
        cx: &mut Context<'_>,
        frame: &ControlFrame<'_>,
        way: (&Addresses, Network),
    ) {
        let hello = Hello {
            busy: true,
            ..cx.hello()
        };
        self.send_hello(cx, frame, way, &hello);
    }

    /// Answers a frame without keeping state, under the frame's key.
    fn send_hello(
        &mut self,
        cx: &mut Context<'_>,
        frame: &ControlFrame<'_>,
        (to, by): (&Addresses, Network),
        hello: &Hello,
    ) {
        if !self.hello_bucket.take(cx.now) {
            return cx.core.counts.add(Count::RateLimited);
        }
        let Some(keys) = cx.masters.named(frame.header().master) else {
            return;
        };
        // What is not held is not repeated: so the initiator learns of it.
        let asked = frame.header().chain;
        let chain = if self.holds_chain(asked) { asked } else { BARE };
        let header = ClearHeader {
            message: MessageType::Hello,
            sender: cx.core.settings.node,
            receiver: Some(self.node),
            exchange: frame.header().exchange,
            epoch: Epoch(0),
            master: keys.id(),
            chain,
            suites: 0,
        };
        let clear = encode_clear(&header, Hello::LEN, keys);
        let frame = encode(MessageType::Hello, &clear, &hello.encode(), keys);
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
