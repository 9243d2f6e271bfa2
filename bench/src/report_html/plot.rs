//! A panel as SVG: grouped bars from zero at the medians, whiskers from the
//! smallest sample to the largest. Colours come from the style sheet. Imports
//! `sheet`.

use super::markup::escape;
use super::sheet::{Legend, Panel};
use crate::results::figure;

/// The plot in user units; the browser scales it.
pub(super) const WIDTH: f64 = 960.0;
pub(super) const HEIGHT: f64 = 300.0;
/// Room for the figures of the axis.
pub(super) const LEFT: f64 = 56.0;
pub(super) const RIGHT: f64 = 8.0;
pub(super) const TOP: f64 = 10.0;
/// Room for the names of the groups.
pub(super) const BOTTOM: f64 = 42.0;
/// Share of a group's width that stays empty between groups.
const GAP: f64 = 0.18;
/// Widest bar.
const BAR_MAX: f64 = 42.0;
/// Lines of the grid, about.
const LINES: f64 = 5.0;

/// A step of 1, 2 or 5 times a power of ten that gives about [`LINES`] lines.
fn step(largest: f64) -> f64 {
    let rough = largest / LINES;
    let power = 10f64.powf(rough.log10().floor());
    let factor = match rough / power {
        f if f <= 1.0 => 1.0,
        f if f <= 2.0 => 2.0,
        f if f <= 5.0 => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// The plot; nothing if there is nothing to draw.
pub(super) fn bars(panel: &Panel<'_>, legend: &Legend) -> String {
    let comparable = |who: &str, group: &str| panel.cell(who, group).filter(|c| c.comparable);
    let drawn: Vec<&str> = panel
        .contenders
        .iter()
        .copied()
        .filter(|who| {
            panel
                .groups
                .iter()
                .any(|group| comparable(who, group).is_some())
        })
        .collect();
    let cells = drawn.iter().flat_map(|who| {
        panel
            .groups
            .iter()
            .filter_map(move |group| comparable(who, group))
    });
    let largest = cells.map(|cell| cell.stats.max).fold(0.0, f64::max);
    if largest <= 0.0 || !largest.is_finite() {
        return String::new();
    }
    let step = step(largest);
    let lines = (largest / step).ceil();
    let top = lines * step;
    let height = HEIGHT - TOP - BOTTOM;
    let y = |value: f64| TOP + height * (1.0 - value.clamp(0.0, top) / top);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
        escape(&panel.title())
    );
    let mut value = 0.0;
    while value <= top + step / 2.0 {
        let at = y(value);
        svg.push_str(&format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            tick(value, step),
        ));
        value += step;
    }
    let group_width = (WIDTH - LEFT - RIGHT) / panel.groups.len() as f64;
    let bar_width = (group_width * (1.0 - GAP) / drawn.len() as f64).min(BAR_MAX);
    for (place, group) in panel.groups.iter().enumerate() {
        let middle = LEFT + group_width * (place as f64 + 0.5);
        let mut x = middle - bar_width * drawn.len() as f64 / 2.0;
        for who in &drawn {
            if let Some(cell) = comparable(who, group) {
                svg.push_str(&bar(
                    x,
                    bar_width,
                    cell.stats,
                    y,
                    &legend.class(who),
                    || {
                        format!(
                            "{who}, {group}: {} {}",
                            figure(cell.stats.median),
                            panel.unit
                        )
                    },
                ));
            }
            x += bar_width;
        }
        svg.push_str(&format!(
            "<text class=\"axis\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            HEIGHT - BOTTOM + 16.0,
            escape(group)
        ));
    }
    svg.push_str(&format!(
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n</svg>\n",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 6.0,
        escape(&panel.by)
    ));
    svg
}

/// A figure at the axis, with as many decimals as the step has.
fn tick(value: f64, step: f64) -> String {
    let decimals = if step >= 1.0 {
        0
    } else if step >= 0.1 {
        1
    } else if step >= 0.01 {
        2
    } else {
        3
    };
    format!("{value:.decimals$}")
}

fn bar(
    x: f64,
    width: f64,
    stats: crate::results::Stats,
    y: impl Fn(f64) -> f64,
    class: &str,
    title: impl Fn() -> String,
) -> String {
    let (zero, median) = (y(0.0), y(stats.median));
    let (low, high) = (y(stats.min), y(stats.max));
    let middle = x + width / 2.0;
    let drawn = (width - 1.0).max(1.0);
    let whisker = if stats.count > 1 {
        format!(
            "<line class=\"whisker\" x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{low:.1}\" \
             y2=\"{high:.1}\"/>"
        )
    } else {
        String::new()
    };
    format!(
        "<g class=\"{class}\"><title>{}</title><rect x=\"{x:.1}\" y=\"{median:.1}\" \
         width=\"{drawn:.1}\" height=\"{:.1}\"/>{whisker}</g>\n",
        escape(&title()),
        (zero - median).max(0.5),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Stats;

    #[test]
    fn steps_are_round_numbers() {
        for (largest, wanted) in [(5.0, 1.0), (9.9, 2.0), (0.7, 0.2), (1234.0, 500.0)] {
            let found = step(largest);
            assert!((found - wanted).abs() < wanted / 1e6, "{largest}: {found}");
        }
        assert_eq!(tick(0.30000000000000004, 0.1), "0.3");
        assert_eq!(tick(1500.0, 500.0), "1500");
    }

    #[test]
    fn a_bar_stands_on_zero_and_ends_at_the_median() {
        let stats = Stats::of(&[2.0, 3.0, 5.0]).unwrap();
        let svg = bar(
            10.0,
            21.0,
            stats,
            |value| 100.0 - 10.0 * value,
            "c1",
            || "t".into(),
        );
        assert!(
            svg.contains("y=\"70.0\" width=\"20.0\" height=\"30.0\""),
            "{svg}"
        );
        assert!(svg.contains("y1=\"80.0\" y2=\"50.0\""), "{svg}");
        let single = Stats::of(&[2.0]).unwrap();
        let svg = bar(0.0, 9.0, single, |_| 0.0, "c1", String::new);
        assert!(!svg.contains("whisker"), "one sample has no spread");
    }
}
