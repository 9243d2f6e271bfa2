//! Master keys as text for people: what a step did and what comes next, and
//! who holds what. Imports `format`, `show` and `show_evicted`.

use std::collections::BTreeMap;

use tipsec_control::admin::{
    LinkState, MasterIdsReport, MasterPeerReport, MasterStatusReport, MasterStepReport,
};

use crate::format::{Align, Table, printable};
use crate::show::or_dash;
use crate::show_evicted;

/// The keys of a node as `(id, role)`, the newest first.
pub(crate) fn roles(ids: &MasterIdsReport) -> impl Iterator<Item = (&str, &'static str)> {
    let all = [
        (&ids.staged, "staged"),
        (&ids.active, "active"),
        (&ids.previous, "previous"),
    ];
    all.into_iter()
        .filter_map(|(id, role)| Some((id.as_deref()?, role)))
}

/// One node's keys in a line: `8f3a… active, 1b2c… previous`.
fn line(ids: &MasterIdsReport) -> String {
    let texts: Vec<_> = roles(ids)
        .map(|(id, role)| format!("{} {role}", printable(id)))
        .collect();
    if texts.is_empty() {
        "none".to_owned()
    } else {
        texts.join(", ")
    }
}

pub(crate) fn list(nodes: &[u32]) -> String {
    let texts: Vec<_> = nodes.iter().map(u32::to_string).collect();
    let word = if texts.len() == 1 { "node" } else { "nodes" };
    format!("{word} {}", texts.join(", "))
}

/// What was done, unless it had been done before, and what comes next.
fn step(report: &MasterStepReport, done: &str, before: &str, next: &str) -> String {
    let state = if report.changed { done } else { before };
    format!(
        "{state}; this node holds {}\n{next}\n",
        line(&report.masters)
    )
}

pub(crate) fn staged(report: &MasterStepReport) -> String {
    step(
        report,
        "staged",
        "unchanged: this key is staged already",
        "next: stage it on every other node; when `master status` shows it everywhere, \
         `master activate` on each",
    )
}

pub(crate) fn activated(report: &MasterStepReport) -> String {
    let mut text = step(
        report,
        "activated",
        "unchanged: nothing is staged, and the last rotation is activated already",
        "next: activate it on every other node; when `master status` shows no SA under the \
         previous key, `master retire` on each",
    );
    text.push_str(&show_evicted::state(&report.evicted, &report.masters));
    text
}

pub(crate) fn retired(report: &MasterStepReport) -> String {
    let mut text = step(
        report,
        "retired",
        "unchanged: there is no previous key",
        "next: retire it on every other node",
    );
    if !report.left_behind.is_empty() {
        text.push_str(&format!(
            "{} said last that it holds no key of this node: give it the active one before it \
             can come back\n",
            list(&report.left_behind)
        ));
    }
    text
}

pub(crate) fn status(report: &MasterStatusReport) -> String {
    let mut text = String::new();
    if let Some(damage) = &report.keyring_damaged {
        text.push_str(&format!("WARNING: {}\n\n", printable(damage)));
    }
    text.push_str(&format!(
        "this is node {}; it holds {}\n",
        report.node,
        line(&report.masters)
    ));
    for (id, role) in roles(&report.masters) {
        text.push_str(&format!("{role:<9} {}\n", count_of(report, id)));
    }
    for (id, nodes) in foreign(report) {
        text.push_str(&format!(
            "other     {} {} {}, and this node does not\n",
            list(&nodes),
            if nodes.len() == 1 { "holds" } else { "hold" },
            printable(id)
        ));
    }
    text.push_str(&show_evicted::state(&report.evicted, &report.masters));
    if !report.peers.is_empty() {
        text.push('\n');
        text.push_str(&peers(report));
    }
    text
}

/// How many of the nodes hold a key, and which do not.
fn count_of(report: &MasterStatusReport, id: &str) -> String {
    let holds = |peer: &&MasterPeerReport| {
        let ids = peer.masters.as_ref();
        ids.is_some_and(|ids| roles(ids).any(|(held, _)| held == id))
    };
    let of = |peers: Vec<&MasterPeerReport>| peers.iter().map(|p| p.node).collect::<Vec<_>>();
    let members = || report.peers.iter().filter(|peer| !peer.evicted);
    let (silent, said): (Vec<_>, Vec<_>) = members().partition(|peer| peer.masters.is_none());
    let (with, without): (Vec<_>, Vec<_>) = said.into_iter().partition(holds);
    let mut text = format!(
        "{} of {} nodes hold {}",
        1 + with.len(),
        1 + members().count(),
        printable(id)
    );
    let (without, silent) = (of(without), of(silent));
    if !without.is_empty() {
        let verb = if without.len() == 1 { "does" } else { "do" };
        text.push_str(&format!("; {} {verb} not", list(&without)));
    }
    if !silent.is_empty() {
        text.push_str(&format!("; {} not heard", list(&silent)));
    }
    text
}

