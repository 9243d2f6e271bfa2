//! `tipsec-bench gate`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tipsec_bench::gate::{self, Expectations, Verdict};
use tipsec_bench::results::Run;
use tipsec_bench::{Error, Result};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Results of short runs, as `--json` of a benchmark wrote them.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Results of full runs to hold them against, one a benchmark; without any,
    /// no figure is held against anything.
    #[arg(long, value_name = "REPORT", num_args = 1..)]
    against: Vec<PathBuf>,
    /// What has to be in the runs: a benchmark, a contender and labels a line.
    #[arg(long, value_name = "FILE")]
    expect: PathBuf,
    /// Write the verdict here as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match hold(arguments) {
        Ok(Verdict { passed: true, .. }) => ExitCode::SUCCESS,
        Ok(Verdict { faults, .. }) => {
            eprintln!(
                "tipsec-bench: gate FAILED, faults: {}, see above",
                faults.len()
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tipsec-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hold(arguments: &Arguments) -> Result<Verdict> {
    let expected = Expectations::read(&arguments.expect)?;
    let (runs, reports) = (read(&arguments.runs)?, read(&arguments.against)?);
    let verdict = gate::judge(&runs, &reports, &expected)?;
    let mut out = std::io::stdout().lock();
    // Nobody may be listening.
    let _ = verdict.print(&mut out);
    if arguments.against.is_empty() {
        let _ = writeln!(
            out,
            "NO REPORT was given: no figure was held against anything"
        );
    }
    if let Some(path) = &arguments.json {
        write(&verdict, path)?;
    }
    Ok(verdict)
}

fn read(files: &[PathBuf]) -> Result<Vec<Run>> {
    files.iter().map(|path| Run::read(path)).collect()
}

fn write(verdict: &Verdict, path: &Path) -> Result<()> {
    let failed = || Error::io(format!("write {}", path.display()));
    let mut json = serde_json::to_vec_pretty(verdict)
        .map_err(std::io::Error::from)
        .map_err(failed())?;
    json.push(b'\n');
    fs::write(path, json).map_err(failed())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_benchmark_is_a_command() {
        let command = super::super::Cli::command();
        for name in tipsec_bench::gate::BENCHES {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }
}
