//! The XDP gate: SipHash-2-4 (64 bit) over a control frame's clear header,
//! under a key derived from the master. Outsiders' control frames end here, in
//! the driver. Shared by the program and userspace; imports `wire` only.
//!
//! Straight-line code of constant size, since the verifier follows every step.

use crate::wire::CLEAR_HEADER_LEN;

/// The gate's key, 128 bits. Derived from the master key by userspace; the
/// program reads it from the map of held masters. No `Debug`: it is a key.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct GateKey {
    k0: u64,
    k1: u64,
}

impl GateKey {
    /// Size in bytes in the map.
    pub const LEN: usize = 16;

    /// The key that 16 derived bytes make (SipHash reads them little endian).
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 16]) -> GateKey {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        GateKey {
            k0: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            k1: u64::from_le_bytes([i, j, k, l, m, n, o, p]),
        }
    }

    /// The bytes to write to the map of held masters, in this machine's order.
    pub const fn to_map_bytes(self) -> [u8; GateKey::LEN] {
        // The program reads two native words, so native order is the layout.
        let [a, b, c, d, e, f, g, h] = self.k0.to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.k1.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

/// One word of the clear header, little endian, at a fixed offset.
macro_rules! word {
    ($clear:expr, $at:literal) => {
        u64::from_le_bytes([
            $clear[$at],
            $clear[$at + 1],
            $clear[$at + 2],
            $clear[$at + 3],
            $clear[$at + 4],
            $clear[$at + 5],
            $clear[$at + 6],
            $clear[$at + 7],
        ])
    };
}

/// SipHash-2-4 over the 48 bytes of `clear` that are not the gate field itself
/// (0..8 and 16..56). The result travels big endian at
/// [`OFFSET_GATE`](crate::wire::OFFSET_GATE). Source: Aumasson and Bernstein,
/// "SipHash: a fast short-input PRF", 2012.
#[inline(always)]
pub fn gate(key: &GateKey, clear: &[u8; CLEAR_HEADER_LEN]) -> u64 {
    let mut state = State {
        v0: key.k0 ^ 0x736f_6d65_7073_6575,
        v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
        v2: key.k0 ^ 0x6c79_6765_6e65_7261,
        v3: key.k1 ^ 0x7465_6462_7974_6573,
    };
    state.absorb(word!(clear, 0));
    state.absorb(word!(clear, 16));
    state.absorb(word!(clear, 24));
    state.absorb(word!(clear, 32));
    state.absorb(word!(clear, 40));
    state.absorb(word!(clear, 48));
    // The last word holds the input's length in its top byte and no data.
    state.absorb(48 << 56);
    state.v2 ^= 0xFF;
    state.round();
    state.round();
    state.round();
    state.round();
    state.v0 ^ state.v1 ^ state.v2 ^ state.v3
}

struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;
    use siphasher::sip::SipHasher24;

    fn reference(key: &[u8; 16], clear: &[u8; CLEAR_HEADER_LEN]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(key);
        hasher.write(&clear[..8]);
        hasher.write(&clear[16..]);
        hasher.finish()
    }

    #[test]
    fn equals_siphash_2_4_on_random_input() {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut byte = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()[3]
        };
        for _ in 0..2000 {
            let key: [u8; 16] = core::array::from_fn(|_| byte());
            let clear: [u8; CLEAR_HEADER_LEN] = core::array::from_fn(|_| byte());
            assert_eq!(
                gate(&GateKey::from_bytes(key), &clear),
                reference(&key, &clear)
            );
        }
    }

    /// The authors' test vectors, key 00..0f over input 00..2f (entry 48 of
    /// `vectors_sip64` in their reference implementation).
    #[test]
    fn equals_the_authors_vector_for_48_bytes() {
        let key = GateKey::from_bytes(core::array::from_fn(|i| i.to_le_bytes()[0]));
        let mut clear = [0xEE; CLEAR_HEADER_LEN];
        for i in 0..48_u8 {
            let at = usize::from(if i < 8 { i } else { i + 8 });
            clear[at] = i;
        }
        let expected = [0x51, 0xa9, 0xcb, 0x9e, 0xcb, 0xa3, 0x12, 0xe6];
        assert_eq!(gate(&key, &clear).to_le_bytes(), expected);
    }

    #[test]
    fn every_bit_counts_but_the_gate_s_own() {
        let key = GateKey::from_bytes([7; 16]);
        let clear = [0x5A; CLEAR_HEADER_LEN];
        let base = gate(&key, &clear);
        for bit in 0..CLEAR_HEADER_LEN * 8 {
            let mut flipped = clear;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let in_gate = (8..16).contains(&(bit / 8));
            assert_eq!(gate(&key, &flipped) == base, in_gate, "bit {bit}");
        }
    }
}
