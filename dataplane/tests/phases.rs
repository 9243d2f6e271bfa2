//! Lanes that go from phase to phase, through pipelines and workers: nothing
//! is lost or opened twice at the change, and no number seals twice.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may stop

mod common;
mod endpoints;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use common::{Cipher, Node, PEER, pair, secret};
use endpoints::{End, ends, node, peer};
use proptest::prelude::*;
use tipsec_dataplane::aead::{Aead, Nonce, OpenFailed};
use tipsec_dataplane::bearer::memory::{Faults, MemorySizes};
use tipsec_dataplane::command::{
    Budget, Command, CommandSeq, Event, PhaseSpec, RxLaneSpec, TxLaneSpec,
};
use tipsec_dataplane::counters::{RxDrop, TxDrop};
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, Spi};
use tipsec_dataplane::phase::{Phase, PhaseBits};
use tipsec_dataplane::sa::{Class, RxLane, RxShared, TxLane};
use tipsec_dataplane::secret::{LaneSecret, Suite};

/// Every seal of this test binary.
static SEALS: Mutex<Option<HashSet<KeyAndNonce>>> = Mutex::new(None);

type KeyAndNonce = (Vec<u8>, [u8; 12]);

/// The real cipher, which writes down what it was asked to seal with.
struct Recorder;

impl Aead for Recorder {
    type Key = (Vec<u8>, <Cipher as Aead>::Key);

    const NAME: &'static str = "recorder";

    fn key(secret: &LaneSecret) -> Self::Key {
        (secret.key().to_vec(), Cipher::key(secret))
    }

    fn seal(key: &Self::Key, nonce: Nonce, header: &[u8; 16], payload: &mut [u8]) -> [u8; 16] {
        let pair = (key.0.clone(), nonce.bytes());
        let fresh = SEALS.lock().unwrap().get_or_insert_default().insert(pair);
        assert!(fresh, "a (key, nonce) pair was used twice");
        Cipher::seal(&key.1, nonce, header, payload)
    }

    fn open(
        key: &Self::Key,
        nonce: Nonce,
        header: &[u8; 16],
        sealed: &mut [u8],
    ) -> Result<(), OpenFailed> {
        Cipher::open(&key.1, nonce, header, sealed)
    }
}

fn spi() -> Spi {
    Spi::new(7).unwrap()
}

fn phase_secret(seed: u64, phase: Phase) -> LaneSecret {
    secret(Suite::Aes256Gcm, seed << 32 | u64::from(phase.0))
}

fn spec(seed: u64, phase: Phase) -> PhaseSpec {
    PhaseSpec {
        spi: spi(),
        phase,
        secret: phase_secret(seed, phase),
    }
}

fn rx_spec(from: NodeId, seed: u64, shared: &Arc<RxShared>) -> RxLaneSpec {
    RxLaneSpec {
        spi: spi(),
        peer: PEER,
        node: from,
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: phase_secret(seed, Phase(0)),
        next: Some(phase_secret(seed, Phase(1))),
        phase_bits: PhaseBits::PROTOCOL,
        shared: Arc::clone(shared),
    }
}

fn tx_spec(to: NodeId, seed: u64, budget: Budget) -> TxLaneSpec {
    TxLaneSpec {
        spi: spi(),
        peer: PEER,
        node: to,
        epoch: Epoch(1),
        lane: LaneIndex(0),
        secret: phase_secret(seed, Phase(0)),
        next: Some(phase_secret(seed, Phase(1))),
        phase_bits: PhaseBits::PROTOCOL,
        budget,
    }
}

/// The control plane of both ends, as far as phases go.
struct Control {
    seed: u64,
    /// Turns until what was opened is followed by the next key.
    grace: usize,
    staging: VecDeque<(usize, Phase)>,
    entered: u32,
}

impl Control {
    fn turn(&mut self, now: usize, a: &mut Node<Recorder>, b: &mut Node<Recorder>) {
        for event in a.events.drain(..) {
            if let Event::PhaseEntered { phase, .. } = event {
                self.entered += 1;
                assert_eq!(phase, Phase(self.entered), "each once, in order");
                let next = spec(self.seed, phase.next().unwrap());
                a.tx.stage(PEER, &next).unwrap();
            }
        }
        for event in b.events.drain(..) {
            if let Event::PhaseOpened { phase, .. } = event {
                self.staging.push_back((now + self.grace, phase));
            }
        }
        while let Some(&(at, opened)) = self.staging.front()
            && at <= now
        {
            self.staging.pop_front();
            let next = opened.next().unwrap();
            b.rx.stage(&spec(self.seed, next)).unwrap();
            a.tx.allow_phase(PEER, spi(), next);
        }
    }
}

