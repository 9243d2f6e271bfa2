//! Books about everything that was ever sealed, in any life of any node.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};

use tipsec_dataplane::ids::NodeId;
use tipsec_dataplane::secret::LaneSecret;

use super::invariant::Invariant;
use crate::frame::{ControlFrame, MessageType};
use crate::time::Instant;

/// What an entry found to be wrong.
pub(super) type Wrong = (Invariant, String);

/// Names a lane's key and IV.
pub(super) type KeyName = ([u8; 32], [u8; 12]);

pub(super) fn name_of(secret: &LaneSecret) -> KeyName {
    let mut key = [0; 32];
    key[..secret.key().len()].copy_from_slice(secret.key());
    (key, *secret.iv())
}

struct Key {
    issuer: NodeId,
    sender: NodeId,
    /// Whether the issuer has given it to its workers. Until then nothing is
    /// sealed with it.
    is_issued: bool,
    /// Whether a sending lane with it was installed.
    sends: bool,
    /// The next number that may be sealed with.
    next: u64,
}

/// Every key that was ever installed.
#[derive(Default)]
pub(super) struct Keys(HashMap<KeyName, Key>);

impl Keys {
    /// `issuer` receives with this key what `sender` seals.
    pub(super) fn issued(
        &mut self,
        name: KeyName,
        issuer: NodeId,
        sender: NodeId,
    ) -> Result<(), Wrong> {
        match self.0.entry(name) {
            Entry::Vacant(vacant) => {
                vacant.insert(Key {
                    issuer,
                    sender,
                    is_issued: true,
                    sends: false,
                    next: 0,
                });
                Ok(())
            }
            Entry::Occupied(mut known)
                if !known.get().is_issued
                    && (known.get().issuer, known.get().sender) == (issuer, sender) =>
            {
                known.get_mut().is_issued = true;
                Ok(())
            }
            Entry::Occupied(_) => Err((
                Invariant::InstalledOnce,
                format!("node {issuer} issued a key again, now to node {sender}"),
            )),
        }
    }

    /// `sender` is about to seal with this key for `receiver`.
    pub(super) fn sends(
        &mut self,
        name: &KeyName,
        sender: NodeId,
        receiver: NodeId,
    ) -> Result<(), Wrong> {
        let who = format!("node {sender}, sending to node {receiver}");
        match self.0.get_mut(name) {
            Some(key) if (key.issuer, key.sender) != (receiver, sender) => Err((
                Invariant::BothNames,
                format!(
                    "{who}, installs a key that node {} issued to node {}",
                    key.issuer, key.sender
                ),
            )),
            None => Err((
                Invariant::BothNames,
                format!("{who}, installs a key that nobody issued"),
            )),
            Some(key) if key.sends => Err((
                Invariant::InstalledOnce,
                format!("{who}, installs a key again"),
            )),
            Some(key) => {
                key.sends = true;
                Ok(())
            }
        }
    }

    /// The same of the key of a later phase: the sender may have it first.
    pub(super) fn sends_later(
        &mut self,
        name: KeyName,
        sender: NodeId,
        receiver: NodeId,
    ) -> Result<(), Wrong> {
        self.0.entry(name).or_insert(Key {
            issuer: receiver,
            sender,
            is_issued: false,
            sends: false,
            next: 0,
        });
        self.sends(&name, sender, receiver)
    }

    /// Something was sealed. Numbers of a key only grow, so a number that is
    /// not above the last was used before, or may have been.
    pub(super) fn sealed(&mut self, name: &KeyName, number: u64) -> Result<(), Wrong> {
        let Some(key) = self.0.get_mut(name).filter(|key| key.is_issued) else {
            return Err((
                Invariant::BothNames,
                "sealed with a key that nobody issued, or has yet to".to_owned(),
            ));
        };
        if number < key.next {
            return Err((
                Invariant::NonceOnce,
                format!(
                    "node {} sealed number {number} for node {} again: {} is next",
                    key.sender, key.issuer, key.next
                ),
            ));
        }
        key.next = number + 1;
        Ok(())
    }
}

/// Names a handshake message: who sealed it in which life, which, of which
/// exchange.
type MessageName = (usize, u64, u8, u64);

