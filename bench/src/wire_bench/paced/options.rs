//! What can be asked of `tipsec-bench ndr` and `tipsec-bench latency`, by the
//! names on the command line. Imports `wire_bench::options`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::secret::Suite;

use crate::wire_bench::options::{FrameSize, Kind, Profile, Unknown, named};

/// Who can be paced: each sends frames one by one.
pub const CONTENDERS: [Kind; 4] = [Kind::Tipsec, Kind::Null, Kind::Bare, Kind::Udp];

/// A contender that can be paced by its name, for the command line.
///
/// # Errors
/// [`Unknown`].
pub fn contender(name: &str) -> Result<Kind, Unknown> {
    named("contender on a schedule", name, &CONTENDERS, Kind::name)
}

/// What a receiver does when there is no frame for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Looks again at once.
    Spin,
    /// Sleeps in poll(2).
    Sleep,
}

impl Wait {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Spin, Self::Sleep];

    /// Name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Sleep => "sleep",
        }
    }
}

impl FromStr for Wait {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        named("way to wait", name, &Self::ALL, Self::name)
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One run of either benchmark.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Frame sizes, each measured by itself.
    pub sizes: Vec<FrameSize>,
    /// Profiles, each measured by itself.
    pub profiles: Vec<Profile>,
    /// Who takes part, of [`CONTENDERS`].
    pub contenders: Vec<Kind>,
    /// What receivers do without frames, each measured by itself.
    pub waits: Vec<Wait>,
    /// Cipher of [`Kind::Tipsec`].
    pub suite: Suite,
    /// AEAD crate of the same.
    pub provider: Provider,
    /// Rounds.
    pub rounds: usize,
    /// `latency`: length of one sample. `ndr`: of a trial that decides.
    pub sample: Duration,
    /// Frames in flight.
    pub depth: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_told_the_known_ones() {
        for wait in Wait::ALL {
            assert_eq!(wait.name().parse(), Ok(wait));
        }
        assert_eq!(contender("bare"), Ok(Kind::Bare));
        let text = contender("udp-segment").unwrap_err().to_string();
        assert!(text.contains("tipsec, null, bare, udp"), "{text}");
        let text = "nap".parse::<Wait>().unwrap_err().to_string();
        assert!(text.contains("spin, sleep"), "{text}");
    }
}
