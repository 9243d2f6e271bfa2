//! What an operator's tool and `tipsecd` say to each other: one JSON object a
//! line, over a unix socket. Requests are strict (an unknown field is an
//! error); reports may grow, so readers ignore what they don't know.
//!
//! No sockets here. Imports `interval` and `master`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::master::MasterKey;

mod report;
mod wall_time;

pub use report::{
    AddressReport, BearerReport, BearerState, Counts, EventReport, EventsReport, EvictedReport,
    EvictionReport, LinkState, MasterIdsReport, MasterPeerReport, MasterReport, MasterStatusReport,
    MasterStepReport, PeerReport, PeersReport, RekeyIntervalReport, RekeyNowReport, StatusReport,
    TapReport, WorkerReport,
};
pub use wall_time::rfc3339;

/// Longest request line in bytes, line end not counted.
pub const MAX_REQUEST_LEN: usize = 64 * 1024;

/// Longest response line in bytes.
pub const MAX_RESPONSE_LEN: usize = 4 * 1024 * 1024;

/// Most events in one response; an `events` request may ask for fewer.
pub const MAX_EVENTS: u32 = 1000;

/// Where `tipsecd` listens unless configured.
pub const DEFAULT_SOCKET: &str = "/run/tipsec/admin.sock";

/// What an operator may ask. Variants without fields have braces because
/// serde refuses unknown fields only there.
#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// State of this node; answered by a [`StatusReport`].
    Status {},
    /// State of every peer; answered by a [`PeersReport`].
    Peers {},
    /// What happened, oldest first; answered by an [`EventsReport`].
    Events {
        /// Only those with a higher number; without it, the latest.
        #[serde(default)]
        after: Option<u64>,
        /// At most so many, and at most [`MAX_EVENTS`].
        #[serde(default = "default_limit")]
        limit: u32,
    },
    /// Use this master key, the first or in place of all others; answered by a
    /// [`MasterReport`].
    MasterSet {
        /// The key, in any text form that [`MasterKey::parse`] reads.
        key: MasterKey,
        /// Even if links go down by it.
        #[serde(default)]
        force: bool,
    },
    /// Take this master key as the next one; answered by a
    /// [`MasterStepReport`].
    MasterStage {
        /// The key.
        key: MasterKey,
        /// In place of one that is staged.
        #[serde(default)]
        replace: bool,
    },
    /// Make the staged master key the active one; answered by a
    /// [`MasterStepReport`].
    MasterActivate {},
    /// Forget the previous master key; answered by a [`MasterStepReport`].
    MasterRetire {
        /// Even if peers still depend on it.
        #[serde(default)]
        force: bool,
    },
    /// Master keys of this node and of its peers; answered by a
    /// [`MasterStatusReport`].
    MasterStatus {},
    /// Put a node out: refuse it under every master key held now; answered by an
    /// [`EvictionReport`].
    Evict {
        /// Its id.
        node: u32,
    },
    /// Take back a node that was put out; answered by an [`EvictionReport`].
    Readmit {
        /// Its id.
        node: u32,
    },
    /// Rekey every pair at this interval; answered by a
    /// [`RekeyIntervalReport`].
    RekeyInterval {
        /// Seconds, in the range of [`crate::interval`]; null means off. Must
        /// be there.
        #[serde(deserialize_with = "crate::interval::deserialize")]
        interval_s: Option<u32>,
    },
    /// Rekey every pair at once; answered by a [`RekeyNowReport`].
    RekeyNow {},
}

fn default_limit() -> u32 {
    100
}

impl Request {
    /// Reads one line, with or without its end.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] or [`ErrorCode::TooLarge`], with what is
    /// wrong. A key in the line is never repeated.
    pub fn from_line(line: &[u8]) -> Result<Self, Failure> {
        if line.len() > MAX_REQUEST_LEN {
            return Err(Failure::too_large());
        }
        serde_json::from_slice(line).map_err(|error| {
            let message = match error.classify() {
                // Syntax errors quote nothing of the line. Others may, and it
                // may be long or a key in a wrong place.
                serde_json::error::Category::Data => data_error(&error.to_string(), line),
                _ => format!("the request is not a JSON object: {error}"),
            };
            Failure::new(ErrorCode::BadRequest, message)
        })
    }

