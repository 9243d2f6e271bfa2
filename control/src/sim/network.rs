//! The networks: what they do to frames, and who listens.

use std::time::Duration;

use tipsec_dataplane::mac::MacAddr;

use super::ledger::End;
use super::queue::{Content, Frame, Happening};
use super::{Universe, address_of, ms};
use crate::address::{Address, Network};
use crate::time::Random;

/// How long a frame is under way at least.
const WIRE_TIME: Duration = Duration::from_micros(20);
/// Frames that the attacker remembers.
const RECORDED_MAX: usize = 256;
/// How long the attacker waits at most before it repeats one.
const HELD_BACK_MAX: Duration = Duration::from_secs(12);

/// What the networks do to frames; rates in parts per thousand.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// Not delivered.
    pub loss: u64,
    /// Delivered twice.
    pub duplication: u64,
    /// Most extra delay: frames overtake one another.
    pub delay: Duration,
    /// Delivered with one bit flipped.
    pub corruption: u64,
    /// For each frame that is sent: how often an attacker puts another one on
    /// the wire that it has recorded, of any age, lost or not, to any node.
    pub replay: u64,
}

/// Who listens to everything, and repeats it.
#[derive(Default)]
pub(super) struct Attacker {
    recorded: Vec<(Frame, Network)>,
    heard: usize,
}

impl Attacker {
    /// Keeps a sample of all frames, each as likely as any other.
    fn record(&mut self, frame: &Frame, network: Network, random: &mut impl Random) {
        self.heard += 1;
        let copy = Frame {
            content: frame.content.of_copy(),
            bytes: frame.bytes.clone(),
        };
        if self.recorded.len() < RECORDED_MAX {
            self.recorded.push((copy, network));
            return;
        }
        let place = random.next_u64() % self.heard as u64;
        if let Ok(place) = usize::try_from(place)
            && let Some(old) = self.recorded.get_mut(place)
        {
            *old = (copy, network);
        }
    }
}

/// Where a sealed frame goes.
pub(super) fn destination(bytes: &[u8]) -> Option<Address> {
    let mac = bytes.first_chunk::<6>()?;
    Some(Address::Ethernet(MacAddr(*mac)))
}

/// The place that a sealed frame goes to.
pub(super) fn place_of(bytes: &[u8]) -> Option<usize> {
    match bytes.get(..6)? {
        &[2, 0, 0, _, high, low] => Some(u16::from_be_bytes([high, low]).into()),
        _ => None,
    }
}

impl Universe {
    /// To one station, or without an address to all.
    pub(super) fn transmit(
        &mut self,
        n: usize,
        network: Network,
        to: Option<Address>,
        frame: &Frame,
    ) {
        if self.faults.replay > 0 {
            self.attacker.record(frame, network, &mut self.random);
            self.attack();
        }
        match to {
            Some(to) => {
                let Address::Ethernet(MacAddr([2, 0, 0, _, high, low])) = to else {
                    return;
                };
                let target = usize::from(u16::from_be_bytes([high, low]));
                if target < self.nodes.len() && to == address_of(target, network) && target != n {
                    self.carry(n, target, network, frame);
                }
            }
            None => {
                for target in (0..self.nodes.len()).filter(|&target| target != n) {
                    self.carry(n, target, network, frame);
                }
            }
        }
    }

    fn carry(&mut self, n: usize, target: usize, network: Network, frame: &Frame) {
        if self.hub.is_some_and(|hub| hub != n && hub != target) {
            return;
        }
        if let Content::Data(serial) = frame.content {
            self.payloads.copied(serial);
        }
        let cut =
            self.cut.contains(&(n, target)) || self.cut_networks.contains(&(n, target, network));
        let cut_control = self.lose_control || self.cut_control.contains(&(n, target));
        let cut = cut || cut_control && frame.content == Content::Control;
        if cut || self.random.chance(self.faults.loss) {
            self.trace
                .note(self.now, n, "loses a frame to place", [target as u64, 0]);
            self.ended(target, frame.content, End::Network);
            return;
        }
        let twice = self.random.chance(self.faults.duplication);
        if twice && let Content::Data(serial) = frame.content {
            self.payloads.copied(serial);
        }
        for _ in 0..1 + u32::from(twice) {
            let wait = self.random.between(ms(0), self.faults.delay) + WIRE_TIME;
            let mut frame = frame.clone();
            if self.random.chance(self.faults.corruption) {
                self.ended(target, frame.content, End::Network);
                frame = self.damaged(&frame);
            }
            self.arrive_later(wait, target, frame, (network, address_of(n, network)));
        }
    }

    fn arrive_later(
        &mut self,
        wait: Duration,
        target: usize,
        frame: Frame,
        (network, source): (Network, Address),
    ) {
        let arrival = Happening::Arrive {
            frame,
            network,
            source,
        };
        self.later(wait, target, arrival);
    }

    /// A copy with one bit flipped.
    fn damaged(&mut self, frame: &Frame) -> Frame {
        let mut bytes = frame.bytes.to_vec();
        let bit = self.random.below(bytes.len() * 8);
        if let Some(byte) = bytes.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        Frame {
            content: frame.content.of_copy(),
            bytes: bytes.into(),
        }
    }

    /// The attacker may put a recorded frame on the wire.
    fn attack(&mut self) {
        if !self.random.chance(self.faults.replay) {
            return;
        }
        let pick = self.random.below(self.attacker.recorded.len());
        let Some((frame, network)) = self.attacker.recorded.get(pick).cloned() else {
            return;
        };
        // Mostly to whom it was for: to others it is not addressed.
        let target = match place_of(&frame.bytes) {
            Some(place) if frame.content != Content::Control => place,
            _ => self.random.below(self.nodes.len()),
        };
        let wait = match self.random.chance(500) {
            true => self.random.between(ms(0), ms(50)),
            false => self.random.between(ms(0), HELD_BACK_MAX),
        };
        if target < self.nodes.len() {
            self.trace.note(self.now, target, "is attacked", [0; 2]);
            self.arrive_later(wait, target, frame, (network, address_of(target, network)));
        }
    }

    /// Makes the attacker put so many recorded frames on the wire at once.
    pub fn attack_at_once(&mut self, frames: u32) {
        let usual = std::mem::replace(&mut self.faults.replay, 1000);
        for _ in 0..frames {
            self.attack();
        }
        self.faults.replay = usual;
    }
}
