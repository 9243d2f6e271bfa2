//! A member that floods: what it writes passes every gate and MAC, as often as the
//! driver lets frames pass. The others go on, with new keys, in bounded room.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod forgery;

use std::collections::VecDeque;
use std::time::Duration;

use forgery::{Claim, cookie_in, forged_beacon, hello_that_says};
use tipsec_control::address::{Addresses, Network};
use tipsec_control::frame::{ControlFrame, MessageType};
use tipsec_control::machine::{Count, EventKind, Input};
use tipsec_control::message::Hello;
use tipsec_control::sim::{Losses, Universe, address_of, master, ms, node_id, to_node};
use tipsec_dataplane::ids::{Incarnation, NodeId};

const SECOND: Duration = Duration::from_secs(1);
/// From then on nothing of a pair's first exchange is under way any more.
const SETTLED: Duration = Duration::from_secs(6);
/// Where the member is.
const MEMBER: usize = 2;
/// Between two steps of a flood.
const STEP: Duration = ms(10);
/// Frames a step: 100 a second in the name of a peer, 500 in those of others, as the
/// driver's buckets allow ("Token buckets" in docs/protocol.md).
const IN_A_PEERS_NAME: usize = 1;
const IN_OTHER_NAMES: usize = 5;
/// Peers that a node keeps.
const PEERS_MAX: u16 = 32;
/// Longest for a rekey under a flood.
const REKEY_MAX: Duration = Duration::from_secs(2);

/// Places 0 and 1 are up, and settled; the member has a place and no machine.
fn pair_and_member(seed: u64) -> Universe {
    println!("seed {seed}");
    let mut universe = Universe::new(seed);
    universe.max_peers = PEERS_MAX;
    for _ in 0..2 {
        universe.add(&master(1), None);
    }
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.run(SETTLED);
    assert_eq!(universe.add_place(0), MEMBER);
    universe.captured.clear();
    universe
}

fn invented(number: usize) -> NodeId {
    NodeId::new(50_000 + u32::try_from(number).unwrap()).unwrap()
}

/// Writes to place 0 what a member can, a little each step.
struct Flood {
    /// Grows by one a frame: exchange, life, counter.
    number: u64,
    /// Invented nodes are named in turn.
    names: usize,
    /// So many of them each step.
    named_a_step: usize,
    /// m1s that were answered with a cookie, to come again with it.
    claims: VecDeque<Claim>,
}

impl Flood {
    fn of_names(names: usize, named_a_step: usize) -> Self {
        Self {
            number: 1000,
            names,
            named_a_step,
            claims: VecDeque::new(),
        }
    }

    fn send(universe: &mut Universe, frame: Vec<u8>) {
        universe.replay(to_node(0), frame, MEMBER);
    }

    /// Another claim, to receive where the member does.
    fn claim(&mut self, sender: NodeId, addresses: Addresses) -> Claim {
        self.number += 1;
        let claim = Claim {
            sender,
            incarnation: Incarnation(self.number),
            addresses,
            exchange: self.number,
            counter: 1 << 40 | self.number,
            // Few as well as many, so that they take the last as well.
            lanes: 1 + u8::try_from(self.number % 32).unwrap(),
            chain: 0,
            cookie: [0; 16],
        };
        self.claims.push_back(claim);
        if self.claims.len() > 4096 {
            self.claims.pop_front();
        }
        claim
    }

    /// One step's worth.
    fn step(&mut self, universe: &mut Universe) {
        let keys = master(1);
        let here = address_of(MEMBER, Network::DEFAULT);
        let addresses = Addresses::one(Network::DEFAULT, here);
        let heard = std::mem::take(&mut universe.captured);
        let mut again: Vec<Claim> = Vec::new();
        for (to, frame) in heard {
            let header = *ControlFrame::decode(&frame).unwrap().header();
            if to == to_node(MEMBER) && header.message == MessageType::Hello {
                let asked = self.claims.iter().find(|c| c.exchange == header.exchange);
                again.extend(asked.map(|claim| Claim {
                    cookie: cookie_in(&frame),
                    counter: claim.counter + 1,
                    ..*claim
                }));
            }
        }
        for claim in again {
            let m1 = claim.m1(universe, 0, &keys);
            Self::send(universe, m1);
        }
        for _ in 0..self.named_a_step {
            let name = invented(usize::try_from(self.number).unwrap() % self.names);
            let claim = self.claim(name, addresses);
            let m1 = claim.m1(universe, 0, &keys);
            Self::send(universe, m1);
            let beacon = forged_beacon(name, claim.incarnation, here, &keys);
            Self::send(universe, beacon);
        }
        for _ in 0..IN_A_PEERS_NAME {
            let peer = node_id(1);
            let bare = self.claim(peer, addresses).m1(universe, 0, &keys);
            let named = Claim {
                chain: self.number,
                ..self.claim(peer, addresses)
            };
            let chained = named.m1(universe, 0, &keys);
            let beacon = forged_beacon(peer, named.incarnation, here, &keys);
            let nobody_asked = hello_that_says(
                1,
                &Hello {
                    incarnation: Incarnation(self.number),
                    busy: true,
                    cookie: [0; 16],
                    addresses,
                },
                &keys,
                &bare,
            );
            for frame in [bare, chained, beacon, nobody_asked] {
                Self::send(universe, frame);
            }
        }
    }

