//! What can be asked of `tipsec-bench scale`. Imports nothing of the harness
//! but `wire`'s names.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tipsec_dataplane::aead::Provider;

use crate::error::{Error, Result};
use crate::wire_bench::options::{FrameSize, Unknown, named};

/// Frame sizes unless others are given.
pub const SIZES: [FrameSize; 2] = [FrameSize::B64, FrameSize::B1400];

/// Bytes of the longest frame that one chunk of frame memory takes here.
const LENGTH_MAX: usize = 3400;

/// One part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Many SAs in the pipelines, without NIC.
    Sas,
    /// Many SAs end to end over a veth pair.
    Wire,
    /// Many queues over a veth pair.
    Queues,
    /// A rekey of many peers while traffic flows.
    Rekey,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sas, Self::Wire, Self::Queues, Self::Rekey];

    /// Name in options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sas => "sas",
            Self::Wire => "wire",
            Self::Queues => "queues",
            Self::Rekey => "rekey",
        }
    }

    /// Whether it makes network namespaces.
    pub const fn needs_root(self) -> bool {
        matches!(self, Self::Wire | Self::Queues)
    }
}

impl FromStr for Part {
    type Err = Unknown;

    fn from_str(name: &str) -> std::result::Result<Self, Unknown> {
        named("part", name, &Self::ALL, Self::name)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One run of `tipsec-bench scale`.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// What is measured.
    pub parts: Vec<Part>,
    /// Numbers of SAs in the pipelines; the first is what the others are
    /// compared with.
    pub sas: Vec<u32>,
    /// The same end to end, each at most 65,000.
    pub wire_sas: Vec<u32>,
    /// Numbers of queues, the same way.
    pub queues: Vec<u32>,
    /// Peers that are rekeyed.
    pub peers: u16,
    /// Frame sizes of all parts but the rekey.
    pub sizes: Vec<FrameSize>,
    /// AEAD crates; the rekey takes the first.
    pub providers: Vec<Provider>,
    /// Which frames are of which SA follows from it.
    pub seed: u64,
    /// Rounds.
    pub rounds: usize,
    /// Length of one sample.
    pub sample: Duration,
}

impl Options {
    /// Whether all of it can be measured.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |detail: String| {
            Err(Error::Failed {
                what: "measure that".into(),
                detail,
            })
        };
        let fits = |size: &&FrameSize| size.pattern().len() == 1 && size.longest() <= LENGTH_MAX;
        if let Some(size) = self.sizes.iter().find(|size| !fits(size)) {
            return refuse(format!(
                "frames of size {size} are not of one length of at most {LENGTH_MAX} bytes"
            ));
        }
        let numbers = [&self.sas, &self.wire_sas, &self.queues];
        if numbers.into_iter().flatten().any(|&number| number == 0) || self.peers == 0 {
            return refuse("there is nothing to measure with none of something".into());
        }
        if self.wire_sas.iter().any(|&sas| sas > u32::from(u16::MAX)) {
            return refuse(format!("end to end there are at most {} SAs", u16::MAX));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            parts: Part::ALL.into(),
            sas: vec![1],
            wire_sas: vec![1],
            queues: vec![1],
            peers: 1,
            sizes: SIZES.into(),
            providers: Vec::new(),
            seed: 0,
            rounds: 1,
            sample: Duration::ZERO,
        }
    }

    #[test]
    fn names_are_read_back() {
        for part in Part::ALL {
            assert_eq!(part.name().parse(), Ok(part));
        }
        let error = "sa".parse::<Part>().unwrap_err().to_string();
        assert!(
            error.contains("no part \"sa\"") && error.contains("queues"),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        options().check().unwrap();
        type Spoil = fn(&mut Options);
        let spoiled: [Spoil; 5] = [
            |o| o.sizes = vec![FrameSize::Imix],
            |o| o.sizes = vec![FrameSize::B9000],
            |o| o.queues = vec![1, 0],
            |o| o.peers = 0,
            |o| o.wire_sas = vec![65_536],
        ];
        for spoil in spoiled {
            let mut options = options();
            spoil(&mut options);
            assert!(options.check().is_err(), "{options:?}");
        }
    }
}
