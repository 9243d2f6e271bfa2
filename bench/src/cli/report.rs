//! `tipsec-bench report`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tipsec_bench::results::Run;
use tipsec_bench::{Result, report_html};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Results, as `--json` of a benchmark wrote them.
    #[arg(required = true, value_name = "RESULTS")]
    results: Vec<PathBuf>,
    /// Where to write the report.
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
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
    report_html::write(&runs, &arguments.html)?;
    Ok(true)
}
