//! Distributions as SVG: for each group of a sheet a line a contender, from
//! the median to the maximum, medians of the rounds at each place. Shares
//! of a distribution stand at equal distances, each a tenth of the rest of the
//! one before it (the maximum, whose share depends on the number of frames, at
//! one distance more); values on a logarithmic axis. Imports `sheet`, `plot`
//! for its measures.

use super::markup::escape;
use super::plot::{BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH};
use super::sheet::{Legend, Sheet};
use crate::results::{PERCENTILES, Series, figure};

/// One contender's values, one a place; none where it was not measured.
struct Line<'a> {
    who: &'a str,
    unit: &'a str,
    values: [Option<f64>; PERCENTILES.len()],
}

impl<'a> Line<'a> {
    /// `None` unless the series describes a distribution.
    fn of(series: &'a Series) -> Option<Self> {
        let (first, _) = PERCENTILES.first()?;
        let unit = series.metrics.get(*first)?.unit.as_str();
        // A logarithm of nothing is nowhere.
        let value = |(name, _)| series.median(name).filter(|&value| value > 0.0);
        Some(Self {
            who: &series.contender,
            unit,
            values: PERCENTILES.map(value),
        })
    }

    fn values(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        let numbered = self.values.iter().enumerate();
        numbered.filter_map(|(place, value)| Some((place, (*value)?)))
    }
}

/// A plot for each group of the sheet that has distributions.
pub(super) fn curves(sheet: &Sheet<'_>, legend: &Legend) -> String {
    let mut groups: Vec<&str> = Vec::new();
    for series in &sheet.series {
        let group = series.label(&sheet.by);
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let mut html = String::new();
    for group in groups {
        let of_group = |series: &&&Series| series.label(&sheet.by) == group;
        let lines: Vec<Line<'_>> = sheet
            .series
            .iter()
            .filter(of_group)
            .filter_map(|series| Line::of(series))
            .collect();
        let title = format!("distribution: {} {group}", sheet.by);
        html.push_str(&plot(title.trim(), &lines, legend));
    }
    html
}

/// Whole powers of ten around all values.
fn decades(lines: &[Line<'_>]) -> Option<(i32, i32)> {
    let values = || lines.iter().flat_map(|line| line.values().map(|(_, v)| v));
    let smallest = values().fold(f64::INFINITY, f64::min);
    let largest = values().fold(0.0, f64::max);
    if !smallest.is_finite() || !largest.is_finite() || largest <= 0.0 {
        return None;
    }
    // Times in any unit: a few decades around 1.
    #[allow(clippy::cast_possible_truncation)]
    let (low, high) = (
        smallest.log10().floor() as i32,
        largest.log10().ceil() as i32,
    );
    Some((low, high.max(low + 1)))
}

fn plot(title: &str, lines: &[Line<'_>], legend: &Legend) -> String {
    let Some((low, high)) = decades(lines) else {
        return String::new();
    };
    let unit = lines.first().map_or("", |line| line.unit);
    let title = format!("{title} ({unit})");
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let x = |place: usize| LEFT + width * (place as f64 + 0.5) / PERCENTILES.len() as f64;
    let y = |value: f64| {
        let share = (value.log10() - f64::from(low)) / f64::from(high - low);
        TOP + height * (1.0 - share.clamp(0.0, 1.0))
    };
    let mut svg = format!(
        "<h4>{title}</h4>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{title}\">\n",
        title = escape(&title)
    );
    for decade in low..=high {
        let value = 10f64.powi(decade);
        let at = y(value);
        svg.push_str(&format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>\n",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
        ));
    }
    for (place, (name, _)) in PERCENTILES.iter().enumerate() {
        svg.push_str(&format!(
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>\n",
            x(place),
            HEIGHT - BOTTOM + 16.0,
        ));
    }
    for line in lines {
        let points: Vec<String> = line
            .values()
            .map(|(place, value)| format!("{:.1},{:.1}", x(place), y(value)))
            .collect();
        let dots: String = line
            .values()
            .map(|(place, value)| {
                let (name, _) = PERCENTILES[place];
                let says = format!("{}, {name}: {} {unit}", line.who, figure(value));
                format!(
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}</title></circle>",
                    x(place),
                    y(value),
                    escape(&says),
                )
            })
            .collect();
        svg.push_str(&format!(
            "<g class=\"{}\"><polyline points=\"{}\"/>{dots}</g>\n",
            legend.class(line.who),
            points.join(" "),
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    fn series(contender: &str, values: [f64; 6]) -> Series {
        let mut series = Series::new("latency", contender, &[("size", "64")]);
        series.add(Sample {
            metrics: PERCENTILES
                .into_iter()
                .zip(values)
                .map(|((name, _), value)| (name, "µs", value))
                .collect(),
            ..Sample::default()
        });
        series
    }

    #[test]
    fn a_line_rises_from_the_median_to_the_maximum() {
        let one = series("a <b>", [1.0, 2.0, 10.0, 20.0, 50.0, 100.0]);
        let lines = [Line::of(&one).unwrap()];
        let legend = Legend::of_names(&["a <b>"]);
        let svg = plot("t", &lines, &legend);
        let points = svg.split("points=\"").nth(1).unwrap();
        let points = points.split('"').next().unwrap();
        let heights: Vec<f64> = points
            .split(' ')
            .map(|point| point.split(',').nth(1).unwrap().parse().unwrap())
            .collect();
        assert_eq!(heights.len(), PERCENTILES.len());
        assert!(heights.is_sorted_by(|a, b| a > b), "{heights:?}");
        assert_eq!((heights[0], heights[5]), (HEIGHT - BOTTOM, TOP));
        // Two decades: 10 is half way.
        let half = TOP + (HEIGHT - TOP - BOTTOM) / 2.0;
        assert!((heights[2] - half).abs() < 0.1, "{heights:?}");
        assert!(svg.contains("a &lt;b&gt;, p99.9: 20.0 µs"), "{svg}");
    }

    #[test]
    fn what_is_no_distribution_is_not_drawn() {
        let mut rate = Series::new("wire", "a", &[]);
        rate.add(Sample {
            metrics: vec![("delivered", "Mpps", 1.0)],
            ..Sample::default()
        });
        assert!(Line::of(&rate).is_none());
        let nothing = series("a", [0.0; 6]);
        let lines = [Line::of(&nothing).unwrap()];
        assert_eq!(plot("t", &lines, &Legend::of_names(&["a"])), "");
    }
}
