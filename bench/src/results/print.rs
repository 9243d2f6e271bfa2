//! A run as tables for a terminal. Imports `stats`.

use std::io::{self, Write};

use super::{Bound, Comparison, Run, Series, Stats};

/// `value` with three significant digits at least, as figures are read.
pub fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Median and spread in one cell.
fn cell(stats: Option<Stats>) -> String {
    match stats {
        Some(stats) if stats.count == 1 => figure(stats.median),
        Some(stats) => format!(
            "{} [{} … {}]",
            figure(stats.median),
            figure(stats.min),
            figure(stats.max)
        ),
        None => "-".into(),
    }
}

impl Bound {
    /// For people: `at least 0.5`.
    pub fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("at least {}", figure(bound)),
            Self::AtMost(bound) => format!("at most {}", figure(bound)),
        }
    }
}

impl Comparison {
    /// One line: what, outcome, spread, and whether it is as wanted.
    pub fn line(&self) -> String {
        let verdict = match (self.wanted, self.met) {
            (Some(bound), Some(true)) => format!(", wanted {}: met", bound.text()),
            (Some(bound), _) => format!(", wanted {}: MISSED", bound.text()),
            (None, _) => String::new(),
        };
        let unit = match self.unit.as_str() {
            "ratio" => String::new(),
            unit => format!(" {unit}"),
        };
        format!("{}: {}{unit}{verdict}", self.what, cell(self.stats()))
    }
}

impl Series {
    /// One line of all metrics, one of all losses.
    fn lines(&self, out: &mut impl Write) -> io::Result<()> {
        if let Some(reason) = &self.skipped {
            return writeln!(out, "  {}: skipped, {reason}", self.title());
        }
        let metrics = self
            .metrics
            .iter()
            .map(|(name, metric)| format!("{name} {} {}", cell(metric.stats()), metric.unit));
        let metrics: Vec<String> = metrics.collect();
        writeln!(out, "  {}\n    {}", self.title(), metrics.join("; "))?;
        let mut losses: Vec<String> = self
            .drops
            .iter()
            .map(|(reason, frames)| format!("{reason} {frames}"))
            .collect();
        if self.unaccounted != 0 {
            losses.push(format!("UNACCOUNTED FOR {}", self.unaccounted));
        }
        if !losses.is_empty() {
            writeln!(out, "    lost: {}", losses.join(", "))?;
        }
        Ok(())
    }
}

impl Run {
    /// Prints everything: series, comparisons, notes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let machine = &self.machine;
        writeln!(
            out,
            "\n{} on {} ({} cores), Linux {}: {} rounds, median [min … max]",
            self.bench, machine.cpu, machine.cores, machine.kernel, self.rounds
        )?;
        for series in &self.series {
            series.lines(out)?;
        }
        if !self.comparisons.is_empty() {
            writeln!(out, "\nCompared round by round, median [min … max]")?;
        }
        for comparison in &self.comparisons {
            writeln!(out, "  {}", comparison.line())?;
        }
        for note in self.all_notes() {
            writeln!(out, "\nNote: {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    #[test]
    fn figures_keep_three_digits() {
        let shown: Vec<String> = [1234.5, 12.34, 1.234, 0.1234].map(figure).into();
        assert_eq!(shown, ["1234", "12.3", "1.23", "0.123"]);
    }

    #[test]
    fn a_missed_target_says_so() {
        let mut series = Series::new("wire", "a", &[]);
        series.add(Sample {
            metrics: vec![("rate", "Mpps", 2.0)],
            ..Sample::default()
        });
        let against = |bound| {
            let itself = Comparison::ratio("a/a", &series, &series, "rate", Some(bound));
            itself.unwrap().line()
        };
        assert_eq!(
            against(Bound::AtLeast(0.5)),
            "a/a: 1.00, wanted at least 0.500: met"
        );
        assert!(against(Bound::AtMost(0.5)).ends_with("at most 0.500: MISSED"));
    }

    #[test]
    fn unaccounted_frames_and_skipped_series_stand_out() {
        let mut lossy = Series::new("wire", "a", &[]);
        lossy.add(Sample {
            unaccounted: -3,
            ..Sample::default()
        });
        let mut text = Vec::new();
        lossy.lines(&mut text).unwrap();
        let skipped = Series::new("wire", "b", &[]).skipped("not installed");
        skipped.lines(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("UNACCOUNTED FOR -3"), "{text}");
        assert!(text.contains("b: skipped, not installed"), "{text}");
    }
}
