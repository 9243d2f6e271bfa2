//! `tipsec-bench drill`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tipsec_bench::drill::{self, CATALOGUE, Options, Report};
use tipsec_bench::report::Progress;
use tipsec_bench::{Error, Result, netns, seed};

use super::INTERRUPTED;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Which drills; all of them unless given.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// At length: 50 kills, 10 minutes of rekeys, a stop of 5 minutes.
    #[arg(long)]
    long: bool,
    /// Say what drills there are, and do nothing.
    #[arg(long)]
    list: bool,
    /// Write what was found here as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What random choices follow from; drawn unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Where tipsecd and tipsec-keyctl are; beside this program unless given.
    #[arg(long, value_name = "DIRECTORY")]
    binaries: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if arguments.list {
        return list();
    }
    let progress = Progress::start();
    let mut report = Report::default();
    let error = tell(arguments, &mut report, &progress).err();
    let interrupted = matches!(error, Some(Error::Interrupted));
    report.errors.extend(error.map(|error| error.to_string()));
    let left = netns::made_by(std::process::id());
    if !left.is_empty() {
        let left = left.join(", ");
        report.errors.push(format!("left behind: {left}"));
    }
    report.conclude();
    // Nobody may be listening any more.
    let _ = report.print(&mut std::io::stdout().lock());
    let written = arguments
        .json
        .as_ref()
        .is_none_or(|path| write(&report, path));
    match (interrupted, report.passed && written) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    }
}

fn list() -> ExitCode {
    let mut out = std::io::stdout().lock();
    for drill in CATALOGUE {
        let [short, long] = drill.seconds;
        // Nobody may be listening any more.
        let _ = writeln!(
            out,
            "{:<10} {} (about {short} s, --long {long} s)",
            drill.name, drill.about
        );
    }
    ExitCode::SUCCESS
}

fn tell(arguments: &Arguments, report: &mut Report, progress: &Progress) -> Result<()> {
    super::prepare(progress)?;
    let beside = || {
        let program = std::env::current_exe().unwrap_or_default();
        program.parent().map(PathBuf::from).unwrap_or_default()
    };
    let options = Options {
        names: arguments.names.clone(),
        long: arguments.long,
        binaries: arguments.binaries.clone().unwrap_or_else(beside),
        seed: arguments.seed.unwrap_or_else(seed::from_clock),
    };
    drill::run(&options, report, progress)
}

/// Writes the report; a failure is said, since the file was asked for.
fn write(report: &Report, path: &Path) -> bool {
    let result = serde_json::to_vec_pretty(report)
        .map_err(std::io::Error::from)
        .and_then(|json| fs::write(path, json));
    if let Err(error) = &result {
        eprintln!("tipsec-bench: cannot write {}: {error}", path.display());
    }
    result.is_ok()
}
