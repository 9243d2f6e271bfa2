//! Targets `keyring`, `evictions` and `key_text`: master keys as files and as
//! operators write them, and who was evicted. Imports nothing of the crate.

use ring::digest;
use tipsec_control::evictions::Evictions;
use tipsec_control::keyring::{parse_evictions, parse_file, render_evictions, render_file};
use tipsec_control::master::{MAX_LEN, MAX_TEXT_LEN, MIN_LEN, MasterKey};
use tipsec_control::masters::Masters;
use tipsec_dataplane::ids::{MasterId, NodeId};

use crate::Target;

pub(crate) const KEYRING: Target = Target {
    name: "keyring",
    run: run_keyring,
    seeds: keyring_seeds,
};

pub(crate) const EVICTIONS: Target = Target {
    name: "evictions",
    run: run_evictions,
    seeds: evictions_seeds,
};

pub(crate) const TEXT: Target = Target {
    name: "key_text",
    run: run_text,
    seeds: text_seeds,
};

/// The file's text. A checksum that is a row of `=` is made right first, or no
/// change would ever come past it.
fn run_keyring(data: &[u8]) {
    let data = with_checksum(data);
    match parse_file(&data) {
        Ok(masters) => {
            for (_, key) in masters.iter() {
                check_key(key);
            }
            let written = render_file(&masters);
            let again = parse_file(written.as_bytes()).expect("its own file");
            assert!(masters.holds_all_of(&again) && again.holds_all_of(&masters));
            assert_eq!(*render_file(&again), *written);
        }
        Err(what) => {
            assert!(!what.is_empty());
            check_silent(&what, &data);
        }
    }
}

/// The file's text, its checksum as in `keyring`.
fn run_evictions(data: &[u8]) {
    let data = with_checksum(data);
    match parse_evictions(&data) {
        Ok(evictions) => {
            assert_eq!(render_evictions(&evictions).as_bytes(), data);
            for (master, node) in evictions.iter() {
                assert!(evictions.refuses(node, master) && evictions.taints(master));
            }
        }
        Err(what) => assert!(!what.is_empty()),
    }
}

fn with_checksum(data: &[u8]) -> Vec<u8> {
    const OPEN: &[u8] = b"sha256 =";
    let Some(at) = data.windows(OPEN.len()).position(|window| window == OPEN) else {
        return data.to_vec();
    };
    let sum = digest::digest(&digest::SHA256, &data[..at]);
    let digits: String = sum.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    [&data[..at], b"sha256 ", digits.as_bytes(), b"\n"].concat()
}

fn run_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match MasterKey::parse(text) {
        Ok(key) => {
            check_key(&key);
            let written = key.to_text();
            assert!(written.len() <= MAX_TEXT_LEN);
            let again = MasterKey::parse(&written).expect("its own text");
            assert!(again.same_as(&key));
            assert!(text.trim_end().len() <= MAX_TEXT_LEN);
        }
        Err(error) => check_silent(&error.to_string(), data),
    }
}

fn check_key(key: &MasterKey) {
    assert!((MIN_LEN..=MAX_LEN).contains(&key.octets().len()));
    assert!(key.octets().iter().any(|&octet| octet != 0));
}

/// No error repeats eight digits of what it is about.
fn check_silent(message: &str, data: &[u8]) {
    for digits in message.as_bytes().windows(8) {
        let digits_alone = digits.iter().all(u8::is_ascii_hexdigit);
        let repeated = || data.windows(8).any(|window| window == digits);
        assert!(!digits_alone || !repeated(), "{message}");
    }
}

/// A file whose checksum is left to [`with_checksum`].
fn open(text: &str) -> String {
    let (body, _) = text.split_once("sha256 ").unwrap();
    format!("{body}sha256 =")
}

fn evictions_seeds() -> Vec<Vec<u8>> {
    let mut evictions = Evictions::default();
    let nobody = render_evictions(&evictions);
    let masters = Masters::new(MasterId(1), Some(MasterId(u64::MAX)), None);
    for id in [4, 70_000, u32::MAX] {
        let node = NodeId::new(id).unwrap();
        evictions.evict(node, &masters).unwrap();
    }
    let some = render_evictions(&evictions);
    [
        nobody.to_string(),
        some.to_string(),
        open(&nobody),
        open(&some),
        "tipsec evictions 1\n0000000000000012 7\n0000000000000012 7\nsha256 =".to_owned(),
        "tipsec evictions 1\n12 7\nsha256 =".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

fn keyring_seeds() -> Vec<Vec<u8>> {
    let key = |n: u8| MasterKey::from_octets(&[n; 32]).unwrap();
    let all = render_file(&Masters::new(key(1), Some(key(2)), Some(key(3))));
    let one = render_file(&Masters::only(key(4)));
    let twice = open(&one).replace("sha256", &format!("staged {}\nsha256", *key(4).to_text()));
    let single = format!("tipsec keyring 1\ncurrent {}\nsha256 =", *key(5).to_text());
    [
        all.to_string(),
        one.to_string(),
        open(&all),
        open(&one),
        twice,
        single,
        "tipsec keyring 3\nsha256 =".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

fn text_seeds() -> Vec<Vec<u8>> {
    let key = MasterKey::from_octets(&[0xa5; 32]).unwrap();
    let generated = key.to_text();
    let mut mistyped = generated.to_string();
    mistyped.replace_range(10..11, "0");
    [
        generated.to_string(),
        format!("{}\n", *generated),
        mistyped,
        "00112233445566778899aabbccddeeff".to_owned(),
        "0x00112233445566778899aabbccddeeff".to_owned(),
        "a twenty-character k".to_owned(),
        "00000000000000000000000000000000".to_owned(),
        "tipsec1:00".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}
