//! The expectation file: what has to be in a set of runs, a line each.
//! Imports `results`, `error`.
//!
//! ```text
//! # benchmark, contender, labels
//! wire bare forwarder size=64 profile=inline
//! latency tipsec aes-256-gcm ring load=10 %
//! # benchmark, contender / contender, metric and labels, for a comparison
//! wire tipsec aes-256-gcm ring / bare forwarder metric=delivered size=64
//! ```
//!
//! The first word is a benchmark as on the command line: of its own run, with all
//! its parts, or as a part of another's (`latency` searches rates as `ndr` does).
//! A contender is said by its first words, or all of them. A label's value goes
//! on to the next word with a `=` in it. A line is kept if there is a series that
//! it speaks of, and every such series was measured.

use std::fs;
use std::path::Path;

use super::{BENCHES, Fault};
use crate::error::{Error, Result};
use crate::results::{Comparison, Run, Series};

/// What has to be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expectations(Vec<Expected>);

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Expected {
    /// Its number, from 1.
    line: usize,
    /// As it stands there, without its comment.
    text: String,
    bench: String,
    what: What,
    labels: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    Series {
        contender: String,
    },
    Comparison {
        a: String,
        b: String,
        metric: Option<String>,
    },
}

/// The label of a line that is a comparison's metric.
const METRIC: &str = "metric";

