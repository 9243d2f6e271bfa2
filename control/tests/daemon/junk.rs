//! Junk on the wire of two live nodes: dropped, counted by reason, and nothing
//! else happens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tipsec_control::admin::{AddressReport, Counts, LinkState, StatusReport};

use crate::inject::{Random, echo_of, junk_of, one_of_each};
use crate::lab::{Column, Lab, NIC, mac, port, wait_for};
use crate::node::{Daemon, PATIENCE, cluster};
use crate::raw::{Capture, RawSocket, is_tipsec};
use crate::traffic::{Sink, Source};

/// Frames injected while memory and log are watched.
const FRAMES_MIN: usize = 50_000;
/// Frames sent without a pause, well below what the veth's ring holds.
const BURST: usize = 32;

/// Worker's reasons that come after a frame was counted as opened.
const AFTER_OPEN: [&str; 4] = [
    "rx_tap_full",
    "rx_tap_down",
    "rx_bad_payload",
    "rx_no_receiver",
];

/// Fates of control frames that were no good.
const REFUSED: [&str; 9] = [
    "malformed",
    "foreign_master",
    "bad_mac",
    "not_for_us",
    "reflected",
    "refused",
    "stale",
    "rate_limited",
    "repeated",
];

/// What junk must not change.
#[derive(PartialEq, Debug)]
struct State {
    incarnation: String,
    master_id: Option<String>,
    exchanges: [u64; 2],
    peers: Vec<PeerState>,
    events: Vec<String>,
}

#[derive(PartialEq, Debug)]
struct PeerState {
    node: u32,
    link: LinkState,
    incarnation: Option<String>,
    master_id: Option<String>,
    addresses: Vec<AddressReport>,
    epochs: (Option<u32>, Option<u32>),
    rekeys: u64,
}

fn state(daemon: &Daemon) -> State {
    let status = daemon.status();
    let peers = daemon.peers().into_iter();
    let events = daemon.events().into_iter();
    State {
        incarnation: status.incarnation,
        master_id: status.master_id,
        exchanges: ["exchanges_started", "exchanges_completed"].map(|name| status.control[name]),
        peers: peers
            // A frame under another master id is shown, as a claim; flipped
            // bits of the sender's id make strangers of it.
            .filter(|peer| !peer.addresses.is_empty())
            .map(|peer| PeerState {
                node: peer.node,
                link: peer.link,
                incarnation: peer.incarnation,
                master_id: peer.master_id,
                addresses: peer.addresses,
                epochs: (peer.tx_epoch, peer.rx_epoch),
                rekeys: peer.rekeys,
            })
            .collect(),
        events: events
            .map(|event| event.kind)
            .filter(|kind| kind != "other-master")
            .collect(),
    }
}

/// Counters of one node that must add up.
struct Books {
    nic: u64,
    status: StatusReport,
    opened: u64,
    peer_drops: Counts,
}

impl Books {
    /// Reads them at a moment at which no frame is on its way between two of
    /// them; panics if the counters from the XDP program to the worker never
    /// add up.
    fn settled(lab: &Lab, i: usize, daemon: &Daemon) -> Self {
        let end = Instant::now() + PATIENCE;
        loop {
            let nic = || lab.device_counter(&lab.node(i), NIC, Column::RxPackets);
            let before = nic();
            let peers = daemon.peers();
            let books = Self {
                opened: peers.iter().map(|peer| peer.opened_frames).sum(),
                peer_drops: peers.into_iter().flat_map(|peer| peer.drops).collect(),
                status: daemon.status(),
                nic: before,
            };
            let balance = books.balance();
            if balance.is_ok() && nic() == before {
                return books;
            }
            assert!(Instant::now() < end, "node {i}: {balance:?}");
        }
    }

    fn xdp(&self, name: &str) -> u64 {
        self.status.xdp[name]
    }

    fn xdp_sum(&self) -> u64 {
        self.status.xdp.values().sum()
    }

    /// Lost between the XDP program and the worker, with the socket's reason.
    fn xsk_lost(&self) -> u64 {
        self.status.xsk["rx_dropped"] + self.status.xsk["rx_ring_full"]
    }

    fn worker_received(&self) -> u64 {
        self.status.workers[0].received_frames
    }

    fn worker_drops(&self) -> u64 {
        let drops = self.status.workers[0].drops.iter();
        drops
            .filter(|(name, _)| name.starts_with("rx_") && !AFTER_OPEN.contains(&name.as_str()))
            .map(|(_, count)| count)
            .sum()
    }

    fn control_refused(&self) -> u64 {
        REFUSED.iter().map(|name| self.status.control[*name]).sum()
    }

    /// Whether every frame that the XDP program let through is in the books.
    fn balance(&self) -> Result<(), String> {
        let (data, lost) = (self.xdp("data"), self.xsk_lost());
        let (received, opened) = (self.worker_received(), self.opened);
        let drops = self.worker_drops();
        let control = self.xdp("control") + self.xdp("unknown_master");
        let refused = self.control_refused();
        if data == received + lost && received == opened + drops && refused <= control {
            return Ok(());
        }
        Err(format!(
            "data {data} = worker {received} + socket {lost}; worker {received} = \
             opened {opened} + drops {drops}; refused {refused} <= control {control}"
        ))
    }
}

