//! The master key: its octets, its text, and the texts it may be given as.
//!
//! Never printed by accident (no `Debug`, no `Display`), never copied by
//! accident (no `Clone`), wiped when dropped. Derivations from it are in
//! another module. Imports nothing from this crate.

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Fewest octets of a master key: 128 bits.
pub const MIN_LEN: usize = 16;

/// Most octets of a master key.
pub const MAX_LEN: usize = 64;

/// Octets of a generated key.
pub const GENERATED_LEN: usize = 32;

/// Longest text of a key in bytes: prefix, two digits an octet, checksum.
pub const MAX_TEXT_LEN: usize = PREFIX.len() + 2 * MAX_LEN + 1 + 2 * CHECKSUM_LEN;

/// What every key of our own text form starts with.
const PREFIX: &str = "tipsec1:";

/// Octets of SHA-256 in our text form: a typing error passes once in 2^32.
const CHECKSUM_LEN: usize = 4;

/// Key and salt of `tipc node set key`, in octets: AES-128, -192 or -256 and
/// 4 octets of salt.
const TIPC_LENS: [usize; 3] = [16 + 4, 24 + 4, 32 + 4];

/// The secret that makes a cluster: 16 to 64 octets, not all zero.
pub struct MasterKey(Zeroizing<Box<[u8]>>);

/// Why a text or octets are no master key. Never says what they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// Nothing but the end of a line.
    #[error("the master key is empty; `tipsec-keyctl master generate` makes one")]
    Empty,
    /// Too few or too many octets.
    #[error("the master key has {0} octets; it must have {MIN_LEN} to {MAX_LEN}")]
    Length(usize),
    /// Every octet is zero.
    #[error("the master key is all zero; `tipsec-keyctl master generate` makes a good one")]
    AllZero,
    /// Half an octet is missing.
    #[error("the master key has {0} hex digits, an odd number: one is missing or too many")]
    OddDigits(usize),
    /// A character that is no hex digit where only those may be.
    #[error("character {0} of the master key is not a hex digit")]
    NotHex(usize),
    /// Our text form without its checksum.
    #[error("the master key ends before its checksum (`tipsec1:` digits `:` 8 digits)")]
    NoChecksum,
    /// Our text form, mistyped.
    #[error("the master key's checksum does not match: it was mistyped or cut")]
    Checksum,
    /// None of the forms.
    #[error(
        "{0} characters are no form of a master key: give `tipsec1:…` as generated, \
         32 to 128 hex digits, or a key of `tipc node set key` (`0x` and hex digits, \
         or 20, 28 or 36 ASCII characters)"
    )]
    Form(usize),
    /// Control characters or bytes that are not ASCII.
    #[error("the master key has characters that are not printable ASCII")]
    NotAscii,
    /// The operating system gave no random numbers.
    #[error("the operating system gave no random numbers")]
    NoRandom,
}

impl MasterKey {
    /// Draws [`GENERATED_LEN`] octets from the operating system's RNG.
    ///
    /// # Errors
    /// [`MasterKeyError::NoRandom`].
    pub fn generate() -> Result<Self, MasterKeyError> {
        let mut octets = Zeroizing::new(vec![0; GENERATED_LEN].into_boxed_slice());
        SystemRandom::new()
            .fill(&mut octets)
            .map_err(|_| MasterKeyError::NoRandom)?;
        Self::checked(octets)
    }

    /// Takes raw octets.
    ///
    /// # Errors
    /// [`MasterKeyError::Length`], [`MasterKeyError::AllZero`].
    pub fn from_octets(octets: &[u8]) -> Result<Self, MasterKeyError> {
        Self::checked(Zeroizing::new(octets.into()))
    }

