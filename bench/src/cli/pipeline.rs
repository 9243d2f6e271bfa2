//! `tipsec-bench pipeline`.

use std::process::ExitCode;

use clap::Args;
use tipsec_bench::pipeline_bench::{self, Options, SIZES};
use tipsec_bench::report::Progress;
use tipsec_bench::wire_bench::options::{FrameSize, PROVIDERS, provider, suite};
use tipsec_bench::{Result, interrupt};
use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::secret::Suite;

use super::output::Output;
use super::wire::or_all;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Frame sizes: 64, 256, 570, 1400, 3400; all unless given.
    #[arg(long, value_delimiter = ',', default_values_t = SIZES)]
    sizes: Vec<FrameSize>,
    /// Ciphers: aes-256-gcm, aes-128-gcm, chacha20-poly1305; all unless given.
    #[arg(long, value_delimiter = ',', value_parser = suite)]
    ciphers: Vec<Suite>,
    /// AEAD crates: ring, aws-lc-rs; both unless given.
    #[arg(long, value_delimiter = ',', value_parser = provider)]
    providers: Vec<Provider>,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    super::conclude(measure(arguments))
}

fn measure(arguments: &Arguments) -> Result<bool> {
    interrupt::install()?;
    arguments.output.check()?;
    let options = Options {
        sizes: arguments.sizes.clone(),
        suites: or_all(&arguments.ciphers, &Suite::ALL),
        providers: or_all(&arguments.providers, &PROVIDERS),
        rounds: arguments.output.rounds(),
        sample: arguments.output.sample(),
    };
    let run = pipeline_bench::run(&options, &Progress::start())?;
    arguments.output.tell(&run)
}
