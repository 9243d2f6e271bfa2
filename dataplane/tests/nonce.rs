//! No (key, nonce) pair seals twice: across bursts, installs, spent budgets,
//! refused installs and restarts with new secrets.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may stop

mod common;

use std::collections::HashSet;
use std::sync::Mutex;

use common::{PEER, UNBOUNDED, pair, secret};
use tipsec_dataplane::aead::{Aead, Nonce, OpenFailed};
use tipsec_dataplane::bearer::memory::Faults;
use tipsec_dataplane::command::{Budget, Event, TxLaneSpec};
use tipsec_dataplane::counters::TxDrop;
use tipsec_dataplane::ids::{Epoch, LaneIndex, NodeId, Spi};
use tipsec_dataplane::phase::PhaseBits;
use tipsec_dataplane::sa::TxLane;
use tipsec_dataplane::secret::{LaneSecret, Suite};
use tipsec_dataplane::table::InstallRefused;

/// Every seal of this test binary.
static SEALS: Mutex<Option<HashSet<KeyAndNonce>>> = Mutex::new(None);

type KeyAndNonce = (Vec<u8>, [u8; 12]);

/// Seals nothing, writes down what it was asked to seal with.
struct Recorder;

impl Aead for Recorder {
    type Key = Vec<u8>;

    const NAME: &'static str = "recorder";

    fn key(secret: &LaneSecret) -> Vec<u8> {
        secret.key().to_vec()
    }

    fn seal(key: &Vec<u8>, nonce: Nonce, _: &[u8; 16], _: &mut [u8]) -> [u8; 16] {
        let mut seals = SEALS.lock().unwrap();
        let fresh = seals
            .get_or_insert_default()
            .insert((key.clone(), nonce.bytes()));
        assert!(fresh, "a (key, nonce) pair was used twice");
        [0; 16]
    }

    fn open(_: &Vec<u8>, _: Nonce, _: &[u8; 16], _: &mut [u8]) -> Result<(), OpenFailed> {
        Ok(())
    }
}

fn seals() -> usize {
    SEALS.lock().unwrap().as_ref().map_or(0, HashSet::len)
}

fn lane(spi: u32, epoch: u32, seed: u64) -> TxLane<Recorder> {
    TxLane::new(TxLaneSpec {
        spi: Spi::new(spi).unwrap(),
        peer: PEER,
        node: NodeId::new(2).unwrap(),
        epoch: Epoch(epoch),
        lane: LaneIndex(0),
        secret: secret(Suite::Aes256Gcm, seed),
        next: None,
        phase_bits: PhaseBits::PROTOCOL,
        budget: UNBOUNDED,
    })
}

#[test]
fn no_pair_seals_twice() {
    let mut total = 0;
    // Lives of one node: tables and counters start over, secrets are new.
    for life in 0..4u64 {
        let (mut a, mut b) = pair::<Recorder>(Faults::default(), life);
        let mut spent_events = 0;
        for epoch in 1..=5u32 {
            let seed = life << 32 | u64::from(epoch);
            let budget = Budget {
                soft: 1000,
                hard: 1500,
            };
            a.install_tx(7, epoch, secret(Suite::Aes256Gcm, seed), budget);
            for _ in 0..20 {
                total += a.send(40, |index, _| index);
                while b.receive(|_| ()) > 0 {}
            }
            // A repeated command must not start the counter again, neither
            // while the lane is there nor when it was removed.
            let again = || lane(7, epoch, seed);
            let spi = Spi::new(7).unwrap();
            let refused = Err(InstallRefused::InstalledBefore(spi));
            assert_eq!(a.tx.install(again()), refused);
            if epoch == 3 {
                assert!(a.tx.remove(PEER));
                assert_eq!(a.tx.install(again()), refused);
            }
            total += a.send(40, |index, _| index);
            while b.receive(|_| ()) > 0 {}
            spent_events = a
                .events
                .iter()
                .filter(|e| matches!(e, Event::BudgetSpent { .. }))
                .count();
        }
        assert_eq!(spent_events, 5, "each lane says once that it is spent");
        let peer = a.counters.peer(PEER);
        let dropped = peer.tx_drops(TxDrop::BudgetSpent) + peer.tx_drops(TxDrop::NoKey);
        assert!(peer.tx_drops(TxDrop::BudgetSpent) > 0);
        assert_eq!(peer.tx_drops(TxDrop::NoKey), 40);
        total -= usize::try_from(dropped).unwrap();
        assert_eq!(seals(), total, "every seal was recorded");
    }
}
