//! Slot I: this node started the exchange.

use std::sync::Arc;
use std::time::Duration;

use tipsec_dataplane::ids::{Epoch, Incarnation};
use tipsec_xdp::wire::CLEAR_HEADER_LEN;

use super::cookie::{Cookie, NO_COOKIE};
use super::offers::{common_suite, suite_sum};
use super::peer::Peer;
use super::timers::Retransmit;
use super::{Context, Count, EventKind};
use crate::address::Network;
use crate::derive::Chain;
use crate::frame::{ClearHeader, ControlFrame, ExchangeName, MessageType, encode, encode_clear};
use crate::message::{Hello, MAX_OFFER_LEN, Offer, Start};
use crate::noise::{HANDSHAKE_OVERHEAD, Initiator, TRANSPORT_OVERHEAD};
use crate::time::Instant;

/// An exchange without an answer is given up after this.
pub(super) const EXCHANGE_LIMIT: Duration = Duration::from_secs(5);
/// And tried again after a while between these.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Hellos that one exchange follows.
const MAX_HELLOS: u8 = 3;

/// Slot I.
pub(super) enum InitiatorSlot {
    /// Nothing under way.
    Idle,
    /// I1: m1 is out.
    Started(Box<Started>),
    /// I2: m2 was accepted; m3 is out as soon as the own SA is installed.
    Offered(Box<Offered>),
}

/// I1.
pub(super) struct Started {
    name: ExchangeName,
    /// `None` only while a message is being read.
    noise: Option<Initiator>,
    m1: Vec<u8>,
    responder: Option<Incarnation>,
    began: Instant,
    hellos: u8,
    retransmit: Retransmit,
}

/// I2.
pub(super) struct Offered {
    name: ExchangeName,
    responder: Incarnation,
    epoch: Epoch,
    m3: Vec<u8>,
    /// The network that m2 came by: m3 answers it.
    by: Network,
    /// Whether m3 may leave: every worker and map holds the own SA.
    installed: bool,
    began: Instant,
    hellos: u8,
    retransmit: Retransmit,
}

#[cfg(feature = "sim")]
super::digest::parts!(enum InitiatorSlot: Idle, Started(started), Offered(offered));

// What snow holds follows from m1, which has the public half of its key in it.
#[cfg(feature = "sim")]
super::digest::parts!(
    Started: name, m1, responder, began, hellos, retransmit; not noise
);

#[cfg(feature = "sim")]
super::digest::parts!(
    Offered: name, responder, epoch, m3, by, installed, began, hellos, retransmit
);

impl InitiatorSlot {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Ends an exchange with another life of the peer.
    pub(super) fn forget_others(&mut self, present: Incarnation) {
        let other = match self {
            Self::Idle => false,
            Self::Started(started) => started.responder != Some(present),
            Self::Offered(offered) => offered.responder != present,
        };
        if other {
            *self = Self::Idle;
        }
    }

    /// The exchange under way.
    pub(super) fn name(&self) -> Option<ExchangeName> {
        self.under_way().map(|(name, ..)| name)
    }

    /// When it wants attention.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Idle => None,
            Self::Started(s) => Some(s.retransmit.at().min(s.began + EXCHANGE_LIMIT)),
            Self::Offered(o) => Some(o.retransmit.at().min(o.began + EXCHANGE_LIMIT)),
        }
    }

    /// The exchange, when it began and how many hellos it followed.
    fn under_way(&self) -> Option<(ExchangeName, Instant, u8)> {
        match self {
            Self::Idle => None,
            Self::Started(s) => Some((s.name, s.began, s.hellos)),
            Self::Offered(o) => Some((o.name, o.began, o.hellos)),
        }
    }
}

impl Peer {
    /// Starts an exchange, unless one is under way or the peer's address is
    /// not known.
    pub(super) fn start(&mut self, cx: &mut Context<'_>) {
        self.start_at = None;
        if self.initiator.is_idle() {
            self.rekey_asked = false;
            cx.core.counts.add(Count::Started);
            self.start_exchange(cx, cx.now, 0, NO_COOKIE);
        }
    }

    fn start_exchange(&mut self, cx: &mut Context<'_>, began: Instant, hellos: u8, cookie: Cookie) {
        let Some(addresses) = self.addresses else {
            return;
        };
        let Some(keys) = self.keys_to_start_with(cx).map(Arc::clone) else {
            return;
        };
        let (chain, psk) = self.psk_to_start_with(&keys);
        if cx.proves_too_little(keys.id(), chain) {
            return self.await_master(cx, keys.id());
        }
        cx.core.m1_counter += 1;
        let settings = &cx.core.settings;
        let start = Start {
            initiator: settings.incarnation,
            responder: self.target,
            counter: cx.core.m1_counter,
            lanes: settings.lane_count(),
            addresses: settings.addresses,
            holdings: cx.holdings(),
            cookie,
        };
        let header = ClearHeader {
            message: MessageType::M1,
            sender: settings.node,
            receiver: Some(self.node),
            exchange: cx.random.next_u64(),
            epoch: Epoch(0),
            master: keys.id(),
            chain,
            suites: suite_sum(&settings.suites),
        };
        let clear = encode_clear(&header, MAX_OFFER_LEN + HANDSHAKE_OVERHEAD, &keys);
        let prologue = prologue(&clear, cx);
        let Ok((noise, body)) = Initiator::start(&psk, &prologue, cx.random, &start.encode())
        else {
            return cx.core.counts.add(Count::Refused);
        };
        let m1 = encode(MessageType::M1, &clear, &body, &keys);
        cx.core.ask(&addresses, &m1);
        self.initiator = InitiatorSlot::Started(Box::new(Started {
            name: header.name(),
            noise: Some(noise),
            m1,
            responder: self.target,
            began,
            hellos,
            retransmit: Retransmit::starting(cx.now, cx.random),
        }));
    }