/// Every handshake message that ever left.
#[derive(Default)]
pub(super) struct Messages(HashMap<MessageName, u64>);

impl Messages {
    /// A place's node, in this life, sends a control frame.
    pub(super) fn sent(&mut self, place: usize, life: u64, bytes: &[u8]) -> Result<(), Wrong> {
        let Some(frame) = ControlFrame::decode(bytes) else {
            return Ok(());
        };
        let header = frame.header();
        let which = match header.message {
            MessageType::M1 => 1,
            MessageType::M2 => 2,
            MessageType::M3 => 3,
            MessageType::Beacon | MessageType::Hello => return Ok(()),
        };
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let content = hasher.finish();
        let name = (place, life, which, header.exchange);
        if *self.0.entry(name).or_insert(content) != content {
            let text = format!(
                "node {} sent another m{which} in exchange {:016x}",
                header.sender, header.exchange
            );
            return Err((Invariant::MessageOnce, text));
        }
        Ok(())
    }
}

/// Names a payload: its position among all.
pub(super) type Serial = u64;

/// Why a copy of a frame was not delivered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum End {
    /// The network lost it, or flipped a bit of it.
    Network,
    /// Nobody was there, or its queue was full.
    Absent,
    /// The receiver's worker refused it.
    Refused(&'static str),
}

/// One payload.
pub(super) struct Payload {
    pub(super) sealed_at: Instant,
    /// Sender's and receiver's.
    pub(super) places: (usize, usize),
    /// Their lives at that time.
    pub(super) lives: (u64, u64),
    under_way: u32,
    delivered: bool,
    lost: bool,
}

/// Every payload that was ever sealed.
#[derive(Default)]
pub(super) struct Payloads {
    all: Vec<Payload>,
    delivered: u64,
    lost_by_network: u64,
}

impl Payloads {
    /// The number that the next payload gets.
    pub(super) fn next(&self) -> Serial {
        self.all.len() as u64
    }

    pub(super) fn sealed(&mut self, now: Instant, places: (usize, usize), lives: (u64, u64)) {
        self.all.push(Payload {
            sealed_at: now,
            places,
            lives,
            under_way: 0,
            delivered: false,
            lost: false,
        });
    }

    pub(super) fn get(&self, serial: Serial) -> Option<&Payload> {
        self.all.get(usize::try_from(serial).ok()?)
    }

    fn get_mut(&mut self, serial: Serial) -> Option<&mut Payload> {
        self.all.get_mut(usize::try_from(serial).ok()?)
    }

    /// A copy is on its way.
    pub(super) fn copied(&mut self, serial: Serial) {
        if let Some(payload) = self.get_mut(serial) {
            payload.under_way += 1;
        }
    }

    /// One copy came to an end; true if it was the last hope of its payload.
    pub(super) fn ended(&mut self, serial: Serial, end: End) -> bool {
        let Some(payload) = self.get_mut(serial) else {
            return false;
        };
        payload.under_way = payload.under_way.saturating_sub(1);
        if payload.delivered || payload.under_way > 0 {
            return false;
        }
        if end == End::Network && !payload.lost {
            payload.lost = true;
            self.lost_by_network += 1;
        }
        true
    }

    pub(super) fn delivered(&mut self, serial: Serial) -> Result<(), Wrong> {
        let Some(payload) = self.get_mut(serial) else {
            return Err((
                Invariant::TrueSender,
                format!("payload {serial} was never sealed"),
            ));
        };
        if payload.delivered {
            return Err((Invariant::DeliveredOnce, format!("payload {serial}")));
        }
        payload.delivered = true;
        // An attacker may bring what the network has lost.
        let lost = std::mem::take(&mut payload.lost);
        self.delivered += 1;
        self.lost_by_network -= u64::from(lost);
        Ok(())
    }

    /// How many did not arrive of those from this one on.
    pub(super) fn missing_since(&self, first: Serial) -> usize {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let later = self.all.get(first..).unwrap_or_default();
        later.iter().filter(|payload| !payload.delivered).count()
    }

    /// Sealed, delivered, and lost by the network.
    pub(super) fn totals(&self) -> (u64, u64, u64) {
        (self.next(), self.delivered, self.lost_by_network)
    }
}
