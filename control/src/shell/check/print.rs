//! The two outputs. Imports nothing but the report.

use std::fmt::Write;

use super::{Report, Status};

/// By area; the advice stands below what was found.
pub(super) fn text(report: &Report, colour: bool) -> String {
    let findings = &report.findings;
    let width = |text: &str| text.chars().count();
    let subjects = findings.iter().map(|finding| width(&finding.subject));
    let subjects = subjects.max().unwrap_or(0);
    let words = Status::Unknown.name().len();
    let mut out = String::new();
    let mut area = None;
    for finding in findings {
        if area != Some(&finding.area) {
            if area.is_some() {
                out.push('\n');
            }
            let _ = writeln!(out, "{}", finding.area);
            area = Some(&finding.area);
        }
        let word = format!("{:<words$}", finding.status.name());
        let word = paint(&word, finding.status, colour);
        let found = one_line(&finding.found);
        let _ = writeln!(out, "  {word}  {:<subjects$}  {found}", finding.subject);
        if !finding.advice.is_empty() {
            let indent = 2 + words + 2 + subjects + 2;
            let _ = writeln!(out, "{:indent$}> {}", "", one_line(&finding.advice));
        }
    }
    let count = |status| {
        findings
            .iter()
            .filter(|finding| finding.status == status)
            .count()
    };
    let _ = writeln!(
        out,
        "\n{} ok, {} to change, {} unknown, {} in the way: {}",
        count(Status::Ok),
        count(Status::Change),
        count(Status::Unknown),
        count(Status::Stop),
        if report.prevents_operation() {
            "tipsecd would not work here"
        } else {
            "nothing that was seen prevents operation"
        }
    );
    out
}

/// Names of devices and files come from outside, and are not to draw lines or
/// colours of their own.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn paint(word: &str, status: Status, colour: bool) -> String {
    let code = match status {
        _ if !colour => return word.to_owned(),
        Status::Ok => 32,
        Status::Unknown => 36,
        Status::Change => 33,
        Status::Stop => 31,
    };
    format!("\x1b[{code}m{word}\x1b[0m")
}

pub(super) fn json(report: &Report) -> String {
    // Texts and words alone: there is nothing that could fail.
    let mut text = serde_json::to_string(report).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::check::Finding;

    fn report() -> Report {
        let finding = |area: &str, subject: &str, status, found: &str, advice: &str| Finding {
            area: area.to_owned(),
            subject: subject.to_owned(),
            status,
            found: found.to_owned(),
            advice: advice.to_owned(),
        };
        Report::new(vec![
            finding("kernel", "release", Status::Ok, "6.18", ""),
            finding("kernel", "BPF JIT", Status::Change, "off", "sysctl"),
            finding("bearer", "MTU", Status::Stop, "9\n\x1b[2J000", ""),
        ])
    }

    #[test]
    fn text_is_aligned_and_grouped() {
        let expected = "kernel\n\
                        \x20 ok       release  6.18\n\
                        \x20 change   BPF JIT  off\n\
                        \x20                   > sysctl\n\
                        \n\
                        bearer\n\
                        \x20 stop     MTU      9\u{fffd}\u{fffd}[2J000\n\
                        \n\
                        1 ok, 1 to change, 0 unknown, 1 in the way: tipsecd would not work here\n";
        assert_eq!(report().to_text(false), expected);
        let coloured = report().to_text(true);
        assert!(coloured.contains("\x1b[31mstop   \x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn json_has_every_word() {
        let value: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(value["verdict"], "stop");
        assert_eq!(value["findings"][1]["status"], "change");
        assert_eq!(value["findings"][1]["advice"], "sysctl");
        assert_eq!(value["findings"][2]["area"], "bearer");
        assert_eq!(value["findings"].as_array().unwrap().len(), 3);
    }
}
