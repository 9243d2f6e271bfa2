//! Tipsec's control plane: the key machine, its messages, and the operator's
//! protocol; behind the feature `daemon`, the shell around it, `tipsecd`, and
//! `embed` for programs that are a node themselves; behind the feature `sim`,
//! a simulator of whole clusters.
//!
//! [`machine`] is pure: it sees no socket, no clock and no RNG.

pub mod address;
pub mod admin;
pub mod cluster;
pub mod derive;
pub mod evictions;
pub mod frame;
pub mod interval;
pub mod key_source;
pub mod machine;
pub mod master;
pub mod masters;
pub mod message;
pub mod noise;
pub mod time;
mod wire;

#[cfg(feature = "sim")]
pub mod sim;

#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod embed;
#[cfg(feature = "daemon")]
pub mod keyring;
#[cfg(feature = "daemon")]
pub mod shell;
