//! The only place beside the AF_XDP bearer where this crate is unsafe.
//!
//! Each submodule wraps one thing of the outside in a safe function.

#[cfg(feature = "io")]
pub(crate) mod demote;
#[cfg(feature = "io")]
pub(crate) mod netdev;
mod prefetch;
#[cfg(feature = "io")]
pub(crate) mod sockopt;
#[cfg(feature = "io")]
pub(crate) mod tun;
#[cfg(feature = "crypto-ring")]
mod wiped;

pub(crate) use prefetch::prefetch;
#[cfg(feature = "crypto-aws-lc")]
pub(crate) use prefetch::{prefetch_at, words};
#[cfg(feature = "crypto-ring")]
pub(crate) use wiped::Wiped;
