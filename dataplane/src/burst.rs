//! A burst: up to [`BURST`] things that go through a pass together.
//!
//! Imports nothing from this crate.

use arrayvec::ArrayVec;

/// Most frames that a worker takes in one pass (docs/architecture.md).
pub const BURST: usize = 64;

/// Frames, or what became of them, in arrival order; lives on the worker's
/// stack or in its state and never allocates.
pub type Burst<T> = ArrayVec<T, BURST>;