#[test]
fn no_number_seals_twice_across_phases() {
    for seed in 0..20u64 {
        let faults = Faults {
            loss_permille: 30,
            duplicate_permille: 80,
            reorder_permille: 200,
            corrupt_permille: 0,
        };
        let (mut a, mut b) = pair::<Recorder>(faults, seed);
        // Lengths of phases that have nothing to do with those of bursts, and
        // with windows; most frames cost 2.
        let hard = 300 + 37 * seed;
        let budget = Budget {
            soft: hard / 2,
            hard,
        };
        let shared = RxShared::of_single_lane(u64::MAX);
        // For the path.
        a.install_tx(99, 1, secret(Suite::Aes256Gcm, seed << 32 | 0xffff), budget);
        a.tx.install(TxLane::new(tx_spec(b.id, seed, budget)))
            .unwrap();
        a.tx.allow_phase(PEER, spi(), Phase(1));
        b.rx.insert(RxLane::new(rx_spec(a.id, seed, &shared)))
            .unwrap();
        let mut control = Control {
            seed,
            grace: 1 + seed as usize % 5,
            staging: VecDeque::new(),
            entered: 0,
        };
        let (mut offered, mut delivered) = (0, 0);
        for now in 0..400 {
            offered += a.send(7, |index, _| index) as u64;
            b.receive(|_| delivered += 1);
            control.turn(now, &mut a, &mut b);
        }
        while b.receive(|_| delivered += 1) > 0 {}
        assert!(control.entered >= 3, "seed {seed}: {}", control.entered);
        let log = a.bearer.sent_log();
        assert!(log.lost > 0 && log.duplicated > 0 && log.reordered > 0);
        let (sent, got) = (a.counters.peer(PEER), b.counters.peer(PEER));
        let refused = sent.tx_drops(TxDrop::BudgetSpent);
        assert_eq!(sent.sealed_frames.value() + refused, offered);
        assert_eq!(delivered + log.lost, sent.sealed_frames.value());
        let drops: u64 = RxDrop::ALL.iter().map(|&r| got.rx_drops(r)).sum();
        assert_eq!(drops, log.duplicated, "seed {seed}");
        assert_eq!(got.rx_drops(RxDrop::Replayed), drops, "seed {seed}");
    }
}

/// What may happen to a sending lane.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A frame of this many bytes.
    Seal(Class, usize),
    /// The key of a phase so far after the present one.
    Stage(u32),
    Allow(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (1usize..200).prop_map(|len| Step::Seal(Class::Data, len)),
        2 => Just(Step::Seal(Class::Probe, 16)),
        1 => (0u32..3).prop_map(Step::Stage),
        1 => (0u32..8).prop_map(Step::Allow),
    ];
    prop::collection::vec(step, 1..600)
}

proptest! {
    #[test]
    fn a_lane_keeps_budget_order_and_permission(steps in steps(), hard in 1u64..300) {
        let budget = Budget { soft: hard / 2, hard };
        let mut lane = TxLane::<Recorder>::new(tx_spec(node(2), 0, budget));
        // What the lane has to know: the phase, what was spent in it, whether
        // data is over in it, the key after it, and how far it may go.
        let (mut phase, mut spent, mut over) = (0, 0, false);
        let (mut key_after, mut allowed) = (true, 0);
        let mut last = None;
        for step in steps {
            match step {
                Step::Allow(to) => {
                    lane.allow_phase(Phase(to));
                    allowed = allowed.max(to);
                }
                Step::Stage(ahead) => {
                    let staged = lane.stage(&spec(0, Phase(phase + ahead)));
                    prop_assert_eq!(staged.is_ok(), ahead == 1 && !key_after);
                    key_after |= staged.is_ok();
                }
                Step::Seal(class, len) => {
                    let cost = 1 + len.div_ceil(16) as u64;
                    let fits = match class {
                        Class::Data => !over && spent + cost <= budget.data_limit(),
                        Class::Probe => spent + cost <= hard,
                    };
                    let jumps = !fits && key_after && allowed > phase && cost <= budget.data_limit();
                    let number = lane.number(len, class);
                    prop_assert_eq!(number.is_ok(), fits || jumps);
                    let Ok(number) = number else {
                        over = true;
                        continue;
                    };
                    if jumps {
                        (phase, spent, over, key_after) = (phase + 1, 0, false, false);
                    }
                    spent += cost;
                    let number = u64::from_be_bytes(number.header()[8..].try_into().unwrap());
                    prop_assert!(last < Some(number));
                    prop_assert_eq!(number >> 32, u64::from(phase));
                    last = Some(number);
                }
            }
        }
    }
}

