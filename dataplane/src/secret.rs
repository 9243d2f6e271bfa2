//! Key material on its way from the key exchange to a lane.
//!
//! Zeroized on drop; no `Debug`, no implicit copy.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// AEAD of an SA. The value is its code on the wire (docs/protocol.md).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D): the default.
    Aes256Gcm = 1,
    /// AES-128-GCM.
    Aes128Gcm = 2,
    /// ChaCha20-Poly1305 (RFC 8439), for machines without AES instructions.
    ChaCha20Poly1305 = 4,
}

impl Suite {
    /// Every suite, strongest preference first.
    pub const ALL: [Self; 3] = [Self::Aes256Gcm, Self::Aes128Gcm, Self::ChaCha20Poly1305];

    /// The code as it travels: one bit, so that a set of suites is a sum.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The suite with this code.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.code() == code)
    }

    /// Key length in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Name in configuration and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Aes128Gcm => "aes-128-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }
}

/// Key and IV of one lane in one phase.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct LaneSecret {
    #[zeroize(skip)]
    suite: Suite,
    key: [u8; 32],
    iv: [u8; 12],
}

impl LaneSecret {
    /// Takes the output of the key derivation: `suite` uses the first
    /// [`Suite::key_len`] bytes of `key`.
    pub fn new(suite: Suite, key: [u8; 32], iv: [u8; 12]) -> Self {
        Self { suite, key, iv }
    }

    /// A second copy, for another worker that opens the same lane.
    pub fn duplicate(&self) -> Self {
        Self {
            suite: self.suite,
            key: self.key,
            iv: self.iv,
        }
    }

    /// The AEAD that the key is for.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The key, [`Suite::key_len`] bytes.
    pub fn key(&self) -> &[u8] {
        &self.key[..self.suite.key_len()]
    }

    /// The IV that a packet number is added to (exclusive or) for its nonce.
    pub fn iv(&self) -> &[u8; 12] {
        &self.iv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suite_codes_are_distinct_bits() {
        let sum: u16 = Suite::ALL.iter().map(|s| s.code()).sum();
        assert_eq!(sum.count_ones(), 3);
        for suite in Suite::ALL {
            assert_eq!(Suite::from_code(suite.code()), Some(suite));
        }
        assert_eq!(Suite::from_code(0), None);
        assert_eq!(Suite::from_code(3), None);
    }
}
