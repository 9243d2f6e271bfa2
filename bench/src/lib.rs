//! Clusters of `tipsecd` in network namespaces of one machine: the harness
//! that builds them, loads them, watches the wire and balances the books.
//!
//! Imports point down this list:
//!
//! * `demo`: the story that `tipsec-bench demo` tells; `report`: its outcome.
//! * `cluster`: daemons on a topology; `books`: one consistent reading of all
//!   their counters; `accounts`: the arithmetic on it (pure).
//! * `capture`, with `filter`, `wire` and `numbers`: what was on the wire.
//! * `topology`, `netns`: namespaces, bridge, veth; `counts`: what `ip` and
//!   `tc` count.
//! * `keyctl`, `admin`: the operator's ways in; `iperf`, `load`: traffic.
//! * `process`, `wait`, `interrupt`, `error`, `sys`.
//!
//! `unsafe` lives in `sys` only (docs/unsafe.md).

pub mod accounts;
pub mod admin;
pub mod books;
pub mod capture;
pub mod cluster;
pub mod counts;
pub mod demo;
pub mod error;
pub mod filter;
pub mod interrupt;
pub mod iperf;
pub mod keyctl;
pub mod load;
pub mod netns;
pub mod numbers;
pub mod process;
pub mod report;
mod sys;
pub mod topology;
pub mod wait;
pub mod wire;

pub use error::{Error, Result};
