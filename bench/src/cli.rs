//! The command line: one file a command. Imports the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tipsec_bench::report::Progress;
use tipsec_bench::{Error, Result, cluster, interrupt, netns};

mod demo;
mod drill;
mod explore;
mod gate;
mod output;
mod paced;
mod pipeline;
mod report;
mod scale;
mod sim;
mod tap;
mod wire;

/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Clusters of tipsecd, and benchmarks, in network namespaces of this machine.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A cluster comes up, carries traffic while it rekeys each second, a node
    /// joins, a node is killed; exits 0 if nothing was lost that should not be.
    Demo(demo::Arguments),
    /// Does harm to real daemons under load (kill -9, SIGSTOP, cut cables, a full
    /// disk, …) and accounts for every lost datagram; exits 0 if all is as it
    /// has to be.
    Drill(drill::Arguments),
    /// Measures what passes between two ends of a veth pair: sealed, with a
    /// null cipher, bare, and as the kernel's UDP in clear.
    Wire(wire::Arguments),
    /// Measures TCP and UDP through Tipsec's tap, through other tunnels, and on
    /// the wire in clear; each is started for real, or skipped by name.
    Tap(tap::Arguments),
    /// Measures what the pipelines cost a frame beside the bare cipher, without
    /// NIC and kernel; needs no privileges.
    Pipeline(pipeline::Arguments),
    /// Measures many SAs, many queues, and a rekey of many peers under load.
    Scale(scale::Arguments),
    /// Searches for the rates that pass without loss and with little, on a
    /// schedule that waits for nobody (MLRsearch).
    Ndr(paced::Arguments),
    /// Measures how long frames take at 10, 50 and 90 % of the rate that passes
    /// without loss, from the time when each was due.
    Latency(paced::Arguments),
    /// Runs histories of a simulated cluster, each from a seed, until one breaks
    /// what must always hold; needs no privileges.
    Sim(sim::Arguments),
    /// Walks every way that two or three nodes can go, to a depth, until one breaks
    /// what must always hold; needs no privileges.
    Explore(explore::Arguments),
    /// Makes one report of several runs.
    Report(report::Arguments),
    /// Holds short runs against the report of a full one and against a list of
    /// what has to be in them; fails with every fault by name.
    Gate(gate::Arguments),
}

impl Cli {
    /// Does what was asked.
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Drill(arguments) => drill::run(&arguments),
            Command::Wire(arguments) => wire::run(&arguments),
            Command::Tap(arguments) => tap::run(&arguments),
            Command::Pipeline(arguments) => pipeline::run(&arguments),
            Command::Scale(arguments) => scale::run(&arguments),
            Command::Ndr(arguments) => paced::ndr(&arguments),
            Command::Latency(arguments) => paced::latency(&arguments),
            Command::Sim(arguments) => sim::run(&arguments),
            Command::Explore(arguments) => explore::run(&arguments),
            Command::Report(arguments) => report::run(&arguments),
            Command::Gate(arguments) => gate::run(&arguments),
        }
    }
}

/// Before anything is built: root, signals, what a killed run left.
///
/// # Errors
/// [`Error::NotRoot`], [`Error::Io`].
fn prepare(progress: &Progress) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    interrupt::install()?;
    cluster::sweep();
    let swept = netns::sweep();
    if swept > 0 {
        progress.say(format!(
            "removed {swept} namespaces that a killed run had left"
        ));
    }
    Ok(())
}

/// The exit code of a benchmark: its figures stand, they do not (false), or
/// there are none. Says what went wrong, and what is left behind.
fn conclude(outcome: Result<bool>) -> ExitCode {
    let left = netns::made_by(std::process::id());
    if !left.is_empty() {
        eprintln!("tipsec-bench: left behind: {}", left.join(", "));
    }
    match outcome {
        Ok(true) if !left.is_empty() => ExitCode::FAILURE,
        outcome => exit_code(&outcome, "frames are unaccounted for"),
    }
}

/// The exit code of what came out as it should or not; says what did not.
fn exit_code(outcome: &Result<bool>, otherwise: &str) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("tipsec-bench: FAILED: {otherwise}, see above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tipsec-bench: {error}");
            match error {
                Error::Interrupted => ExitCode::from(INTERRUPTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
