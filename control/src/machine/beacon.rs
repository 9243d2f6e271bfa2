//! Finding peers: a beacon each second, and what follows from hearing one.

use std::sync::Arc;
use std::time::Duration;

use tipsec_dataplane::ids::{Epoch, Incarnation};

use super::peer::Peer;
use super::{Action, Context, Count, Destination, EventKind};
use crate::address::{Addresses, Network};
use crate::derive::ClusterKeys;
use crate::frame::{BARE, ClearHeader, ControlFrame, MessageType, encode, encode_clear};
use crate::message::Beacon;
use crate::time::Instant;

/// Distance of beacons, with jitter.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(900), Duration::from_millis(1100));
/// Each so many beacons, one is sent under the previous master key too, so that
/// a node that was down during a rotation can be told of this one.
const UNDER_PREVIOUS: u32 = 5;
/// Keys younger than this may just not have been confirmed yet.
const SETTLING: Duration = Duration::from_secs(5);
/// How long the higher id waits for the lower one to start.
const BACKUP_WAIT: Duration = Duration::from_millis(250);

/// When the next beacon leaves.
pub(super) struct Beaconing {
    next: Instant,
    /// Beacons sent.
    sent: u32,
}

// How many were sent matters while there is a previous master key.
#[cfg(feature = "sim")]
super::digest::parts!(Beaconing: next, sent);

impl Beaconing {
    pub(super) fn starting(now: Instant) -> Self {
        Self { next: now, sent: 0 }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.next
    }

    pub(super) fn on_timer(&mut self, cx: &mut Context<'_>) {
        if self.next > cx.now {
            return;
        }
        self.next = cx.now + cx.random.between(INTERVAL.0, INTERVAL.1);
        let previous = cx.masters.previous().cloned();
        let too = previous.filter(|_| self.sent.is_multiple_of(UNDER_PREVIOUS));
        self.sent = self.sent.wrapping_add(1);
        let active = Arc::clone(cx.masters.active());
        for keys in [Some(active), too].into_iter().flatten() {
            send(cx, &keys);
        }
    }
}

/// One beacon on each network.
fn send(cx: &mut Context<'_>, keys: &ClusterKeys) {
    let settings = &cx.core.settings;
    let header = ClearHeader {
        message: MessageType::Beacon,
        sender: settings.node,
        receiver: None,
        exchange: settings.incarnation.0,
        epoch: Epoch(0),
        master: keys.id(),
        chain: BARE,
        suites: 0,
    };
    let addresses = settings.addresses;
    let holdings = cx.holdings();
    let clear = encode_clear(&header, Beacon::LEN, keys);
    for (network, address) in addresses.iter() {
        let beacon = Beacon {
            network,
            address,
            holdings,
        };
        let frame = encode(MessageType::Beacon, &clear, &beacon.encode(), keys);
        cx.core.act(Action::Send {
            to: Destination::Group(network),
            frame,
        });
    }
}

impl Peer {
    /// A beacon is a hint: it starts an exchange and nothing else.
    pub(super) fn on_beacon(
        &mut self,
        cx: &mut Context<'_>,
        frame: &ControlFrame<'_>,
        by: Network,
    ) {
        let Some(beacon) = Beacon::decode(frame.body()) else {
            return cx.core.counts.add(Count::Malformed);
        };
        if beacon.network != by {
            cx.core.counts.add(Count::Refused);
            let text = format!(
                "what node {} calls network {} is network {by} here; compare 'network' of the \
                 bearers in both configurations",
                self.node, beacon.network
            );
            return cx.note_rarely(EventKind::Incompatible, self.node, text);
        }
        if self.is_downgrade(cx, frame.header().master) {
            // A node that has the active key says the same under that.
            return cx.core.counts.add(Count::OlderMaster);
        }
        let incarnation = Incarnation(frame.header().exchange);
        self.beacon_heard = Some(cx.now);
        if self.is_alive_as_other(incarnation) {
            if self.is_former_life(incarnation) {
                // A beacon has no counter: this one may be years old.
                return cx.core.counts.add(Count::Stale);
            }
            return self.suspect(cx, incarnation, None);
        }
        self.learn_holdings(cx, &beacon.holdings, incarnation, frame.header().master);
        let present = self
            .tx
            .as_ref()
            .is_some_and(|tx| tx.incarnation == incarnation);
        if present {
            // Its keys may have died while it could not be reached.
            let settled = self
                .keys_since
                .is_none_or(|since| cx.now.since(since) >= SETTLING);
            if settled && !self.link.is_up() && self.initiator.is_idle() && self.start_at.is_none()
            {
                self.retry_later(cx);
            }
            return;
        }
        // What another life of the peer said is void.
        let known = self.addresses.filter(|_| self.target == Some(incarnation));
        self.addresses = Some(match known {
            Some(known) => known.with(by, beacon.address),
            None => Addresses::one(by, beacon.address),
        });
        if self.initiator.is_idle() {
            self.target = Some(incarnation);
            let wait = if cx.core.settings.node < self.node {
                Duration::ZERO
            } else {
                BACKUP_WAIT
            };
            let start_at = cx.now + wait;
            // A retry that is due later gives way; one that is due earlier stays.
            self.start_at = Some(self.start_at.map_or(start_at, |at| at.min(start_at)));
        }
    }
}