    /// Reads any text form; one line end behind it is ignored.
    ///
    /// * `tipsec1:` hex digits `:` checksum, as [`Self::to_text`] writes;
    /// * 32 to 128 hex digits, with or without `0x`;
    /// * 20, 28 or 36 ASCII characters, as `tipc node set key` takes them: key
    ///   and salt. Like there, 36 characters without `0x` are ASCII even if
    ///   all of them are hex digits.
    ///
    /// Whatever the form, all octets, TIPC's four of salt included, are the
    /// master key: they are the input of every derivation.
    ///
    /// # Errors
    /// [`MasterKeyError`] names what is wrong without repeating the text.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(MasterKeyError::Empty);
        }
        if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(MasterKeyError::NotAscii);
        }
        if let Some(rest) = text.strip_prefix(PREFIX) {
            return Self::parse_own(rest);
        }
        if let Some(digits) = text.strip_prefix("0x") {
            return Self::checked(unhex(digits, 2)?);
        }
        if TIPC_LENS.contains(&text.len()) {
            return Self::from_octets(text.as_bytes());
        }
        if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Self::checked(unhex(text, 0)?);
        }
        Err(MasterKeyError::Form(text.len()))
    }

    /// What comes behind [`PREFIX`].
    fn parse_own(rest: &str) -> Result<Self, MasterKeyError> {
        let (digits, checksum) = rest.split_once(':').ok_or(MasterKeyError::NoChecksum)?;
        let key = Self::checked(unhex(digits, PREFIX.len())?)?;
        let expected = key.checksum();
        let given = unhex(checksum, PREFIX.len() + digits.len() + 1)?;
        if bool::from(given[..].ct_eq(&expected[..])) {
            Ok(key)
        } else {
            Err(MasterKeyError::Checksum)
        }
    }

    fn checked(octets: Zeroizing<Box<[u8]>>) -> Result<Self, MasterKeyError> {
        if !(MIN_LEN..=MAX_LEN).contains(&octets.len()) {
            return Err(MasterKeyError::Length(octets.len()));
        }
        if octets.iter().fold(0, |all, octet| all | octet) == 0 {
            return Err(MasterKeyError::AllZero);
        }
        Ok(Self(octets))
    }

    /// The octets: input of the derivations and of nothing else.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// The text form that [`Self::parse`] reads back:
    /// `tipsec1:` hex digits `:` 8 digits of checksum.
    pub fn to_text(&self) -> Zeroizing<String> {
        // All room at once: a string that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT_LEN));
        text.push_str(PREFIX);
        push_hex(&mut text, &self.0);
        text.push(':');
        push_hex(&mut text, &self.checksum());
        text
    }

    /// Whether both are the same key; takes the same time for every content.
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// Beginning of SHA-256 over a label and the octets.
    fn checksum(&self) -> [u8; CHECKSUM_LEN] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"tipsec master key checksum");
        context.update(&self.0);
        let mut checksum = [0; CHECKSUM_LEN];
        checksum.copy_from_slice(&context.finish().as_ref()[..CHECKSUM_LEN]);
        checksum
    }
}

impl Serialize for MasterKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for MasterKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = MasterKey;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a master key as text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MasterKey, E> {
                MasterKey::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Octets of hex digits; `skipped` characters stood before them in the text.
fn unhex(digits: &str, skipped: usize) -> Result<Zeroizing<Box<[u8]>>, MasterKeyError> {
    let digits = digits.as_bytes();
    if let Some(at) = digits.iter().position(|digit| !digit.is_ascii_hexdigit()) {
        return Err(MasterKeyError::NotHex(skipped + at + 1));
    }
    if !digits.len().is_multiple_of(2) {
        return Err(MasterKeyError::OddDigits(digits.len()));
    }
    let mut octets = Zeroizing::new(vec![0; digits.len() / 2].into_boxed_slice());
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        *octet = digit_value(pair[0]) << 4 | digit_value(pair[1]);
    }
    Ok(octets)
}

