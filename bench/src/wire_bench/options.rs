//! What can be asked of `tipsec-bench wire`, by the names on the command line.
//! Imports nothing of the harness.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::bearer::xdp::NapiProfile;
use tipsec_dataplane::secret::Suite;

/// A name that is none of those known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no {what} {name:?}; there are {known}")]
pub struct Unknown {
    what: &'static str,
    name: String,
    known: String,
}

/// The one of `all` that has this name.
pub(crate) fn named<T: Copy>(
    what: &'static str,
    name: &str,
    all: &[T],
    name_of: impl Fn(T) -> &'static str,
) -> Result<T, Unknown> {
    let found = all.iter().copied().find(|&one| name_of(one) == name);
    found.ok_or_else(|| Unknown {
        what,
        name: name.to_owned(),
        known: all
            .iter()
            .map(|&one| name_of(one))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

macro_rules! names {
    ($type:ident, $what:literal) => {
        impl FromStr for $type {
            type Err = Unknown;

            fn from_str(name: &str) -> Result<Self, Unknown> {
                named($what, name, &Self::ALL, Self::name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

/// Bytes of a frame on the wire: Ethernet header to last byte, without the
/// preamble, checksum and gap that a veth pair has not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameSize {
    /// The smallest Ethernet frame.
    B64,
    /// A short message.
    B256,
    /// The middle size of IMIX.
    B570,
    /// About what a 1500-byte MTU carries through a tunnel.
    B1400,
    /// 64, 570 and 1400 bytes, 7 : 4 : 1.
    Imix,
    /// The largest that fits one chunk of frame memory, about.
    B3400,
    /// A jumbo frame.
    B9000,
}

/// Twelve frames of IMIX: 7 of 64 bytes, 4 of 570, 1 of 1400, spread out.
const IMIX: [usize; 12] = [64, 570, 64, 64, 570, 64, 1400, 64, 570, 64, 64, 570];

impl FrameSize {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::B64,
        Self::B256,
        Self::B570,
        Self::B1400,
        Self::Imix,
        Self::B3400,
        Self::B9000,
    ];

    /// Name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::B64 => "64",
            Self::B256 => "256",
            Self::B570 => "570",
            Self::B1400 => "1400",
            Self::Imix => "imix",
            Self::B3400 => "3400",
            Self::B9000 => "9000",
        }
    }

    /// Lengths in bytes that follow one another, over and over.
    pub const fn pattern(self) -> &'static [usize] {
        match self {
            Self::B64 => &[64],
            Self::B256 => &[256],
            Self::B570 => &[570],
            Self::B1400 => &[1400],
            Self::Imix => &IMIX,
            Self::B3400 => &[3400],
            Self::B9000 => &[9000],
        }
    }

    /// The longest frame in it, in bytes.
    pub fn longest(self) -> usize {
        self.pattern().iter().copied().max().unwrap_or(0)
    }
}

names!(FrameSize, "frame size");

/// Where the receiving device's NAPI runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// In the sender's system call, on the sender's core: veth's default.
    Inline,
    /// In a kernel thread on the receiver's core, with a pfifo queue at the
    /// sender, which makes it wait where veth would drop.
    Threaded,
}

impl Profile {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inline, Self::Threaded];

    /// Name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Threaded => "threaded",
        }
    }

    /// What a bearer is told of it.
    pub(super) const fn napi(self) -> NapiProfile {
        match self {
            Self::Inline => NapiProfile::Inline,
            Self::Threaded => NapiProfile::Threaded,
        }
    }
}

names!(Profile, "profile");

/// A family of contenders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The product's pipelines with a real cipher.
    Tipsec,
    /// The same with a cipher that touches memory and does no arithmetic.
    Null,
    /// AF_XDP rings and nothing above them.
    Bare,
    /// From program to program by `Endpoint`: two embedded nodes.
    Endpoint,
    /// Kernel UDP in clear, one datagram a frame.
    Udp,
    /// Kernel UDP in clear, trains of datagrams in one buffer.
    UdpSegment,
    /// The cipher alone, without frames, rings or wire.
    Aead,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Tipsec,
        Self::Null,
        Self::Bare,
        Self::Endpoint,
        Self::Udp,
        Self::UdpSegment,
        Self::Aead,
    ];

    /// Name in options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tipsec => "tipsec",
            Self::Null => "null",
            Self::Bare => "bare",
            Self::Endpoint => "endpoint",
            Self::Udp => "udp",
            Self::UdpSegment => "udp-segment",
            Self::Aead => "aead",
        }
    }
}

names!(Kind, "contender");

/// A suite by its name, for the command line.
///
/// # Errors
/// [`Unknown`].
pub fn suite(name: &str) -> Result<Suite, Unknown> {
    named("cipher", name, &Suite::ALL, Suite::name)
}

/// The AEAD crates.
pub const PROVIDERS: [Provider; 2] = [Provider::Ring, Provider::AwsLc];

/// An AEAD crate by its name, for the command line.
///
/// # Errors
/// [`Unknown`].
pub fn provider(name: &str) -> Result<Provider, Unknown> {
    named("AEAD crate", name, &PROVIDERS, Provider::name)
}

/// One run of `tipsec-bench wire`.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Frame sizes, each measured by itself.
    pub sizes: Vec<FrameSize>,
    /// Profiles, each measured by itself.
    pub profiles: Vec<Profile>,
    /// Who takes part.
    pub contenders: Vec<Kind>,
    /// Ciphers of [`Kind::Tipsec`], [`Kind::Endpoint`] and [`Kind::Aead`].
    pub suites: Vec<Suite>,
    /// AEAD crates of the same.
    pub providers: Vec<Provider>,
    /// Rounds.
    pub rounds: usize,
    /// Length of one sample.
    pub sample: Duration,
    /// Frames in flight; found by a probe for each profile if not given.
    pub depth: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for size in FrameSize::ALL {
            assert_eq!(size.name().parse(), Ok(size));
        }
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse(), Ok(profile));
        }
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert_eq!(suite("aes-128-gcm"), Ok(Suite::Aes128Gcm));
        assert_eq!(provider("ring"), Ok(Provider::Ring));
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let text = "65".parse::<FrameSize>().unwrap_err().to_string();
        assert!(
            text.contains("frame size \"65\"") && text.contains("imix"),
            "{text}"
        );
        assert!("wireguard".parse::<Kind>().is_err());
        assert!("".parse::<Profile>().is_err());
        assert!(suite("aes").is_err() && provider("openssl").is_err());
    }

    #[test]
    fn imix_is_seven_four_one() {
        let pattern = FrameSize::Imix.pattern();
        let count = |length| pattern.iter().filter(|&&l| l == length).count();
        assert_eq!(
            (count(64), count(570), count(1400), pattern.len()),
            (7, 4, 1, 12)
        );
        assert_eq!(FrameSize::Imix.longest(), 1400);
    }
}
