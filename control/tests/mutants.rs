//! Every deliberate defect is noticed, by the invariant that docs/simulator.md
//! names.

use tipsec_control::sim::Invariant;
use tipsec_control::sim::mutants::{CATALOGUE, Shown};
use tipsec_control::sim::scenario::Mode;

#[test]
fn every_mutant_is_caught() {
    for entry in CATALOGUE {
        let name = entry.name;
        let sound = entry.show(None);
        assert_eq!(sound, None, "{name}: its history breaks a sound machine");
        match entry.show(Some(entry.mutant)) {
            None => panic!("{name} was not noticed"),
            Some(violation) => assert_eq!(violation.invariant, entry.breaks, "{name}: {violation}"),
        }
    }
}

#[test]
fn the_document_lists_every_mutant_and_invariant() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/simulator.md");
    let document = std::fs::read_to_string(path).unwrap();
    let row = |name: &str| {
        let start = format!("| `{name}` |");
        let mut lines = document.lines().filter(|line| line.starts_with(&start));
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("{name} is not listed"));
        assert_eq!(lines.next(), None, "{name} is listed twice");
        line
    };
    for entry in CATALOGUE {
        let shown = match entry.shown {
            Shown::Seed(Mode::Liveness, seed) => format!(" seed {seed} | "),
            Shown::Seed(Mode::Safety, seed) => format!(" seed {seed}, safety | "),
            Shown::Script(_) => "` | ".to_owned(),
        };
        let end = format!("{shown}`{}` |", entry.breaks);
        let line = row(entry.name);
        assert!(line.ends_with(&end), "{line} does not end in {end}");
    }
    for invariant in Invariant::ALL {
        assert_eq!(
            row(invariant.name()),
            format!("| `{invariant}` | {} |", invariant.text())
        );
    }
    let rows = document
        .lines()
        .filter(|line| line.starts_with("| `"))
        .count();
    assert_eq!(rows, CATALOGUE.len() + Invariant::ALL.len());
}
