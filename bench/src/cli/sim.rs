//! `tipsec-bench sim`.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use tipsec_bench::sim_bench::{self, Options};
use tipsec_bench::{Error, Result, interrupt, seed};
use tipsec_control::sim::mutants::{CATALOGUE, Mutant};
use tipsec_control::sim::scenario::{self, Mode, Plan};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many histories: the seeds from --seed on, one each.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed; drawn unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Nodes of each history, 2 to 32; as many as its seed says unless given.
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=32))]
    nodes: Option<u8>,
    /// Whether histories end in calm, in which everything has to work again.
    #[arg(long, value_enum, default_value_t = Ends::Liveness)]
    mode: Ends,
    /// Gives every node a deliberate defect (docs/simulator.md lists them).
    #[arg(long, value_parser = mutant)]
    mutant: Option<Mutant>,
    /// Runs --seed alone, and prints what happens in it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Counts what a rekey of every pair costs instead: how many nodes, more
    /// than 100 of them by one node and its peers.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(2..=1024),
          conflicts_with_all = ["seeds", "nodes", "mutant", "trace"])]
    scale: Vec<u16>,
    /// Kills a node of one cluster under load so many times instead, and says how
    /// soon each was back.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..),
          conflicts_with_all = ["seeds", "scale", "mutant", "trace", "mode"])]
    kills: Option<u32>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ends {
    /// Faults to the end.
    Safety,
    /// Calm in the end.
    Liveness,
}

impl Ends {
    fn mode(self) -> Mode {
        match self {
            Self::Safety => Mode::Safety,
            Self::Liveness => Mode::Liveness,
        }
    }
}

pub(crate) fn mutant(name: &str) -> std::result::Result<Mutant, String> {
    let found = CATALOGUE.iter().find(|entry| entry.name == name);
    found.map(|entry| entry.mutant).ok_or_else(|| {
        let names: Vec<_> = CATALOGUE.iter().map(|entry| entry.name).collect();
        format!("no such mutant; there are {}", names.join(", "))
    })
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    super::exit_code(&simulate(arguments), "an invariant broke")
}

/// False if an invariant broke.
fn simulate(arguments: &Arguments) -> Result<bool> {
    interrupt::install()?;
    let first = arguments.seed.unwrap_or_else(seed::from_clock);
    if !arguments.scale.is_empty() {
        let rows = sim_bench::scale(&arguments.scale, first)?;
        return tell(arguments.json, &rows, |out| {
            sim_bench::print_rows(&rows, out)
        })
        .map(|()| true);
    }
    if let Some(kills) = arguments.kills {
        let nodes = arguments.nodes.map_or(3, usize::from);
        let outcome = sim_bench::kills(nodes, kills, first);
        tell(arguments.json, &outcome, |out| {
            sim_bench::print_kills(&outcome, first, out)
        })?;
        return Ok(outcome.broken.is_none());
    }
    let plan = Plan {
        seed: first,
        nodes: arguments.nodes.map(usize::from),
        mode: arguments.mode.mode(),
        mutant: arguments.mutant,
        trace: arguments.trace,
    };
    if arguments.trace {
        return Ok(trace(&plan));
    }
    let options = Options {
        plan,
        seeds: arguments.seeds,
    };
    let outcome = sim_bench::run(&options)?;
    tell(arguments.json, &outcome, |out| outcome.print(&options, out))?;
    Ok(outcome.broken.is_empty())
}

fn trace(plan: &Plan) -> bool {
    let outcome = scenario::run(plan);
    let mut out = std::io::stdout().lock();
    // Nobody may be listening any more.
    for line in &outcome.trace {
        let _ = writeln!(out, "{line}");
    }
    if let Some(violation) = &outcome.violation {
        let _ = writeln!(out, "{violation}");
    }
    let _ = writeln!(out, "trace hash {:016x}", outcome.trace_hash);
    outcome.violation.is_none()
}

/// Prints an outcome, for people or as JSON.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn tell<T: serde::Serialize>(
    json: bool,
    outcome: &T,
    print: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if !json {
        // Nobody may be listening any more.
        let _ = print(&mut out);
        return Ok(());
    }
    let text = serde_json::to_string_pretty(outcome)
        .map_err(std::io::Error::from)
        .map_err(Error::io("write the outcome"))?;
    let _ = writeln!(out, "{text}");
    Ok(())
}