/// Answers to commands so far, in order, and the other events.
fn events(end: &End) -> Vec<Event> {
    std::iter::from_fn(|| end.control.receive()).collect()
}

/// What a probe says of the phase.
fn reported(a: &mut End, b: &mut End) -> Phase {
    a.probe(2, 1);
    a.settle();
    b.settle();
    a.settle();
    let mut phases = events(a).into_iter().filter_map(|event| match event {
        Event::ProbeReply { probe, .. } => Some(probe.phase),
        _ => None,
    });
    phases.next().unwrap()
}

#[test]
fn a_worker_goes_through_phases_as_it_is_told() {
    let (mut a, mut b) = ends(MemorySizes::default());
    let seed = 77;
    let shared = RxShared::of_single_lane(10);
    let seq = CommandSeq(1000);
    let done = [Event::Done { seq }];
    b.command(Command::InstallRx {
        seq,
        lane: Box::new(RxLaneSpec {
            peer: peer(1),
            ..rx_spec(node(1), seed, &shared)
        }),
    });
    b.settle();
    assert_eq!(events(&b), done);
    // A probe costs 2, and so does a small message.
    let budget = Budget { soft: 8, hard: 12 };
    a.command(Command::InstallTx {
        seq,
        lane: Box::new(TxLaneSpec {
            peer: peer(2),
            ..tx_spec(node(2), seed, budget)
        }),
    });
    a.settle();
    assert_eq!(events(&a), done);

    let send = |a: &mut End, b: &mut End, count: usize| {
        // Commands come first.
        a.settle();
        for n in 0..count {
            a.endpoint.send(node(2), &[n as u8; 3]).unwrap();
        }
        a.endpoint.flush();
        a.settle();
        b.take().len()
    };
    // Told of nothing, it stops; and goes on when it is told.
    assert_eq!(reported(&mut a, &mut b), Phase(0));
    assert_eq!(send(&mut a, &mut b, 6), 4);
    let (peer_b, epoch) = (peer(2), Epoch(1));
    let low = Event::BudgetLow {
        peer: peer_b,
        epoch,
        next_ready: false,
    };
    let spent = Event::BudgetSpent {
        peer: peer_b,
        epoch,
    };
    assert_eq!(events(&a), [low, spent]);
    // It still asks, and so hears when it may.
    assert_eq!(reported(&mut a, &mut b), Phase(0));
    let allow = |phase| Command::AllowPhase {
        peer: peer_b,
        spi: spi(),
        phase: Phase(phase),
    };
    a.command(Command::AllowPhase {
        peer: peer_b,
        spi: Spi::new(8).unwrap(),
        phase: Phase(9),
    });
    assert_eq!(send(&mut a, &mut b, 1), 0, "leave for another lane");
    a.command(allow(1));
    assert_eq!(send(&mut a, &mut b, 2), 2);
    let entered = |phase| Event::PhaseEntered {
        peer: peer_b,
        spi: spi(),
        phase: Phase(phase),
    };
    assert_eq!(events(&a), [entered(1)]);
    let opened = Event::PhaseOpened {
        peer: peer(1),
        spi: spi(),
        phase: Phase(1),
    };
    assert_eq!(events(&b)[1..], [opened], "after the first open");
    // It is reported when the control plane says so.
    assert_eq!(reported(&mut a, &mut b), Phase(0));
    let refused = [Event::Refused { seq }];
    for (phase, answer) in [(3, refused), (2, done), (2, refused)] {
        let phase = Box::new(spec(seed, Phase(phase)));
        b.command(Command::StageRx { seq, phase });
        b.settle();
        assert_eq!(events(&b), answer);
    }
    shared.report_phase(Phase(1));
    assert_eq!(reported(&mut a, &mut b), Phase(1));
    for (phase, answer) in [(3, refused), (2, done), (2, refused)] {
        let phase = Box::new(spec(seed, Phase(phase)));
        a.command(Command::StageTx {
            seq,
            peer: peer_b,
            phase,
        });
        a.settle();
        assert_eq!(events(&a), answer);
    }
    a.command(allow(2));
    assert_eq!(send(&mut a, &mut b, 4), 4);
    assert_eq!(events(&a), [entered(2)]);
    let drops = b.endpoint.counters();
    assert_eq!(drops.peer(peer(1)).rx_drops(RxDrop::UnknownPhase), 0);
}
