//! Parts of the test of the vectors.

pub(crate) mod exchange;
pub(crate) mod file;
