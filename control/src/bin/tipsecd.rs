//! `tipsecd`: the daemon of one node.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tipsec_control::config::{Config, DEFAULT_CONFIG};
use tipsec_control::shell::start::start;
use tracing_subscriber::EnvFilter;

/// Encrypted cluster transport: seals every frame between this node and its
/// peers, over AF_XDP.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,

    /// Read and check the configuration, and do nothing else
    #[arg(long)]
    check_config: bool,
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
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
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

fn serve(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    // No core dump, and no reading of our memory by others of the same user:
    // the process holds keys.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let config = Config::load(&arguments.config)?;
    if arguments.check_config {
        return Ok(());
    }
    start(&config)?.run()?;
    Ok(())
}
