//! From the tap into frame memory: who a frame is for, before it is sealed.

use std::time::Instant;

use super::{Worker, drop_unsealed};
use crate::aead::Aead;
use crate::bearer::Bearer;
use crate::burst::BURST;
use crate::counters::TxDrop;
use crate::frame::{PAYLOAD_OFFSET, TAP_OFFSET, TAP_OVERHEAD};
use crate::mac::MacAddr;
use crate::payload::Payload;
use crate::tap::TapPort;
use crate::tx::Plain;

/// Bytes of an Ethernet header without tag.
const ETH_LEN: usize = 14;
/// Bytes of its two addresses, which do not travel.
const ADDRESSES_LEN: usize = 12;

/// What became of one frame of the tap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ingested {
    /// For this peer.
    Unicast(crate::ids::PeerIndex),
    /// For every peer; a job was started.
    Group,
    TooShort,
    TooLong,
    /// A group frame over the rate.
    Limited,
    /// No peer has this address.
    NobodyThere,
}

impl<A: Aead, B: Bearer, T: TapPort> Worker<A, B, T> {
    /// Reads the tap as far as the bearer has room; returns how many frames
    /// were made to be sealed or given up.
    pub(super) fn ingest(&mut self) -> usize {
        let Some(bearer) = &mut self.bearer else {
            return 0;
        };
        let waiting = self.sealed.len() + self.plain.len();
        let budget = bearer.transmit_room().min(BURST).saturating_sub(waiting);
        let mut done = 0;
        while done < budget {
            if self.group.is_pending() {
                self.copy_to_member();
            } else if !self.read_tap() {
                break;
            }
            done += 1;
        }
        done
    }

    /// One more copy of the group frame in work.
    fn copy_to_member(&mut self) {
        let Some(bearer) = &mut self.bearer else {
            return;
        };
        let Some((peer, plaintext)) = self.group.next_copy() else {
            return;
        };
        let counters = self.counters.peer(peer);
        let Some(mut frame) = bearer.allocate() else {
            return counters.tx_drop(TxDrop::NoMemory, 1);
        };
        let len = plaintext.len();
        let room = bearer.room_mut(&mut frame);
        match room.get_mut(PAYLOAD_OFFSET..PAYLOAD_OFFSET + len) {
            Some(place) => place.copy_from_slice(plaintext),
            None => return drop_unsealed(bearer, frame, counters, TxDrop::TooLong),
        }
        self.plain.push(Plain::data(frame, peer, len));
    }

    /// Reads one frame straight to where it is sealed; false if none waits.
    fn read_tap(&mut self) -> bool {
        let Some(bearer) = &mut self.bearer else {
            return false;
        };
        if self.tap_rest.is_resting() {
            return false;
        }
        let Some(mut frame) = bearer.allocate() else {
            return false;
        };
        let room = bearer.room_mut(&mut frame);
        // One byte more than fits, so that a frame that was cut shows.
        let limit = self.config.mtu + ETH_LEN - TAP_OVERHEAD;
        let end = room.len().min(TAP_OFFSET + limit + 1);
        let length = match room
            .get_mut(TAP_OFFSET..end)
            .map(|place| self.tap.read(place))
        {
            Some(Ok(Some(length))) => length,
            Some(Ok(None)) | None => {
                bearer.release(frame);
                return false;
            }
            Some(Err(_)) => {
                bearer.release(frame);
                self.tap_rest.start();
                return false;
            }
        };
        let ethernet = room.get_mut(TAP_OFFSET..TAP_OFFSET + length);
        let plaintext_len = (length + 1).saturating_sub(ADDRESSES_LEN);
        let what = match ethernet {
            _ if length > limit => Ingested::TooLong,
            _ if length < ETH_LEN => Ingested::TooShort,
            None => Ingested::TooLong,
            Some(ethernet) => {
                let mut destination = MacAddr([0; 6]);
                destination.0.copy_from_slice(&ethernet[..6]);
                let kind = Payload::Tap {
                    group: destination.is_group(),
                    checksum_pending: false,
                };
                // Over the last byte of the source address.
                let plaintext = &mut ethernet[ADDRESSES_LEN - 1..];
                plaintext[0] = kind.encode();
                if !destination.is_group() {
                    match destination
                        .tap_node()
                        .and_then(|node| self.tx.peer_of(node))
                    {
                        Some(peer) => Ingested::Unicast(peer),
                        None => Ingested::NobodyThere,
                    }
                } else if self.group.admit(Instant::now()) {
                    self.group.start(plaintext, self.tx.data_peers())
                } else {
                    Ingested::Limited
                }
            }
        };
        let nobody = &self.counters.nobody;
        match what {
            Ingested::Unicast(peer) => {
                self.plain.push(Plain::data(frame, peer, plaintext_len));
            }
            Ingested::Group => bearer.release(frame),
            Ingested::TooShort => drop_unsealed(bearer, frame, nobody, TxDrop::TooShort),
            Ingested::TooLong => drop_unsealed(bearer, frame, nobody, TxDrop::TooLong),
            Ingested::Limited => drop_unsealed(bearer, frame, nobody, TxDrop::GroupLimited),
            Ingested::NobodyThere => {
                drop_unsealed(bearer, frame, nobody, TxDrop::UnknownDestination);
            }
        }
        true
    }
}
