//! Reports as text for people. Imports `format`.

use std::fmt::Write;

use tipsec_control::admin::{
    AddressReport, Counts, EventReport, PeerReport, PeersReport, StatusReport,
};
use tipsec_control::interval::format_interval;

use crate::format::{Align, Table, bytes, count, duration_ms, printable};

pub(crate) const NONE: &str = "-";

/// A value, or a dash.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or(NONE.to_owned(), |value| printable(&value.to_string()))
}

/// Counts that are not 0, one a line, aligned; nothing if there are none.
fn push_counts(text: &mut String, heading: &str, counts: &Counts) {
    let shown: Vec<_> = counts.iter().filter(|(_, n)| **n > 0).collect();
    if shown.is_empty() {
        return;
    }
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    text.push_str(&format!("{heading}\n"));
    for (name, number) in shown {
        text.push_str(&format!(
            "  {:<width$}  {}\n",
            printable(name),
            count(*number)
        ));
    }
}

pub(crate) fn status(report: &StatusReport) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<14}{value}");
    };
    line(
        "node",
        format!("{} of cluster {}", report.node, printable(&report.cluster)),
    );
    line("version", printable(&report.version));
    line("incarnation", printable(&report.incarnation));
    line("up for", duration_ms(report.uptime_ms));
    line(
        "master id",
        match &report.master_id {
            Some(id) => printable(id),
            None => "none: give this node a key with `tipsec-keyctl master set`".to_owned(),
        },
    );
    line("rekey", format_interval(report.rekey_interval_s));
    line("rekeys done", count(report.rekeys_completed));
    if let Some(tap) = &report.tap {
        let addresses = match tap.addresses.join(", ") {
            none if none.is_empty() => "no address".to_owned(),
            some => some,
        };
        line(
            "tap",
            printable(&format!(
                "{}, {}, MTU {}, {addresses}",
                tap.name, tap.mac, tap.mtu
            )),
        );
    }
    text.push_str(&bearers(report));
    text.push_str(&workers(report));
    for (at, worker) in report.workers.iter().enumerate() {
        push_counts(
            &mut text,
            &format!("\ndropped by worker {at}"),
            &worker.drops,
        );
    }
    push_counts(&mut text, "\nXDP program", &report.xdp);
    push_counts(&mut text, "\nAF_XDP sockets", &report.xsk);
    push_counts(&mut text, "\nhandshakes and beacons", &report.control);
    text
}

fn bearers(report: &StatusReport) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("BEARER", Left),
        ("QUEUE", Right),
        ("WORKER", Right),
        ("STATE", Left),
        ("NETWORK", Right),
        ("CORE", Right),
        ("MODE", Left),
        ("ENCAPSULATION", Left),
        ("MTU", Right),
        ("ADDRESS", Left),
        ("AEAD", Left),
        ("SUITE", Left),
    ]);
    for bearer in &report.bearers {
        table.row(vec![
            printable(&bearer.interface),
            bearer.queue.to_string(),
            bearer.worker.to_string(),
            bearer.state.name().to_owned(),
            bearer.network.to_string(),
            or_dash(bearer.core),
            printable(&bearer.mode),
            match bearer.vlan {
                Some(vlan) => format!("{} vlan {vlan}", printable(&bearer.encapsulation)),
                None => printable(&bearer.encapsulation),
            },
            bearer.mtu.to_string(),
            printable(bearer.address.as_ref().unwrap_or(&bearer.mac)),
            printable(&bearer.aead),
            printable(&bearer.suite),
        ]);
    }
    format!("\n{}", table.render())
}

fn workers(report: &StatusReport) -> String {
    use Align::Right;
    let mut table = Table::new(&[
        ("WORKER", Right),
        ("CORE", Right),
        ("RECEIVED", Right),
        ("TRANSMITTED", Right),
        ("PASSES", Right),
        ("SLEEPS", Right),
        ("DROPPED", Right),
    ]);
    for (at, worker) in report.workers.iter().enumerate() {
        table.row(vec![
            at.to_string(),
            or_dash(worker.core),
            count(worker.received_frames),
            count(worker.transmitted_frames),
            count(worker.passes),
            count(worker.sleeps),
            count(total(&worker.drops)),
        ]);
    }
    format!("\n{}", table.render())
}

fn total(counts: &Counts) -> u64 {
    counts.values().fold(0, |sum, n| sum.saturating_add(*n))
}

pub(crate) fn peers(report: &PeersReport) -> String {
    use Align::{Left, Right};
    if report.peers.is_empty() {
        return "no peers yet\n".to_owned();
    }
    let mut table = Table::new(&[
        ("NODE", Right),
        ("LINK", Left),
        ("SINCE", Right),
        ("MASTER ID", Left),
        ("EPOCH TX/RX", Right),
        ("KEY AGE", Right),
        ("REKEYS", Right),
        ("SEALED", Right),
        ("", Right),
        ("OPENED", Right),
        ("", Right),
        ("DROPPED", Right),
        ("ADDRESS", Left),
    ]);
    for peer in &report.peers {
        table.row(vec![
            peer.node.to_string(),
            link(peer),
            duration_ms(peer.since_ms),
            or_dash(peer.master_id.as_ref()),
            format!("{}/{}", or_dash(peer.tx_epoch), or_dash(peer.rx_epoch)),
            or_dash(peer.key_age_ms.map(duration_ms)),
            count(peer.rekeys),
            count(peer.sealed_frames),
            bytes(peer.sealed_bytes),
            count(peer.opened_frames),
            bytes(peer.opened_bytes),
            count(total(&peer.drops)),
            addresses(&peer.addresses),
        ]);
    }
    let mut text = table.render();
    for peer in &report.peers {
        if let Some(claimed) = &peer.claimed_master_id {
            text.push_str(&mismatch(report, peer, claimed));
        }
        push_counts(
            &mut text,
            &format!("\ndropped, node {}", peer.node),
            &peer.drops,
        );
    }
    text
}

