//! `tipsecd --check`: reads the machine and says, line by line, what is fine
//! and what to change. Nothing is attached, made or changed.
//!
//! Three steps: [`read`] collects [`facts`], which are plain data; [`rules`]
//! turn facts into findings and ask nobody; [`print`] shows them.

use std::path::Path;

use serde::Serialize;

mod drivers;
mod facts;
mod nic;
mod parse;
mod print;
mod read;
mod rules;
mod sys;

pub(super) use nic::strips_tags;

/// What is to be done about a finding, from nothing to everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Fine as it is.
    Ok,
    /// Could not be told: not readable for this user, or not known to us.
    Unknown,
    /// Works, and would work better.
    Change,
    /// Prevents operation.
    Stop,
}

impl Status {
    /// Its word in both outputs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Change => "change",
            Self::Stop => "stop",
        }
    }
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Under which heading, such as `kernel` or `bearer eth1 queue 0`.
    pub area: String,
    /// What was looked at.
    pub subject: String,
    /// What it means.
    pub status: Status,
    /// What is there.
    pub found: String,
    /// What to do, with the exact command where there is one; may be empty.
    pub advice: String,
}

/// Everything that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// The worst status of all.
    pub verdict: Status,
    /// By area, in the order in which a start would meet them.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Looks at this machine with the configuration in `file`.
    pub fn of_machine(file: &Path) -> Self {
        Self::new(rules::findings(&read::facts(file)))
    }

    fn new(findings: Vec<Finding>) -> Self {
        let verdict = findings.iter().map(|finding| finding.status).max();
        Self {
            verdict: verdict.unwrap_or(Status::Ok),
            findings,
        }
    }

    /// Whether something prevents operation.
    pub fn prevents_operation(&self) -> bool {
        self.verdict == Status::Stop
    }

    /// For people: by area, aligned; with colours if wanted.
    pub fn to_text(&self, colour: bool) -> String {
        print::text(self, colour)
    }

    /// For programs: one JSON object and a line feed.
    pub fn to_json(&self) -> String {
        print::json(self)
    }
}
