//! Clusters of `tipsecd` in network namespaces of one machine: the harness
//! that builds them, loads them, watches the wire and balances the books; and
//! the benchmarks, which measure on such namespaces.
//!
//! Imports point down this list:
//!
//! * `demo`: the story that `tipsec-bench demo` tells; `drill`: the harm that
//!   `tipsec-bench drill` does; `report`: an outcome, and progress.
//! * `wire_bench`, `tap_bench`, `pipeline_bench`, `scale_bench`: the benchmarks
//!   `tipsec-bench wire`, `tap`, `pipeline`, `scale`, and under
//!   `wire_bench::paced` those of the same wire on a schedule, `ndr` and
//!   `latency`; `chunks`, `burst_times`, `seed`: what `pipeline` and `scale`
//!   measure with.
//! * `sim_bench`: many histories of the control crate's simulator;
//!   `explore_bench`: every way that a few nodes can go.
//! * `peers`: what Tipsec is compared with, and Tipsec, as tunnels; `pair`: the
//!   cable that they run on.
//! * `report_html`: results as a page with plots; `gate`: short runs held against
//!   a report and a list of what is expected of them (pure).
//! * `mlr`: the search for the highest rate within a loss (pure).
//! * `rounds`: contenders in interleaved rounds, `steal`: again where the host
//!   took the machine away meanwhile; `proc_stat`: what cores did; `results`: what a benchmark
//!   measured, and its report file; `machine`: where and when.
//! * `cluster`: daemons on a topology; `daemon`: one of them; `books`: one
//!   consistent reading of all their counters; `accounts`: the arithmetic on it
//!   (pure).
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
mod burst_times;
pub mod capture;
mod chunks;
pub mod cluster;
pub mod counts;
pub mod daemon;
pub mod demo;
pub mod drill;
pub mod error;
pub mod explore_bench;
pub mod filter;
pub mod gate;
pub mod interrupt;
pub mod iperf;
pub mod keyctl;
pub mod load;
pub mod machine;
pub mod mlr;
pub mod netns;
pub mod numbers;
pub mod pair;
pub mod peers;
pub mod pipeline_bench;
mod proc_stat;
pub mod process;
pub mod report;
pub mod report_html;
pub mod report_md;
pub mod results;
pub mod rounds;
pub mod scale_bench;
pub mod seed;
pub mod sim_bench;
mod steal;
mod sys;
pub mod tap_bench;
pub mod topology;
pub mod wait;
pub mod wire;
pub mod wire_bench;

pub use error::{Error, Result};
