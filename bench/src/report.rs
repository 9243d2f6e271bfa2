//! Progress while something runs, and what the demonstration found, for people
//! and for programs. Imports `accounts`, `iperf`.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::accounts::Balance;
use crate::iperf::Outcome;

/// Lines with the time since the start, as things happen.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Says what is being done.
    pub fn say(&self, text: impl AsRef<str>) {
        let seconds = self.start.elapsed().as_secs_f64();
        // Nobody may be listening, and that is no reason to stop.
        let _ = writeln!(io::stdout().lock(), "[{seconds:6.1} s] {}", text.as_ref());
    }

    /// Starts to count down `steps` of about the same length.
    pub fn countdown(&self, steps: usize) -> Countdown<'_> {
        Countdown {
            progress: self,
            start: Instant::now(),
            steps,
            begun: 0,
        }
    }
}

/// Steps that take about the same time each, said with the time that is left.
#[derive(Debug)]
pub struct Countdown<'a> {
    progress: &'a Progress,
    start: Instant,
    steps: usize,
    begun: usize,
}

impl Countdown<'_> {
    /// Says something about the step that has begun.
    pub fn say(&self, text: impl AsRef<str>) {
        self.progress.say(text);
    }

    /// Says which step begins.
    pub fn step(&mut self, text: impl AsRef<str>) {
        let left = time_left(self.start.elapsed(), self.begun, self.steps);
        self.begun += 1;
        let text = text.as_ref();
        self.progress.say(match left {
            Some(left) => format!("{text} ({} left)", clock(left)),
            None => text.to_owned(),
        });
    }
}

/// Time for the rest, if the `done` of `steps` are like it; `None` while
/// nothing is done.
fn time_left(elapsed: Duration, done: usize, steps: usize) -> Option<Duration> {
    let done = u32::try_from(done).ok().filter(|&done| done > 0)?;
    let rest = u32::try_from(steps).ok()?.saturating_sub(done);
    Some(elapsed / done * rest)
}

/// As `1 min 05 s`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds / 60 {
        0 => format!("{seconds} s"),
        minutes => format!("{minutes} min {:02} s", seconds % 60),
    }
}

/// One condition of success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// What has to be true.
    pub name: String,
    /// Whether it is.
    pub passed: bool,
    /// Numbers, or what is wrong.
    pub detail: String,
}

/// Traffic of one phase.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// As iperf3 saw it.
    pub outcome: Outcome,
    /// Keys replaced meanwhile, over all directions of all pairs.
    pub rekeys: u64,
}

/// Everything.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Summary {
    /// Whether all went well.
    pub passed: bool,
    /// What stopped it, if it did not come to its end.
    pub error: Option<String>,
    /// Nodes at the start; one more joins.
    pub nodes: u8,
    /// How the nodes' sockets are attached.
    pub modes: Vec<String>,
    /// From the last node's key to all links up, in ms.
    pub links_up_ms: Option<u64>,
    /// From the joining process's start to all its links up, in ms.
    pub join_ms: Option<u64>,
    /// From the start of the killed node's next process to the first answer
    /// through it, in ms.
    pub recovery_ms: Option<u64>,
    /// From the kill to the same answer, in ms.
    pub outage_ms: Option<u64>,
    /// Traffic.
    pub phases: Vec<Phase>,
    /// Keys replaced in all.
    pub rekeys: u64,
    /// The books of the time without a kill.
    pub balance: Option<Balance>,
    /// The books of the time with it.
    pub balance_kill: Option<Balance>,
    /// Frames of ours that passed the captures.
    pub captured_frames: u64,
    /// Those of them searched whole for the marker.
    pub searched_frames: u64,
    /// Conditions of success.
    pub checks: Vec<Check>,
}

impl Summary {
    /// Notes a condition and whether it is met.
    pub fn check(&mut self, name: &str, passed: bool, detail: impl Into<String>) {
        self.checks.push(Check {
            name: name.to_owned(),
            passed,
            detail: detail.into(),
        });
    }

    /// Draws the conclusion; nothing checked is nothing passed.
    pub fn conclude(&mut self, error: Option<String>) {
        self.error = error;
        self.passed = self.error.is_none()
            && !self.checks.is_empty()
            && self.checks.iter().all(|check| check.passed);
    }

