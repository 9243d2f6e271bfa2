//! Books that balance, and one fault at a time.

use super::*;

const LOSSES: u64 = 3;

fn peer(sealed: u64, opened: u64) -> PeerBook {
    PeerBook {
        up: true,
        sealed,
        opened,
        ..PeerBook::default()
    }
}

/// Three nodes; node i sealed 100 × i + j frames to node j, and all arrived.
fn good() -> Cut {
    let mut cut = Cut::default();
    let frames = |from: u32, to: u32| u64::from(100 * from + to);
    for id in 1..=3 {
        let mut node = NodeBook {
            incarnation: format!("life {id}"),
            ..NodeBook::default()
        };
        for other in (1..=3).filter(|other| *other != id) {
            node.peers
                .insert(other, peer(frames(id, other), frames(other, id)));
            cut.wire.insert((id, other), frames(id, other));
        }
        cut.nodes.insert(id, node);
    }
    cut
}

/// The same nodes with all counters 0 and all links up.
fn start() -> Cut {
    let mut cut = good();
    for node in cut.nodes.values_mut() {
        for book in node.peers.values_mut() {
            *book = peer(0, 0);
        }
    }
    cut.wire.values_mut().for_each(|count| *count = 0);
    cut
}

fn node(cut: &mut Cut, id: u32) -> &mut NodeBook {
    cut.nodes.get_mut(&id).unwrap()
}

fn book(cut: &mut Cut, id: u32, peer: u32) -> &mut PeerBook {
    node(cut, id).peers.get_mut(&peer).unwrap()
}

fn drops(reason: &str, frames: u64) -> Counts {
    [(reason.to_owned(), frames)].into()
}

#[test]
fn books_without_loss_balance() {
    let result = balance(&start(), &good(), None);
    assert_eq!(result.unaccounted, Vec::<String>::new());
    assert_eq!(result.key_losses, []);
    assert_eq!(result.lost, Counts::new());
    assert_eq!(result.sealed, result.opened);
    assert_eq!(result.sealed, 102 + 103 + 201 + 203 + 301 + 302);
    assert_eq!(balance(&good(), &good(), None).sealed, 0);
}

#[test]
fn one_frame_missing_between_wire_and_worker_is_found() {
    let mut after = good();
    book(&mut after, 2, 1).opened -= 1;
    let result = balance(&start(), &after, None);
    assert_eq!(result.unaccounted.len(), 1);
    assert!(result.unaccounted[0].contains("node 2"), "{result:?}");
    assert!(result.unaccounted[0].contains("1 lost"), "{result:?}");
    assert_eq!(result.unaccounted_frames, 1);
}

#[test]
fn only_what_no_counter_names_is_unaccounted_for() {
    let mut after = good();
    book(&mut after, 2, 1).opened -= 5;
    after.nodes.get_mut(&2).unwrap().port.tx += 3;
    // And one that nobody sent.
    book(&mut after, 1, 2).opened += 1;
    let result = balance(&start(), &after, None);
    assert_eq!(result.unaccounted.len(), 2, "{result:?}");
    assert_eq!(result.unaccounted_frames, 2 + 1);
}

#[test]
fn one_frame_missing_between_worker_and_wire_is_found() {
    let mut after = good();
    book(&mut after, 1, 3).sealed += 1;
    let result = balance(&start(), &after, None);
    assert_eq!(result.unaccounted.len(), 1);
    assert!(
        result.unaccounted[0].contains("node 1 sealed"),
        "{result:?}"
    );
}

#[test]
fn frames_out_of_nowhere_are_found() {
    let mut after = good();
    book(&mut after, 3, 1).opened += 1;
    assert!(balance(&start(), &after, None).unaccounted[0].contains("1 out of nowhere"));
    let mut after = good();
    *after.wire.get_mut(&(2, 1)).unwrap() += 1;
    let result = balance(&start(), &after, None);
    // On the wire and neither sealed nor opened by anybody.
    assert_eq!(result.unaccounted.len(), 2, "{result:?}");
}

#[test]
fn every_counter_between_wire_and_worker_names_a_loss() {
    let named: [fn(&mut NodeBook); 8] = [
        |node| node.port.qdisc = LOSSES,
        |node| node.port.tx = LOSSES,
        |node| node.bearer.rx = LOSSES,
        |node| node.xsk = drops("rx_ring_full", LOSSES),
        |node| node.xsk = drops("rx_dropped", LOSSES),
        |node| node.xdp = drops("no_socket", LOSSES),
        |node| node.workers = drops("rx_malformed", LOSSES),
        |node| node.peers.get_mut(&1).unwrap().drops = drops("rx_malformed", LOSSES),
    ];
    for (number, name) in named.into_iter().enumerate() {
        for (lost, complaints) in [(LOSSES, 0), (LOSSES + 1, 1)] {
            let mut after = good();
            book(&mut after, 2, 1).opened -= lost;
            name(node(&mut after, 2));
            let result = balance(&start(), &after, None);
            assert_eq!(result.unaccounted.len(), complaints, "{number} {result:?}");
            assert_eq!(result.lost.values().sum::<u64>(), LOSSES, "{number}");
        }
    }
}

