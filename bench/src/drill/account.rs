//! What the daemons' and the kernel's counters say about lost datagrams: where
//! each stream lost how many, against how many it lost. Pure. Imports
//! `accounts`, `tally`.
//!
//! Datagrams of one direction pass these places; what one took and the next did
//! not is a count there. Other frames pass them too (probes, a few of the
//! kernel's own), so a count may be larger than what was lost of the stream,
//! and never smaller.
//!
//! | place | counted by |
//! |---|---|
//! | the sender's tap | its drops: full, no worker took it |
//! | the sender's worker, not sealed | `tx_` reasons of the pair, and of the node where no peer is known |
//! | sealed and not opened | the pair's own two counts; *why* is held in [`accounts::balance`] |
//! | opened and not delivered | `rx_tap_full`, `rx_tap_down`, `rx_bad_payload` of the pair |
//! | the receiver's socket | its drops |

use std::collections::BTreeMap;

use tipsec_dataplane::counters::{RxDrop, TxDrop};

use super::tally::Tally;
use crate::accounts::{Balance, Cut, NodeBook};

/// Frames that never reached the seal, by peer.
const UNSEALED: [TxDrop; 8] = [
    TxDrop::NoKey,
    TxDrop::NoPath,
    TxDrop::BudgetSpent,
    TxDrop::GroupLimited,
    TxDrop::NoMemory,
    TxDrop::TooLong,
    TxDrop::TooShort,
    TxDrop::BadOffload,
];
/// Frames that opened and were not delivered.
const UNDELIVERED: [RxDrop; 4] = [
    RxDrop::TapFull,
    RxDrop::TapDown,
    RxDrop::BadPayload,
    RxDrop::NoReceiver,
];

/// Where the frames of one direction of one pair went, by place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Places {
    by_name: BTreeMap<String, u64>,
    /// The process of the receiver or of the sender did not live throughout, so
    /// that some of its counts went with it.
    pub(super) died: Option<Died>,
}

/// What is known of frames to or from a process that died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Died {
    /// The receiver's: frames that were on the wire to it, all its lives long.
    Receiver {
        /// How many.
        wire: u64,
    },
    /// The sender's: what it did not put on the wire died with it, and so did
    /// what its earlier lives counted.
    Sender,
}

impl Places {
    fn add(&mut self, name: impl Into<String>, frames: u64) {
        if frames > 0 {
            *self.by_name.entry(name.into()).or_default() += frames;
        }
    }

    /// All frames that the counters know to be lost here.
    pub(super) fn known(&self) -> u64 {
        self.by_name.values().sum()
    }

    /// For people.
    pub(super) fn words(&self) -> Vec<String> {
        let word = |(name, frames): (&String, &u64)| format!("{frames} {name}");
        self.by_name.iter().map(word).collect()
    }
}

/// A count of `after` that grew since `before`, which starts at 0 in another life.
fn grown(before: Option<&NodeBook>, after: &NodeBook, count: impl Fn(&NodeBook) -> u64) -> u64 {
    let start = before.filter(|book| book.incarnation == after.incarnation);
    count(after).saturating_sub(start.map_or(0, &count))
}

/// Where a stream's frames went between two readings.
pub(super) fn places(tally: &Tally, before: &Cut, after: &Cut, balance: &Balance) -> Places {
    let mut places = Places::default();
    let (from, to) = (tally.from, tally.to);
    let was = |node| before.nodes.get(&node);
    if let Some(sender) = after.nodes.get(&from) {
        let tap = grown(was(from), sender, |book| book.tap.tx + book.tap.qdisc);
        places.add("tap full, never sealed", tap);
        // Of no peer: a new life does not know its peers yet.
        let unknown = TxDrop::UnknownDestination.name();
        let count = grown(was(from), sender, |book| of_node(book, unknown));
        places.add(unknown, count);
        for reason in UNSEALED {
            let count = grown(was(from), sender, |book| of_peer(book, to, reason.name()));
            places.add(reason.name(), count);
        }
    }
    if let Some(receiver) = after.nodes.get(&to) {
        for reason in UNDELIVERED {
            let count = grown(was(to), receiver, |book| of_peer(book, from, reason.name()));
            places.add(reason.name(), count);
        }
    }
    let pair = balance.pairs.iter().find(|p| (p.from, p.to) == (from, to));
    match pair.map(|pair| (pair.sealed, pair.opened, pair.wire)) {
        Some((Some(sealed), Some(opened), _)) => {
            places.add("sealed, not opened", sealed.saturating_sub(opened));
        }
        Some((Some(_), None, wire)) => places.died = Some(Died::Receiver { wire }),
        Some((None, Some(opened), wire)) => {
            places.add("on the wire, not opened", wire.saturating_sub(opened));
            places.died = Some(Died::Sender);
        }
        _ => {}
    }
    places.add("receiving socket full", tally.socket_drops);
    places
}

