//! Runs as Markdown, for docs/benchmarks.md: of each run its targets, what it
//! skipped, and all series. Pure. Imports `results`.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::results::{Comparison, Run, Series, Stats, figure};

/// First and last line of what [`render`] writes: what lies between in a
/// document is not written by hand.
pub const BEGIN: &str = "<!-- From here on written by `tipsec-bench report --markdown`. -->";
/// See [`BEGIN`].
pub const END: &str = "<!-- To here. -->";

/// All runs, one behind the other.
pub fn render(runs: &[Run]) -> String {
    let mut text = format!("{BEGIN}\n");
    for run in runs {
        // Writing to a String does not fail.
        let _ = write_run(&mut text, run);
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// `document` with what lies between the marks replaced by `rendered`, or with
/// it at its end if it has no marks.
pub fn replace(document: &str, rendered: &str) -> String {
    let between = document.find(BEGIN).zip(document.find(END));
    match between {
        Some((begin, end)) if begin < end => {
            let rest = document[end + END.len()..].trim_start_matches('\n');
            let gap = if rest.is_empty() { "" } else { "\n" };
            format!("{}{rendered}{gap}{rest}", &document[..begin])
        }
        _ => format!("{}\n\n{rendered}", document.trim_end()),
    }
}

fn write_run(out: &mut String, run: &Run) -> std::fmt::Result {
    let machine = &run.machine;
    let kind = if machine.virtualised {
        ", a virtual machine"
    } else {
        ""
    };
    let gib = machine.memory_bytes as f64 / f64::from(1 << 30);
    writeln!(out, "\n## `tipsec-bench {}`\n", run.bench)?;
    writeln!(
        out,
        "{}: {} ({} cores, {} GiB{kind}), Linux {}; {} rounds; {}.",
        run.started,
        machine.cpu,
        machine.cores,
        figure(gib),
        machine.kernel,
        run.rounds,
        run.pinning
    )?;
    write_targets(out, run)?;
    write_skipped(out, run)?;
    writeln!(
        out,
        "\n<details><summary>All series and comparisons</summary>"
    )?;
    let measured = run.series.iter().filter(|one| one.skipped.is_none());
    let mut groups: BTreeMap<Vec<&str>, Vec<&Series>> = BTreeMap::new();
    for series in measured {
        let names = series.metrics.keys().map(String::as_str).collect();
        groups.entry(names).or_default().push(series);
    }
    for (metrics, series) in groups {
        write_series(out, &metrics, &series)?;
    }
    let others = run.comparisons.iter().filter(|one| one.wanted.is_none());
    let others: Vec<&Comparison> = others.collect();
    if !others.is_empty() {
        writeln!(
            out,
            "\n| compared | | median | min … max |\n|---|---|---|---|"
        )?;
    }
    for one in others {
        writeln!(
            out,
            "| {} | {} | {} |",
            escaped(&one.what),
            one.unit,
            cells(one.stats())
        )?;
    }
    writeln!(out, "\n</details>\n")?;
    for note in run.all_notes() {
        writeln!(out, "* {}", escaped(&note))?;
    }
    Ok(())
}

fn write_targets(out: &mut String, run: &Run) -> std::fmt::Result {
    let targets = run.comparisons.iter();
    let targets: Vec<_> = targets.filter_map(|one| Some((one, one.wanted?))).collect();
    if !targets.is_empty() {
        let head = "| target | | wanted | median | min … max | |\n|---|---|---|---|---|---|";
        writeln!(out, "\n{head}")?;
    }
    for (one, wanted) in targets {
        let met = match one.met {
            Some(true) => "met",
            _ => "**missed**",
        };
        let (what, unit, wanted) = (escaped(&one.what), &one.unit, wanted.text());
        let found = cells(one.stats());
        writeln!(out, "| {what} | {unit} | {wanted} | {found} | {met} |")?;
    }
    Ok(())
}

fn write_skipped(out: &mut String, run: &Run) -> std::fmt::Result {
    let skipped = run.series.iter();
    let skipped: Vec<_> = skipped
        .filter_map(|one| Some((one, one.skipped.as_ref()?)))
        .collect();
    if !skipped.is_empty() {
        writeln!(out, "\nNot measured:\n")?;
    }
    for (one, reason) in skipped {
        writeln!(out, "* {}: {}", escaped(&one.title()), escaped(reason))?;
    }
    Ok(())
}

/// A table of series that have the same metrics.
fn write_series(out: &mut String, metrics: &[&str], series: &[&Series]) -> std::fmt::Result {
    write!(out, "\n| series |")?;
    for &name in metrics {
        let unit = series.iter().find_map(|one| one.metrics.get(name));
        write!(
            out,
            " {name}, {} |",
            unit.map_or("", |metric| metric.unit.as_str())
        )?;
    }
    writeln!(out, " lost |\n|---|{}---|", "---|".repeat(metrics.len()))?;
    for one in series {
        write!(out, "| {} |", escaped(&one.title()))?;
        for &name in metrics {
            let stats = one.metrics.get(name).and_then(|metric| metric.stats());
            write!(out, " {} |", cell(stats))?;
        }
        writeln!(out, " {} |", one.drops.values().sum::<u64>())?;
    }
    Ok(())
}

/// Median and spread in one cell.
fn cell(stats: Option<Stats>) -> String {
    stats.map_or_else(String::new, |stats| {
        let [median, min, max] = [stats.median, stats.min, stats.max].map(figure);
        format!("{median} [{min} … {max}]")
    })
}

/// Median and spread in two cells.
fn cells(stats: Option<Stats>) -> String {
    stats.map_or_else(
        || " | ".into(),
        |stats| {
            let [median, min, max] = [stats.median, stats.min, stats.max].map(figure);
            format!("{median} | {min} … {max}")
        },
    )
}

/// What would end a cell or a line.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Bound, Machine, SCHEMA, Sample};

    fn run() -> Run {
        let series = |contender: &str, values: [f64; 3]| {
            let mut series = Series::new("wire", contender, &[("size", "64")]);
            for value in values {
                series.add(Sample {
                    metrics: vec![("delivered", "Mpps", value)],
                    drops: BTreeMap::from([("ring full".into(), 2)]),
                    ..Sample::default()
                });
            }
            series
        };
        let (a, b) = (series("a", [1.0, 2.0, 3.0]), series("b|c", [2.0; 3]));
        let wanted = |bound| Comparison::ratio("a / b", &a, &b, "delivered", bound);
        let comparisons = [None, Some(Bound::AtLeast(0.9)), Some(Bound::AtLeast(1.1))];
        Run {
            schema: SCHEMA,
            bench: "wire".into(),
            started: "2026-01-02T03:04:05Z".into(),
            version: "0".into(),
            machine: Machine {
                cpu: "a CPU".into(),
                cores: 2,
                kernel: "6.1".into(),
                virtualised: true,
                memory_bytes: 24 << 30,
            },
            rounds: 3,
            pinning: "a core each".into(),
            comparisons: comparisons.into_iter().filter_map(wanted).collect(),
            series: vec![a, b, Series::new("wire", "d", &[]).skipped("not there")],
            notes: vec!["a note".into()],
        }
    }

    #[test]
    fn a_run_has_its_targets_its_gaps_and_its_series() {
        let text = render(&[run()]);
        for line in [
            "2026-01-02T03:04:05Z: a CPU (2 cores, 24.0 GiB, a virtual machine), Linux 6.1; 3 \
             rounds; a core each.",
            "| a / b | ratio | at least 0.900 | 1.00 | 0.500 … 1.50 | met |",
            "| a / b | ratio | at least 1.10 | 1.00 | 0.500 … 1.50 | **missed** |",
            "* d: not there",
            "| series | delivered, Mpps | lost |",
            "| a, size 64 | 2.00 [1.00 … 3.00] | 6 |",
            "| b\\|c, size 64 | 2.00 [2.00 … 2.00] | 6 |",
            "| a / b | ratio | 1.00 | 0.500 … 1.50 |",
            "* a note",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_people_wrote_around_it_stays() {
        let first = replace("# Title\n\nWords.\n", &render(&[]));
        assert_eq!(first, format!("# Title\n\nWords.\n\n{BEGIN}\n{END}\n"));
        let whole = format!("{first}\n## More\n");
        let again = replace(&whole, &render(&[run()]));
        assert!(again.starts_with("# Title\n\nWords.\n\n") && again.ends_with("\n## More\n"));
        assert_eq!(again.matches(BEGIN).count(), 1);
        assert_eq!(replace(&again, &render(&[])), replace(&whole, &render(&[])));
    }
}