impl Expectations {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Unreadable`] with the number of every line that
    /// makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(Error::io(format!("read {name}")))?;
        Self::parse(&text).map_err(|detail| Error::Unreadable {
            what: format!("the expectation file {name}"),
            detail,
        })
    }

    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut expected = Vec::new();
        let mut faults = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let said = line.split('#').next().unwrap_or_default().trim();
            if said.is_empty() {
                continue;
            }
            match Expected::parse(number, said) {
                Ok(one) => expected.push(one),
                Err(fault) => faults.push(format!("line {number}: {fault}")),
            }
        }
        if !faults.is_empty() {
            return Err(faults.join("; "));
        }
        if expected.is_empty() {
            return Err("it names nothing, so nothing could be missing".into());
        }
        Ok(Self(expected))
    }

    /// What is not in `runs`.
    pub(super) fn missing_in(&self, runs: &[Run]) -> impl Iterator<Item = Fault> {
        self.0.iter().filter_map(|expected| {
            let why = expected.why_missing(runs)?;
            Some(Fault::Missing {
                line: expected.line,
                expected: expected.text.clone(),
                why,
            })
        })
    }
}

impl Expected {
    fn parse(line: usize, text: &str) -> std::result::Result<Self, String> {
        let mut words = text.split_whitespace();
        let bench = words.next().unwrap_or_default();
        if !BENCHES.contains(&bench) {
            let known = BENCHES.join(", ");
            return Err(format!("no benchmark {bench:?}; there are {known}"));
        }
        let mut names: Vec<&str> = Vec::new();
        let mut labels: Vec<(String, String)> = Vec::new();
        for word in words {
            match (word.split_once('='), labels.last_mut()) {
                (Some(("", _) | (_, "")), _) => {
                    return Err(format!("{word:?} is no label, which is key=value"));
                }
                (Some((key, value)), _) => {
                    if labels.iter().any(|(known, _)| known == key) {
                        return Err(format!("the label {key} twice"));
                    }
                    labels.push((key.to_owned(), value.to_owned()));
                }
                (None, Some((_, value))) => {
                    value.push(' ');
                    value.push_str(word);
                }
                (None, None) => names.push(word),
            }
        }
        let what = What::parse(&names, &mut labels)?;
        Ok(Self {
            line,
            text: text.to_owned(),
            bench: bench.to_owned(),
            what,
            labels,
        })
    }

    /// How it is missing; none if it is there.
    fn why_missing(&self, runs: &[Run]) -> Option<String> {
        match &self.what {
            What::Series { contender } => self.why_no_series(contender, runs),
            What::Comparison { a, b, metric } => {
                let is_meant = |one: &&Comparison| {
                    is_said_by(&one.a, a)
                        && is_said_by(&one.b, b)
                        && metric.as_ref().is_none_or(|metric| *metric == one.metric)
                        && self.has_labels(|key| one.labels.get(key))
                        && one.stats().is_some()
                };
                let of_bench = runs.iter().filter(|run| run.bench == self.bench);
                let mut all = of_bench.flat_map(|run| &run.comparisons);
                let none = || "no run makes this comparison".to_owned();
                all.find(is_meant).is_none().then(none)
            }
        }
    }

    fn why_no_series(&self, contender: &str, runs: &[Run]) -> Option<String> {
        let is_own = |run: &Run| run.bench == self.bench;
        let of_bench: Vec<&Series> = runs
            .iter()
            .flat_map(|run| {
                let all = run.series.iter();
                all.filter(move |one| is_own(run) || one.bench == self.bench)
            })
            .collect();
        if of_bench.is_empty() {
            return Some(format!("there is no run of {}", self.bench));
        }
        let mut named = of_bench
            .iter()
            .filter(|one| is_said_by(&one.contender, contender))
            .peekable();
        if named.peek().is_none() {
            return Some(who_is_there(&of_bench));
        }
        let mut meant = named
            .filter(|one| self.has_labels(|key| one.labels.get(key)))
            .peekable();
        if meant.peek().is_none() {
            return Some("the contender has no series with these labels".into());
        }
        meant.find_map(|one| why_not_measured(one))
    }

    fn has_labels<'a>(&self, label: impl Fn(&str) -> Option<&'a String>) -> bool {
        let mut labels = self.labels.iter();
        labels.all(|(key, value)| label(key) == Some(value))
    }
}

impl What {
    /// Takes the metric of a comparison out of `labels`.
    fn parse(
        names: &[&str],
        labels: &mut Vec<(String, String)>,
    ) -> std::result::Result<Self, String> {
        let metric = labels.iter().position(|(key, _)| key == METRIC);
        let sides: Vec<String> = names
            .split(|&word| word == "/")
            .map(|side| side.join(" "))
            .collect();
        if sides.iter().any(String::is_empty) {
            return Err("a contender has to follow the benchmark, and a `/`".into());
        }
        match &sides[..] {
            [_] if metric.is_some() => Err(format!("{METRIC}= belongs to a comparison, a / b")),
            [contender] => Ok(Self::Series {
                contender: contender.clone(),
            }),
            [a, b] => Ok(Self::Comparison {
                a: a.clone(),
                b: b.clone(),
                metric: metric.map(|index| labels.remove(index).1),
            }),
            _ => Err("a comparison has two sides".into()),
        }
    }
}

/// Whether `words` are the name, or the first words of it.
fn is_said_by(name: &str, words: &str) -> bool {
    let rest = name.strip_prefix(words);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn why_not_measured(series: &Series) -> Option<String> {
    let title = series.title();
    if let Some(reason) = &series.skipped {
        return Some(format!("{title}: skipped, {reason}"));
    }
    let is_empty = series
        .metrics
        .values()
        .all(|metric| metric.stats().is_none());
    is_empty.then(|| format!("{title}: nothing was measured"))
}

fn who_is_there(series: &[&Series]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for one in series {
        if !names.contains(&one.contender.as_str()) {
            names.push(&one.contender);
        }
    }
    format!("the run has no such contender; it has {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_benchmark_a_contender_and_labels() {
        let text = "# all of it\n\nwire tipsec size=1400 profile=inline # the default\n\
                    latency timer, no network load=50 % wait=sleep\n\
                    wire tipsec aes-256-gcm ring / bare forwarder size=64 metric=cpu\n";
        let lines = Expectations::parse(text).unwrap().0;
        let labels = |index: usize| -> Vec<(&str, &str)> {
            let labels = lines[index].labels.iter();
            labels.map(|(key, value)| (&key[..], &value[..])).collect()
        };
        let series = |contender: &str| What::Series {
            contender: contender.into(),
        };
        assert_eq!((lines[0].line, lines[0].bench.as_str()), (3, "wire"));
        assert_eq!(lines[0].what, series("tipsec"));
        assert_eq!(labels(0), [("size", "1400"), ("profile", "inline")]);
        assert_eq!(lines[1].what, series("timer, no network"));
        assert_eq!(labels(1), [("load", "50 %"), ("wait", "sleep")]);
        let comparison = What::Comparison {
            a: "tipsec aes-256-gcm ring".into(),
            b: "bare forwarder".into(),
            metric: Some("cpu".into()),
        };
        assert_eq!((&lines[2].what, lines[2].line), (&comparison, 5));
        assert_eq!(labels(2), [("size", "64")]);
    }

    #[test]
    fn every_line_without_sense_is_told_by_its_number() {
        let text = "wire a\nwier b\n\nwire\nwire size=1\nwire a size=\nwire a size=1 size=2\n\
                    wire a /\nwire a / b / c\nwire a metric=cpu\n";
        let told = Expectations::parse(text).unwrap_err();
        for number in [2, 4, 5, 6, 7, 8, 9, 10] {
            assert!(
                told.contains(&format!("line {number}:")),
                "{number}: {told}"
            );
        }
        assert!(
            !told.contains("line 1:") && !told.contains("line 3:"),
            "{told}"
        );
        assert!(
            told.contains("\"wier\"") && told.contains("pipeline"),
            "{told}"
        );
    }

    #[test]
    fn a_file_that_names_nothing_is_refused() {
        for text in ["", "# nothing\n\n"] {
            let told = Expectations::parse(text).unwrap_err();
            assert!(told.contains("names nothing"), "{told}");
        }
    }

    #[test]
    fn names_are_said_by_whole_words() {
        assert!(is_said_by("tipsec aes-256-gcm ring", "tipsec"));
        assert!(is_said_by("kernel udp", "kernel udp"));
        assert!(!is_said_by("kernel udp_segment", "kernel udp"));
        assert!(!is_said_by("tipsec-chacha20", "tipsec"));
        assert!(!is_said_by("tipsec", "tipsec aes-256-gcm"));
    }

    #[test]
    fn the_committed_file_is_read() {
        Expectations::parse(include_str!("../../../ci/bench.expect")).unwrap();
    }
}
