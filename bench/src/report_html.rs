//! The report: one HTML page that needs nothing but a browser, in light and in
//! dark. Imports `results`.
//!
//! Plots are drawn here as SVG, by hand: a plotting crate would fix colours in
//! the file, which then fit one of the two backgrounds only, and brings more
//! code than grouped bars are.
//!
//! * this file: the page; `sheet`: series sorted into panels, one a plot;
//! * `plot`: a panel as grouped bars with whiskers; `curve`: a distribution as a
//!   line; `table`: the same and the
//!   rest as tables; `markup`: text made safe; `style.css`: all looks.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::results::Run;

mod curve;
mod markup;
mod plot;
mod sheet;
mod table;

use markup::escape;
use sheet::{Legend, sheets};

const STYLE: &str = include_str!("report_html/style.css");

/// Writes the report of all runs.
///
/// # Errors
/// [`Error::Io`].
pub fn write(runs: &[Run], path: &Path) -> Result<()> {
    let what = format!("write {}", path.display());
    fs::write(path, page(runs)).map_err(Error::io(what))
}

/// The whole page.
pub fn page(runs: &[Run]) -> String {
    let mut body = String::new();
    for run in runs {
        body.push_str(&section(run));
    }
    let names: Vec<&str> = runs.iter().map(|run| run.bench.as_str()).collect();
    let title = format!("Tipsec benchmarks: {}", names.join(", "));
    let title = escape(&title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         {body}</body>\n</html>\n"
    )
}

fn section(run: &Run) -> String {
    let legend = Legend::of(run);
    let mut html = format!("<section>\n<h2>{}</h2>\n", escape(&run.bench));
    html.push_str(&table::head(run));
    let (targets, others): (Vec<_>, Vec<_>) = run
        .comparisons
        .iter()
        .partition(|comparison| comparison.wanted.is_some());
    html.push_str(&table::comparisons("targets", &targets));
    for sheet in sheets(run) {
        html.push_str(&format!("<h3>{}</h3>\n", escape(&sheet.title)));
        html.push_str(&table::legend(&sheet, &legend));
        html.push_str(&curve::curves(&sheet, &legend));
        for panel in &sheet.panels {
            html.push_str(&format!("<h4>{}</h4>\n", escape(&panel.title())));
            html.push_str(&plot::bars(panel, &legend));
            html.push_str(&table::figures(panel));
        }
        html.push_str(&table::drops(&sheet));
    }
    html.push_str(&table::comparisons("further comparisons", &others));
    html.push_str(&table::skipped(run));
    html.push_str(&table::notes(&run.all_notes()));
    html.push_str("</section>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Bound, Comparison, Machine, SCHEMA, Sample, Series};

    fn run() -> Run {
        let series = |contender: &str, size: &str, rates: &[f64]| {
            let labels = [("profile", "inline"), ("size", size)];
            let mut series = Series::new("wire", contender, &labels);
            for &rate in rates {
                series.add(Sample {
                    metrics: vec![("delivered", "Mpps", rate)],
                    drops: [("ring <full>".to_owned(), 7)].into(),
                    unaccounted: 0,
                });
            }
            series
        };
        let series = vec![
            series("a", "64", &[1.0, 2.0, 3.0]),
            series("b", "64", &[4.0, 5.0, 6.0]),
            series("a", "1400", &[0.5, 0.5, 0.5]),
            Series::new("wire", "b & c", &[("profile", "inline"), ("size", "1400")])
                .skipped("not <here>"),
        ];
        let wanted = Some(Bound::AtLeast(0.9));
        Run {
            schema: SCHEMA,
            bench: "wire".into(),
            started: "2020-02-29T12:00:00Z".into(),
            version: "0.1.0".into(),
            machine: Machine {
                cpu: "A <fast> CPU".into(),
                cores: 2,
                kernel: "6.1".into(),
                virtualised: true,
                memory_bytes: 8 << 30,
            },
            rounds: 3,
            pinning: "sender on core 0".into(),
            comparisons: Comparison::ratio("a / b", &series[0], &series[1], "delivered", wanted)
                .into_iter()
                .collect(),
            series,
            notes: vec!["a note".into()],
        }
    }

    #[test]
    fn everything_is_on_the_page() {
        let page = page(&[run()]);
        for wanted in [
            "A &lt;fast&gt; CPU",
            "Linux 6.1",
            "virtual machine",
            "<svg",
            "2.00<br><small>1.00 … 3.00</small>",
            "ring &lt;full&gt;",
            "21",
            "b &amp; c",
            "not &lt;here&gt;",
            "missed",
            "a note",
        ] {
            assert!(page.contains(wanted), "{wanted} is missing");
        }
        assert!(!page.contains("<fast>"), "text is no markup");
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&[run(), run()]);
        for foreign in ["<script", "<link", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
        // Tags that open are closed; those that stand alone aside.
        for tag in [
            "table", "svg", "section", "tr", "td", "th", "div", "g", "ul", "li",
        ] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            let closed = page.matches(&format!("</{tag}>")).count();
            assert_eq!(opened, closed, "{tag}");
        }
    }
}
