//! Makes junk of good frames: everything that an attacker on the wire can do
//! without a key. Imports nothing of the other modules.

use std::collections::BTreeMap;

/// Ethernet header's length, below which no packet socket sends.
const ETH_LEN: usize = 14;
/// Longest frame on the test's devices, without FCS.
const FRAME_MAX: usize = 1514;

/// What a Tipsec frame is, for the choice of one of each.
pub(crate) fn kind_of(frame: &[u8]) -> &'static str {
    match (frame[14], frame[18]) {
        (0x10, _) if frame.len() < 100 => "probe",
        (0x10, _) => "data",
        (0x11, 1) => "hello",
        (0x11, 2) => "m1",
        (0x11, 3) => "m2",
        (0x11, 4) => "m3",
        (0x12, 1) => "beacon",
        _ => "unknown",
    }
}

/// One frame of each kind, the latest.
pub(crate) fn one_of_each<'a>(
    frames: impl Iterator<Item = &'a Vec<u8>>,
) -> BTreeMap<&'static str, &'a [u8]> {
    frames
        .map(|frame| (kind_of(frame), frame.as_slice()))
        .collect()
}

/// What becomes of one frame that the node at `own` should receive.
pub(crate) fn junk_of(frame: &[u8], own: [u8; 6], random: &mut Random) -> Vec<Vec<u8>> {
    let mut junk = Vec::new();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut copy = frame.to_vec();
        change(&mut copy);
        copy
    };
    // Replayed.
    junk.extend([frame.to_vec(), frame.to_vec()]);
    // Cut short, longer.
    junk.extend((ETH_LEN..frame.len()).map(|len| frame[..len].to_vec()));
    for longer in [1, 4, 64, FRAME_MAX - frame.len()] {
        junk.push(with(&|copy| copy.resize(copy.len() + longer, 0xa5)));
    }
    // Every bit.
    for bit in 0..8 * frame.len() {
        junk.push(with(&|copy| copy[bit / 8] ^= 1 << (bit % 8)));
    }
    // Reflected, and under the node's own address.
    junk.push(with(&|copy| {
        copy.copy_within(6..12, 0);
        copy[6..12].copy_from_slice(&own);
    }));
    junk.push(with(&|copy| copy[6..12].copy_from_slice(&own)));
    // Garbage behind a good beginning.
    for keep in [ETH_LEN, 15, 18, 22, 30, 70] {
        let len = (keep + random.below(FRAME_MAX - keep)).max(keep);
        let mut copy = frame[..keep.min(frame.len())].to_vec();
        copy.resize_with(len, || random.byte());
        junk.push(copy);
    }
    junk
}

/// What becomes of a frame that the node itself has sent: it comes back, as
/// if from `other`.
pub(crate) fn echo_of(frame: &[u8], own: [u8; 6], other: [u8; 6]) -> Vec<u8> {
    let mut copy = frame.to_vec();
    copy[..6].copy_from_slice(&own);
    copy[6..12].copy_from_slice(&other);
    copy
}

/// Reproducible, and good enough for garbage (xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.byte());
    }

    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_be_bytes()[0]
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        let number = u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()]);
        number as usize % end
    }
}
