//! `tipsec-bench demo`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tipsec_bench::demo::{self, Options};
use tipsec_bench::report::{Progress, Summary};
use tipsec_bench::{Error, Result, netns};

use super::INTERRUPTED;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Nodes at the start; one more joins.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: u8,
    /// Seconds of traffic, about.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    seconds: u32,
    /// Write the summary here as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where tipsecd and tipsec-keyctl are; beside this program unless given.
    #[arg(long, value_name = "DIRECTORY")]
    binaries: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let progress = Progress::start();
    let mut summary = Summary::default();
    let error = tell(arguments, &mut summary, &progress).err();
    let interrupted = matches!(error, Some(Error::Interrupted));
    let left = netns::made_by(std::process::id());
    summary.check(
        "nothing is left behind",
        left.is_empty(),
        if left.is_empty() {
            "no namespace, no process".to_owned()
        } else {
            left.join(", ")
        },
    );
    summary.conclude(error.map(|error| error.to_string()));
    // Nobody may be listening any more.
    let _ = summary.print(&mut std::io::stdout().lock());
    let written = arguments
        .json
        .as_ref()
        .is_none_or(|path| write(&summary, path));
    match (interrupted, summary.passed && written) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    }
}

fn tell(arguments: &Arguments, summary: &mut Summary, progress: &Progress) -> Result<()> {
    super::prepare(progress)?;
    let beside = || {
        let program = std::env::current_exe().unwrap_or_default();
        program.parent().map(PathBuf::from).unwrap_or_default()
    };
    let options = Options {
        nodes: arguments.nodes,
        seconds: arguments.seconds,
        binaries: arguments.binaries.clone().unwrap_or_else(beside),
    };
    demo::run(&options, summary, progress)
}

/// Writes the summary; a failure is said, since the file was asked for.
fn write(summary: &Summary, path: &Path) -> bool {
    let result = serde_json::to_vec_pretty(summary)
        .map_err(std::io::Error::from)
        .and_then(|json| fs::write(path, json));
    if let Err(error) = &result {
        Progress::start().say(format!("cannot write {}: {error}", path.display()));
    }
    result.is_ok()
}
