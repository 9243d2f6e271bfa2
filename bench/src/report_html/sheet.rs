//! Series sorted for reading: a sheet for each set of conditions, on it a panel
//! for each metric, and in a panel a group for each value of the label that
//! varies most. Knows no benchmark: labels decide. Imports `results`.

use std::collections::BTreeMap;

use crate::results::{MPPS, NOT_COMPARABLE, Run, Series, Stats};

/// Contenders in order of appearance; the place is a colour.
pub(super) struct Legend {
    names: Vec<String>,
}

/// Colours in the style sheet.
const COLOURS: usize = 10;

impl Legend {
    /// Of all contenders of a run, cipher benchmarks within it counted by
    /// themselves.
    pub(super) fn of(run: &Run) -> Self {
        let mut names: Vec<String> = Vec::new();
        for series in &run.series {
            if !names.contains(&series.contender) {
                names.push(series.contender.clone());
            }
        }
        Self { names }
    }

    #[cfg(test)]
    pub(super) fn of_names(names: &[&str]) -> Self {
        Self {
            names: names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    /// The style of a contender: `c0` to `c9`, over again if there are more.
    pub(super) fn class(&self, contender: &str) -> String {
        let place = self.names.iter().position(|name| name == contender);
        format!("c{}", place.unwrap_or(0) % COLOURS)
    }
}

/// One set of conditions.
pub(super) struct Sheet<'a> {
    /// Benchmark and conditions.
    pub(super) title: String,
    /// What was measured on it, in order.
    pub(super) series: Vec<&'a Series>,
    /// One a metric.
    pub(super) panels: Vec<Panel<'a>>,
    /// The label that tells a panel's groups apart; empty if none does.
    pub(super) by: String,
}

/// One metric of a sheet.
pub(super) struct Panel<'a> {
    /// The metric.
    pub(super) metric: String,
    /// Its unit.
    pub(super) unit: String,
    /// The label that tells groups apart.
    pub(super) by: String,
    /// Values of that label, in order of appearance.
    pub(super) groups: Vec<String>,
    /// Contenders, in order of appearance.
    pub(super) contenders: Vec<&'a str>,
    /// By contender and group.
    cells: BTreeMap<(&'a str, String), Cell>,
}

/// One figure.
#[derive(Clone, Copy)]
pub(super) struct Cell {
    /// Median and spread.
    pub(super) stats: Stats,
    /// Whether it may stand beside the others.
    pub(super) comparable: bool,
}

impl Panel<'_> {
    /// The metric and its unit.
    pub(super) fn title(&self) -> String {
        format!("{} ({})", self.metric, self.unit)
    }

    /// The figure of a contender in a group, if it was measured.
    pub(super) fn cell(&self, contender: &str, group: &str) -> Option<Cell> {
        let found = self
            .cells
            .iter()
            .find(|((who, of), _)| *who == contender && of == group);
        found.map(|(_, cell)| *cell)
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// All sheets of a run, in order of appearance; skipped series are on none.
pub(super) fn sheets(run: &Run) -> Vec<Sheet<'_>> {
    let measured = || run.series.iter().filter(|series| series.skipped.is_none());
    let mut benches = Vec::new();
    for series in measured() {
        push_new(&mut benches, series.bench.as_str());
    }
    let mut sheets = Vec::new();
    for bench in benches {
        let all: Vec<&Series> = measured().filter(|series| series.bench == bench).collect();
        let shared = shared_labels(&all);
        let by = varies_most(&all, &shared);
        let conditions = |series: &Series| {
            let rest = shared.iter().filter(|key| **key != by);
            let named: Vec<String> = rest
                .map(|key| format!("{key} {}", series.label(key)))
                .collect();
            named.join(", ")
        };
        let mut titles = Vec::new();
        for series in &all {
            push_new(&mut titles, conditions(series));
        }
        for title in titles {
            let series: Vec<&Series> = all
                .iter()
                .copied()
                .filter(|one| conditions(one) == title)
                .collect();
            let parts: Vec<&str> = [bench, &title]
                .into_iter()
                .filter(|p| !p.is_empty())
                .collect();
            sheets.push(Sheet {
                title: parts.join(": "),
                panels: panels(&series, by),
                series,
                by: by.to_owned(),
            });
        }
    }
    sheets
}

/// Labels that every one of them has.
fn shared_labels<'a>(all: &[&'a Series]) -> Vec<&'a str> {
    let Some((first, rest)) = all.split_first() else {
        return Vec::new();
    };
    let keys = first.labels.keys().map(String::as_str);
    keys.filter(|key| rest.iter().all(|series| series.labels.contains_key(*key)))
        .collect()
}

