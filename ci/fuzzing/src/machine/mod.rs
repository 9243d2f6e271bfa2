//! Targets `machine` and `member`: the key machine of one node, against who
//! has recorded frames and can make MACs, and against a member that lies.
//!
//! Here is the victim, and what must hold of it after every step. Imports
//! `input`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tipsec_control::derive::ClusterKeys;
use tipsec_control::frame::{ControlFrame, MessageType};
use tipsec_control::machine::{Action, Input as Step, Machine, Settings};
use tipsec_control::masters::Masters;
use tipsec_control::sim::{Seeded, address_of, master, network, node_id};
use tipsec_control::time::Instant;
use tipsec_dataplane::ids::Incarnation;
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::secret::Suite;
use tipsec_xdp::wire::{CLEAR_HEADER_LEN, CONTROL_MAC_LEN, HEADER_LEN, OFFSET_GATE, OFFSET_LENGTH};

use crate::Target;

mod member;
mod recorded;

pub(crate) const TARGET: Target = Target {
    name: "machine",
    run: recorded::run,
    seeds: recorded::seeds,
};

pub(crate) const MEMBER: Target = Target {
    name: "member",
    run: member::run,
    seeds: member::seeds,
};

/// The victim's place: of three nodes the one to which the others start
/// exchanges, since lower ids are first.
const VICTIM: usize = 2;
/// When victims start.
const START: Instant = Instant::since_boot(Duration::from_secs(1000));
const MAX_PEERS: u16 = 6;
const SPI_SLOTS: u32 = 64;
/// docs/architecture.md, "Sizes and bounds".
const RX_SAS_MAX: usize = 16;
const JOURNAL_MAX: usize = 1024;
const CLAIMS_MAX: usize = 64;
const LIVES_MAX: usize = 32;
/// Longest control frame, from its Tipsec header on.
const FRAME_MAX: usize = 1500;
/// Deadlines that are met in one step of time.
const TIMERS_MAX: usize = 256;

/// The node that is attacked.
struct Victim {
    machine: Machine,
    random: Seeded,
    now: Instant,
    keys: Arc<ClusterKeys>,
}

impl Victim {
    fn new() -> Self {
        let mut random = Seeded::new(0x5eed);
        let on = network(0);
        let settings = Settings {
            node: node_id(VICTIM),
            incarnation: Incarnation(0x0bad_cafe_0000_0001),
            cluster: "test".parse().unwrap(),
            addresses: tipsec_control::address::Addresses::one(on, address_of(VICTIM, on)),
            lanes: vec![on; 2],
            suites: Suite::ALL.to_vec(),
            rekey_interval: Some(Duration::from_secs(2)),
            link_tolerance: Duration::from_millis(1500),
            budget: 1 << 20,
            phase_bits: PhaseBits::PROTOCOL,
            failed_opens_limit: 1 << 20,
            max_peers: MAX_PEERS,
            spi_slots: SPI_SLOTS,
        };
        let machine = Machine::new(settings, START, &mut random);
        let keys = master(1);
        let mut victim = Self {
            machine,
            random,
            now: START,
            keys: Arc::clone(&keys),
        };
        let none = victim.step(Step::SetMasters(Masters::only(keys)));
        assert!(
            none.iter()
                .all(|action| matches!(action, Action::Send { .. }))
        );
        victim
    }

    /// One input; what is to be done.
    fn step(&mut self, step: Step<'_>) -> Vec<Action> {
        self.machine.handle(self.now, &mut self.random, step);
        let actions: Vec<_> = std::iter::from_fn(|| self.machine.next_action()).collect();
        self.check();
        for action in &actions {
            self.check_action(action);
        }
        actions
    }

    fn frame(&mut self, bytes: &[u8]) -> Vec<Action> {
        let on = network(0);
        self.step(Step::Frame {
            bytes,
            network: on,
            source: address_of(9, on),
        })
    }

