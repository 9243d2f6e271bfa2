//! Which frames of one direction are dropped, doubled, held back; from a seed,
//! with a log. Pure. Imports `seed`, `wire`.

use crate::seed::Random;
use crate::wire::{Seen, What};

/// Later frames that overtake a held one, at most: far less than the 8,160
/// numbers that a replay window looks back.
pub(super) const HELD_FRAMES_MAX: usize = 64;
/// Sealed datagrams of the drill's streams are at least so long, probes and
/// what the kernels say to each other are shorter.
pub(super) const LONG_FRAME: usize = 1000;

/// Of a thousand frames each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rates {
    pub(super) dropped: usize,
    pub(super) doubled: usize,
    pub(super) held: usize,
}

/// What was done to one direction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Log {
    /// Data frames that came.
    pub(super) data: u64,
    /// Long ones among them: datagrams, numbered as they came.
    pub(super) long: u64,
    /// Data frames dropped.
    pub(super) dropped: u64,
    /// Long ones among these, by their number.
    pub(super) dropped_long: Vec<u64>,
    /// Data frames that left twice.
    pub(super) doubled: u64,
    /// Data frames that later ones have overtaken.
    pub(super) held: u64,
    /// Other frames of ours dropped or doubled: handshakes and beacons.
    pub(super) control: u64,
}

struct Held {
    frame: Vec<u8>,
    /// Frames that still have to pass.
    frames_left: usize,
}

/// One direction.
pub(super) struct Mangle {
    random: Random,
    rates: Rates,
    held: Vec<Held>,
    /// Else frames only pass, and are counted.
    pub(super) active: bool,
    pub(super) log: Log,
}

enum Fate {
    Pass,
    Drop,
    /// Twice: now, and again after so many frames.
    Double(usize),
    /// After so many frames.
    Hold(usize),
}

impl Mangle {
    pub(super) fn new(seed: u64, rates: Rates) -> Self {
        Self {
            random: Random::new(seed),
            rates,
            held: Vec::new(),
            active: false,
            log: Log::default(),
        }
    }

    fn draw(&mut self) -> Fate {
        let Rates {
            dropped,
            doubled,
            held,
        } = self.rates;
        if !self.active {
            return Fate::Pass;
        }
        match self.random.below(1000) {
            n if n < dropped => Fate::Drop,
            n if n < dropped + doubled => Fate::Double(self.random.below(HELD_FRAMES_MAX)),
            n if n < dropped + doubled + held => {
                Fate::Hold(1 + self.random.below(HELD_FRAMES_MAX - 1))
            }
            _ => Fate::Pass,
        }
    }

    /// Takes a frame as it came and gives those that leave now, in order.
    pub(super) fn pass(&mut self, frame: &[u8], mut leave: impl FnMut(&[u8])) {
        let data = Seen::read(frame).is_some_and(|seen| matches!(seen.what, What::Data { .. }));
        let long = data && frame.len() >= LONG_FRAME;
        let number = self.log.long;
        self.log.data += u64::from(data);
        self.log.long += u64::from(long);
        let fate = self.draw();
        let touched = !matches!(fate, Fate::Pass);
        self.log.control += u64::from(touched && !data);
        match fate {
            Fate::Pass => leave(frame),
            Fate::Drop => {
                self.log.dropped += u64::from(data);
                if long {
                    self.log.dropped_long.push(number);
                }
            }
            Fate::Double(frames_left) => {
                self.log.doubled += u64::from(data);
                leave(frame);
                self.hold(frame, frames_left);
            }
            Fate::Hold(frames_left) => {
                self.log.held += u64::from(data);
                self.hold(frame, frames_left);
            }
        }
        for held in &mut self.held {
            if held.frames_left == 0 {
                leave(&held.frame);
            }
        }
        self.held.retain(|held| held.frames_left > 0);
        for held in &mut self.held {
            held.frames_left -= 1;
        }
    }

    fn hold(&mut self, frame: &[u8], frames_left: usize) {
        self.held.push(Held {
            frame: frame.to_vec(),
            frames_left,
        });
    }

    /// Lets go of everything that is held, in order: nothing came for a while.
    pub(super) fn flush(&mut self, mut leave: impl FnMut(&[u8])) {
        for held in self.held.drain(..) {
            leave(&held.frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates {
        dropped: 50,
        doubled: 50,
        held: 100,
    };

    /// A data frame whose packet number is `number`; each third one is short.
    fn frame(number: u64) -> Vec<u8> {
        let mut frame = vec![2, 0x54, 0, 0, 0, 1, 2, 0x54, 0, 0, 0, 2, 0x88, 0xb5];
        frame.extend([0x10, 0, 0, 17, 0, 0x10, 0, 7]);
        frame.extend(number.to_be_bytes());
        frame.resize(if number.is_multiple_of(3) { 80 } else { 1300 }, 0xa5);
        frame
    }

    fn number(frame: &[u8]) -> u64 {
        u64::from_be_bytes(*frame[22..].first_chunk().unwrap())
    }

    fn mangled(seed: u64, frames: u64) -> (Vec<u64>, Log) {
        let mut mangle = Mangle::new(seed, RATES);
        mangle.active = true;
        let mut left = Vec::new();
        for at in 0..frames {
            mangle.pass(&frame(at), |frame| left.push(number(frame)));
        }
        mangle.flush(|frame| left.push(number(frame)));
        (left, mangle.log)
    }

    #[test]
    fn the_log_is_what_happened() {
        let (left, log) = mangled(7, 10_000);
        assert_eq!((log.data, log.control), (10_000, 0));
        assert_eq!(left.len() as u64, 10_000 - log.dropped + log.doubled);
        let mut times = std::collections::BTreeMap::new();
        for number in left {
            *times.entry(number).or_insert(0) += 1;
        }
        let came = |number: u64| times.get(&number).copied().unwrap_or(0);
        let count = |n| (0..10_000).filter(|&number| came(number) == n).count() as u64;
        assert_eq!((count(0), count(2)), (log.dropped, log.doubled));
        // Datagrams that never left, by their place among the long ones.
        let long = (0..10_000u64).filter(|number| !number.is_multiple_of(3));
        let missing: Vec<u64> = (0..)
            .zip(long)
            .filter(|(_, number)| came(*number) == 0)
            .map(|(place, _)| place)
            .collect();
        assert_eq!(log.dropped_long, missing);
        for rate in [log.dropped, log.doubled, log.held / 2] {
            assert!((400..600).contains(&rate), "{log:?}");
        }
    }

    #[test]
    fn frames_are_overtaken_by_no_more_than_the_bound() {
        let (left, log) = mangled(8, 10_000);
        let mut highest = 0;
        let mut overtaken = 0;
        for number in left {
            highest = highest.max(number);
            let behind = highest - number;
            overtaken += u64::from(behind > 0);
            assert!(behind <= HELD_FRAMES_MAX as u64, "{behind}");
        }
        assert!(overtaken >= log.held, "{overtaken} {log:?}");
    }

    #[test]
    fn nothing_happens_before_it_is_to() {
        let mut mangle = Mangle::new(1, RATES);
        let mut left = 0;
        for at in 0..1000 {
            mangle.pass(&frame(at), |_| left += 1);
        }
        assert_eq!((left, mangle.log.data, mangle.log.dropped), (1000, 1000, 0));
    }

    #[test]
    fn a_seed_repeats() {
        assert_eq!(mangled(1, 500), mangled(1, 500));
        assert_ne!(mangled(1, 500).0, mangled(2, 500).0);
    }
}
