//! What a fuzzer may feed to Tipsec, and what must hold whatever it feeds.
//!
//! A [`Target`] is a plain function from bytes to nothing, which panics when a
//! property breaks. The fuzzer (`ci/fuzz`) and the test that replays the
//! committed corpora (`tests/replay.rs`) call the same ones. Each also makes a
//! few seeds: genuine inputs, from which a fuzzer finds its way inside.
//!
//! | target | what the bytes are | what must hold |
//! |---|---|---|
//! | `frame` | a data header, a payload byte, a probe | what is read is written back as it was, and within the protocol's limits |
//! | `driver` | an Ethernet frame, and how a bearer wraps | the XDP program's `classify`, the worker and the control plane agree on it |
//! | `receive` | edits of sealed frames | only what was sealed opens, once, and every frame is counted |
//! | `control` | a control frame | read and written back it is the same; one MAC fits it |
//! | `messages` | the inside of m1, an offer, hello, beacon | as `frame` |
//! | `machine` | recorded and edited frames, MACs made good again, and time | no SA, bounded memory, few and short answers |
//! | `member` | exchanges by a member that lies in every field | each SA once, bounded memory |
//! | `segment` | a large frame of the host | its segments fit and carry its bytes; joined again they are one stream |
//! | `coalesce` | received frames in any order | nothing lost, changed, made twice or overtaken in a connection |
//! | `admin_request`, `admin_response` | a line of the admin protocol | as `frame`; no key is repeated in an error |
//! | `config` | a configuration | what is accepted keeps the limits; errors point into the file |
//! | `keyring` | a keyring file | what is accepted is written as it can be read |
//! | `evictions` | a file of evicted nodes | what is accepted is as it would be written, and refuses whom it names |
//! | `key_text` | a master key as text | as `frame`; errors repeat nothing |
//! | `interval` | a rekey interval | in range, and never `off` unless it says so |

// A target says what is wrong by a panic, as a test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

mod admin;
mod coalesce;
mod config;
mod control;
mod driver;
mod frame;
mod input;
mod interval;
mod keys;
mod machine;
mod receive;
mod segment;
mod tcp;

/// Longest input in bytes that a fuzzer makes of a target without a shorter
/// limit of its own.
pub const INPUT_MAX: usize = 4096;

/// Something to feed.
pub struct Target {
    /// Its name: the directory of its corpus, and what `ci/fuzz` is told.
    pub name: &'static str,
    /// Takes any bytes; panics when a property breaks.
    pub run: fn(&[u8]),
    /// Inputs that reach the inside.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    frame::TARGET,
    driver::TARGET,
    receive::TARGET,
    control::TARGET,
    control::MESSAGES,
    machine::TARGET,
    machine::MEMBER,
    segment::TARGET,
    coalesce::TARGET,
    admin::REQUEST,
    admin::RESPONSE,
    config::TARGET,
    keys::KEYRING,
    keys::EVICTIONS,
    keys::TEXT,
    interval::TARGET,
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
