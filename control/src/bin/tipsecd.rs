//! `tipsecd`: the daemon of one node.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tipsec_control::config::{Config, DEFAULT_CONFIG};
use tipsec_control::shell::check::Report;
use tipsec_control::shell::start::start;
use tracing_subscriber::EnvFilter;

/// Encrypted cluster transport: seals every frame between this node and its
/// peers, over AF_XDP.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 fine, 1 something prevents operation, 2 bad usage."
)]
struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,

    /// Read and check the configuration, and do nothing else
    #[arg(long)]
    check_config: bool,

    /// Read configuration and machine, say line by line what is fine and what
    /// to change, and change nothing; what only root can read is then unknown
    #[arg(long, conflicts_with = "check_config")]
    check: bool,

    /// With --check: one JSON object instead of text
    #[arg(long, requires = "check")]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("TIPSEC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours are for people, not for files and journals.
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            let mut told = error.to_string();
            tracing::error!("{told}");
            let mut cause = error.source();
            while let Some(deeper) = cause {
                let text = deeper.to_string();
                // Some errors quote their cause, others only have one.
                if !told.ends_with(&text) {
                    tracing::error!("because: {text}");
                    told = text;
                }
                cause = deeper.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // No core dump, and no reading of our memory by others of the same user:
    // the process holds keys.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    if arguments.check {
        return Ok(check(arguments)?);
    }
    let config = Config::load(&arguments.config)?;
    if arguments.check_config {
        config.check_for_daemon()?;
        return Ok(ExitCode::SUCCESS);
    }
    if cfg!(feature = "drill") {
        tracing::warn!("built with the feature `drill`: workers panic on demand; not for use");
    }
    start(&config)?.run()?;
    Ok(ExitCode::SUCCESS)
}

fn check(arguments: &Arguments) -> std::io::Result<ExitCode> {
    let report = Report::of_machine(&arguments.config);
    let mut out = std::io::stdout().lock();
    let text = if arguments.json {
        report.to_json()
    } else {
        report.to_text(out.is_terminal() && std::env::var_os("NO_COLOR").is_none())
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Who read as much as they wanted, such as `head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(ExitCode::from(u8::from(report.prevents_operation())))
}
