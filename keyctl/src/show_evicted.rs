//! Evictions as text for people: who is out, and the steps that end it. Imports
//! `format` and `show_master`.

use tipsec_control::admin::{EvictedReport, EvictionReport, MasterIdsReport};

use crate::show_master::{list, roles};

pub(crate) fn evicted(report: &EvictionReport) -> String {
    let done = if report.changed {
        "is evicted"
    } else {
        "was evicted already"
    };
    format!(
        "node {} {done}: this node takes nothing from it under the keys held now, also after a \
         restart\nfirst: evict it on every other node\n{}",
        report.node,
        state_lines(&report.evicted, &report.masters)
    )
}

pub(crate) fn readmitted(report: &EvictionReport) -> String {
    let done = if report.changed {
        "is readmitted"
    } else {
        "was not evicted"
    };
    format!(
        "node {} {done}\nnext: readmit it on every other node\n{}",
        report.node,
        state(&report.evicted, &report.masters)
    )
}

/// Who is out, and what ends it; nothing if nobody is.
pub(crate) fn state(evicted: &[EvictedReport], masters: &MasterIdsReport) -> String {
    if evicted.is_empty() {
        return String::new();
    }
    let nodes: Vec<u32> = evicted.iter().map(|of| of.node).collect();
    format!(
        "evicted   {}\n{}",
        list(&nodes),
        state_lines(evicted, masters)
    )
}

fn state_lines(evicted: &[EvictedReport], masters: &MasterIdsReport) -> String {
    let has = |of: &EvictedReport, id: &str| of.master_ids.iter().any(|held| held == id);
    let is_known = |wanted: &str| {
        let mut of_role = roles(masters).filter(|(_, role)| *role == wanted);
        of_role.any(|(id, _)| evicted.iter().any(|of| has(of, id)))
    };
    let waits = "no node gets its first keys under the active key, which an evicted one has: one \
                 that restarts now waits for the next";
    let everywhere = "on every node but those evicted";
    let next = match (
        is_known("active"),
        masters.staged.is_some(),
        masters.previous.is_some(),
    ) {
        (false, ..) if is_known("previous") => {
            return format!("next: `master retire` {everywhere}, which ends the eviction\n");
        }
        (false, ..) => return String::new(),
        (true, true, _) if is_known("staged") => format!(
            "`master stage --replace` with a new key {everywhere}: an evicted one may have the \
             staged key, too"
        ),
        (true, true, true) => "`master retire`, then `master activate`".to_owned(),
        (true, true, false) => format!("`master activate` {everywhere}"),
        (true, false, _) => format!("`master stage` with a new key {everywhere}"),
    };
    format!("{waits}\nnext: {next}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show_master::tests::ids;

    fn out(master_ids: &[&str]) -> Vec<EvictedReport> {
        vec![EvictedReport {
            node: 1004,
            master_ids: master_ids.iter().map(ToString::to_string).collect(),
        }]
    }

    #[test]
    fn each_state_names_the_next_step() {
        for (had, held, next) in [
            (&["aaaa"][..], ids("aaaa", "", ""), "`master stage` with"),
            (
                &["aaaa", "bbbb"],
                ids("aaaa", "bbbb", ""),
                "`master stage --replace`",
            ),
            (
                &["aaaa"],
                ids("aaaa", "cccc", ""),
                "`master activate` on every",
            ),
            (
                &["aaaa", "9999"],
                ids("aaaa", "cccc", "9999"),
                "`master retire`, then",
            ),
            (
                &["aaaa"],
                ids("cccc", "", "aaaa"),
                "`master retire` on every",
            ),
        ] {
            let text = state(&out(had), &held);
            assert!(text.starts_with("evicted   node 1004\n"), "{text}");
            let wanted = format!("next: {next}");
            assert!(text.contains(&wanted), "{wanted} in {text}");
        }
        assert_eq!(state(&[], &ids("aaaa", "", "")), "");
    }

    #[test]
    fn what_was_done_is_said() {
        let report = |changed, evicted| EvictionReport {
            changed,
            node: 1004,
            evicted,
            masters: ids("aaaa", "", ""),
        };
        let text = evicted(&report(true, out(&["aaaa"])));
        assert!(text.starts_with("node 1004 is evicted: "));
        assert!(text.contains("\nfirst: evict it on every other node\n"));
        assert!(text.contains("\nnext: `master stage`"));
        assert!(evicted(&report(false, out(&["aaaa"]))).contains("already"));
        assert!(readmitted(&report(true, Vec::new())).starts_with("node 1004 is readmitted\n"));
        assert!(readmitted(&report(false, Vec::new())).contains("was not evicted"));
    }
}
