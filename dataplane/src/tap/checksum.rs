//! The Internet checksum (RFC 1071). Imports nothing from this crate.

/// A one's complement sum of 16-bit words. It is kept in the machine's byte
/// order, which the sum does not depend on (RFC 1071, section 2 B).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that begin a 16-bit word; an odd last one is the upper half
    /// of its word. At most 16 GiB over the life of a sum.
    #[must_use]
    #[inline]
    pub fn with(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut last = [0; 4];
        for (place, byte) in last.iter_mut().zip(rest) {
            *place = *byte;
        }
        let whole: u64 = words
            .iter()
            .map(|word| u64::from(u32::from_ne_bytes(*word)))
            .sum();
        Self(self.0 + whole + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds one word.
    #[must_use]
    #[inline]
    pub fn with_word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    /// The sum as one word.
    #[inline]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        // The loop ended below 2^16.
        #[allow(clippy::cast_possible_truncation)]
        u16::from_be(sum as u16)
    }

    /// What goes into a checksum field; over data that includes a right one, 0.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // makes bytes of numbers
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        let sum = Sum::default().with(&bytes);
        assert_eq!(sum.fold(), 0xddf2);
        assert_eq!(sum.with_word(sum.checksum()).checksum(), 0);
    }

    #[test]
    fn every_length_agrees_with_the_plain_definition() {
        let bytes: Vec<u8> = (0..3001u32).map(|i| (i * 37 + i / 255) as u8).collect();
        for len in (0..70).chain([1399, 1400, 3000, 3001]) {
            let mut sum = 0u32;
            for pair in bytes[..len].chunks(2) {
                sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(Sum::default().with(&bytes[..len]).fold(), sum as u16);
        }
    }
}
