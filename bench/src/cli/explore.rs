//! `tipsec-bench explore`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tipsec_bench::explore_bench::{self, print, print_mutants};
use tipsec_bench::{Error, Result, interrupt};
use tipsec_control::sim::explore::{Plan, Root, table};
use tipsec_control::sim::mutants::Mutant;

use super::sim;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=3))]
    nodes: u8,
    /// How many steps from each root.
    #[arg(long, default_value_t = 7)]
    depth: u32,
    /// How often, all together, something may be repeated, die, or be asked for.
    #[arg(long, default_value_t = 2)]
    extras: u8,
    /// Where to begin; from each root in turn unless given (docs/model.md).
    #[arg(long, value_parser = root)]
    root: Vec<Root>,
    /// No further depth is begun after so many states of a root.
    #[arg(long, default_value_t = 2_000_000)]
    states_max: usize,
    /// Asks from one in so many states whether everything works again.
    #[arg(long, default_value_t = 97, value_parser = clap::value_parser!(u64).range(1..))]
    calm_every: u64,
    /// Gives every node a deliberate defect (docs/model.md).
    #[arg(long, value_parser = sim::mutant)]
    mutant: Option<Mutant>,
    /// Explores with every mutant in turn, and tells which are found.
    #[arg(long, conflicts_with_all = ["mutant", "root"])]
    mutants: bool,
    /// Explores nothing, and renews the state table in this document
    /// (docs/protocol.md).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mutants", "json"])]
    table: Option<PathBuf>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

fn root(name: &str) -> std::result::Result<Root, String> {
    let mut roots = Root::ALL.iter();
    let found = roots.find(|root| root.name() == name).copied();
    found.ok_or_else(|| {
        let names: Vec<_> = Root::ALL.iter().map(|root| root.name()).collect();
        format!("no such root; there are {}", names.join(", "))
    })
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    super::exit_code(&explore(arguments), "a property broke")
}

/// False if a property broke.
fn explore(arguments: &Arguments) -> Result<bool> {
    if let Some(path) = &arguments.table {
        return renew(path).map(|()| true);
    }
    interrupt::install()?;
    let roots = match arguments.root.as_slice() {
        [] => Root::ALL,
        some => some,
    };
    let plan = |root| Plan {
        root,
        nodes: arguments.nodes,
        depth: arguments.depth,
        extras: arguments.extras,
        states_max: arguments.states_max,
        calm_every: arguments.calm_every,
        mutant: arguments.mutant,
        merges: true,
    };
    if arguments.mutants {
        let caught = explore_bench::mutants(&plan(Root::Join))?;
        sim::tell(arguments.json, &caught, |out| print_mutants(&caught, out))?;
        return Ok(true);
    }
    let plans: Vec<Plan> = roots.iter().map(|&root| plan(root)).collect();
    let rows = explore_bench::run(&plans)?;
    sim::tell(arguments.json, &rows, |out| print(&rows, out))?;
    Ok(rows.iter().all(|row| row.violation.is_none()))
}

/// Asks the machine what it does, and writes that into a document.
fn renew(path: &Path) -> Result<()> {
    let document = std::fs::read_to_string(path).map_err(Error::io("read the document"))?;
    let Some(renewed) = table::renew(&document) else {
        let why = format!(
            "{} has no place for a table between '{}' and '{}'",
            path.display(),
            table::MARKERS[0],
            table::MARKERS[1]
        );
        return Err(Error::io("renew the table")(std::io::Error::other(why)));
    };
    std::fs::write(path, renewed).map_err(Error::io("write the document"))?;
    // Nobody may be listening any more.
    let _ = writeln!(std::io::stdout(), "{}: renewed", path.display());
    Ok(())
}
