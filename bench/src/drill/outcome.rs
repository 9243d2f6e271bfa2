//! What a drill found: each harm with what it cost, conditions of success, and
//! words for people. Pure. Imports `report` for its record of a check.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::report::Check;

/// One time that harm was done.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Harm {
    /// What was done.
    pub what: String,
    /// How long it was done, in ms: the process was dead, the carrier away.
    pub lasted_ms: u64,
    /// From the end of the harm to the first datagram that arrived, over the
    /// slowest of the streams; none if nothing was held up, or nothing came.
    pub recovery_ms: Option<u64>,
    /// Datagrams lost in it.
    pub lost: u64,
}

/// Everything that one drill found.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Outcome {
    /// Name of the drill.
    pub drill: String,
    /// Whether all went as it has to.
    pub passed: bool,
    /// What stopped it, if it did not come to its end.
    pub error: Option<String>,
    /// How long it took.
    pub seconds: f64,
    /// Datagrams that the kernel took at the senders.
    pub sent: u64,
    /// Those of them that did not arrive.
    pub lost: u64,
    /// Each time that harm was done.
    pub harms: Vec<Harm>,
    /// Why datagrams were lost, and how many.
    pub why: Vec<String>,
    /// Conditions of success.
    pub checks: Vec<Check>,
}

impl Outcome {
    /// Nothing yet.
    pub fn new(drill: &str) -> Self {
        Self {
            drill: drill.to_owned(),
            ..Self::default()
        }
    }

    /// Notes a condition and whether it is met.
    pub fn check(&mut self, name: &str, passed: bool, detail: impl Into<String>) {
        self.checks.push(Check {
            name: name.to_owned(),
            passed,
            detail: detail.into(),
        });
    }

    /// Notes harm that stops nothing, so that there is nothing to recover from.
    pub fn harm(&mut self, what: impl Into<String>, lasted: Duration, lost: u64) {
        self.harms.push(Harm {
            what: what.into(),
            lasted_ms: millis(lasted),
            recovery_ms: None,
            lost,
        });
    }

    /// Draws the conclusion; nothing checked is nothing passed.
    pub fn conclude(&mut self, error: Option<String>) {
        self.error = error;
        self.passed = self.error.is_none()
            && !self.checks.is_empty()
            && self.checks.iter().all(|check| check.passed);
    }

    /// Recovery times in ms, from the shortest.
    pub fn recoveries_ms(&self) -> Vec<u64> {
        let mut times: Vec<u64> = self.harms.iter().filter_map(|h| h.recovery_ms).collect();
        times.sort_unstable();
        times
    }

    /// Notes as a check whether every recovery so far was within so many ms.
    pub(super) fn check_recovery(&mut self, name: &str, limit_ms: u64) {
        let worst = self.recoveries_ms().last().copied();
        let detail = match worst {
            Some(ms) => format!("worst {ms} ms"),
            None => "there was none".to_owned(),
        };
        self.check(name, worst.is_some_and(|ms| ms <= limit_ms), detail);
    }

