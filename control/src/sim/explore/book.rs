//! What an exploration knows across all its ways: messages by their bytes, keys by
//! who issued them. Neither is forgotten, and neither depends on the way.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use tipsec_dataplane::ids::{Epoch, Spi};
use tipsec_dataplane::secret::LaneSecret;

use crate::frame::{ControlFrame, MessageType};
use crate::sim::ledger::name_of;

/// A node's place: 0, 1, ….
pub(super) type Place = u8;

/// Names a control message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct MessageId(u32);

/// A control message that some node has sent on some way.
pub(super) struct Message {
    pub(super) bytes: Rc<[u8]>,
    /// The same on every run.
    pub(super) hash: u64,
    pub(super) from: Place,
    pub(super) kind: MessageType,
    pub(super) exchange: u64,
    pub(super) epoch: Epoch,
    pub(super) is_bare: bool,
}

impl Message {
    /// For traces.
    pub(super) fn name(&self) -> String {
        let kind = match self.kind {
            MessageType::Beacon => "beacon",
            MessageType::Hello => "hello",
            MessageType::M1 if self.is_bare => "bare m1",
            MessageType::M1 => "m1",
            MessageType::M2 => "m2",
            MessageType::M3 => "m3",
        };
        format!(
            "{kind} of node {} (exchange {:04x})",
            self.from,
            self.exchange >> 48
        )
    }
}

/// Names a lane's key and IV, alone or with its epoch.
pub(super) type Key = u64;

/// What is sealed in a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Content {
    /// A probe with this id.
    Request(u64),
    /// Its answer.
    Reply(u64),
    /// Data.
    Payload,
}

/// A sealed frame: it opens where the SPI is installed with the same key, as if
/// the cipher were perfect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Frame {
    pub(super) from: Place,
    pub(super) spi: Spi,
    pub(super) key: Key,
    pub(super) number: u64,
    pub(super) content: Content,
}

/// Who made a receiving lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Issued {
    pub(super) issuer: (Place, u8),
    pub(super) sender: Place,
    pub(super) epoch: Epoch,
}

/// Everything that was ever said or issued.
#[derive(Default)]
pub(super) struct Book {
    messages: Vec<Message>,
    by_bytes: HashMap<Rc<[u8]>, MessageId>,
    keys: HashMap<Key, Issued>,
}

pub(super) fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A key as such.
pub(super) fn secret_of(secret: &LaneSecret) -> Key {
    hash_of(&name_of(secret))
}

/// A key with the epoch of its SA. The handshake's hash does not cover what is in
/// m3, so on two ways that never meet, one key may belong to two epochs.
pub(super) fn key_of(secret: &LaneSecret, epoch: Epoch) -> Key {
    hash_of(&(name_of(secret), epoch))
}

impl Book {
    pub(super) fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0 as usize]
    }

    /// Enters a message; the same bytes are the same message. `None` if they are
    /// not a message at all.
    pub(super) fn enter(&mut self, from: Place, bytes: Vec<u8>) -> Option<MessageId> {
        let bytes: Rc<[u8]> = bytes.into();
        if let Some(&known) = self.by_bytes.get(&bytes) {
            return Some(known);
        }
        let frame = ControlFrame::decode(&bytes)?;
        let header = *frame.header();
        let id = MessageId(u32::try_from(self.messages.len()).ok()?);
        self.messages.push(Message {
            hash: hash_of(&bytes),
            from,
            kind: header.message,
            exchange: header.exchange,
            epoch: header.epoch,
            is_bare: header.chain == 0,
            bytes: Rc::clone(&bytes),
        });
        self.by_bytes.insert(bytes, id);
        Some(id)
    }

    /// Enters a key; false if it was issued by or for somebody else.
    pub(super) fn issue(&mut self, key: Key, issued: Issued) -> bool {
        *self.keys.entry(key).or_insert(issued) == issued
    }

    pub(super) fn issued(&self, key: Key) -> Option<Issued> {
        self.keys.get(&key).copied()
    }
}
