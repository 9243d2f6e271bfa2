//! Wycheproof vectors (AES-GCM and ChaCha20-Poly1305; 96-bit nonces, 128-bit
//! tags) against both AEAD crates, and the two against each other.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may stop

use tipsec_dataplane::aead::{Aead, Nonce, OpenFailed};
use tipsec_dataplane::secret::{LaneSecret, Suite};
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

type Seal<K> = fn(&K, Nonce, &[u8], &mut [u8]) -> [u8; 16];
type Open<K> = fn(&K, Nonce, &[u8], &mut [u8]) -> Result<(), OpenFailed>;

/// The provider's functions for additional data of any length.
struct Provider<A: Aead> {
    seal: Seal<A::Key>,
    open: Open<A::Key>,
}

#[cfg(feature = "crypto-ring")]
const RING: Provider<tipsec_dataplane::aead::ring::Ring> = Provider {
    seal: tipsec_dataplane::aead::ring::Ring::seal_with_aad,
    open: tipsec_dataplane::aead::ring::Ring::open_with_aad,
};

#[cfg(feature = "crypto-aws-lc")]
const AWS_LC: Provider<tipsec_dataplane::aead::aws_lc::AwsLc> = Provider {
    seal: tipsec_dataplane::aead::aws_lc::AwsLc::seal_with_aad,
    open: tipsec_dataplane::aead::aws_lc::AwsLc::open_with_aad,
};

fn secret(suite: Suite, key: &[u8], nonce: &[u8]) -> LaneSecret {
    let mut padded = [0; 32];
    padded[..key.len()].copy_from_slice(key);
    LaneSecret::new(suite, padded, nonce.try_into().unwrap())
}

/// Packet number 0 leaves the IV as it is, so the vector's nonce is the IV.
fn nonce(secret: &LaneSecret) -> Nonce {
    Nonce::new(secret.iv(), 0)
}

/// Runs a set; returns how many vectors were valid and how many invalid.
fn run<A: Aead>(
    provider: &Provider<A>,
    name: TestName,
    suite: impl Fn(usize) -> Option<Suite>,
) -> (usize, usize) {
    let set = TestSet::load(name).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in &set.test_groups {
        let Some(suite) = suite(group.key_size) else {
            continue;
        };
        if group.nonce_size != 96 || group.tag_size != 128 {
            continue;
        }
        for test in &group.tests {
            let secret = secret(suite, &test.key, &test.nonce);
            let key = A::key(&secret);
            let mut sealed = [test.ct.as_slice(), test.tag.as_slice()].concat();
            let result = (provider.open)(&key, nonce(&secret), &test.aad, &mut sealed);
            let label = format!("{} {name:?} {}", A::NAME, test.tc_id);
            if test.result == TestResult::Invalid {
                invalid += 1;
                assert_eq!(result, Err(OpenFailed), "{label}");
                let plaintext = &sealed[..test.ct.len()];
                assert!(plaintext.iter().all(|&b| b == 0), "{label}: bytes left");
                continue;
            }
            valid += 1;
            assert_eq!(result, Ok(()), "{label}");
            assert_eq!(&sealed[..test.pt.len()], test.pt.as_slice(), "{label}");
            let mut payload = test.pt.to_vec();
            let tag = (provider.seal)(&key, nonce(&secret), &test.aad, &mut payload);
            assert_eq!(payload, test.ct.as_slice(), "{label}");
            assert_eq!(tag.as_slice(), test.tag.as_slice(), "{label}");
        }
    }
    (valid, invalid)
}

fn check<A: Aead>(provider: &Provider<A>) {
    let (valid, invalid) = run(provider, TestName::AesGcm, |bits| match bits {
        128 => Some(Suite::Aes128Gcm),
        256 => Some(Suite::Aes256Gcm),
        _ => None,
    });
    assert!(valid >= 50 && invalid >= 30, "AES-GCM: {valid}, {invalid}");
    let (valid, invalid) = run(provider, TestName::ChaCha20Poly1305, |_| {
        Some(Suite::ChaCha20Poly1305)
    });
    assert!(valid >= 200 && invalid >= 30, "ChaCha: {valid}, {invalid}");
}

#[test]
#[cfg(feature = "crypto-ring")]
fn ring_meets_the_vectors() {
    check(&RING);
}

#[test]
#[cfg(feature = "crypto-aws-lc")]
fn aws_lc_meets_the_vectors() {
    check(&AWS_LC);
}

#[test]
#[cfg(all(feature = "crypto-ring", feature = "crypto-aws-lc"))]
fn what_one_seals_the_other_opens() {
    fn there<S: Aead, O: Aead>() {
        for suite in Suite::ALL {
            let secret = secret(suite, &[7; 32][..suite.key_len()], &[9; 12]);
            let (sealing, opening) = (S::key(&secret), O::key(&secret));
            for len in (1..200).chain([1400, 3700, 9000]) {
                let number = len as u64 * 0x0123_4567_89ab;
                let nonce = || Nonce::new(secret.iv(), number);
                let header = [len as u8; 16];
                let plaintext: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let mut sealed = plaintext.clone();
                let tag = S::seal(&sealing, nonce(), &header, &mut sealed);
                assert_ne!(sealed, plaintext);
                sealed.extend(tag);
                let mut other = sealed.clone();
                assert_eq!(O::open(&opening, nonce(), &header, &mut sealed), Ok(()));
                assert_eq!(&sealed[..len], plaintext);
                let wrong = [!(len as u8); 16];
                let refused = O::open(&opening, nonce(), &wrong, &mut other);
                assert_eq!(refused, Err(OpenFailed), "another header");
                assert!(other[..len].iter().all(|&b| b == 0), "plaintext left");
            }
        }
    }
    use tipsec_dataplane::aead::{aws_lc::AwsLc, ring::Ring};
    there::<Ring, AwsLc>();
    there::<AwsLc, Ring>();
}