    fn harm_words(&self) -> String {
        match self.harms.as_slice() {
            [] => "no harm done".to_owned(),
            [harm] => harm.what.clone(),
            [first, rest @ ..] if rest.iter().all(|harm| harm.what == first.what) => {
                format!("{} × {}", self.harms.len(), first.what)
            }
            harms => harms
                .iter()
                .map(|harm| harm.what.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    fn recovery_words(&self) -> String {
        match self.recoveries_ms().as_slice() {
            [] => "-".to_owned(),
            [one] => format!("{one} ms"),
            times => format!(
                "{} ms, worst {} ms",
                times[times.len() / 2],
                times[times.len() - 1]
            ),
        }
    }

    /// All of it in one line.
    pub fn line(&self) -> String {
        let verdict = if self.passed { "passed" } else { "FAILED" };
        let why = match self.why.as_slice() {
            [] => String::new(),
            why => format!(": {}", why.join("; ")),
        };
        format!(
            "{} {verdict} — {}; recovery {}; lost {} of {}{why}",
            self.drill,
            self.harm_words(),
            self.recovery_words(),
            self.lost,
            self.sent
        )
    }
}

/// All drills of a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Report {
    /// Whether all drills passed and the run came to its end.
    pub passed: bool,
    /// What random choices followed from.
    pub seed: u64,
    /// In the order in which they were run.
    pub outcomes: Vec<Outcome>,
    /// What ended the run early, or was left behind.
    pub errors: Vec<String>,
}

impl Report {
    /// Draws the conclusion; no drill is no success.
    pub fn conclude(&mut self) {
        self.passed = self.errors.is_empty()
            && !self.outcomes.is_empty()
            && self.outcomes.iter().all(|outcome| outcome.passed);
    }

    /// Prints every check that failed, then the table.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for outcome in &self.outcomes {
            writeln!(out, "\n{} ({:.1} s)", outcome.drill, outcome.seconds)?;
            for check in &outcome.checks {
                let sign = if check.passed { '✓' } else { '✗' };
                writeln!(out, "  {sign} {}: {}", check.name, check.detail)?;
            }
            if let Some(error) = &outcome.error {
                writeln!(out, "  ✗ stopped: {error}")?;
            }
        }
        writeln!(
            out,
            "\n  {:<10} {:<8} {:>12} {:>12} {:>10} {:>10}",
            "drill", "verdict", "recovery", "worst", "sent", "lost"
        )?;
        for outcome in &self.outcomes {
            writeln!(out, "  {}", row(outcome))?;
        }
        for error in &self.errors {
            writeln!(out, "  ✗ {error}")?;
        }
        let verdict = if self.passed { "passed" } else { "FAILED" };
        writeln!(out, "\nThe drills {verdict} (seed {}).", self.seed)
    }
}

fn row(outcome: &Outcome) -> String {
    let times = outcome.recoveries_ms();
    let ms = |time: Option<&u64>| time.map_or("-".to_owned(), |ms| format!("{ms} ms"));
    let verdict = if outcome.passed { "passed" } else { "FAILED" };
    let mut row = format!(
        "{:<10} {verdict:<8} {:>12} {:>12} {:>10} {:>10}",
        outcome.drill,
        ms(times.get(times.len() / 2)),
        ms(times.last()),
        outcome.sent,
        outcome.lost
    );
    for why in &outcome.why {
        row.push_str(&format!("\n  {:<10}   {why}", ""));
    }
    row
}

/// In ms, for reports.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn harm(ms: u64) -> Harm {
        Harm {
            what: "SIGKILL".into(),
            recovery_ms: Some(ms),
            ..Harm::default()
        }
    }

    #[test]
    fn one_failed_check_fails_the_drill_and_the_run() {
        let mut outcome = Outcome::new("kill");
        outcome.conclude(None);
        assert!(!outcome.passed, "nothing was checked");
        outcome.check("a", true, "");
        outcome.conclude(Some("it broke".into()));
        assert!(!outcome.passed);
        outcome.conclude(None);
        assert!(outcome.passed);

        let mut report = Report::default();
        report.conclude();
        assert!(!report.passed, "no drill");
        report.outcomes.push(outcome.clone());
        report.conclude();
        assert!(report.passed);
        outcome.check("b", false, "3 frames");
        outcome.conclude(None);
        report.outcomes.push(outcome);
        report.conclude();
        assert!(!report.passed);
        let mut text = Vec::new();
        report.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("✗ b: 3 frames") && text.contains("The drills FAILED"));
    }

    #[test]
    fn a_line_says_harm_recovery_loss_and_why() {
        let mut outcome = Outcome::new("kill");
        outcome.harms = vec![harm(300), harm(100), harm(200)];
        outcome.sent = 1000;
        outcome.lost = 7;
        outcome.why = vec!["7 to a dead process".into()];
        let line = outcome.line();
        for part in [
            "3 × SIGKILL",
            "200 ms, worst 300 ms",
            "lost 7 of 1000: 7 to a dead process",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