fn digit_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn push_hex(text: &mut String, octets: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for octet in octets {
        text.push(char::from(DIGITS[usize::from(octet >> 4)]));
        text.push(char::from(DIGITS[usize::from(octet & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> MasterKeyError {
        match MasterKey::parse(text) {
            Ok(_) => panic!("{text} was taken"),
            Err(error) => error,
        }
    }

    #[test]
    fn generated_keys_differ_and_come_back_from_their_text() {
        let (one, two) = (
            MasterKey::generate().unwrap(),
            MasterKey::generate().unwrap(),
        );
        assert_eq!(one.octets().len(), GENERATED_LEN);
        assert!(!one.same_as(&two));
        let text = one.to_text();
        assert!(MasterKey::parse(&text).unwrap().same_as(&one));
        let with_line_end = format!("{}\r\n", text.as_str());
        assert!(MasterKey::parse(&with_line_end).unwrap().same_as(&one));
    }

    #[test]
    fn every_mistyped_character_is_noticed() {
        let key = MasterKey::from_octets(&[0x5a; 32]).unwrap();
        let text = key.to_text();
        for at in PREFIX.len()..text.len() {
            let mut typo = text.as_bytes().to_vec();
            typo[at] = if typo[at] == b'0' { b'1' } else { b'0' };
            let typo = String::from_utf8(typo).unwrap();
            assert!(MasterKey::parse(&typo).is_err(), "position {at}");
        }
        assert_eq!(error(&text[..text.len() - 9]), MasterKeyError::NoChecksum);
        assert_eq!(error(&text[..text.len() - 2]), MasterKeyError::Checksum);
    }

    #[test]
    fn text_of_a_known_key_is_stable() {
        let octets: Vec<u8> = (0..16).collect();
        let text = MasterKey::from_octets(&octets).unwrap().to_text();
        let (hex, checksum) = text.rsplit_once(':').unwrap();
        assert_eq!(hex, "tipsec1:000102030405060708090a0b0c0d0e0f");
        // printf 'tipsec master key checksum\0\1\2…\17' | sha256sum | cut -c-8
        assert_eq!(checksum, "405750be");
    }

    #[test]
    fn hex_is_taken_with_and_without_prefix() {
        let digits = "000102030405060708090A0b0c0d0e0f";
        let plain = MasterKey::parse(digits).unwrap();
        let prefixed = MasterKey::parse(&format!("0x{digits}")).unwrap();
        assert!(plain.same_as(&prefixed));
        assert_eq!(plain.octets(), (0..16).collect::<Vec<u8>>());
    }

    #[test]
    fn keys_of_tipc_are_taken_with_their_salt() {
        for len in [20, 28, 36] {
            let ascii: String = ('a'..='z').cycle().take(len).collect();
            let key = MasterKey::parse(&ascii).unwrap();
            assert_eq!(key.octets(), ascii.as_bytes());
            let hex = format!("0x{}", "7e".repeat(len));
            assert_eq!(MasterKey::parse(&hex).unwrap().octets(), vec![0x7e; len]);
        }
        // As `tipc` reads it: ASCII, though every character is a hex digit.
        assert_eq!(
            MasterKey::parse(&"f".repeat(36)).unwrap().octets().len(),
            36
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("", MasterKeyError::Empty),
            ("\n", MasterKeyError::Empty),
            ("0x0011", MasterKeyError::Length(2)),
            (&"ab".repeat(65), MasterKeyError::Length(65)),
            ("abcd", MasterKeyError::Length(2)),
            (&"0".repeat(64), MasterKeyError::AllZero),
            (&"a".repeat(33), MasterKeyError::OddDigits(33)),
            ("0xabc", MasterKeyError::OddDigits(3)),
            ("0x00zz", MasterKeyError::NotHex(5)),
            ("tipsec1:00gg:00000000", MasterKeyError::NotHex(11)),
            ("seventeen chars !", MasterKeyError::Form(17)),
            ("schlüsselschlüssel", MasterKeyError::NotAscii),
            ("a\tb", MasterKeyError::NotAscii),
        ];
        for (text, expected) in cases {
            assert_eq!(error(text), expected, "{text:?}");
        }
    }

    #[test]
    fn messages_never_repeat_the_key() {
        for text in ["0xdeadbeefzz", "tipsec1:deadbeef:deadbeef", "deadbeefx"] {
            assert!(!error(text).to_string().contains("dead"), "{text}");
        }
    }
}
