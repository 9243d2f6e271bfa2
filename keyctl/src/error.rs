//! What can go wrong, and the exit status for it. Imports `admin`'s types.

use std::io;

use serde_json::json;
use tipsec_control::admin::{Failure, ResponseError};
use tipsec_control::key_source::KeySourceError;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Wrong use or input.
    #[error("{0}")]
    Usage(String),
    /// The daemon said no.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// No daemon, no permission, no answer, or none that can be understood.
    #[error("{0}")]
    Unreachable(String),
    /// The output could not be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }

    /// One line for programs: `{"error":{"code":…,"message":…}}`.
    pub(crate) fn to_json(&self) -> String {
        let code = match self {
            Self::Refused(failure) => json!(failure.code),
            Self::Usage(_) => json!("usage"),
            Self::Unreachable(_) => json!("unreachable"),
            Self::Output(_) => json!("output"),
        };
        json!({"error": {"code": code, "message": self.to_string()}}).to_string()
    }
}

impl From<KeySourceError> for Error {
    fn from(error: KeySourceError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<ResponseError> for Error {
    fn from(error: ResponseError) -> Self {
        match error {
            ResponseError::Refused(failure) => Self::Refused(failure),
            ResponseError::Format(_) => Self::Unreachable(error.to_string()),
        }
    }
}