    /// The line to send, with its end. May hold a key: wiped when dropped.
    ///
    /// # Errors
    /// None that a request of this crate can meet.
    pub fn to_line(&self) -> serde_json::Result<Zeroizing<Vec<u8>>> {
        // All room at once: a vector that grows leaves copies of the key.
        let mut line = Zeroizing::new(Vec::with_capacity(1024));
        serde_json::to_writer(&mut *line, self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Says what is wrong with well-formed JSON. Some of serde's messages quote the
/// line; where a key may stand anywhere in it, they are replaced.
fn data_error(message: &str, line: &[u8]) -> String {
    const MAX_LEN: usize = 300;
    let quotes = ["invalid ", "unknown "]
        .iter()
        .any(|s| message.starts_with(s));
    if quotes && line.windows(5).any(|w| w == b"\"key\"" || w == b"maste") {
        return "master-set and master-stage take the field key, a master key as text, and force \
                or replace, true or false"
            .to_owned();
    }
    message.chars().take(MAX_LEN).collect()
}

/// Why a request was refused, for programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// Not JSON, an unknown `op`, a field unknown, missing or out of range.
    BadRequest,
    /// The request or its answer is longer than the limits above.
    TooLarge,
    /// The user is neither root nor in the admin group.
    Forbidden,
    /// Too many clients, or the daemon can't do it now: try again.
    Busy,
    /// The line did not come to its end in time.
    Timeout,
    /// There is no master key yet.
    NoMasterKey,
    /// The step of a rotation is not the next one.
    Conflict,
    /// Peers depend on what is to go; the request's `force` does it anyway.
    InUse,
    /// The daemon failed: the message says how.
    Internal,
    /// A code of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// A refused request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is wrong and what to do.
    pub message: String,
}

impl Failure {
    /// A refusal with its reason.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The request is longer than [`MAX_REQUEST_LEN`].
    pub fn too_large() -> Self {
        Self::new(
            ErrorCode::TooLarge,
            format!("the request is longer than {MAX_REQUEST_LEN} bytes"),
        )
    }
}

/// What a request gave; the variant follows from the request.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<StatusReport>),
    /// To [`Request::Peers`].
    Peers(PeersReport),
    /// To [`Request::Events`].
    Events(EventsReport),
    /// To [`Request::MasterSet`].
    MasterSet(MasterReport),
    /// To [`Request::MasterStage`], [`Request::MasterActivate`] and
    /// [`Request::MasterRetire`].
    MasterStep(MasterStepReport),
    /// To [`Request::MasterStatus`].
    MasterStatus(MasterStatusReport),
    /// To [`Request::Evict`] and [`Request::Readmit`].
    Eviction(EvictionReport),
    /// To [`Request::RekeyInterval`].
    RekeyInterval(RekeyIntervalReport),
    /// To [`Request::RekeyNow`].
    RekeyNow(RekeyNowReport),
}

/// Answer to one request: `{"ok":true,"result":…}` or
/// `{"ok":false,"error":{"code":…,"message":…}}`.
pub type Response = Result<Reply, Failure>;

#[derive(Serialize)]
struct Written<'a> {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Reply>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Failure>,
}

#[derive(Deserialize)]
struct Read<'a> {
    ok: bool,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Failure>,
}

/// The line that answers a request, with its end; an answer above
/// [`MAX_RESPONSE_LEN`] becomes an error that says so.
pub fn response_to_line(response: &Response) -> Vec<u8> {
    let written = Written {
        ok: response.is_ok(),
        result: response.as_ref().ok(),
        error: response.as_ref().err(),
    };
    let failure = match serde_json::to_vec(&written) {
        Ok(mut line) if line.len() < MAX_RESPONSE_LEN => {
            line.push(b'\n');
            return line;
        }
        Ok(line) => Failure::new(
            ErrorCode::TooLarge,
            format!(
                "the answer would be {} bytes; the limit is {MAX_RESPONSE_LEN}",
                line.len()
            ),
        ),
        Err(error) => Failure::new(ErrorCode::Internal, error.to_string()),
    };
    response_to_line(&Err(failure))
}

/// Why a response line could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// The daemon refused.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The line is not a response of this protocol.
    #[error(
        "the daemon's answer is not understood ({0}); do tipsecd and tipsec-keyctl have the same version?"
    )]
    Format(String),
}

impl From<serde_json::Error> for ResponseError {
    fn from(error: serde_json::Error) -> Self {
        Self::Format(error.to_string())
    }
}

/// Result of a response line as the JSON it came as.
///
/// # Errors
/// [`ResponseError`].
pub fn raw_result_from_line(line: &[u8]) -> Result<&str, ResponseError> {
    let read: Read<'_> = serde_json::from_slice(line)?;
    match (read.ok, read.result, read.error) {
        (true, Some(result), _) => Ok(result.get()),
        (false, _, Some(failure)) => Err(failure.into()),
        _ => Err(ResponseError::Format("neither result nor error".to_owned())),
    }
}

/// Result of a response line as the report that belongs to the request.
///
/// # Errors
/// [`ResponseError`].
pub fn result_from_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, ResponseError> {
    Ok(serde_json::from_str(raw_result_from_line(line)?)?)
}

#[cfg(test)]
mod tests;
