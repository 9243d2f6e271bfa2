//! `tipsec-bench ndr` and `tipsec-bench latency`, which are asked the same.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tipsec_bench::Result;
use tipsec_bench::report::Progress;
use tipsec_bench::results::Run;
use tipsec_bench::wire_bench::options::{FrameSize, Kind, Profile, provider, suite};
use tipsec_bench::wire_bench::paced::options::{CONTENDERS, contender};
use tipsec_bench::wire_bench::paced::{Options, Wait, latency, ndr};
use tipsec_dataplane::aead::Provider;
use tipsec_dataplane::secret::Suite;

use super::output::Files;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Frame sizes: 64, 256, 570, 1400, imix, 3400, 9000; unless given 64 and
    /// 1400, for `ndr` imix as well.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<FrameSize>,
    /// Where the receiver's NAPI runs: inline, threaded; both unless given.
    #[arg(long, value_delimiter = ',', default_values_t = Profile::ALL)]
    profiles: Vec<Profile>,
    /// Who takes part: tipsec, null, bare, udp; all but null unless given.
    #[arg(long, value_delimiter = ',', value_parser = contender)]
    contenders: Vec<Kind>,
    /// What the receiver does without frames: spin, sleep; unless given both,
    /// for `ndr` sleep.
    #[arg(long, value_delimiter = ',')]
    waits: Vec<Wait>,
    /// Cipher: aes-256-gcm, aes-128-gcm, chacha20-poly1305.
    #[arg(long, default_value = "aes-256-gcm", value_parser = suite)]
    cipher: Suite,
    /// AEAD crate: ring, aws-lc-rs.
    #[arg(long, default_value = "ring", value_parser = provider)]
    provider: Provider,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of one sample of `latency`; of a trial of `ndr` that decides.
    #[arg(long, default_value_t = 1.0, value_parser = super::wire::seconds)]
    seconds: f64,
    /// Frames in flight, 1 to 1024.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    depth: u32,
    #[command(flatten)]
    files: Files,
}

/// What was given, or the default.
fn or<T: Copy>(given: &[T], default: &[T]) -> Vec<T> {
    let chosen = if given.is_empty() { default } else { given };
    chosen.into()
}

pub(crate) fn ndr(arguments: &Arguments) -> ExitCode {
    let sizes = [FrameSize::B64, FrameSize::B1400, FrameSize::Imix];
    let options = options(arguments, &sizes, &[Wait::Sleep]);
    super::conclude(measure(arguments, |progress| ndr::run(&options, progress)))
}

pub(crate) fn latency(arguments: &Arguments) -> ExitCode {
    let sizes = [FrameSize::B64, FrameSize::B1400];
    let options = options(arguments, &sizes, &Wait::ALL);
    super::conclude(measure(arguments, |progress| {
        latency::run(&options, progress)
    }))
}

fn options(arguments: &Arguments, sizes: &[FrameSize], waits: &[Wait]) -> Options {
    let usual: Vec<Kind> = CONTENDERS
        .into_iter()
        .filter(|&kind| kind != Kind::Null)
        .collect();
    Options {
        sizes: or(&arguments.sizes, sizes),
        profiles: arguments.profiles.clone(),
        contenders: or(&arguments.contenders, &usual),
        waits: or(&arguments.waits, waits),
        suite: arguments.cipher,
        provider: arguments.provider,
        rounds: arguments.rounds as usize,
        sample: Duration::from_secs_f64(arguments.seconds),
        depth: arguments.depth as usize,
    }
}

fn measure(arguments: &Arguments, run: impl FnOnce(&Progress) -> Result<Run>) -> Result<bool> {
    let progress = Progress::start();
    super::prepare(&progress)?;
    arguments.files.check()?;
    arguments.files.tell(&run(&progress)?)
}
