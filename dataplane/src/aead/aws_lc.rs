//! AEAD by aws-lc-rs.
//!
//! A key is a context on AWS-LC's own heap, and its `OPENSSL_free` cleanses
//! what it frees (aws-lc `crypto/mem.c`). When a tag does not match, AWS-LC
//! zeroes the buffer (`crypto/fipsmodule/cipher/aead.c`, `EVP_AEAD_CTX_open`);
//! a test holds it to that.

use ::aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305};
use ::aws_lc_rs::aead::{LessSafeKey, Nonce as LcNonce, UnboundKey};
use tipsec_xdp::wire::{HEADER_LEN, TAG_LEN};

use super::{Aead, Nonce, OpenFailed};
use crate::secret::{LaneSecret, Suite};
use crate::sys;

/// The crate `aws-lc-rs`.
pub enum AwsLc {}

/// Bytes of a context: `sizeof(EVP_AEAD_CTX)` (aws-lc `include/openssl/aead.h`).
const CONTEXT_LEN: usize = 584;

/// A key schedule of aws-lc-rs's, wiped when dropped.
pub struct Key {
    key: LessSafeKey,
    context: Context,
}

/// Where the context seems to lie. aws-lc-rs does not tell, and without asking
/// for it a key that was not used lately costs a frame some 400 ns
/// (docs/adr/0020).
struct Context(usize);

impl Context {
    /// The first word of the key that points elsewhere than to its algorithm,
    /// which is a static: words below a page are no pointers. A wrong guess
    /// costs time and does no harm.
    fn of(key: &LessSafeKey) -> Self {
        let algorithm = std::ptr::from_ref(key.algorithm()).addr();
        let guess = sys::words(key).find(|&word| word >= 4096 && word != algorithm);
        Self(guess.unwrap_or(0))
    }
}

impl AwsLc {
    /// [`Aead::seal`] with additional data of any length, for test vectors.
    #[doc(hidden)]
    #[inline]
    pub fn seal_with_aad(key: &Key, nonce: Nonce, aad: &[u8], payload: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = LcNonce::assume_unique_for_key(nonce.bytes());
        let sealed = key
            .key
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
        match key.key.open_in_place(nonce, Aad::from(aad), sealed) {
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
        let key = LessSafeKey::new(key);
        let context = Context::of(&key);
        Key { key, context }
    }

    #[inline]
    fn prefetch(key: &Key) {
        sys::prefetch_at(key.context.0, CONTEXT_LEN);
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

#[cfg(all(test, target_arch = "x86_64", not(miri)))]
mod tests {
    use super::*;

    fn key(suite: Suite) -> Key {
        AwsLc::key(&LaneSecret::new(suite, [1; 32], [2; 12]))
    }

    /// Fails when aws-lc-rs keeps its contexts elsewhere: then keys of many SAs
    /// are slow, and nothing else says so.
    #[test]
    fn each_key_has_a_context_of_its_own_and_on_the_heap() {
        let keys = Suite::ALL.map(|suite| [key(suite), key(suite)]);
        let mut contexts: Vec<usize> = keys.iter().flatten().map(|key| key.context.0).collect();
        contexts.sort_unstable();
        for pair in contexts.windows(2) {
            assert!(pair[1] - pair[0] >= CONTEXT_LEN, "{contexts:#x?}");
        }
        // Statics lie elsewhere.
        let heap = std::ptr::from_ref(&*Box::new([0_u8; CONTEXT_LEN])).addr();
        assert!(
            contexts[0].abs_diff(heap) < 1 << 30,
            "{contexts:#x?}, {heap:#x}"
        );
    }
}