/// Keys that others say they hold and this node does not, and who.
fn foreign(report: &MasterStatusReport) -> BTreeMap<&str, Vec<u32>> {
    let mut found: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    let is_own = |id: &str| roles(&report.masters).any(|(own, _)| own == id);
    for peer in &report.peers {
        let ids = peer.masters.iter().flat_map(roles).map(|(id, _)| id);
        for id in ids.filter(|id| !is_own(id)) {
            found.entry(id).or_default().push(peer.node);
        }
    }
    found
}

fn peers(report: &MasterStatusReport) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("NODE", Right),
        ("LINK", Left),
        ("SA UNDER", Left),
        ("HOLDS", Left),
    ]);
    for peer in &report.peers {
        let sealed_under = peer.sa_master_id.as_ref().map(|id| {
            let role = roles(&report.masters).find(|(own, _)| own == id);
            role.map_or(id.clone(), |(_, role)| format!("{id} ({role})"))
        });
        let holds = match (&peer.masters, &peer.claimed_master_id) {
            (Some(ids), _) => line(ids),
            (None, Some(claimed)) => format!("claims {} (unverified)", printable(claimed)),
            (None, None) => "not heard".to_owned(),
        };
        let link = match peer.link {
            _ if peer.evicted => "evicted".to_owned(),
            LinkState::Connecting if peer.sa_master_id.is_none() => "-".to_owned(),
            state => state.to_string(),
        };
        table.row(vec![
            peer.node.to_string(),
            link,
            or_dash(sealed_under),
            holds,
        ]);
    }
    table.render()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn ids(active: &str, staged: &str, previous: &str) -> MasterIdsReport {
        let some = |id: &str| (!id.is_empty()).then(|| id.to_owned());
        MasterIdsReport {
            active: some(active),
            staged: some(staged),
            previous: some(previous),
        }
    }

    fn peer(node: u32, masters: Option<MasterIdsReport>, under: &str) -> MasterPeerReport {
        MasterPeerReport {
            node,
            link: LinkState::Up,
            sa_master_id: (!under.is_empty()).then(|| under.to_owned()),
            masters,
            claimed_master_id: None,
            evicted: false,
        }
    }

    #[test]
    fn who_holds_what_is_counted_and_named() {
        let mut claims = peer(1006, None, "");
        claims.link = LinkState::Connecting;
        claims.claimed_master_id = Some("dddd".to_owned());
        let report = MasterStatusReport {
            node: 1001,
            masters: ids("bbbb", "", "aaaa"),
            keyring_damaged: None,
            evicted: Vec::new(),
            peers: vec![
                peer(1002, Some(ids("bbbb", "", "aaaa")), "bbbb"),
                peer(1003, Some(ids("aaaa", "bbbb", "")), "bbbb"),
                peer(1004, Some(ids("aaaa", "cccc", "")), "aaaa"),
                claims,
            ],
        };
        let text = status(&report);
        for part in [
            "this is node 1001; it holds bbbb active, aaaa previous\n",
            "active    3 of 5 nodes hold bbbb; node 1004 does not; node 1006 not heard\n",
            "previous  4 of 5 nodes hold aaaa; node 1006 not heard\n",
            "other     node 1004 holds cccc, and this node does not\n",
            "bbbb (active)",
            "aaaa (previous)",
            "cccc staged, aaaa active",
            "claims dddd (unverified)",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        assert!(!text.contains("WARNING"));
        let damaged = MasterStatusReport {
            keyring_damaged: Some("it is cut".to_owned()),
            ..report
        };
        assert!(status(&damaged).starts_with("WARNING: it is cut\n"));
    }

    #[test]
    fn a_node_without_a_key_or_peers_has_a_status_too() {
        let text = status(&MasterStatusReport {
            node: 7,
            ..MasterStatusReport::default()
        });
        assert_eq!(text, "this is node 7; it holds none\n");
    }

    #[test]
    fn each_step_says_what_comes_next() {
        let report = |changed, left_behind: &[u32]| MasterStepReport {
            changed,
            masters: ids("bbbb", "", "aaaa"),
            left_behind: left_behind.to_vec(),
            evicted: Vec::new(),
        };
        let done = activated(&report(true, &[]));
        assert!(done.starts_with("activated; this node holds bbbb active, aaaa previous\nnext: "));
        assert!(activated(&report(false, &[])).starts_with("unchanged: "));
        assert!(staged(&report(true, &[])).contains("`master activate`"));
        assert!(retired(&report(true, &[1004])).contains("\nnode 1004 said last"));
        assert_eq!(retired(&report(true, &[])).lines().count(), 2);
    }
}