fn of_node(book: &NodeBook, reason: &str) -> u64 {
    book.workers.get(reason).copied().unwrap_or(0)
}

fn of_peer(book: &NodeBook, peer: u32, reason: &str) -> u64 {
    let drops = book.peers.get(&peer).map(|peer| &peer.drops);
    drops
        .and_then(|drops| drops.get(reason))
        .copied()
        .unwrap_or(0)
}

/// Lost datagrams of a stream that no counter knows of, and those that died
/// with a process, in words.
pub(super) fn unknown(tally: &Tally, places: &Places) -> (u64, Option<String>) {
    let rest = tally.lost().saturating_sub(places.known());
    match places.died {
        _ if rest == 0 => (0, None),
        None => (rest, None),
        Some(Died::Receiver { wire }) => {
            // They were sealed, so they have to have been on the wire, beside
            // those that arrived.
            let seen = rest.min(wire.saturating_sub(tally.arrived));
            let words = format!("{seen} on the wire to the dead process");
            (rest - seen, Some(words))
        }
        Some(Died::Sender) => (
            0,
            Some(format!(
                "{rest} with a dead process: its tap, its rings, or drops that it had counted"
            )),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{PairBalance, PeerBook};

    fn cut(incarnation: &str, no_key: u64, tap: u64) -> Cut {
        let mut book = NodeBook {
            incarnation: incarnation.into(),
            ..NodeBook::default()
        };
        book.tap.tx = tap;
        let mut peer = PeerBook::default();
        peer.drops.insert("tx_no_key".into(), no_key);
        book.peers.insert(2, peer);
        let mut other = NodeBook::default();
        other.peers.insert(1, PeerBook::default());
        Cut {
            nodes: [(1, book), (2, other)].into(),
            ..Cut::default()
        }
    }

    fn stream(sent: u64, arrived: u64) -> Tally {
        Tally {
            from: 1,
            to: 2,
            sent,
            arrived,
            socket_drops: 1,
            ..Tally::default()
        }
    }

    fn pair(sealed: Option<u64>, opened: Option<u64>) -> Balance {
        Balance {
            pairs: vec![PairBalance {
                from: 1,
                to: 2,
                sealed,
                opened,
                ..PairBalance::default()
            }],
            ..Balance::default()
        }
    }

    #[test]
    fn every_place_counts_what_grew_there() {
        let (before, after) = (cut("a", 5, 10), cut("a", 8, 14));
        let tally = stream(100, 80);
        let found = places(&tally, &before, &after, &pair(Some(90), Some(80)));
        // 3 without a key, 4 at the tap, 10 on the way, 1 in the socket.
        assert_eq!(found.known(), 18);
        assert_eq!(unknown(&tally, &found), (2, None));
        assert_eq!(unknown(&stream(100, 82), &found), (0, None));
        assert_eq!(found.died, None);
    }

    #[test]
    fn frames_to_a_dead_process_have_to_have_been_on_the_wire() {
        let (before, after) = (cut("a", 5, 10), cut("a", 8, 10));
        let mut balance = pair(Some(95), None);
        balance.pairs[0].wire = 95;
        let tally = stream(100, 80);
        let found = places(&tally, &before, &after, &balance);
        // 3 without a key, 1 in the socket, 16 more.
        let (rest, words) = unknown(&tally, &found);
        assert_eq!(rest, 1, "80 arrived, so 15 were on the wire and are gone");
        assert_eq!(words.unwrap(), "15 on the wire to the dead process");
    }

    #[test]
    fn counts_of_a_new_life_start_at_nothing() {
        let (before, after) = (cut("a", 5, 10), cut("b", 2, 0));
        let found = places(&stream(100, 80), &before, &after, &pair(None, Some(80)));
        assert_eq!(found.words(), ["1 receiving socket full", "2 tx_no_key"]);
        let (rest, words) = unknown(&stream(100, 80), &found);
        assert_eq!(rest, 0);
        assert!(words.unwrap().starts_with("17 with a dead process"));
    }

    #[test]
    fn a_life_that_does_not_know_its_peers_yet_says_so() {
        let (before, mut after) = (cut("a", 5, 10), cut("b", 0, 0));
        let drops = &mut after.nodes.get_mut(&1).unwrap().workers;
        drops.insert("tx_unknown_destination".into(), 12);
        let found = places(&stream(100, 80), &before, &after, &pair(None, Some(80)));
        assert!(
            found
                .words()
                .contains(&"12 tx_unknown_destination".to_owned())
        );
        let (_, words) = unknown(&stream(100, 80), &found);
        assert!(words.unwrap().starts_with("7 with a dead process"));
    }
}