    /// Prints the summary.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\nSummary")?;
        for phase in &self.phases {
            writeln!(out, "  {}", phase_line(phase))?;
        }
        let times = [
            ("links up after the last key", self.links_up_ms),
            ("a further node joined in", self.join_ms),
            ("traffic again after a restart", self.recovery_ms),
            ("  and after the kill before it", self.outage_ms),
        ];
        for (name, ms) in times {
            if let Some(ms) = ms {
                writeln!(out, "  {name:<34} {ms:>9} ms")?;
            }
        }
        writeln!(out, "  {:<34} {:>9}", "keys replaced", self.rekeys)?;
        if !self.modes.is_empty() {
            writeln!(out, "  {:<34} {}", "AF_XDP modes", self.modes.join(", "))?;
        }
        let books = [
            ("without a kill", &self.balance),
            ("with the kill", &self.balance_kill),
        ];
        for (name, balance) in books {
            if let Some(balance) = balance {
                print_balance(out, name, balance)?;
            }
        }
        writeln!(out)?;
        for check in &self.checks {
            let sign = if check.passed { '✓' } else { '✗' };
            writeln!(out, "  {sign} {}: {}", check.name, check.detail)?;
        }
        if let Some(error) = &self.error {
            writeln!(out, "\n  ✗ stopped: {error}")?;
        }
        let verdict = if self.passed { "passed" } else { "FAILED" };
        writeln!(out, "\nThe demonstration {verdict}.")
    }
}

fn phase_line(phase: &Phase) -> String {
    let Phase {
        name,
        outcome,
        rekeys,
    } = phase;
    let losses = if outcome.datagrams > 0 {
        format!(
            "{} of {} datagrams lost on the way from application to application",
            outcome.lost_datagrams, outcome.datagrams
        )
    } else {
        format!("{} retransmits", outcome.retransmits)
    };
    format!(
        "{name:<34} {:>9.0} Mbit/s, {losses}, keys replaced {rekeys} times",
        outcome.received_mbit_s
    )
}

fn print_balance(out: &mut impl Write, name: &str, balance: &Balance) -> io::Result<()> {
    writeln!(out, "\n  Frames in the time {name}")?;
    writeln!(out, "    {:<32} {:>12}", "sealed", balance.sealed)?;
    writeln!(out, "    {:<32} {:>12}", "opened", balance.opened)?;
    if balance.sent_to_killed > 0 {
        let what = "on the wire to the killed node";
        writeln!(out, "    {what:<32} {:>12}", balance.sent_to_killed)?;
    }
    for (reason, frames) in &balance.lost {
        writeln!(out, "    {reason:<32} {frames:>12}")?;
    }
    for loss in &balance.key_losses_of_killed {
        let peer = loss.peer.map_or("nobody".into(), |peer| peer.to_string());
        writeln!(
            out,
            "    (of these, expected: node {} counted {} {} of peer {peer})",
            loss.node, loss.frames, loss.reason
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_from_the_steps_done() {
        let left = |done| time_left(Duration::from_secs(30), done, 10);
        assert_eq!(left(0), None);
        assert_eq!(left(3), Some(Duration::from_secs(70)));
        assert_eq!(left(10), Some(Duration::ZERO));
        assert_eq!(left(11), Some(Duration::ZERO));
        assert_eq!(clock(Duration::from_secs(65)), "1 min 05 s");
        assert_eq!(clock(Duration::from_millis(900)), "0 s");
    }

    #[test]
    fn one_failed_check_or_an_error_is_a_failure() {
        let mut summary = Summary::default();
        summary.conclude(None);
        assert!(!summary.passed, "nothing was checked");
        summary.check("a", true, "");
        summary.conclude(None);
        assert!(summary.passed);
        summary.conclude(Some("it broke".into()));
        assert!(!summary.passed);
        summary.check("b", false, "3 frames");
        summary.conclude(None);
        assert!(!summary.passed);
        let mut text = Vec::new();
        summary.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("✗ b: 3 frames") && text.contains("FAILED"));
    }
}
