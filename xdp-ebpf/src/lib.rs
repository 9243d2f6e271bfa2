//! The frame's prefix, its classifier, and what the XDP program and its loader
//! agree on. `no_std`, no dependencies: the same code runs in the kernel, in
//! userspace and in tests. The crate's binary is the XDP program.
//!
//! Imports point down this list: `classify` → `datagram` → `config` → `gate`,
//! `bucket` → `wire`.

#![cfg_attr(not(test), no_std)]

pub mod bucket;
pub mod classify;
pub mod config;
mod datagram;
pub mod gate;
#[cfg(not(target_arch = "bpf"))]
mod object;
pub mod wire;

pub use classify::{Control, Frame, Verdict, classify};
pub use config::{Accept, Carrier, Config, Reason};
pub use gate::{GateKey, gate};
#[cfg(not(target_arch = "bpf"))]
pub use object::OBJECT;
pub use wire::Kind;
