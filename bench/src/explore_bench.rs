//! `tipsec-bench explore`: every way that a few nodes can go, from each root.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::Serialize;
use tipsec_control::sim::explore::{self, Plan, Root};
use tipsec_control::sim::mutants::CATALOGUE;

use crate::error::Result;
use crate::interrupt;

/// Distance of lines about progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What came of one root.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub root: &'static str,
    /// How many nodes.
    pub nodes: u8,
    /// Repetitions, restarts, requests, data and beacons, all together.
    pub extras: u8,
    /// The steps up to which every state was seen.
    pub depth: u32,
    /// Whether the states were too many to go on.
    pub is_cut: bool,
    /// States, each once.
    pub states: usize,
    /// Steps taken from them.
    pub steps: u64,
    /// States of single nodes.
    pub node_states: usize,
    /// How often it was asked whether everything works again.
    pub calms: u64,
    /// The longest that took, in ms of virtual time.
    pub longest_calm_ms: u128,
    /// How long it all took, in seconds.
    pub seconds: f64,
    /// What broke.
    pub violation: Option<Broken>,
}

/// A property that does not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Broken {
    /// Its name.
    pub property: &'static str,
    /// Where and how.
    pub detail: String,
    /// After so many steps from the root.
    pub depth: u32,
    /// The steps.
    pub trace: Vec<String>,
}

/// Explores from each root in turn.
///
/// # Errors
/// [`crate::Error::Interrupted`].
pub fn run(plans: &[Plan]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for plan in plans {
        let mut told = Instant::now();
        let mut go_on = |depth: u32, states: usize| {
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                eprintln!("{}: at depth {depth}, {states} states", plan.root.name());
            }
            !interrupt::requested()
        };
        let outcome = explore::explore_watched(plan, &mut go_on, &mut |_| {});
        interrupt::check()?;
        rows.push(Row {
            root: plan.root.name(),
            nodes: plan.nodes,
            extras: plan.extras,
            depth: outcome.depth,
            is_cut: outcome.is_cut,
            states: outcome.states,
            steps: outcome.steps,
            node_states: outcome.locals,
            calms: outcome.calms,
            longest_calm_ms: outcome.longest_calm.as_millis(),
            seconds: outcome.seconds,
            violation: outcome.violation.map(|found| Broken {
                property: found.property.name(),
                detail: found.detail,
                depth: found.depth,
                trace: found.trace,
            }),
        });
    }
    Ok(rows)
}

/// Which mutants are found, from which root and after how many steps.
///
/// # Errors
/// [`crate::Error::Interrupted`].
pub fn mutants(plan: &Plan) -> Result<Vec<Caught>> {
    let mut caught = Vec::new();
    for entry in CATALOGUE {
        let plans = Root::ALL.iter().map(|&root| Plan {
            root,
            mutant: Some(entry.mutant),
            ..*plan
        });
        let rows = run(&plans.collect::<Vec<_>>())?;
        let found = rows.into_iter().filter_map(|row| {
            let broken = row.violation?;
            Some((broken.depth, row.root, broken.property))
        });
        caught.push(Caught {
            mutant: entry.name,
            nearest: found.min(),
        });
    }
    Ok(caught)
}

/// What became of one mutant.
#[derive(Clone, Debug, Serialize)]
pub struct Caught {
    /// Its name.
    pub mutant: &'static str,
    /// The least steps that show it, from which root, and what breaks.
    pub nearest: Option<(u32, &'static str, &'static str)>,
}

/// For people, and for docs/model.md.
///
/// # Errors
/// Those of `out`.
pub fn print(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "| nodes | root | extras | depth | states | steps | states of one node | convergence asked | longest, ms | seconds |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
    for row in rows {
        writeln!(
            out,
            "| {} | `{}` | {} | {} | {} | {} | {} | {} | {} | {:.0} |",
            row.nodes,
            row.root,
            row.extras,
            row.depth,
            row.states,
            row.steps,
            row.node_states,
            row.calms,
            row.longest_calm_ms,
            row.seconds
        )?;
    }
    for row in rows {
        if let Some(broken) = &row.violation {
            writeln!(
                out,
                "{}: '{}' does not hold after {} steps: {}",
                row.root, broken.property, broken.depth, broken.detail
            )?;
            for line in &broken.trace {
                writeln!(out, "  {line}")?;
            }
        }
    }
    if rows.iter().all(|row| row.violation.is_none()) {
        writeln!(out, "no property broke")?;
    }
    Ok(())
}

/// For people, and for docs/model.md.
///
/// # Errors
/// Those of `out`.
pub fn print_mutants(caught: &[Caught], out: &mut dyn Write) -> io::Result<()> {
    for one in caught {
        match one.nearest {
            Some((depth, root, property)) => writeln!(
                out,
                "| `{}` | `{root}`, {depth} steps | `{property}` |",
                one.mutant
            )?,
            None => writeln!(out, "| `{}` | — | — |", one.mutant)?,
        }
    }
    Ok(())
}
