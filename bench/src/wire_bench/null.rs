//! The null cipher: what the pipelines cost when the cipher does no
//! arithmetic. It still reads and writes every 64-byte line of the payload,
//! both ways, since a cipher that left memory alone would flatter whatever it
//! is compared with. Lives here and nowhere else: it protects nothing.

use tipsec_dataplane::aead::{Aead, Nonce, OpenFailed};
use tipsec_dataplane::secret::LaneSecret;

/// Bytes of a cache line.
const LINE: usize = 64;
/// What is added to the first byte of each line (exclusive or).
const MARK: u8 = 0xa5;

/// See the module.
pub(crate) struct NullCipher;

/// Reads and writes one byte of each line; a second time undoes it.
fn touch(payload: &mut [u8]) {
    for line in payload.chunks_mut(LINE) {
        if let Some(byte) = line.first_mut() {
            *byte ^= MARK;
        }
    }
}

impl Aead for NullCipher {
    type Key = ();

    const NAME: &'static str = "null";

    fn key(_: &LaneSecret) {}

    fn seal(_: &(), _: Nonce, _: &[u8; 16], payload: &mut [u8]) -> [u8; 16] {
        touch(payload);
        [MARK; 16]
    }

    fn open(_: &(), _: Nonce, _: &[u8; 16], sealed: &mut [u8]) -> Result<(), OpenFailed> {
        let (payload, tag) = sealed.split_last_chunk_mut::<16>().ok_or(OpenFailed)?;
        touch(payload);
        (*tag == [MARK; 16]).then_some(()).ok_or(OpenFailed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IV: [u8; 12] = [0; 12];

    #[test]
    fn every_line_is_written_both_ways() {
        let mut sealed = vec![0; 200];
        let tag = NullCipher::seal(&(), Nonce::new(&IV, 0), &[0; 16], &mut sealed);
        for line in sealed.chunks(LINE) {
            assert!(line.iter().any(|&byte| byte != 0));
        }
        sealed.extend_from_slice(&tag);
        NullCipher::open(&(), Nonce::new(&IV, 0), &[0; 16], &mut sealed).unwrap();
        assert!(sealed[..200].iter().all(|&byte| byte == 0), "undone");
    }

    #[test]
    fn what_was_not_sealed_does_not_open() {
        let open = |mut bytes: Vec<u8>| {
            NullCipher::open(&(), Nonce::new(&IV, 0), &[0; 16], &mut bytes).is_ok()
        };
        assert!(!open(vec![0; 40]));
        assert!(!open(vec![MARK; 15]), "shorter than a tag");
        assert!(open(vec![MARK; 16]));
    }
}
