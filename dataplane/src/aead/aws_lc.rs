//! AEAD by aws-lc-rs.
//!
//! A key is a context on AWS-LC's own heap, and its `OPENSSL_free` cleanses
//! what it frees (aws-lc `crypto/mem.c`). When a tag does not match, AWS-LC
//! zeroes the buffer (`crypto/fipsmodule/cipher/aead.c`, `EVP_AEAD_CTX_open`);
//! a test holds it to that. The context cannot be seen from here, so there is
//! nothing to prefetch.

use ::aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305};
use ::aws_lc_rs::aead::{LessSafeKey, Nonce as LcNonce, UnboundKey};
use tipsec_xdp::wire::{HEADER_LEN, TAG_LEN};

use super::{Aead, Nonce, OpenFailed};
use crate::secret::{LaneSecret, Suite};

/// The crate `aws-lc-rs`.
pub enum AwsLc {}

/// A key schedule of aws-lc-rs's, wiped when dropped.
pub struct Key(LessSafeKey);

impl AwsLc {
    /// [`Aead::seal`] with additional data of any length, for test vectors.
    #[doc(hidden)]
    #[inline]
    pub fn seal_with_aad(key: &Key, nonce: Nonce, aad: &[u8], payload: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = LcNonce::assume_unique_for_key(nonce.bytes());
        let sealed = key
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), payload)
            .ok()
            .and_then(|tag| tag.as_ref().try_into().ok());
        sealed.unwrap_or_else(|| super::refuse_to_seal(payload))
    }

    /// [`Aead::open`] with additional data of any length, for test vectors.
    #[doc(hidden)]
    #[inline]
    pub fn open_with_aad(
        key: &Key,
        nonce: Nonce,
        aad: &[u8],
        sealed: &mut [u8],
    ) -> Result<(), OpenFailed> {
        let nonce = LcNonce::assume_unique_for_key(nonce.bytes());
        match key.0.open_in_place(nonce, Aad::from(aad), sealed) {
            Ok(_) => Ok(()),
            Err(_) => Err(OpenFailed),
        }
    }
}

impl Aead for AwsLc {
    type Key = Key;

    const NAME: &'static str = "aws-lc-rs";

    #[allow(clippy::expect_used)] // the length is the suite's own
    fn key(secret: &LaneSecret) -> Key {
        let algorithm: &'static Algorithm = match secret.suite() {
            Suite::Aes128Gcm => &AES_128_GCM,
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, secret.key()).expect("key of the suite's length");
        Key(LessSafeKey::new(key))
    }

    #[inline]
    fn seal(
        key: &Key,
        nonce: Nonce,
        header: &[u8; HEADER_LEN],
        payload: &mut [u8],
    ) -> [u8; TAG_LEN] {
        Self::seal_with_aad(key, nonce, header, payload)
    }

    #[inline]
    fn open(
        key: &Key,
        nonce: Nonce,
        header: &[u8; HEADER_LEN],
        sealed: &mut [u8],
    ) -> Result<(), OpenFailed> {
        Self::open_with_aad(key, nonce, header, sealed)
    }
}