    pub(super) fn on_m2(&mut self, cx: &mut Context<'_>, frame: &ControlFrame<'_>, by: Network) {
        let named = frame.header().name();
        match &mut self.initiator {
            InitiatorSlot::Started(s) if s.name == named => {
                self.accept_m2(cx, frame, by);
            }
            InitiatorSlot::Offered(o) if o.name == named => {
                cx.core.counts.add(Count::Repeated);
                self.send_m3(cx, Some(by));
            }
            _ => cx.core.counts.add(Count::Stale),
        }
    }

    fn accept_m2(&mut self, cx: &mut Context<'_>, frame: &ControlFrame<'_>, by: Network) {
        let InitiatorSlot::Started(started) = &mut self.initiator else {
            return;
        };
        let Some(noise) = started.noise.take() else {
            return;
        };
        let (mut session, payload) = match noise.finish(frame.body()) {
            Ok(done) => done,
            Err((noise, _)) => {
                started.noise = Some(noise);
                return cx.core.counts.add(Count::Refused);
            }
        };
        let (name, began, hellos) = (started.name, started.began, started.hellos);
        let master = name.master;
        // A responder that was not named in m1 answers with a hello, never
        // with m2.
        let responder = started.responder;
        self.initiator = InitiatorSlot::Idle;
        let offer = Offer::decode(&payload).filter(|offer| matches_header(offer, frame));
        let keys = cx.masters.named(master).cloned();
        let (Some(offer), Some(responder), Some(keys)) = (offer, responder, keys) else {
            cx.core.counts.add(Count::Refused);
            return self.retry_later(cx);
        };
        if self.is_downgrade(cx, master) {
            // The peer has come by a newer key while m2 was on its way.
            cx.core.counts.add(Count::OlderMaster);
            return self.retry_later(cx);
        }
        let suite = common_suite(&cx.core.settings.suites, offer.suites);
        if !self.allows(cx, &offer) {
            return self.retry_later(cx);
        }
        let answer = suite.and_then(|suite| self.draw_offer(cx, suite, offer.lanes, name.chain));
        let Some(answer) = answer else {
            cx.core.counts.add(Count::Refused);
            return self.retry_later(cx);
        };
        self.adopt(cx, responder);
        self.learn_from_exchange(cx, &offer.holdings, responder, master);
        let next_chain = Chain::of_exchange(session.hash(), &offer.sek, &answer.sek);
        self.keep_chain(cx.now, next_chain, answer.epoch, false);
        self.install_tx(cx, &offer, (session.hash(), master), responder);
        self.install_rx(cx, &answer, (session.hash(), master), responder);
        let payload = answer.encode();
        let Ok(body) = session.seal(&payload) else {
            cx.core.counts.add(Count::Refused);
            return self.retry_later(cx);
        };
        let header = ClearHeader {
            message: MessageType::M3,
            sender: cx.core.settings.node,
            receiver: Some(self.node),
            exchange: name.id,
            epoch: answer.epoch,
            master,
            chain: name.chain,
            suites: answer.suite.code(),
        };
        debug_assert_eq!(body.len(), payload.len() + TRANSPORT_OVERHEAD);
        let clear = encode_clear(&header, body.len(), &keys);
        self.initiator = InitiatorSlot::Offered(Box::new(Offered {
            name,
            responder,
            epoch: answer.epoch,
            m3: encode(MessageType::M3, &clear, &body, &keys),
            by,
            installed: false,
            began,
            hellos,
            retransmit: Retransmit::starting(cx.now, cx.random),
        }));
    }

    /// The own SA of this epoch is installed: m3 may leave.
    pub(super) fn initiator_installed(&mut self, cx: &mut Context<'_>, epoch: Epoch) {
        if let InitiatorSlot::Offered(offered) = &mut self.initiator
            && offered.epoch == epoch
        {
            offered.installed = true;
            offered.retransmit = Retransmit::starting(cx.now, cx.random);
            let by = offered.by;
            self.send_m3(cx, Some(by));
        }
    }