fn link(peer: &PeerReport) -> String {
    if peer.evicted {
        return "evicted".to_owned();
    }
    peer.link.to_string()
}

/// The address, or each with its network.
fn addresses(addresses: &[AddressReport]) -> String {
    match addresses {
        [] => NONE.to_owned(),
        [only] => printable(&only.address),
        several => {
            let several = several
                .iter()
                .map(|on| format!("{}: {}", on.network, printable(&on.address)));
            several.collect::<Vec<_>>().join(", ")
        }
    }
}

/// Both ids, and that only one of them is certain.
fn mismatch(report: &PeersReport, peer: &PeerReport, claimed: &str) -> String {
    let ours = match &report.master_id {
        Some(id) => format!("this node has {}", printable(id)),
        None => "this node has none".to_owned(),
    };
    format!(
        "\nnode {} claims master id {} (unverified); {ours}: give both the same master key\n",
        peer.node,
        printable(claimed)
    )
}

pub(crate) fn event(event: &EventReport) -> String {
    let node = match event.node {
        Some(node) => format!("node {node}: "),
        None => String::new(),
    };
    format!(
        "{}  {:<18}  {node}{}\n",
        printable(&event.time),
        printable(&event.kind),
        printable(&event.text)
    )
}

#[cfg(test)]
mod tests {
    use tipsec_control::admin::{BearerReport, LinkState, TapReport, WorkerReport};

    use super::*;

    fn peer() -> PeerReport {
        PeerReport {
            node: 1002,
            link: LinkState::Up,
            since_ms: 192_000,
            master_id: Some("00112233445566aa".to_owned()),
            tx_epoch: Some(4),
            rx_epoch: Some(5),
            key_age_ms: Some(950),
            rekeys: 12,
            sealed_frames: 1_234_567,
            sealed_bytes: 1_728_393_800,
            drops: [("replayed".to_owned(), 3), ("no-key".to_owned(), 0)].into(),
            ..PeerReport::default()
        }
    }

    #[test]
    fn peers_are_a_table_and_reasons_follow() {
        let report = PeersReport {
            master_id: None,
            peers: vec![peer()],
        };
        let text = peers(&report);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows[1],
            [
                "1002",
                "up",
                "3m",
                "12s",
                "00112233445566aa",
                "4/5",
                "950ms",
                "12",
                "1,234,567",
                "1.7",
                "GB",
                "0",
                "0",
                "B",
                "3",
                "-"
            ]
        );
        assert!(
            text.ends_with("\ndropped, node 1002\n  replayed  3\n"),
            "{text}"
        );
        assert_eq!(peers(&PeersReport::default()), "no peers yet\n");
    }

    #[test]
    fn addresses_name_their_network_if_there_are_several() {
        let on = |network: u8, address: &str| AddressReport {
            network,
            address: address.to_owned(),
        };
        assert_eq!(addresses(&[]), "-");
        assert_eq!(addresses(&[on(2, "a")]), "a");
        assert_eq!(addresses(&[on(0, "a"), on(2, "b")]), "0: a, 2: b");
    }

    #[test]
    fn a_different_master_key_shows_both_ids() {
        let report = PeersReport {
            master_id: Some("aaaa".to_owned()),
            peers: vec![PeerReport {
                claimed_master_id: Some("bbbb".to_owned()),
                ..peer()
            }],
        };
        let text = peers(&report);
        assert!(
            text.contains("node 1002 claims master id bbbb (unverified); this node has aaaa:"),
            "{text}"
        );
    }

    #[test]
    fn status_shows_every_part() {
        let report = StatusReport {
            node: 1001,
            cluster: "core-7".to_owned(),
            rekey_interval_s: Some(600),
            tap: Some(TapReport {
                name: "tipsec0".to_owned(),
                ..TapReport::default()
            }),
            bearers: vec![BearerReport {
                interface: "eth1".to_owned(),
                core: Some(1),
                encapsulation: "ethernet".to_owned(),
                vlan: Some(100),
                ..BearerReport::default()
            }],
            workers: vec![WorkerReport {
                received_frames: 4321,
                drops: [("malformed".to_owned(), 2)].into(),
                ..WorkerReport::default()
            }],
            xdp: [("not-for-us".to_owned(), 9)].into(),
            ..StatusReport::default()
        };
        let text = status(&report);
        for part in [
            "1001 of cluster core-7",
            "none: give this node a key",
            "rekey         10m\n",
            "tipsec0",
            "no address",
            "eth1",
            " ethernet vlan 100 ",
            "4,321",
            "dropped by worker 0\n  malformed  2\n",
            "XDP program\n  not-for-us  9\n",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        assert!(!text.contains("AF_XDP sockets"), "{text}");
    }

    #[test]
    fn events_are_one_line_whatever_they_say() {
        let report = EventReport {
            time: "2026-01-01T00:00:00.000Z".to_owned(),
            kind: "link-up".to_owned(),
            node: Some(7),
            text: "up\n\x1b[2J".to_owned(),
            ..EventReport::default()
        };
        let line = event(&report);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.contains('\x1b'));
        assert!(line.contains("link-up             node 7: up"), "{line}");
    }
}
