//! `tipsec-bench scale`.

use std::process::ExitCode;

use clap::Args;
use tipsec_bench::report::Progress;
use tipsec_bench::scale_bench::{self, Options, Part};
use tipsec_bench::wire_bench::options::{FrameSize, PROVIDERS, provider};
use tipsec_bench::{Result, interrupt, seed};
use tipsec_dataplane::aead::Provider;

use super::output::Output;
use super::wire::or_all;

#[derive(Args)]
pub(crate) struct Arguments {
    /// What is measured: sas (many SAs in the pipelines), wire (many SAs end to
    /// end), queues, rekey; all unless given. wire and queues need root.
    #[arg(long, value_delimiter = ',', default_values_t = Part::ALL)]
    parts: Vec<Part>,
    /// Numbers of SAs in the pipelines, 1 to 1,000,000; the first is what the
    /// others are compared with.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 10_000, 100_000],
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sas: Vec<u32>,
    /// Numbers of SAs end to end, 1 to 65,000; the first is what the others are
    /// compared with.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10_000],
          value_parser = clap::value_parser!(u32).range(1..=65_000))]
    wire_sas: Vec<u32>,
    /// Numbers of queues, 1 to 16; the first is what the others are compared with.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2],
          value_parser = clap::value_parser!(u32).range(1..=16))]
    queues: Vec<u32>,
    /// Peers that are rekeyed, 1 to 1,024.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1024))]
    peers: u16,
    /// Frame sizes of sas and wire.
    #[arg(long, value_delimiter = ',', default_values_t = scale_bench::SIZES)]
    sizes: Vec<FrameSize>,
    /// AEAD crates: ring, aws-lc-rs; both unless given.
    #[arg(long, value_delimiter = ',', value_parser = provider)]
    providers: Vec<Provider>,
    /// Which frames are of which SA follows from this; drawn unless given.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    super::conclude(measure(arguments))
}

fn measure(arguments: &Arguments) -> Result<bool> {
    let progress = Progress::start();
    if arguments.parts.iter().any(|part| part.needs_root()) {
        super::prepare(&progress)?;
    } else {
        interrupt::install()?;
    }
    arguments.output.check()?;
    let options = Options {
        parts: arguments.parts.clone(),
        sas: arguments.sas.clone(),
        wire_sas: arguments.wire_sas.clone(),
        queues: arguments.queues.clone(),
        peers: arguments.peers,
        sizes: arguments.sizes.clone(),
        providers: or_all(&arguments.providers, &PROVIDERS),
        seed: arguments.seed.unwrap_or_else(seed::from_clock),
        rounds: arguments.output.rounds(),
        sample: arguments.output.sample(),
    };
    let run = scale_bench::run(&options, &progress)?;
    arguments.output.tell(&run)
}