    /// Sends m3, if it may leave: in answer to an m2 that came by a network,
    /// or of its own accord, over all.
    fn send_m3(&mut self, cx: &mut Context<'_>, by: Option<Network>) {
        let (InitiatorSlot::Offered(offered), Some(to)) = (&self.initiator, self.addresses) else {
            return;
        };
        if !offered.installed {
            return;
        }
        match by {
            Some(by) => cx.core.answer(&to, by, &offered.m3),
            None => cx.core.ask(&to, &offered.m3),
        }
        let epoch = offered.epoch;
        self.note_offered(epoch, cx.now);
    }

    /// Something opened for the first time on the SA with this epoch. If it is the
    /// own offer of an exchange, the responder has m3, also if the exchange was
    /// given up meanwhile; if it is a later one, the exchange of that has made
    /// newer keys.
    pub(super) fn initiator_opened(
        &mut self,
        cx: &mut Context<'_>,
        epoch: Epoch,
        sender: Incarnation,
    ) {
        let is_present = self.incarnation == Some(sender);
        let is_proven = is_present && self.chain_is_proven(epoch);
        let is_over = matches!(&self.initiator, InitiatorSlot::Offered(offered)
            if offered.responder == sender && epoch >= offered.epoch);
        if is_over {
            self.initiator = InitiatorSlot::Idle;
        }
        if is_proven {
            self.completed(cx);
        } else if is_over {
            // That one counts as complete when its m3 is here. If it never comes, this
            // node must still start the next.
            self.has_new_keys(cx);
        }
        if is_proven || is_over {
            self.confirm_awaited(cx);
        }
    }

    pub(super) fn on_hello(&mut self, cx: &mut Context<'_>, frame: &ControlFrame<'_>) {
        let Some((name, began, hellos)) = self.initiator.under_way() else {
            return cx.core.counts.add(Count::Stale);
        };
        let header = frame.header();
        // A hello under another key than the exchange's is not its answer.
        if (name.id, name.master) != (header.exchange, header.master) {
            return cx.core.counts.add(Count::Stale);
        }
        let Some(hello) = Hello::decode(frame.body()) else {
            return cx.core.counts.add(Count::Malformed);
        };
        if self.is_alive_as_other(hello.incarnation) && !self.outranks_sa(cx, header.master) {
            // Any member that has seen m1 can say so.
            return self.suspect(cx, hello.incarnation, None);
        }
        let is_alive = self.is_alive_with_chain(hello.incarnation);
        if hello.busy || hellos >= MAX_HELLOS {
            if is_alive {
                // So it can this; the true answer may yet come to the m1 that is out.
                return cx.core.counts.add(Count::Refused);
            }
            self.initiator = InitiatorSlot::Idle;
            return self.retry_later(cx);
        }
        if name.chain != header.chain && self.incarnation == Some(hello.incarnation) {
            self.chain_disowned(cx);
        }
        if !is_alive {
            // Where a live peer receives is known from the peer itself.
            self.addresses = Some(hello.addresses);
        }
        self.target = Some(hello.incarnation);
        self.initiator = InitiatorSlot::Idle;
        self.start_exchange(cx, began, hellos + 1, hello.cookie);
    }

    pub(super) fn initiator_timer(&mut self, cx: &mut Context<'_>) {
        let Some((_, began, _)) = self.initiator.under_way() else {
            return;
        };
        if cx.now >= began + EXCHANGE_LIMIT {
            self.initiator = InitiatorSlot::Idle;
            cx.core.counts.add(Count::TimedOut);
            let text = format!(
                "node {} did not complete the key exchange within {} s; present keys stay, \
                 trying again",
                self.node,
                EXCHANGE_LIMIT.as_secs()
            );
            cx.note_rarely(EventKind::ExchangeTimeout, self.node, text);
            return self.retry_later(cx);
        }
        match &mut self.initiator {
            InitiatorSlot::Idle => {}
            InitiatorSlot::Started(started) => {
                if started.retransmit.fire(cx.now, cx.random) {
                    cx.core.counts.add(Count::Retransmitted);
                    if let Some(to) = &self.addresses {
                        cx.core.ask(to, &started.m1);
                    }
                }
            }
            InitiatorSlot::Offered(offered) => {
                if offered.retransmit.fire(cx.now, cx.random) && offered.installed {
                    cx.core.counts.add(Count::Retransmitted);
                    self.send_m3(cx, None);
                }
            }
        }
    }

    pub(super) fn retry_later(&mut self, cx: &mut Context<'_>) {
        self.start_at = Some(cx.now + cx.random.between(RETRY.0, RETRY.1));
    }
}

/// The prologue of the handshake: m1's clear header and the cluster.
pub(super) fn prologue(clear: &[u8; CLEAR_HEADER_LEN], cx: &Context<'_>) -> Vec<u8> {
    let mut prologue = clear.to_vec();
    prologue.extend_from_slice(&cx.core.settings.cluster.length_prefixed());
    prologue
}

/// Whether the clear header says the same as the offer inside.
pub(super) fn matches_header(offer: &Offer, frame: &ControlFrame<'_>) -> bool {
    let header = frame.header();
    header.epoch == offer.epoch && header.suites == offer.suite.code()
}
