//! The rekey interval as an operator writes it. Imports nothing from this
//! crate.
//!
//! Strict on purpose: a reader that takes "abc" for 0 turns rekeying off, and
//! one that multiplies in 32 bits turns two months into seconds.

use serde::{Deserialize, Deserializer, de};

/// Shortest interval in seconds.
pub const MIN_INTERVAL_S: u32 = 1;

/// Longest interval in seconds: 365 days.
pub const MAX_INTERVAL_S: u32 = 365 * 86_400;

/// Interval of a node that is told nothing, in seconds.
pub const DEFAULT_INTERVAL_S: u32 = 600;

/// What is accepted, behind every error.
const ACCEPTED: &str =
    "give a whole number and a unit (s, m, h or d) from 1s to 365d, as in 90s or 10m, or off";

/// Why a text or number is no rekey interval.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IntervalError {
    /// Nothing there.
    #[error("the rekey interval is empty: {ACCEPTED}")]
    Empty,
    /// A number alone.
    #[error("the rekey interval {0:?} has no unit: {ACCEPTED}")]
    NoUnit(String),
    /// A number and something else behind it.
    #[error("the rekey interval {0:?} has an unknown unit: {ACCEPTED}")]
    Unit(String),
    /// No whole number in front.
    #[error("the rekey interval {0:?} is not a number and a unit: {ACCEPTED}")]
    NotANumber(String),
    /// Zero, which is not `off`.
    #[error("the rekey interval {0:?} is zero; to stop rekeying say off: {ACCEPTED}")]
    Zero(String),
    /// Longer than a year.
    #[error("the rekey interval {0:?} is too long: {ACCEPTED}")]
    TooLong(String),
}

/// Reads `off` (`None`) or an interval in seconds, such as `90s`, `10m`, `2h`,
/// `1d`.
///
/// # Errors
/// [`IntervalError`]; its text says what is accepted.
pub fn parse_interval(text: &str) -> Result<Option<u32>, IntervalError> {
    if text == "off" {
        return Ok(None);
    }
    // Errors repeat the text, so it must not be as long as one likes.
    let shown = || text.chars().take(24).collect::<String>();
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let unit_s: u64 = match (digits, unit) {
        ("", "") => return Err(IntervalError::Empty),
        ("", _) => return Err(IntervalError::NotANumber(shown())),
        (_, "") => return Err(IntervalError::NoUnit(shown())),
        (_, "s") => 1,
        (_, "m") => 60,
        (_, "h") => 3600,
        (_, "d") => 86_400,
        _ => return Err(IntervalError::Unit(shown())),
    };
    // Only digits: the parse fails for numbers above 64 bits alone.
    let seconds = digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(unit_s))
        .and_then(|seconds| u32::try_from(seconds).ok())
        .ok_or_else(|| IntervalError::TooLong(shown()))?;
    check_interval(seconds, shown).map(Some)
}

/// Writes what [`parse_interval`] reads, in the largest unit that divides it.
pub fn format_interval(interval_s: Option<u32>) -> String {
    match interval_s {
        None => "off".to_owned(),
        Some(s) if s >= 86_400 && s % 86_400 == 0 => format!("{}d", s / 86_400),
        Some(s) if s >= 3600 && s % 3600 == 0 => format!("{}h", s / 3600),
        Some(s) if s >= 60 && s % 60 == 0 => format!("{}m", s / 60),
        Some(s) => format!("{s}s"),
    }
}

fn check_interval(seconds: u32, shown: impl Fn() -> String) -> Result<u32, IntervalError> {
    match seconds {
        0 => Err(IntervalError::Zero(shown())),
        MIN_INTERVAL_S..=MAX_INTERVAL_S => Ok(seconds),
        _ => Err(IntervalError::TooLong(shown())),
    }
}

/// An interval in seconds or null, in range; for serde. The field must be
/// there: to leave it out must not mean `off`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    Option::<u32>::deserialize(deserializer)?
        .map(|seconds| check_interval(seconds, || format!("{seconds}s")).map_err(de::Error::custom))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read() {
        let cases = [
            ("off", None),
            ("1s", Some(1)),
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("2h", Some(7200)),
            ("365d", Some(MAX_INTERVAL_S)),
            ("31536000s", Some(MAX_INTERVAL_S)),
            ("010m", Some(600)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_interval(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        type Make = fn(String) -> IntervalError;
        let cases: &[(&str, Make)] = &[
            ("0", IntervalError::NoUnit),
            ("0s", IntervalError::Zero),
            ("0m", IntervalError::Zero),
            ("10", IntervalError::NoUnit),
            ("-5m", IntervalError::NotANumber),
            ("-1", IntervalError::NotANumber),
            ("+5m", IntervalError::NotANumber),
            ("abc", IntervalError::NotANumber),
            ("OFF", IntervalError::NotANumber),
            ("inf", IntervalError::NotANumber),
            (" 10m", IntervalError::NotANumber),
            ("10m ", IntervalError::Unit),
            ("10 m", IntervalError::Unit),
            ("1e30", IntervalError::Unit),
            ("1e30s", IntervalError::Unit),
            ("1.5m", IntervalError::Unit),
            ("500ms", IntervalError::Unit),
            ("10M", IntervalError::Unit),
            ("0x10s", IntervalError::Unit),
            ("366d", IntervalError::TooLong),
            ("31536001s", IntervalError::TooLong),
            // In 32 bits of milliseconds this would be 12.7 s.
            ("71583000m", IntervalError::TooLong),
            ("4294967297s", IntervalError::TooLong),
            ("99999999999999999999s", IntervalError::TooLong),
            ("9999999999999999999d", IntervalError::TooLong),
        ];
        for (text, make) in cases {
            assert_eq!(parse_interval(text), Err(make((*text).to_owned())));
        }
        assert_eq!(parse_interval(""), Err(IntervalError::Empty));
    }

    #[test]
    fn errors_say_what_is_accepted_and_stay_short() {
        for text in ["0s", "abc", "10", "1e30", "400d", "", &"9".repeat(10_000)] {
            let message = parse_interval(text).unwrap_err().to_string();
            assert!(message.contains("90s or 10m, or off"), "{message}");
            assert!(message.len() < 200, "{}", message.len());
        }
    }

    #[test]
    fn written_intervals_are_read_back() {
        for s in [1, 59, 60, 61, 90, 600, 3600, 5400, 86_400, MAX_INTERVAL_S] {
            let text = format_interval(Some(s));
            assert_eq!(parse_interval(&text), Ok(Some(s)), "{text}");
        }
        assert_eq!(format_interval(None), "off");
    }
}
