//! The AEAD seam: two crates behind one trait, statically dispatched.
//!
//! A worker is generic over [`Aead`]; configuration chooses which of the two
//! it is built with. Nonces are made here and nowhere else, from an IV and a
//! packet number that the lane owns.

use tipsec_xdp::wire::{HEADER_LEN, TAG_LEN};

use crate::secret::{LaneSecret, Suite};

#[cfg(feature = "crypto-aws-lc")]
pub mod aws_lc;
#[cfg(feature = "crypto-ring")]
pub mod ring;

#[cfg(all(
    feature = "io",
    not(any(feature = "crypto-ring", feature = "crypto-aws-lc"))
))]
compile_error!("tipsec-dataplane needs the feature crypto-ring or crypto-aws-lc, or both");

/// The tag did not match; the buffer holds no plaintext.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFailed;

/// A 96-bit nonce: the lane's IV, exclusive or the packet number in its last
/// eight bytes (RFC 8446, 5.3).
pub struct Nonce([u8; 12]);

impl Nonce {
    /// The nonce of a packet number under `iv`.
    pub fn new(iv: &[u8; 12], packet_number: u64) -> Self {
        let mut nonce = *iv;
        if let Some(low) = nonce.last_chunk_mut::<8>() {
            *low = (u64::from_be_bytes(*low) ^ packet_number).to_be_bytes();
        }
        Self(nonce)
    }

    /// The bytes for the AEAD crate.
    pub fn bytes(&self) -> [u8; 12] {
        self.0
    }
}

/// Seals and opens with keys whose schedule is built once.
pub trait Aead: Send + 'static {
    /// A key with its schedule; wiped when dropped.
    type Key: Send;

    /// Name in configuration and reports.
    const NAME: &'static str;

    /// Builds the key schedule (some 150 ns: once per lane, never per frame).
    fn key(secret: &LaneSecret) -> Self::Key;

    /// Starts to load a key's schedule into the cache. Changes nothing else.
    fn prefetch(_: &Self::Key) {}

    /// Encrypts `payload` in place and returns the tag.
    fn seal(
        key: &Self::Key,
        nonce: Nonce,
        header: &[u8; HEADER_LEN],
        payload: &mut [u8],
    ) -> [u8; TAG_LEN];

    /// Checks and decrypts `sealed` (ciphertext, then tag) in place; the
    /// plaintext is its beginning, [`TAG_LEN`] bytes shorter.
    ///
    /// # Errors
    /// [`OpenFailed`]; then `sealed` holds no plaintext.
    fn open(
        key: &Self::Key,
        nonce: Nonce,
        header: &[u8; HEADER_LEN],
        sealed: &mut [u8],
    ) -> Result<(), OpenFailed>;
}

/// What a provider does when its crate refuses to seal, which it may only for
/// payloads of 2^36 bytes: leaves nothing readable behind. The frame will not
/// open, so it is counted at the receiver.
#[cold]
fn refuse_to_seal(payload: &mut [u8]) -> [u8; TAG_LEN] {
    payload.fill(0);
    [0; TAG_LEN]
}

/// AES blocks (16 bytes) of a payload, for budgets.
pub const fn blocks(payload_len: usize) -> u64 {
    payload_len.div_ceil(16) as u64
}

/// Which AEAD crate a node uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provider {
    /// The crate `ring`.
    Ring,
    /// The crate `aws-lc-rs`.
    AwsLc,
}

impl Provider {
    /// Name in configuration and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::AwsLc => "aws-lc-rs",
        }
    }

    /// Whether this build contains it.
    pub const fn is_built_in(self) -> bool {
        match self {
            Self::Ring => cfg!(feature = "crypto-ring"),
            Self::AwsLc => cfg!(feature = "crypto-aws-lc"),
        }
    }
}

/// The suites of this build; both crates have all of them.
pub const SUITES: [Suite; 3] = Suite::ALL;

/// A provider that this build has, for unit tests that need any.
#[cfg(all(test, feature = "crypto-ring"))]
pub(crate) type AnyAead = ring::Ring;
/// A provider that this build has, for unit tests that need any.
#[cfg(all(test, not(feature = "crypto-ring")))]
pub(crate) type AnyAead = aws_lc::AwsLc;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonce_is_iv_xor_number() {
        let iv = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        assert_eq!(Nonce::new(&iv, 0).bytes(), iv);
        let nonce = Nonce::new(&iv, 0xff00_0000_0000_0001).bytes();
        assert_eq!(nonce, [1, 2, 3, 4, 5 ^ 0xff, 6, 7, 8, 9, 10, 11, 12 ^ 1]);
    }

    #[test]
    fn refused_seal_leaves_nothing_readable() {
        let mut payload = [7; 40];
        assert_eq!(refuse_to_seal(&mut payload), [0; TAG_LEN]);
        assert_eq!(payload, [0; 40]);
    }

    #[test]
    fn blocks_round_up() {
        assert_eq!([0, 1, 16, 17, 1400].map(blocks), [0, 1, 1, 2, 88]);
    }
}
