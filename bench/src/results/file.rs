//! Report files: JSON, one [`Run`] each. Imports `error`.

use std::fs;
use std::path::Path;

use super::{Run, SCHEMA};
use crate::error::{Error, Result};

impl Run {
    /// Reads a report file and checks that it is one of this layout.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Unreadable`] with what is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let json = fs::read_to_string(path).map_err(Error::io(format!("read {name}")))?;
        Self::from_json(&json).map_err(|detail| Error::Unreadable {
            what: format!("the report file {name}"),
            detail,
        })
    }

    fn from_json(json: &str) -> std::result::Result<Self, String> {
        #[derive(serde::Deserialize)]
        struct Head {
            schema: u32,
        }
        let described = |error: serde_json::Error| error.to_string();
        // First, since another layout may not read as this one at all.
        let head: Head = serde_json::from_str(json).map_err(described)?;
        if head.schema != SCHEMA {
            return Err(format!(
                "its layout is version {}, this program reads version {SCHEMA}: run the benchmark \
                 again",
                head.schema
            ));
        }
        serde_json::from_str(json).map_err(described)
    }

    /// Writes the report file.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if a figure is not a number, [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        self.check_figures()?;
        let name = path.display().to_string();
        let mut json = serde_json::to_string_pretty(self).map_err(|error| Error::Unreadable {
            what: "the results".into(),
            detail: error.to_string(),
        })?;
        json.push('\n');
        fs::write(path, json).map_err(Error::io(format!("write {name}")))
    }

    /// JSON has no infinity: it would be read back as nothing.
    fn check_figures(&self) -> Result<()> {
        for series in &self.series {
            for (name, metric) in &series.metrics {
                if let Some(round) = metric.samples.iter().position(|value| !value.is_finite()) {
                    return Err(Error::Unreadable {
                        what: format!("the results of {}", series.title()),
                        detail: format!("{name} of round {} is not a number", round + 1),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Machine, Sample, Series};

    fn run() -> Run {
        let mut series = Series::new("wire", "a", &[("size", "64")]);
        series.add(Sample {
            metrics: vec![("rate", "Mpps", 0.1)],
            drops: [("x".to_owned(), 2)].into(),
            unaccounted: 0,
        });
        Run {
            schema: SCHEMA,
            bench: "wire".into(),
            started: "2020-02-29T12:00:00Z".into(),
            version: "0".into(),
            machine: Machine {
                cpu: "c".into(),
                cores: 2,
                kernel: "k".into(),
                virtualised: true,
                memory_bytes: 1,
            },
            rounds: 1,
            pinning: "p".into(),
            series: vec![series, Series::new("wire", "b", &[]).skipped("not here")],
            comparisons: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_run_survives_its_file() {
        let json = serde_json::to_string(&run()).unwrap();
        assert_eq!(Run::from_json(&json).unwrap(), run());
    }

    #[test]
    fn another_layout_is_refused_by_its_number() {
        let refused = Run::from_json(r#"{"schema": 99, "other": true}"#).unwrap_err();
        assert!(refused.contains("version 99"), "{refused}");
        assert!(Run::from_json("{}").is_err());
        assert!(Run::from_json("").is_err());
    }

    #[test]
    fn no_figure_is_infinite() {
        assert!(run().check_figures().is_ok());
        let mut broken = run();
        broken.series[0].add(Sample {
            metrics: vec![("rate", "Mpps", f64::INFINITY)],
            ..Sample::default()
        });
        let text = broken.check_figures().unwrap_err().to_string();
        assert!(text.contains("rate of round 2"), "{text}");
    }
}
