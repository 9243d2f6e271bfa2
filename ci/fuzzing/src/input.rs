//! Takes the bytes of a fuzzer apart. What is missing at the end reads as
//! zero, so that every input means something. Imports nothing of the crate.

/// The rest of an input.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.u8()) % bound
    }

    /// Up to so many bytes.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Changes `bytes` as the input says: a count of up to 7 edits, each with
    /// its place (2 bytes) and value. Places count from the start, or, in the
    /// upper half of their range, from the end.
    pub(crate) fn edit(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.u8() % 8 {
            let kind = self.u8();
            let place = self.u16();
            let distance = usize::from(place & 0x7fff);
            let at = match place & 0x8000 {
                0 => distance,
                _ => bytes.len().saturating_sub(distance + 1),
            };
            match kind % 5 {
                0 => put(bytes, at, &[self.u8()]),
                1 => {
                    let mask = self.u8();
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= mask;
                    }
                }
                2 => bytes.truncate(at),
                // Padding, or more of the same.
                3 => {
                    let value = self.u8();
                    bytes.resize(bytes.len() + at.min(512), value);
                }
                _ => {
                    let len = self.below(17);
                    put(bytes, at, self.take(len));
                }
            }
        }
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(new) {
        *place = *byte;
    }
}