/// The shared label with the most values, `size` if there is one; empty if
/// there is none.
fn varies_most<'a>(all: &[&Series], shared: &[&'a str]) -> &'a str {
    let values = |key: &str| {
        let mut values = Vec::new();
        for series in all {
            push_new(&mut values, series.label(key).to_owned());
        }
        values.len()
    };
    if let Some(size) = shared.iter().find(|key| **key == "size") {
        return size;
    }
    shared
        .iter()
        .max_by_key(|key| values(key))
        .copied()
        .unwrap_or("")
}

fn panels<'a>(series: &[&'a Series], by: &str) -> Vec<Panel<'a>> {
    let mut metrics: Vec<(&str, &str)> = Vec::new();
    for one in series {
        for (name, metric) in &one.metrics {
            push_new(&mut metrics, (name.as_str(), metric.unit.as_str()));
        }
    }
    // What everybody looks for first.
    metrics.sort_by_key(|(name, _)| *name != MPPS);
    metrics
        .into_iter()
        .map(|(metric, unit)| panel(series, by, metric, unit))
        .collect()
}

fn panel<'a>(series: &[&'a Series], by: &str, metric: &str, unit: &str) -> Panel<'a> {
    let mut panel = Panel {
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        by: by.to_owned(),
        groups: Vec::new(),
        contenders: Vec::new(),
        cells: BTreeMap::new(),
    };
    for one in series {
        let Some(stats) = one.metrics.get(metric).and_then(|metric| metric.stats()) else {
            continue;
        };
        let group = one.label(by).to_owned();
        push_new(&mut panel.groups, group.clone());
        push_new(&mut panel.contenders, one.contender.as_str());
        let (key, value) = NOT_COMPARABLE;
        let cell = Cell {
            stats,
            comparable: one.label(key) != value,
        };
        panel.cells.insert((one.contender.as_str(), group), cell);
    }
    panel
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    fn series(contender: &str, labels: &[(&str, &str)], metric: &'static str) -> Series {
        let mut series = Series::new("b", contender, labels);
        series.add(Sample {
            metrics: vec![(metric, "u", 1.0)],
            ..Sample::default()
        });
        series
    }

    #[test]
    fn the_label_that_varies_most_makes_groups() {
        let all = [
            series("a", &[("proto", "tcp"), ("mtu", "1"), ("own", "x")], "rate"),
            series("a", &[("proto", "tcp"), ("mtu", "2")], "rate"),
            series("a", &[("proto", "udp"), ("mtu", "3")], "rate"),
        ];
        let all: Vec<&Series> = all.iter().collect();
        let shared = shared_labels(&all);
        assert_eq!(shared, ["mtu", "proto"]);
        assert_eq!(varies_most(&all, &shared), "mtu");
        assert_eq!(varies_most(&all, &["proto", "size"]), "size");
        assert_eq!(varies_most(&[], &[]), "");
    }

    #[test]
    fn a_figure_is_found_where_it_was_measured() {
        let (key, value) = NOT_COMPARABLE;
        let all = [
            series("a", &[("size", "64")], "rate"),
            series("b", &[("size", "9"), (key, value)], "rate"),
            series("c", &[("size", "9")], "cpu"),
        ];
        let all: Vec<&Series> = all.iter().collect();
        let panels = panels(&all, "size");
        assert_eq!(panels.len(), 2);
        assert_eq!(panels[0].groups, ["64", "9"]);
        assert_eq!(panels[0].contenders, ["a", "b"]);
        assert!(panels[0].cell("a", "64").unwrap().comparable);
        assert!(!panels[0].cell("b", "9").unwrap().comparable);
        assert!(panels[0].cell("a", "9").is_none());
    }
}
