//! `tipsec-bench tap`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use tipsec_bench::report::Progress;
use tipsec_bench::tap_bench::{self, Options};
use tipsec_bench::{Result, peers};

use super::output::Files;

#[derive(Args)]
pub(crate) struct Arguments {
    /// What to compare Tipsec with; all unless given.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values = peers::NAMES,
          hide_default_value = true, value_parser = PossibleValuesParser::new(peers::NAMES))]
    peers: Vec<String>,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds of TCP in a sample; a trial of UDP takes as many, 2 at most.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Numbers of TCP streams to measure with.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u8).range(1..=64))]
    streams: Vec<u8>,
    /// Per cent between two rates that UDP is tried at.
    #[arg(long, value_name = "PERCENT", default_value_t = 5,
          value_parser = clap::value_parser!(u8).range(2..=100))]
    udp_step: u8,
    #[command(flatten)]
    files: Files,
    /// Where tipsecd and tipsec-keyctl are; beside this program unless given.
    #[arg(long, value_name = "DIRECTORY")]
    binaries: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    super::conclude(measure(arguments))
}

fn measure(arguments: &Arguments) -> Result<bool> {
    let progress = Progress::start();
    super::prepare(&progress)?;
    arguments.files.check()?;
    let beside = || {
        let program = std::env::current_exe().unwrap_or_default();
        program.parent().map(PathBuf::from).unwrap_or_default()
    };
    let options = Options {
        peers: arguments.peers.clone(),
        rounds: arguments.rounds.into(),
        seconds: arguments.seconds,
        streams: arguments.streams.clone(),
        udp_step_percent: arguments.udp_step,
        binaries: arguments.binaries.clone().unwrap_or_else(beside),
    };
    let run = tap_bench::run(&options, &progress)?;
    arguments.files.tell(&run)
}