    /// Goes on until `done`, with data between the others.
    fn run_until(
        &mut self,
        universe: &mut Universe,
        limit: Duration,
        done: impl Fn(&Universe) -> bool,
    ) -> Duration {
        let began = universe.now;
        while !done(universe) {
            let took = universe.now.since(began);
            assert!(took < limit, "not done after {limit:?}");
            self.step(universe);
            universe.run_with_traffic(STEP, STEP);
        }
        universe.now.since(began)
    }

    fn run(&mut self, universe: &mut Universe, length: Duration) {
        let end = universe.now + length;
        self.run_until(universe, length + SECOND, |universe| universe.now >= end);
    }
}

/// New keys on request of place `n`.
fn rekey_now(universe: &mut Universe, flood: &mut Flood, n: usize) -> Duration {
    let before = universe.view(n, 1 - n).unwrap().tx_epoch;
    universe.input(n, Input::RekeyNow);
    flood.run_until(universe, REKEY_MAX, |universe| {
        universe.view(n, 1 - n).unwrap().tx_epoch > before
    })
}

fn count(universe: &Universe, count: Count) -> u64 {
    universe.node(0).machine.counts().value(count)
}

/// Five rekeys from either end, each in time.
fn assert_rekeys(universe: &mut Universe, flood: &mut Flood) {
    let took: Vec<_> = (0..5)
        .flat_map(|_| [0, 1].map(|n| rekey_now(universe, flood, n)))
        .collect();
    println!("rekeys took {took:?}");
}

/// Neither end has noticed anything, and all data has arrived.
fn assert_undisturbed(universe: &mut Universe) {
    universe.run(STEP);
    for n in [0, 1] {
        assert!(universe.is_up(n, 1 - n));
        assert_eq!(universe.events(n, EventKind::LinkDown), 0);
    }
    let (sealed, delivered) = universe.data();
    assert!(
        sealed > 300 && sealed == delivered,
        "{delivered} of {sealed}"
    );
    // For invented nodes, which the traffic is for as well, there is no key.
    let no_key = universe.losses().no_key;
    let none = Losses::default();
    assert_eq!(universe.losses(), Losses { no_key, ..none });
}

#[test]
fn a_pair_rekeys_and_carries_data_while_a_member_floods() {
    for seed in 0..2 {
        let mut universe = pair_and_member(seed);
        let mut flood = Flood::of_names(2000, IN_OTHER_NAMES);
        flood.run(&mut universe, 6 * SECOND);
        let peers = universe.node(0).machine.sizes().peers;
        assert_eq!(peers, usize::from(PEERS_MAX), "the table is full");
        assert!(count(&universe, Count::RateLimited) > 100, "it was a flood");
        assert_rekeys(&mut universe, &mut flood);
        assert_undisturbed(&mut universe);
    }
}

#[test]
fn invented_nodes_leave_spis_for_those_that_are_known() {
    let mut universe = pair_and_member(10);
    // In few names, which are all in the table, and in life after life of each, no
    // more often than each is listened to.
    let mut flood = Flood::of_names(20, 1);
    let refused = |universe: &Universe| {
        let sent = universe.captured.iter();
        let hellos = sent.filter_map(|(_, frame)| {
            let frame = ControlFrame::decode(frame)?;
            Hello::decode(frame.body()).filter(|_| frame.header().message == MessageType::Hello)
        });
        hellos.filter(|hello| hello.busy).count() > 0
    };
    flood.run_until(&mut universe, 5 * SECOND, refused);
    let taken = universe.most_rx_lanes();
    let slots = usize::try_from(universe.spi_slots).unwrap();
    println!("{taken} SPIs of {slots} are taken");
    assert!(taken > slots / 2, "it was a flood");
    flood.run(&mut universe, 2 * SECOND);
    assert_rekeys(&mut universe, &mut flood);
    assert_undisturbed(&mut universe);
}
