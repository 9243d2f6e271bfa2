//! From facts to findings. Asks nobody: what it says depends on nothing but
//! its argument. Imports `facts` and `drivers`.

use super::facts::Facts;
use super::{Finding, Status};

mod bearer;
mod cpu;
mod files;
mod host;
mod steering;
mod vlan;

#[cfg(test)]
mod tests;

/// Everything that the facts say, in the order in which a start would meet it.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    host::configuration(&mut Area::new("configuration", &mut findings), facts);
    host::kernel(&mut Area::new("kernel", &mut findings), facts);
    host::privilege(&mut Area::new("privilege", &mut findings), facts);
    host::memory(&mut Area::new("memory", &mut findings), facts);
    cpu::cpu(&mut Area::new("cpu", &mut findings), facts);
    files::files(&mut Area::new("files", &mut findings), facts);
    for one in &facts.bearers {
        let name = format!("bearer {} queue {}", one.interface, one.queue);
        bearer::bearer(&mut Area::new(name, &mut findings), facts, one);
    }
    findings
}

/// Where findings of one area go.
struct Area<'a> {
    name: String,
    findings: &'a mut Vec<Finding>,
}

impl<'a> Area<'a> {
    fn new(name: impl Into<String>, findings: &'a mut Vec<Finding>) -> Self {
        Self {
            name: name.into(),
            findings,
        }
    }

    fn add(&mut self, subject: &str, status: Status, found: String, advice: String) {
        self.findings.push(Finding {
            area: self.name.clone(),
            subject: subject.to_owned(),
            status,
            found,
            advice,
        });
    }

    fn ok(&mut self, subject: &str, found: impl Into<String>) {
        self.add(subject, Status::Ok, found.into(), String::new());
    }

    fn unknown(&mut self, subject: &str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(subject, Status::Unknown, found.into(), advice.into());
    }

    fn change(&mut self, subject: &str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(subject, Status::Change, found.into(), advice.into());
    }

    fn stop(&mut self, subject: &str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(subject, Status::Stop, found.into(), advice.into());
    }
}

/// What to say where this user may not look.
const ASK_AS_ROOT: &str = "run this check as root, or as the daemon's user";

/// Numbers as an operator writes them: `0, 2, 3`.
fn list(numbers: &[u32]) -> String {
    let texts: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
