//! A lane's keys: a sending lane owns its counter, a receiving lane shares its
//! window. Nothing here can be copied or printed.
//!
//! Imports the AEAD seam, ids, phases, the window and the specs of `command`.

use tipsec_xdp::wire::TAG_LEN;

mod receive;
mod send;
mod shared;

pub use receive::{OpenRefused, RxLane};
pub use send::{BudgetStep, Class, ForeignNumber, Numbered, SealRefused, TxLane};
pub use shared::{FailedOpens, RxShared};

/// Largest plaintext of a frame in bytes, payload byte included: what the
/// header's length field can describe, less the tag.
pub const MAX_PLAINTEXT_LEN: usize = u16::MAX as usize - TAG_LEN;
