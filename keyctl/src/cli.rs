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
    /// Put a node out: this node takes nothing from it under the keys that it has.
    /// To be said on every other node, and followed by a new master key
    Evict {
        /// Its id
        node: u32,
    },
    /// Take back a node that was put out
    Readmit {
        /// Its id
        node: u32,
    },
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
    /// Give this node its first master key: asked for twice, or from elsewhere
    #[command(after_help = KEY_HELP)]
    Set(MasterSet),
    /// Rotation, step 1, on every node: take the next key, and use it only with
    /// nodes that have it active
    #[command(after_help = KEY_HELP)]
    Stage(MasterStage),
    /// Rotation, step 2, on every node: make the staged key the active one;
    /// every pair is rekeyed within 60 s
    Activate,
    /// Rotation, step 3, on every node: forget the key that was active before
    Retire {
        /// Even if nodes still depend on it: their links go down
        #[arg(long)]
        force: bool,
    },
    /// Show which node holds which key, and what keys frames are sealed under
    Status,
}

/// Behind the help of what takes a key.
const KEY_HELP: &str = "Forms of a key: `tipsec1:…` as `master generate` prints it; 32 to 128 hex \
                      digits; or as for `tipc node set key`, `0x` and hex digits or 20, 28 or 36 \
                      ASCII characters (key and 4 octets of salt, all of which become the master \
                      key).\n\nA key is never an argument: everybody can see those in `ps`.";

#[derive(Args)]
pub(crate) struct MasterSet {
    #[command(flatten)]
    pub(crate) source: KeySource,

    /// Even if the node has another key and links are up: they go down
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args)]
pub(crate) struct MasterStage {
    #[command(flatten)]
    pub(crate) source: KeySource,

    /// In place of the key that is staged
    #[arg(long)]
    pub(crate) replace: bool,
}

/// Where a key comes from; the prompt unless said otherwise.
#[derive(Args)]
pub(crate) struct KeySource {
    /// Read it from a file that only its owner may read
    #[arg(long, short, value_name = "FILE", group = "source")]
    pub(crate) file: Option<PathBuf>,

    /// Read it from this open file descriptor
    #[arg(long, value_name = "N", group = "source")]
    pub(crate) fd: Option<u32>,

    /// Read it from this credential, in a service of systemd with
    /// LoadCredential=NAME:FILE
    #[arg(long, value_name = "NAME", group = "source")]
    pub(crate) credential: Option<String>,

    /// Read it from standard input (or say -)
    #[arg(long, group = "source")]
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
            assert_eq!(set.source.arguments, arguments);
        }
    }
}
