//! Everything of a report that is text. Imports `sheet`, `results`.

use std::collections::BTreeMap;

use super::markup::{escape, row};
use super::sheet::{Legend, Panel, Sheet};
use crate::results::{Bound, Comparison, Run, Stats, figure};

/// Machine, time, rounds.
pub(super) fn head(run: &Run) -> String {
    let machine = &run.machine;
    let kind = match machine.virtualised {
        true => "virtual machine",
        false => "no virtual machine",
    };
    let gib = machine.memory_bytes as f64 / f64::from(1 << 30);
    let facts = [
        (
            "machine",
            format!(
                "{}, {} cores, {kind}, {gib:.1} GiB",
                machine.cpu, machine.cores
            ),
        ),
        ("kernel", format!("Linux {}", machine.kernel)),
        ("started", run.started.clone()),
        ("version", run.version.clone()),
        (
            "rounds",
            format!(
                "{}, interleaved; medians, and the range below them",
                run.rounds
            ),
        ),
        ("pinning", run.pinning.clone()),
    ];
    let rows: String = facts
        .iter()
        .map(|(name, fact)| row("td", [*name, fact.as_str()]))
        .collect();
    format!("<table class=\"facts\">\n{rows}</table>\n")
}

/// Contenders of a sheet with their colours.
pub(super) fn legend(sheet: &Sheet<'_>, legend: &Legend) -> String {
    let mut names: Vec<&str> = Vec::new();
    for series in &sheet.series {
        if !names.contains(&series.contender.as_str()) {
            names.push(&series.contender);
        }
    }
    let items: String = names
        .iter()
        .map(|name| {
            format!(
                "<li class=\"{}\">{}</li>\n",
                legend.class(name),
                escape(name)
            )
        })
        .collect();
    format!("<ul class=\"legend\">\n{items}</ul>\n")
}

/// The figures of a panel: a row a contender, a column a group.
pub(super) fn figures(panel: &Panel<'_>) -> String {
    let head = std::iter::once(panel.by.as_str()).chain(panel.groups.iter().map(String::as_str));
    let mut html = format!("<div class=\"wide\"><table>\n{}", row("th", head));
    for who in &panel.contenders {
        let cells: String = panel
            .groups
            .iter()
            .map(|group| match panel.cell(who, group) {
                Some(cell) => format!("<td>{}</td>", spread(cell.stats)),
                None => "<td>–</td>".into(),
            })
            .collect();
        html.push_str(&format!("<tr><td>{}</td>{cells}</tr>\n", escape(who)));
    }
    html.push_str("</table></div>\n");
    html
}

/// Median, and the range below it if there is one.
fn spread(stats: Stats) -> String {
    let median = figure(stats.median);
    match stats.count {
        1 => median,
        _ => format!(
            "{median}<br><small>{} … {}</small>",
            figure(stats.min),
            figure(stats.max)
        ),
    }
}

/// What was lost on a sheet, all rounds together.
pub(super) fn drops(sheet: &Sheet<'_>) -> String {
    let mut rows = String::new();
    for series in &sheet.series {
        let mut losses: Vec<(String, String)> = series
            .drops
            .iter()
            .filter(|(_, frames)| **frames > 0)
            .map(|(reason, frames)| (reason.clone(), frames.to_string()))
            .collect();
        if series.unaccounted != 0 {
            losses.push(("UNACCOUNTED FOR".into(), series.unaccounted.to_string()));
        }
        for (reason, frames) in losses {
            let group = series.label(&sheet.by);
            rows.push_str(&row(
                "td",
                [series.contender.as_str(), group, &reason, &frames],
            ));
        }
    }
    if rows.is_empty() {
        return "<p>No frame was lost.</p>\n".into();
    }
    let head = row("th", ["frames lost", &sheet.by, "reason", "frames"]);
    format!("<div class=\"wide\"><table>\n{head}{rows}</table></div>\n")
}

/// What was set against what.
pub(super) fn comparisons(title: &str, comparisons: &[&Comparison]) -> String {
    if comparisons.is_empty() {
        return String::new();
    }
    let head = row("th", [title, "median", "range", "wanted", ""]);
    let mut html = format!("<div class=\"wide\"><table>\n{head}");
    for comparison in comparisons {
        let Some(stats) = comparison.stats() else {
            continue;
        };
        let unit = match comparison.unit.as_str() {
            "ratio" => String::new(),
            unit => format!(" {unit}"),
        };
        let wanted = match comparison.wanted {
            Some(Bound::AtLeast(bound)) => format!("≥ {}{unit}", figure(bound)),
            Some(Bound::AtMost(bound)) => format!("≤ {}{unit}", figure(bound)),
            None => String::new(),
        };
        let (class, verdict) = match comparison.met {
            Some(true) => ("met", "met"),
            Some(false) => ("missed", "missed"),
            None => ("", ""),
        };
        html.push_str(&format!(
            "<tr><td>{}</td><td>{}{}</td><td>{} … {}</td><td>{}</td><td class=\"{class}\">\
             {verdict}</td></tr>\n",
            escape(&comparison.what),
            figure(stats.median),
            escape(&unit),
            figure(stats.min),
            figure(stats.max),
            escape(&wanted),
        ));
    }
    html.push_str("</table></div>\n");
    html
}

/// Who did not take part, and why: each reason once.
pub(super) fn skipped(run: &Run) -> String {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for series in &run.series {
        if let Some(reason) = &series.skipped {
            reasons.entry(reason).or_default().push(series.title());
        }
    }
    if reasons.is_empty() {
        return String::new();
    }
    let items: String = reasons
        .iter()
        .map(|(reason, who)| format!("<li>{}: {}</li>\n", escape(reason), escape(&who.join("; "))))
        .collect();
    format!("<h3>Skipped</h3>\n<ul>\n{items}</ul>\n")
}

/// What a reader has to know.
pub(super) fn notes(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let items: String = notes
        .iter()
        .map(|note| format!("<li>{}</li>\n", escape(note)))
        .collect();
    format!("<h3>Notes</h3>\n<ul>\n{items}</ul>\n")
}
