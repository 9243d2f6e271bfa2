//! `tipsec-bench wire`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tipsec_bench::Result;
use tipsec_bench::report::Progress;
use tipsec_bench::wire_bench::options::{FrameSize, Kind, PROVIDERS, Profile, provider, suite};
use tipsec_bench::wire_bench::{self, Options};
use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::secret::Suite;

use super::output::Files;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Frame sizes: 64, 256, 570, 1400, imix, 3400, 9000; all unless given.
    #[arg(long, value_delimiter = ',', default_values_t = FrameSize::ALL)]
    sizes: Vec<FrameSize>,
    /// Where the receiver's NAPI runs: inline, threaded; both unless given.
    #[arg(long, value_delimiter = ',', default_values_t = Profile::ALL)]
    profiles: Vec<Profile>,
    /// Ciphers: aes-256-gcm, aes-128-gcm, chacha20-poly1305; all unless given.
    #[arg(long, value_delimiter = ',', value_parser = suite)]
    ciphers: Vec<Suite>,
    /// AEAD crates: ring, aws-lc-rs; both unless given.
    #[arg(long, value_delimiter = ',', value_parser = provider)]
    providers: Vec<Provider>,
    /// Who takes part: tipsec, null, bare, endpoint, udp, udp-segment, aead; all unless given.
    #[arg(long, value_delimiter = ',', default_values_t = Kind::ALL)]
    contenders: Vec<Kind>,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of one sample.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Frames in flight, 1 to 1024; found for each profile unless given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    depth: Option<u32>,
    #[command(flatten)]
    files: Files,
}

/// A sample's length: long enough for the clock of /proc/stat, and finite.
pub(super) fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a sample takes 0.05 to 600 seconds".into()),
    }
}

/// What was given, or all.
pub(super) fn or_all<T: Copy>(given: &[T], all: &[T]) -> Vec<T> {
    if given.is_empty() {
        all.into()
    } else {
        given.into()
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    super::conclude(measure(arguments))
}

fn measure(arguments: &Arguments) -> Result<bool> {
    let progress = Progress::start();
    super::prepare(&progress)?;
    arguments.files.check()?;
    let options = Options {
        sizes: arguments.sizes.clone(),
        profiles: arguments.profiles.clone(),
        contenders: arguments.contenders.clone(),
        suites: or_all(&arguments.ciphers, &Suite::ALL),
        providers: or_all(&arguments.providers, &PROVIDERS),
        rounds: arguments.rounds as usize,
        sample: Duration::from_secs_f64(arguments.seconds),
        depth: arguments.depth.map(|depth| depth as usize),
    };
    let run = wire_bench::run(&options, &progress)?;
    arguments.files.tell(&run)
}
