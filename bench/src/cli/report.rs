//! `tipsec-bench report`.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tipsec_bench::results::Run;
use tipsec_bench::{Error, Result, report_html, report_md};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Results, as `--json` of a benchmark wrote them.
    #[arg(required = true, value_name = "RESULTS")]
    results: Vec<PathBuf>,
    /// Write the report here, an HTML page with plots.
    #[arg(long, value_name = "FILE", required_unless_present = "markdown")]
    html: Option<PathBuf>,
    /// Write the report's tables into this Markdown document: between the marks
    /// that the last report left there, or at its end.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    super::conclude(join(arguments))
}

fn join(arguments: &Arguments) -> Result<bool> {
    let runs: Vec<Run> = arguments
        .results
        .iter()
        .map(|path| Run::read(path))
        .collect::<Result<_>>()?;
    if let Some(path) = &arguments.html {
        report_html::write(&runs, path)?;
    }
    if let Some(path) = &arguments.markdown {
        let what = |doing: &str| format!("{doing} {}", path.display());
        let document = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.map_err(Error::io(what("read")))?,
        };
        let document = report_md::replace(&document, &report_md::render(&runs));
        fs::write(path, document).map_err(Error::io(what("write")))?;
    }
    Ok(true)
}
