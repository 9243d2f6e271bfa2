//! Tipsec's data plane: seals and opens cluster frames in bursts.
//!
//! Frames move between a [`bearer`] (an AF_XDP socket, or memory in tests) and
//! a tap device; one [`worker`] owns one of each and shares nothing with its
//! siblings but replay windows. Keys arrive as [`command`]s; what the control
//! plane must know leaves as events. This crate opens no netlink socket and
//! runs no key exchange.
//!
//! A program that links this crate sends and receives in frame memory itself,
//! by an [`endpoint`].
//!
//! Reading order: [`frame`] and [`outer`], [`sa`], [`rx`] and [`tx`], [`worker`],
//! [`endpoint`].

pub mod aead;
pub mod bearer;
pub mod burst;
pub mod command;
pub mod counters;
pub mod endpoint;
mod fault;
pub mod frame;
pub mod ids;
pub mod mac;
pub mod outer;
pub mod payload;
pub mod phase;
pub mod rx;
pub mod sa;
pub mod secret;
pub mod table;
pub mod tap;
pub mod tx;
pub mod window;
pub mod worker;

#[cfg(feature = "io")]
pub mod attach;
mod sync;
mod sys;