#[test]
fn a_loss_counted_twice_excuses_one_frame() {
    let mut after = good();
    book(&mut after, 2, 1).opened -= LOSSES + 1;
    node(&mut after, 2).xsk = drops("rx_ring_full", LOSSES);
    node(&mut after, 2).bearer.rx = LOSSES;
    assert_eq!(balance(&start(), &after, None).unaccounted.len(), 1);

    let mut after = good();
    book(&mut after, 1, 2).sealed += LOSSES + 1;
    book(&mut after, 1, 2).drops = drops("tx_link_lost", LOSSES);
    node(&mut after, 1).bearer.tx = LOSSES;
    node(&mut after, 1).port.rx = LOSSES;
    assert_eq!(balance(&start(), &after, None).unaccounted.len(), 1);
    book(&mut after, 1, 2).sealed -= 1;
    assert_eq!(balance(&start(), &after, None).unaccounted.len(), 0);
}

#[test]
fn flooded_frames_excuse_nothing() {
    let mut after = good();
    book(&mut after, 2, 1).opened -= 1;
    node(&mut after, 2).xdp = drops("not_for_us", 50);
    node(&mut after, 2).bearer.rx = 50;
    assert_eq!(balance(&start(), &after, None).unaccounted.len(), 1);
}

#[test]
fn losses_for_key_reasons_are_told_apart() {
    for reason in [
        "rx_unknown_spi",
        "rx_replayed",
        "rx_open_failed",
        "rx_open_limit",
        "tx_no_key",
        "tx_budget_spent",
    ] {
        let mut after = good();
        book(&mut after, 2, 1).drops = drops(reason, 1);
        let result = balance(&start(), &after, None);
        assert_eq!(result.key_losses.len(), 1, "{reason}");
        assert_eq!(result.key_losses[0].peer, Some(1));
    }
    for reason in ["rx_tap_full", "tx_group_limited", "rx_malformed"] {
        let mut after = good();
        book(&mut after, 2, 1).drops = drops(reason, 1);
        assert_eq!(balance(&start(), &after, None).key_losses, [], "{reason}");
    }
    let mut after = good();
    node(&mut after, 3).xdp = drops("unknown_spi", 2);
    node(&mut after, 1).workers = drops("rx_unknown_spi", 2);
    assert_eq!(balance(&start(), &after, None).key_losses.len(), 2);
}

#[test]
fn no_key_is_no_fault_where_there_was_no_link() {
    let mut before = start();
    book(&mut before, 2, 1).up = false;
    let mut after = good();
    book(&mut after, 2, 1).drops = drops("tx_no_key", 1);
    assert_eq!(balance(&before, &after, None).key_losses, []);
    book(&mut after, 2, 1).drops = drops("rx_replayed", 1);
    assert_eq!(balance(&before, &after, None).key_losses.len(), 1);
}

#[test]
fn a_killed_process_takes_its_own_counters_only() {
    let mut after = good();
    // Node 2 was killed: its counters start again, and some of node 1's
    // frames to it found nobody.
    *node(&mut after, 2) = NodeBook {
        incarnation: "second life".into(),
        peers: [(1, peer(5, 7)), (3, peer(1, 1))].into(),
        ..NodeBook::default()
    };
    book(&mut after, 1, 2).drops = drops("tx_no_key", 40);
    let result = balance(&start(), &after, Some(2));
    assert_eq!(result.unaccounted, Vec::<String>::new());
    assert_eq!(result.key_losses, []);
    assert_eq!(result.key_losses_of_killed.len(), 1);
    assert_eq!(result.sent_to_killed, 102 + 302);

    // What it had sealed is still checked from the wire on …
    book(&mut after, 3, 2).opened -= 1;
    let result = balance(&start(), &after, Some(2));
    assert_eq!(result.unaccounted.len(), 1, "{result:?}");
    // … and survivors' losses between each other are still faults.
    book(&mut after, 3, 2).opened += 1;
    book(&mut after, 3, 1).drops = drops("rx_unknown_spi", 1);
    assert_eq!(balance(&start(), &after, Some(2)).key_losses.len(), 1);
}

#[test]
fn a_node_that_joined_in_between_is_in_the_books() {
    let mut before = start();
    before.nodes.remove(&3);
    before.wire.retain(|(from, to), _| *from != 3 && *to != 3);
    assert_eq!(
        balance(&before, &good(), None).unaccounted,
        Vec::<String>::new()
    );
    let mut after = good();
    book(&mut after, 3, 1).opened -= 1;
    assert_eq!(balance(&before, &after, None).unaccounted.len(), 1);
}