    /// Lets time pass, with every timer that ends meanwhile.
    fn pass(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut actions = Vec::new();
        for _ in 0..TIMERS_MAX {
            let Some(due) = self.machine.next_deadline().filter(|due| *due <= end) else {
                break;
            };
            self.now = self.now.max(due);
            actions.extend(self.step(Step::Timer));
            let next = self.machine.next_deadline();
            assert!(next.is_some(), "it never wakes again");
        }
        self.now = end;
        actions
    }

    /// What it keeps is bounded.
    fn check(&self) {
        let sizes = self.machine.sizes();
        let peers = usize::from(MAX_PEERS);
        assert!(sizes.peers <= peers, "{sizes:?}");
        assert!(sizes.pending <= 2 * RX_SAS_MAX * peers, "{sizes:?}");
        assert_eq!(sizes.actions, 0);
        assert!(sizes.journal <= JOURNAL_MAX, "{sizes:?}");
        assert!(sizes.claims <= CLAIMS_MAX, "{sizes:?}");
        assert!(sizes.lives <= LIVES_MAX, "{sizes:?}");
    }

    /// What it sends is its own, proven, and fits.
    fn check_action(&self, action: &Action) {
        let Action::Send { frame, .. } = action else {
            return;
        };
        assert!(frame.len() <= FRAME_MAX);
        let read = ControlFrame::decode(frame).expect("what it sends can be read");
        assert!(read.verify(&self.keys), "and is proven");
        assert_eq!(read.header().sender, node_id(VICTIM));
        assert_ne!(read.header().receiver, Some(node_id(VICTIM)));
        assert_eq!(read.to_bytes(), *frame);
    }
}

/// Frames among what is to be done, by type.
fn sent(actions: &[Action], message: MessageType) -> impl Iterator<Item = &[u8]> {
    actions.iter().filter_map(move |action| match action {
        Action::Send { frame, .. } => {
            let read = ControlFrame::decode(frame)?;
            (read.header().message == message).then_some(frame.as_slice())
        }
        _ => None,
    })
}

/// Makes gate and MAC of a frame right, and with `with_length` its length
/// field, as a holder of the master key can. Nothing that is too short.
fn prove(frame: &mut [u8], keys: &ClusterKeys, with_length: bool) {
    let len = frame.len();
    if len < CLEAR_HEADER_LEN + CONTROL_MAC_LEN {
        return;
    }
    if with_length && let Ok(length) = u16::try_from(len - HEADER_LEN) {
        frame[OFFSET_LENGTH..OFFSET_LENGTH + 2].copy_from_slice(&length.to_be_bytes());
    }
    let Some(clear) = frame.first_chunk::<CLEAR_HEADER_LEN>() else {
        return;
    };
    let gate = tipsec_xdp::gate(&keys.xdp_gate(), clear).to_be_bytes();
    frame[OFFSET_GATE..OFFSET_GATE + 8].copy_from_slice(&gate);
    // As far as it says that it reaches.
    let length = u16::from_be_bytes([frame[OFFSET_LENGTH], frame[OFFSET_LENGTH + 1]]);
    let end = HEADER_LEN + usize::from(length);
    let Some(signed) = end
        .checked_sub(CONTROL_MAC_LEN)
        .filter(|_| end <= frame.len())
    else {
        return;
    };
    let is_beacon = frame[0] == tipsec_xdp::Kind::Beacon.version_byte();
    let key = if is_beacon {
        keys.beacon()
    } else {
        keys.gate()
    };
    let code = key.sign(&frame[..signed]);
    frame[signed..end].copy_from_slice(&code);
}

/// Things that may be seen once.
#[derive(Default)]
struct Once(HashSet<Vec<u8>>);

impl Once {
    fn see(&mut self, what: &str, parts: &[&[u8]]) {
        assert!(self.0.insert(parts.concat()), "{what}, twice");
    }
}
