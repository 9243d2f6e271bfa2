//! The text of a keyring file: header, a line for each key, and a checksum of
//! everything before it. Imports `master` and `masters`.

use ring::digest;
use zeroize::Zeroizing;

use crate::master::MasterKey;
use crate::masters::{Masters, Role};

/// First line of a file.
const HEADER: &str = "tipsec keyring 2";

/// First line of a file with a single key, as tipsecd wrote before it knew
/// rotations: still read.
const SINGLE_HEADER: &str = "tipsec keyring 1";

/// Largest file in bytes that can be a keyring.
pub(super) const MAX_FILE_LEN: usize = 4096;

/// The file's text.
pub fn render(masters: &Masters<MasterKey>) -> Zeroizing<String> {
    // All room at once: a string that grows leaves copies of the keys.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE_LEN));
    text.push_str(HEADER);
    text.push('\n');
    for (role, key) in masters.iter() {
        text.push_str(role.name());
        text.push(' ');
        text.push_str(&key.to_text());
        text.push('\n');
    }
    let sum = checksum(text.as_bytes());
    text.push_str("sha256 ");
    text.push_str(&sum);
    text.push('\n');
    text
}

/// The keys in a file's text.
///
/// # Errors
/// What does not fit. No part of a key is in it.
pub fn parse(text: &[u8]) -> Result<Masters<MasterKey>, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() > MAX_FILE_LEN {
        return Err(format!("it is longer than {MAX_FILE_LEN} bytes"));
    }
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
    let (header, rest) = text.split_once('\n').unwrap_or((text, ""));
    let single = match header {
        HEADER => false,
        SINGLE_HEADER => true,
        other if other.starts_with("tipsec keyring ") => {
            return Err("it was written by another version of tipsecd".to_owned());
        }
        _ => return Err("it is not a keyring".to_owned()),
    };
    // The checksum covers everything before its own line, and ends the file.
    let (body, sum) = text
        .split_once("sha256 ")
        .ok_or("it ends before its checksum")?;
    if sum.strip_suffix('\n') != Some(checksum(body.as_bytes()).as_str()) {
        return Err("its checksum does not match".to_owned());
    }
    let mut lines = rest.lines().take_while(|line| !line.starts_with("sha256 "));
    if single {
        let key = lines.next().and_then(|line| line.strip_prefix("current "));
        let key = key.ok_or("it has no line `current`")?;
        return Ok(Masters::only(parse_key(key)?));
    }
    keys(lines)
}

/// The keys of the lines, each of another role and different from the others.
fn keys<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Masters<MasterKey>, String> {
    let (mut active, mut staged, mut previous) = (None, None, None);
    for line in lines {
        let (word, text) = line.split_once(' ').ok_or("a line has no key")?;
        let place = match word {
            word if word == Role::Active.name() => &mut active,
            word if word == Role::Staged.name() => &mut staged,
            word if word == Role::Previous.name() => &mut previous,
            _ => return Err("a line names no role of a key".to_owned()),
        };
        if place.replace(parse_key(text)?).is_some() {
            return Err(format!("it has two {word} keys"));
        }
    }
    let masters = Masters::new(active.ok_or("it has no active key")?, staged, previous);
    let own_role = |(role, key): (Role, &MasterKey)| masters.role_of_key(key) == Some(role);
    if masters.iter().all(own_role) {
        Ok(masters)
    } else {
        Err("it has one key in two roles".to_owned())
    }
}

fn parse_key(text: &str) -> Result<MasterKey, String> {
    MasterKey::parse(text).map_err(|error| error.to_string())
}

/// SHA-256 in hex.
pub(super) fn checksum(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn key(n: u8) -> MasterKey {
        MasterKey::from_octets(&[n; 32]).unwrap()
    }

    fn error(text: &str) -> String {
        match parse(text.as_bytes()) {
            Ok(_) => panic!("{text} was taken"),
            Err(what) => what,
        }
    }

    /// A file with this body and the checksum that belongs to it.
    fn summed(body: &str) -> String {
        format!("{body}sha256 {}\n", checksum(body.as_bytes()))
    }

    /// Every cut and every flipped bit of a good file.
    pub(in crate::keyring) fn assert_damage_is_noticed(
        good: &[u8],
        is_noticed: impl Fn(&[u8]) -> bool,
    ) {
        for len in 0..good.len() {
            assert!(is_noticed(&good[..len]), "cut to {len}");
        }
        for bit in 0..8 * good.len() {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(is_noticed(&bad), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let good = render(&Masters::new(key(1), Some(key(2)), Some(key(3))));
        let good = good.as_bytes();
        assert_damage_is_noticed(good, |text| parse(text).is_err());
        assert!(parse(&[good, b"x\n"].concat()).is_err());
        assert!(parse(good).is_ok());
    }

    #[test]
    fn keys_keep_their_roles() {
        for masters in [
            Masters::only(key(1)),
            Masters::new(key(1), Some(key(2)), None),
            Masters::new(key(1), None, Some(key(3))),
            Masters::new(key(1), Some(key(2)), Some(key(3))),
        ] {
            let text = render(&masters);
            assert!(text.len() <= MAX_FILE_LEN);
            let read = parse(text.as_bytes()).unwrap();
            assert!(
                read.iter()
                    .all(|(role, k)| masters.role_of_key(k) == Some(role))
            );
            assert_eq!(read.iter().count(), masters.iter().count());
        }
        let longest = || MasterKey::from_octets(&[7; crate::master::MAX_LEN]).unwrap();
        let three = Masters::new(longest(), Some(longest()), Some(longest()));
        assert!(render(&three).len() <= MAX_FILE_LEN);
    }

    #[test]
    fn a_file_of_the_first_version_is_read() {
        let body = format!("tipsec keyring 1\ncurrent {}\n", *key(9).to_text());
        let read = parse(summed(&body).as_bytes()).unwrap();
        assert!(read.active().same_as(&key(9)));
        assert_eq!(read.iter().count(), 1);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let (one, two) = (key(1).to_text(), key(2).to_text());
        let (one, two) = (one.as_str(), two.as_str());
        for (text, part) in [
            ("".to_owned(), "empty"),
            ("hello".to_owned(), "not a keyring"),
            ("tipsec keyring 3\n".to_owned(), "another version"),
            ("tipsec keyring 2\nactive".to_owned(), "ends before"),
            (summed("tipsec keyring 2\n"), "no active key"),
            (
                summed(&format!("tipsec keyring 2\nstaged {one}\n")),
                "no active key",
            ),
            (
                summed(&format!("tipsec keyring 2\nactive {one}\nactive {two}\n")),
                "two active keys",
            ),
            (
                summed(&format!("tipsec keyring 2\nactive {one}\nstaged {one}\n")),
                "two roles",
            ),
            (
                summed(&format!("tipsec keyring 2\nactive {one}\nretired {two}\n")),
                "no role",
            ),
            (summed("tipsec keyring 2\nactive\n"), "no key"),
            (summed("tipsec keyring 2\nactive 0x00\n"), "1 octets"),
            (summed("tipsec keyring 1\n"), "no line `current`"),
        ] {
            assert!(error(&text).contains(part), "{text:?}: {}", error(&text));
        }
    }
}