/// Sends all of it, with pauses; gives how much.
fn inject(socket: &RawSocket, frames: &[Vec<u8>]) -> usize {
    for burst in frames.chunks(BURST) {
        for frame in burst {
            wait_for("room in the queue", PATIENCE, || {
                socket.send(frame).then_some(())
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    frames.len()
}

#[test]
fn junk_of_every_kind_is_counted_and_changes_nothing() {
    let Some(lab) = Lab::alone(2) else { return };
    let captures = [1, 2].map(|i| {
        let sent = move |frame: &[u8]| is_tipsec(frame) && frame[6..12] == mac(i);
        Capture::start(&lab, &lab.hub(), &port(i), sent)
    });
    let nodes = cluster(&lab, 2);
    let sinks = [Sink::start(&lab, 1), Sink::start(&lab, 2)];
    let gap = Duration::from_millis(2);
    let sources = [
        Source::start(&lab, 2, 1, gap),
        Source::start(&lab, 1, 2, gap),
    ];
    for sink in &sinks {
        wait_for("traffic", PATIENCE, || (sink.received() > 20).then_some(()));
    }
    let sent = captures.map(Capture::finish);
    let mut random = Random(0x5eed_0000_0000_0001);
    let junk = [(0, 1), (1, 0)].map(|(to, from)| {
        let (own, other) = (mac(to + 1), mac(from + 1));
        let good = one_of_each(sent[from].iter());
        println!("to node {}: {:?}", to + 1, good.keys());
        let mut junk: Vec<_> = good
            .values()
            .flat_map(|frame| junk_of(frame, own, &mut random))
            .collect();
        let echoes = one_of_each(sent[to].iter());
        junk.extend(echoes.values().map(|frame| echo_of(frame, own, other)));
        junk.extend(echoes.values().map(|frame| frame.to_vec()));
        junk
    });
    let kinds: BTreeMap<_, _> = one_of_each(sent.iter().flatten());
    for kind in ["probe", "data", "m1", "m2", "m3", "beacon"] {
        assert!(kinds.contains_key(kind), "no {kind} was captured");
    }

    // A first pass, so that memory which is touched once has been.
    let wires = [1, 2].map(|i| RawSocket::open(&lab, &lab.hub(), &port(i)));
    let before = [0, 1].map(|at| state(&nodes[at]));
    let books = [0, 1].map(|at| Books::settled(&lab, at + 1, &nodes[at]));
    let mut injected = [0, 1].map(|at| inject(&wires[at], &junk[at]));
    let memory = [0, 1].map(|at| nodes[at].resident_kib());
    let mut watched = 0;
    while watched < FRAMES_MIN {
        for at in [0, 1] {
            let count = inject(&wires[at], &junk[at]);
            injected[at] += count;
            watched += count;
        }
    }
    let sent: Vec<_> = sources.into_iter().map(Source::finish).collect();

    for (at, node) in nodes.iter().enumerate() {
        assert_eq!(state(node), before[at], "node {}", at + 1);
        let grown = node.resident_kib().saturating_sub(memory[at]);
        assert!(grown < 2048, "node {} has grown by {grown} KiB", at + 1);
        let log = node.log_text();
        assert!(log.lines().count() < 20 && log.len() < 8192, "{log}");

        let after = Books::settled(&lab, at + 1, node);
        let classified = after.xdp_sum() - books[at].xdp_sum();
        let reached = after.nic - books[at].nic;
        assert_eq!(
            classified, reached,
            "the XDP program counts every frame once"
        );
        assert!(
            reached >= injected[at] as u64,
            "{reached} of {}",
            injected[at]
        );
        println!(
            "node {}: {} injected, {reached} frames in; XDP {:?}; drops {:?}; control {:?}",
            at + 1,
            injected[at],
            after.status.xdp,
            after.status.workers[0].drops,
            after.status.control,
        );
        for reason in [
            "not_ours",
            "not_for_us",
            "reflected",
            "bad_version",
            "bad_length",
            "malformed",
            "unknown_spi",
            "bad_gate",
            "flooded",
            "repeated",
        ] {
            assert!(
                after.xdp(reason) > books[at].xdp(reason),
                "no frame was {reason}"
            );
        }
        for reason in ["rx_replayed", "rx_open_failed"] {
            assert!(
                after.status.workers[0].drops.contains_key(reason),
                "{reason}"
            );
        }
        assert!(after.control_refused() > books[at].control_refused());

        // Nothing real was lost but by a full queue, and that is counted.
        for name in ["tx_no_key", "tx_budget_spent"] {
            let count = |books: &Books| books.peer_drops.get(name).copied().unwrap_or(0);
            assert_eq!(count(&after), count(&books[at]), "{name}");
        }
        let full = after.status.workers[0].drops.get("rx_tap_full");
        let allowed = after.xsk_lost() + full.copied().unwrap_or(0);
        // Source 0 sends to node 1, source 1 to node 2.
        wait_for("all real datagrams", PATIENCE, || {
            (sinks[at].received() + allowed >= sent[at]).then_some(())
        });
    }
}
