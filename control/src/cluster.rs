//! The cluster's name: separates clusters that share a wire or a master key.

use std::fmt;
use std::str::FromStr;

/// 1 to 63 bytes of ASCII letters, digits, `-`, `_` and `.`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterName(String);

/// The text is no cluster name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a cluster name is 1 to 63 ASCII letters, digits, '-', '_' or '.'")]
pub struct BadClusterName;

impl ClusterName {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 63;

    /// One byte of length, then the name: how it enters a derivation.
    pub fn length_prefixed(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.0.len());
        // FromStr keeps it at 63 at most.
        #[allow(clippy::cast_possible_truncation)]
        bytes.push(self.0.len() as u8);
        bytes.extend_from_slice(self.0.as_bytes());
        bytes
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = BadClusterName;

    fn from_str(name: &str) -> Result<Self, BadClusterName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (1..=Self::MAX_LEN).contains(&name.len()) && name.chars().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadClusterName)
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_ascii() {
        assert_eq!(
            "core-7".parse::<ClusterName>().unwrap().length_prefixed(),
            b"\x06core-7"
        );
        for bad in ["", "a b", "naïve", &"x".repeat(64)] {
            assert_eq!(bad.parse::<ClusterName>(), Err(BadClusterName), "{bad}");
        }
    }
}
