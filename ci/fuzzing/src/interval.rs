//! Target `interval`: the rekey interval as an operator writes it. Imports
//! nothing of the crate.

use tipsec_control::interval::{MAX_INTERVAL_S, MIN_INTERVAL_S, format_interval, parse_interval};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "interval",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match parse_interval(text) {
        Ok(None) => assert_eq!(text, "off"),
        Ok(Some(seconds)) => {
            assert!((MIN_INTERVAL_S..=MAX_INTERVAL_S).contains(&seconds));
            assert_eq!(u128::from(seconds), meant(text), "{text}");
            let written = format_interval(Some(seconds));
            assert_eq!(parse_interval(&written), Ok(Some(seconds)));
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("10m"), "it does not say what is accepted");
            assert!(message.len() < 500, "it repeats the text");
        }
    }
}

/// The seconds, by wide numbers and nothing of the reader's.
fn meant(text: &str) -> u128 {
    let (digits, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => panic!("{text:?} has no unit"),
    };
    let digit = |sum: u128, digit: u8| {
        assert!(digit.is_ascii_digit(), "{text:?}");
        sum.saturating_mul(10)
            .saturating_add(u128::from(digit - b'0'))
    };
    digits.bytes().fold(0, digit).saturating_mul(unit)
}

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "off",
        "1s",
        "90s",
        "10m",
        "2h",
        "365d",
        "366d",
        "71583m",
        "abc",
        "",
        "10",
        "0s",
        "1 m",
        "4294967296s",
        // A second and a minute, by 32 bits.
        "4294967297s",
        "71582789m",
        "18446744073709551616s",
        "1w",
        "-1s",
        "+1s",
        "00000000000000000000001s",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
