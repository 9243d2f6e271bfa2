//! The command line. Imports nothing from this crate.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tipsec_control::admin::DEFAULT_SOCKET;

/// Operates a Tipsec node: master key, rekey interval, state of the cluster.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 the daemon refused, 2 wrong use or input, \
                  3 the daemon can't be reached."
)]
pub(crate) struct Cli {
    /// Write JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// The daemon's admin socket
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a master key, or give one to this node
    #[command(subcommand)]
    Master(Master),
    /// Say how often keys are replaced, or replace them now
    #[command(subcommand)]
    Rekey(Rekey),
    /// Show this node: keys, NIC queues, workers, what was dropped and why
    Status,
    /// Show every peer: link, keys, traffic, what was dropped and why
    Peers,
    /// Show what happened
    Events(Events),
}

#[derive(Subcommand)]
pub(crate) enum Master {
    /// Print a new random master key (does not set it)
    Generate {
        /// Write it to a new file with mode 0600 instead
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Give this node its master key: asked for twice, or from a file or
    /// standard input
    #[command(
        after_help = "Forms of a key: `tipsec1:…` as `master generate` prints it; 32 to 128 hex \
                      digits; or as for `tipc node set key`, `0x` and hex digits or 20, 28 or 36 \
                      ASCII characters (key and 4 octets of salt, all of which become the master \
                      key).\n\nA key is never an argument: everybody can see those in `ps`."
    )]
    Set(MasterSet),
}

#[derive(Args)]
pub(crate) struct MasterSet {
    /// Read it from a file that only its owner may read
    #[arg(long, short, value_name = "FILE", conflicts_with = "stdin")]
    pub(crate) file: Option<PathBuf>,

    /// Read it from standard input (or say -)
    #[arg(long)]
    pub(crate) stdin: bool,

    /// Takes what must not be there, so that the error is ours and does not
    /// repeat it.
    #[arg(hide = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Subcommand)]
pub(crate) enum Rekey {
    /// Replace every pair's keys this often: 90s, 10m, 2h, 1d, or off
    Interval {
        /// A number and s, m, h or d, from 1s to 365d; or off
        #[arg(allow_hyphen_values = true)]
        interval: String,
    },
    /// Replace every pair's keys at once
    Now,
}

#[derive(Args)]
pub(crate) struct Events {
    /// Wait for more, until interrupted
    #[arg(long, short)]
    pub(crate) follow: bool,

    /// At most so many of the past, up to 1000
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_key_as_an_argument_is_caught_by_us() {
        for arguments in [
            &["0xdeadbeef"][..],
            &["--key", "0xdeadbeef"],
            &["--key=0xdeadbeef"],
            &["-k", "0xdeadbeef", "x"],
        ] {
            let line = [&["tipsec-keyctl", "master", "set"], arguments].concat();
            let cli = match Cli::try_parse_from(line) {
                Ok(cli) => cli,
                Err(error) => panic!("{arguments:?}: {error}"),
            };
            let Command::Master(Master::Set(set)) = cli.command else {
                panic!("not master set");
            };
            assert_eq!(set.arguments, arguments);
        }
    }
}
