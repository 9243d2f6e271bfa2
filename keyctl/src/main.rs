//! `tipsec-keyctl`: sets the master key and the rekey interval, and shows the
//! state of a node. Talks to `tipsecd` over its admin socket.
//!
//! Exit status: 0 done, 1 the daemon refused (or the output could not be
//! written), 2 wrong use or input, 3 the daemon can't be reached or
//! understood.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{DumpableBehavior, Resource, Rlimit};

mod cli;
mod client;
mod command;
mod error;
mod format;
mod key_file;
mod prompt;
mod show;
mod show_evicted;
mod show_master;

use error::Error;

fn main() -> ExitCode {
    forbid_core_dumps();
    // Wrong use ends here, with clap's own status 2.
    let cli = cli::Cli::parse();
    let mut out = io::stdout().lock();
    let done = command::run(&cli, &mut out).and_then(|()| Ok(out.flush()?));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read us has seen enough, as in `… | head -1`.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            if cli.json {
                // If this fails too, the text below still says what is wrong.
                let _ = writeln!(out, "{}", error.to_json());
            }
            let _ = writeln!(io::stderr(), "tipsec-keyctl: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}

/// A dump would hold keys. A system that can't forbid them is no reason not to
/// work: both ways are tried, and either is enough.
fn forbid_core_dumps() {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = rustix::process::setrlimit(Resource::Core, none);
}
