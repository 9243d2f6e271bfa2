//! What `tipsec-bench drill` does: real daemons in namespaces, numbered traffic
//! through them, harm, and an account of it. Imports everything above it in
//! the crate. `docs/drills.md` says what each drill proves and what it does not.
//!
//! * `outcome`: what a drill found, for people and programs (pure).
//! * `stream`: numbered datagrams between two taps; `tally`: which of them were
//!   lost, and when they were sent (pure).
//! * `lab`: a cluster with captures; `trial`: traffic from before the harm until
//!   after it; `account`: what the counters say about the lost ones (pure).
//! * `relay`: frames that are dropped, doubled and reordered on purpose;
//!   `mangle`: which of them (pure).
//! * One file a drill: `kill`, `rekeys`, `relayed`, `pause`, `carrier`,
//!   `partition`, `vanish`, `detach`, `disk`, `hang`, `panic`.

use std::path::PathBuf;
use std::time::Instant;

use crate::cluster::Binaries;
use crate::error::{Error, Result};
use crate::report::Progress;

mod account;
mod carrier;
mod detach;
mod disk;
mod freezer;
mod hang;
mod kill;
mod lab;
mod mangle;
mod outcome;
mod panic;
mod partition;
mod pause;
mod rekeys;
mod relay;
mod relayed;
mod stream;
mod tally;
mod trial;
mod vanish;

pub use outcome::{Harm, Outcome, Report};

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of drills; all of them if empty.
    pub names: Vec<String>,
    /// At length, for hours without an audience.
    pub long: bool,
    /// Where `tipsecd` and `tipsec-keyctl` are.
    pub binaries: PathBuf,
    /// What random choices follow from.
    pub seed: u64,
}

/// One kind of harm.
pub struct Drill {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What is done, in a line.
    pub about: &'static str,
    /// Seconds it takes, about: short, and at length.
    pub seconds: [u32; 2],
    run: fn(&Scene<'_>, &mut Outcome) -> Result<()>,
}

/// What every drill is given.
struct Scene<'a> {
    binaries: Binaries,
    long: bool,
    seed: u64,
    progress: &'a Progress,
}

impl Scene<'_> {
    /// The first if the run is short.
    fn pick<T>(&self, short: T, long: T) -> T {
        if self.long { long } else { short }
    }
}

/// Every drill, in the order in which they are run.
pub const CATALOGUE: &[Drill] = &[
    Drill {
        name: "kill",
        about: "kill -9 of a daemon under load, again and again",
        seconds: [14, 110],
        run: kill::run,
    },
    Drill {
        name: "rekeys",
        about: "saturating traffic while every pair rekeys each 200 ms",
        seconds: [20, 615],
        run: rekeys::run,
    },
    Drill {
        name: "relay",
        about: "a relay that drops, doubles and reorders, while every pair rekeys each 200 ms",
        seconds: [18, 130],
        run: relayed::run,
    },
    Drill {
        name: "stop",
        about: "SIGSTOP of a daemon under load, SIGCONT later",
        seconds: [10, 340],
        run: pause::run,
    },
    Drill {
        name: "carrier",
        about: "the other end of a node's cable goes down and up",
        seconds: [12, 60],
        run: carrier::run,
    },
    Drill {
        name: "partition",
        about: "one node is cut off from the others, and joined again",
        seconds: [10, 50],
        run: partition::run,
    },
    Drill {
        name: "vanish",
        about: "a NIC is deleted under the daemon and made anew",
        seconds: [12, 12],
        run: vanish::run,
    },
    Drill {
        name: "detach",
        about: "somebody else takes the XDP program off, or tries to",
        seconds: [12, 12],
        run: detach::run,
    },
    Drill {
        name: "disk",
        about: "the disk with the keyring is full when the next master key is staged",
        seconds: [8, 8],
        run: disk::run,
    },
    Drill {
        name: "hang",
        about: "the control thread stands still, then a worker, while the rest goes on",
        seconds: [14, 40],
        run: hang::run,
    },
    Drill {
        name: "panic",
        about: "a worker panics at each stage of its pass",
        seconds: [40, 40],
        run: panic::run,
    },
];

/// The drills of these names, in the catalogue's order; all if there are none.
///
/// # Errors
/// [`Error::Failed`] that names what there is.
pub fn choose(names: &[String]) -> Result<Vec<&'static Drill>> {
    for name in names {
        if !CATALOGUE.iter().any(|drill| drill.name == name) {
            let known: Vec<_> = CATALOGUE.iter().map(|drill| drill.name).collect();
            return Err(Error::Failed {
                what: format!("run the drill {name:?}"),
                detail: format!("there are {}", known.join(", ")),
            });
        }
    }
    let chosen = |drill: &&Drill| names.is_empty() || names.iter().any(|n| n == drill.name);
    Ok(CATALOGUE.iter().filter(chosen).collect())
}

/// Runs the chosen drills one after the other, each on a cluster of its own.
/// What one finds is in the report, also that it could not go on; the next
/// follows. Nothing that was made is left.
///
/// # Errors
/// [`Error::Interrupted`], an unknown name, or programs that are not there.
pub fn run(options: &Options, report: &mut Report, progress: &Progress) -> Result<()> {
    let chosen = choose(&options.names)?;
    let scene = Scene {
        binaries: Binaries::find(&options.binaries)?,
        long: options.long,
        seed: options.seed,
        progress,
    };
    report.seed = options.seed;
    let seconds = |drill: &&Drill| u64::from(drill.seconds[usize::from(options.long)]);
    for (at, drill) in chosen.iter().enumerate() {
        let left: u64 = chosen[at..].iter().map(seconds).sum();
        progress.say(format!(
            "{}: {} (drill {} of {}, about {left} s left)",
            drill.name,
            drill.about,
            at + 1,
            chosen.len()
        ));
        let begun = Instant::now();
        let mut outcome = Outcome::new(drill.name);
        let result = (drill.run)(&scene, &mut outcome);
        outcome.seconds = begun.elapsed().as_secs_f64();
        let interrupted = matches!(result, Err(Error::Interrupted));
        outcome.conclude(result.err().map(|error| error.to_string()));
        progress.say(outcome.line());
        report.outcomes.push(outcome);
        if interrupted {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drills_are_chosen_by_name() {
        let named = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            choose(&names).map(|found| found.iter().map(|drill| drill.name).collect::<Vec<_>>())
        };
        assert_eq!(named(&[]).unwrap().len(), CATALOGUE.len());
        assert_eq!(named(&["stop", "kill"]).unwrap(), ["kill", "stop"]);
        let error = named(&["kill", "earthquake"]).unwrap_err().to_string();
        assert!(
            error.contains("earthquake") && error.contains("carrier"),
            "{error}"
        );
    }

    #[test]
    fn a_short_run_takes_less_than_four_minutes() {
        let seconds: u32 = CATALOGUE.iter().map(|drill| drill.seconds[0]).sum();
        assert!(seconds < 240, "{seconds}");
    }
}
