//! Every way that two nodes, and three, can go within some steps; many more with
//! `tipsec-bench explore`.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use tipsec_control::machine::Defect;
use tipsec_control::sim::explore::{
    Outcome, Plan, Property, Root, explore, explore_watched, table,
};
use tipsec_control::sim::mutants::Mutant;

fn plan(root: Root, nodes: u8, depth: u32) -> Plan {
    Plan {
        root,
        nodes,
        depth,
        extras: 2,
        states_max: usize::MAX,
        calm_every: 61,
        mutant: None,
        merges: true,
    }
}

fn sound(plan: &Plan) -> Outcome {
    let outcome = explore(plan);
    if let Some(found) = &outcome.violation {
        panic!(
            "{} nodes, from {}, after {} steps: '{}' does not hold: {}\n{}",
            plan.nodes,
            plan.root.name(),
            found.depth,
            found.property,
            found.detail,
            found.trace.join("\n")
        );
    }
    assert_eq!(outcome.depth, plan.depth);
    println!(
        "{} nodes, {}: depth {}, {} states, {} steps, {:.1} s",
        plan.nodes,
        plan.root.name(),
        outcome.depth,
        outcome.states,
        outcome.steps,
        outcome.seconds
    );
    outcome
}

#[test]
fn no_way_of_two_nodes_breaks_a_property() {
    let mut states = 0;
    for (root, depth) in [
        (Root::Join, 7),
        (Root::Cross, 6),
        (Root::Shown, 6),
        (Root::Up, 6),
        (Root::Restart, 6),
        (Root::Former, 6),
        (Root::Rekey, 5),
    ] {
        let outcome = sound(&plan(root, 2, depth));
        assert!(outcome.calms > 0, "convergence was never asked for");
        states += outcome.states;
    }
    println!("{states} states");
    assert!(states > 10_000, "only {states} states");
}

#[test]
fn no_way_of_three_nodes_breaks_a_property() {
    for (root, depth) in [
        (Root::Join, 5),
        (Root::Cross, 3),
        (Root::Shown, 3),
        (Root::Restart, 3),
        (Root::Rekey, 3),
    ] {
        sound(&plan(root, 3, depth));
    }
}

/// Two states that are called the same must have the same future. Without that
/// assumption every way is walked by itself, each node from its birth; what is
/// reached has to be the same.
#[test]
fn what_is_called_equal_has_the_same_future() {
    for root in Root::ALL {
        let names = |merges| {
            let mut names = BTreeSet::new();
            let plan = Plan {
                merges,
                calm_every: u64::MAX,
                ..plan(*root, 2, 4)
            };
            let outcome = explore_watched(&plan, &mut |_, _| true, &mut |name| {
                names.insert(name);
            });
            assert!(outcome.violation.is_none());
            (names, outcome.steps)
        };
        let ((merged, few), (single, many)) = (names(true), names(false));
        assert!(few < many, "{few} and {many} steps from {}", root.name());
        assert!(merged == single, "from {}", root.name());
    }
}

/// The first thing that breaks with a defect, and where.
fn shown(defect: Defect, root: Root) -> Option<Property> {
    // A repetition is what one of them needs, and the others nothing.
    let extras = u8::from(defect == Defect::ResealedM2);
    let plan = Plan {
        mutant: Some(Mutant::Machine(defect)),
        extras,
        ..plan(root, 2, 9)
    };
    let found = explore(&plan).violation?;
    println!("{defect:?}: {} after {} steps", found.property, found.depth);
    assert_eq!(found.trace.len(), found.depth as usize);
    Some(found.property)
}

#[test]
fn defects_are_found() {
    let cases = [
        (
            Defect::OfferBeforeInstall,
            Root::Join,
            Property::OfferInstalled,
        ),
        (Defect::ResealedM2, Root::Shown, Property::MessageOnce),
        (Defect::LowerEpoch, Root::Rekey, Property::EpochGrows),
        (Defect::TrustedM1, Root::Former, Property::ReceiverReady),
    ];
    for (defect, root, property) in cases {
        assert_eq!(shown(defect, root), Some(property), "{defect:?}");
    }
}

#[test]
fn the_state_table_is_what_the_machine_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    let document = std::fs::read_to_string(path).unwrap();
    let renewed = table::renew(&document).expect("a place for the table");
    assert!(
        renewed == document,
        "the state table in docs/protocol.md is not what the machine does; to renew it: \
         cargo run -p tipsec-bench -- explore --table docs/protocol.md"
    );
}

#[test]
fn the_document_lists_every_property_and_root() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/model.md");
    let document = std::fs::read_to_string(path).unwrap();
    let properties = Property::ALL.iter().map(|one| (one.name(), one.text()));
    let roots = Root::ALL.iter().map(|one| (one.name(), one.text()));
    for (name, text) in properties.chain(roots) {
        let row = format!("| `{name}` | {text} |");
        assert!(
            document.lines().any(|line| line == row),
            "docs/model.md does not have '{row}'"
        );
    }
}
