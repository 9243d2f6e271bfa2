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
use crate::tap::packet::ETH_LEN;
use crate::tap::partial::settle;
use crate::tap::segment::Uncut;
use crate::tap::vnet::{Gso, VNET_LEN, VnetHeader};
use crate::tx::Plain;

/// Bytes of its two addresses, which do not travel.
const ADDRESSES_LEN: usize = 12;

/// What became of one frame of the tap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ingested {
    /// For this peer.
    Unicast(crate::ids::PeerIndex),
    /// For every peer; a job was started.
    Group,
    TooLong,
    /// A group frame over the rate.
    Limited,
    /// No peer has this address.
    NobodyThere,
}

impl<A: Aead, B: Bearer, T: TapPort> Worker<A, B, T> {
    /// Reads the tap as far as the bearer has room; returns how many frames
    /// were made to be sealed or given up. What is in work goes first.
    pub(super) fn ingest(&mut self) -> usize {
        let Some(bearer) = &mut self.bearer else {
            return 0;
        };
        let waiting = self.sealed.len() + self.plain.len();
        let budget = bearer.transmit_room().min(BURST).saturating_sub(waiting);
        let mut done = 0;
        while done < budget {
            let moved = if self.group.is_pending() {
                self.copy_to_member();
                true
            } else if self.segmenter.is_pending() {
                self.cut()
            } else {
                self.read_tap()
            };
            if !moved {
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

    /// Longest frame of the tap in bytes, Ethernet header included.
    fn tap_frame_max(&self) -> usize {
        self.config.mtu + ETH_LEN - TAP_OVERHEAD
    }

    /// Reads one frame straight to where it is sealed; false if none waits.
    fn read_tap(&mut self) -> bool {
        let limit = self.tap_frame_max();
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
        let end = room.len().min(TAP_OFFSET + limit);
        let head = room.get_mut(TAP_OFFSET..end).unwrap_or_default();
        let overflow = self.segmenter.overflow_mut(head.len());
        let mut header = [0; VNET_LEN];
        let length = match self.tap.read(&mut header, head, overflow) {
            Ok(Some(length)) => length,
            Ok(None) => {
                bearer.release(frame);
                return false;
            }
            Err(_) => {
                bearer.release(frame);
                self.tap_rest.start();
                return false;
            }
        };
        self.counters.tap_reads.add(1);
        let header = VnetHeader::decode(&header);
        let refused = if header.gso != Gso::None {
            match self.segmenter.start(&header, head, length, limit) {
                Ok(()) => {
                    self.cut_into(frame);
                    return true;
                }
                Err(Uncut::BadOffload) => TxDrop::BadOffload,
                Err(Uncut::TooLong) => TxDrop::TooLong,
            }
        } else if length < ETH_LEN {
            TxDrop::TooShort
        } else {
            match head.get_mut(..length).map(|frame| settle(&header, frame)) {
                Some(Ok(checksum_pending)) => {
                    self.address(frame, length, checksum_pending);
                    return true;
                }
                Some(Err(_)) => TxDrop::BadOffload,
                None => TxDrop::TooLong,
            }
        };
        drop_unsealed(bearer, frame, &self.counters.nobody, refused);
        true
    }

    /// One more segment of the large frame in work; false if there is no
    /// memory for it now.
    fn cut(&mut self) -> bool {
        let Some(frame) = self.bearer.as_mut().and_then(B::allocate) else {
            return false;
        };
        self.cut_into(frame);
        true
    }

    fn cut_into(&mut self, mut frame: B::Frame) {
        let Some(bearer) = &mut self.bearer else {
            return;
        };
        let room = bearer.room_mut(&mut frame);
        let place = room.get_mut(TAP_OFFSET..).unwrap_or_default();
        match self.segmenter.next(place) {
            Some(segment) => self.address(frame, segment.len, segment.checksum_pending),
            None => drop_unsealed(bearer, frame, &self.counters.nobody, TxDrop::TooLong),
        }
    }

    /// Finds out who gets a frame of the tap, which lies in its memory and is
    /// at least an Ethernet header long, and lines it up to be sealed.
    fn address(&mut self, mut frame: B::Frame, length: usize, checksum_pending: bool) {
        let Some(bearer) = &mut self.bearer else {
            return;
        };
        let room = bearer.room_mut(&mut frame);
        let plaintext_len = length + 1 - ADDRESSES_LEN;
        let what = match room.get_mut(TAP_OFFSET..TAP_OFFSET + length) {
            None => Ingested::TooLong,
            Some(ethernet) => {
                let mut destination = MacAddr([0; 6]);
                destination.0.copy_from_slice(&ethernet[..6]);
                let kind = Payload::Tap {
                    group: destination.is_group(),
                    checksum_pending,
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
            Ingested::TooLong => drop_unsealed(bearer, frame, nobody, TxDrop::TooLong),
            Ingested::Limited => drop_unsealed(bearer, frame, nobody, TxDrop::GroupLimited),
            Ingested::NobodyThere => {
                drop_unsealed(bearer, frame, nobody, TxDrop::UnknownDestination);
            }
        }
    }
}
