//! Two nodes over the memory bearer: every frame sealed is opened, or its loss
//! is logged; also while keys change.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may stop

mod common;

use std::collections::HashSet;

use common::{Cipher, Node, PEER, UNBOUNDED, pair, secret};
use tipsec_dataplane::bearer::memory::Faults;
use tipsec_dataplane::command::Event;
use tipsec_dataplane::counters::{RxDrop, TxDrop};
use tipsec_dataplane::ids::Spi;
use tipsec_dataplane::secret::Suite;

fn key_drops(node: &Node<Cipher>) -> u64 {
    let all = [node.counters.peer(PEER), &node.counters.nobody];
    let rx = RxDrop::ALL.iter().filter(|reason| reason.is_key_related());
    let tx = TxDrop::ALL.iter().filter(|reason| reason.is_key_related());
    all.iter()
        .map(|counters| {
            rx.clone().map(|&r| counters.rx_drops(r)).sum::<u64>()
                + tx.clone().map(|&r| counters.tx_drops(r)).sum::<u64>()
        })
        .sum()
}

fn all_rx_drops(node: &Node<Cipher>) -> u64 {
    let all = [node.counters.peer(PEER), &node.counters.nobody];
    let drops = |&reason| all.iter().map(|c| c.rx_drops(reason)).sum::<u64>();
    RxDrop::ALL.iter().map(drops).sum()
}

/// Sends `bursts` bursts of numbered messages from `a` to `b`, calling
/// `between` before each; returns the numbers delivered.
fn run(
    a: &mut Node<Cipher>,
    b: &mut Node<Cipher>,
    bursts: usize,
    mut between: impl FnMut(usize, &mut Node<Cipher>, &mut Node<Cipher>),
) -> Vec<u64> {
    let mut next = 0u64;
    let mut delivered = Vec::new();
    for burst in 0..bursts {
        between(burst, a, b);
        a.send(48, |_, room| {
            room[..8].copy_from_slice(&next.to_be_bytes());
            next += 1;
            8 + (next % 700) as usize
        });
        // One burst a turn, so that frames stay queued and can be reordered.
        b.receive(|message| {
            delivered.push(u64::from_be_bytes(message[..8].try_into().unwrap()));
        });
    }
    while b.receive(|message| {
        delivered.push(u64::from_be_bytes(message[..8].try_into().unwrap()));
    }) > 0
    {
        a.send(0, |_, _| 0);
    }
    delivered
}

#[test]
fn sealed_is_opened_plus_logged_losses() {
    for seed in 0..20 {
        let faults = Faults {
            loss_permille: 50,
            duplicate_permille: 50,
            reorder_permille: 100,
            corrupt_permille: 20,
        };
        let (mut a, mut b) = pair::<Cipher>(faults, seed);
        b.install_rx(7, 1, secret(Suite::Aes256Gcm, seed));
        a.install_tx(7, 1, secret(Suite::Aes256Gcm, seed), UNBOUNDED);
        let delivered = run(&mut a, &mut b, 100, |_, _, _| ());

        let log = a.bearer.sent_log();
        assert!(log.lost > 0 && log.duplicated > 0 && log.reordered > 0 && log.corrupted > 0);
        assert_eq!(log.queued, 0);
        let sealed = a.counters.peer(PEER).sealed_frames.value();
        let opened = b.counters.peer(PEER).opened_frames.value();
        assert_eq!(sealed, log.offered);
        assert_eq!(log.offered + log.duplicated, log.lost + log.delivered);
        // What arrived was opened once or dropped with a reason.
        assert_eq!(log.delivered, opened + all_rx_drops(&b), "seed {seed}");
        assert_eq!(delivered.len() as u64, opened);
        let distinct: HashSet<_> = delivered.iter().collect();
        assert_eq!(distinct.len(), delivered.len(), "nothing delivered twice");
        // A duplicate is dropped unless its other copy was corrupted or lost,
        // and corruption is the only other reason for a loss.
        let missing = sealed - opened;
        assert!(missing >= log.lost && missing <= log.lost + log.corrupted);
        assert_eq!(b.bearer.free_frames(), 256, "no frame leaks");
        assert_eq!(a.bearer.free_frames(), 256, "no frame leaks");
    }
}

#[test]
fn without_corruption_the_account_is_exact() {
    let faults = Faults {
        loss_permille: 30,
        duplicate_permille: 80,
        reorder_permille: 200,
        corrupt_permille: 0,
    };
    let (mut a, mut b) = pair::<Cipher>(faults, 99);
    b.install_rx(7, 1, secret(Suite::ChaCha20Poly1305, 5));
    a.install_tx(7, 1, secret(Suite::ChaCha20Poly1305, 5), UNBOUNDED);
    run(&mut a, &mut b, 300, |_, _, _| ());
    let log = a.bearer.sent_log();
    let sealed = a.counters.peer(PEER).sealed_frames.value();
    let peer = b.counters.peer(PEER);
    assert_eq!(sealed, peer.opened_frames.value() + log.lost);
    assert_eq!(peer.rx_drops(RxDrop::Replayed), log.duplicated);
    assert_eq!(all_rx_drops(&b), log.duplicated);
}

#[test]
fn new_epochs_mid_stream_cost_no_frame() {
    let faults = Faults {
        reorder_permille: 200,
        ..Faults::default()
    };
    let (mut a, mut b) = pair::<Cipher>(faults, 4);
    let spi = |epoch: u32| 100 + epoch;
    let install = |epoch: u32, a: &mut Node<Cipher>, b: &mut Node<Cipher>| {
        let key = || secret(Suite::Aes256Gcm, u64::from(epoch));
        // The receiver first: that is all it takes.
        b.install_rx(spi(epoch), epoch, key());
        a.install_tx(spi(epoch), epoch, key(), UNBOUNDED);
    };
    install(0, &mut a, &mut b);
    let delivered = run(&mut a, &mut b, 400, |burst, a, b| {
        if burst % 10 == 9 {
            let epoch = (burst / 10 + 1) as u32;
            install(epoch, a, b);
            // Two generations back nothing is on its way any more.
            if epoch >= 2 {
                assert!(b.rx.remove(Spi::new(spi(epoch - 2)).unwrap()));
            }
        }
    });
    assert_eq!(delivered.len(), 400 * 48);
    assert_eq!(key_drops(&a) + key_drops(&b), 0);
    let first_opens = |e: &&Event| matches!(e, Event::FirstOpen { .. });
    assert_eq!(b.events.iter().filter(first_opens).count(), 41);
}

#[test]
fn sender_ahead_of_its_receiver_is_counted_as_unknown() {
    let (mut a, mut b) = pair::<Cipher>(Faults::default(), 4);
    a.install_tx(9, 1, secret(Suite::Aes128Gcm, 1), UNBOUNDED);
    assert!(run(&mut a, &mut b, 2, |_, _, _| ()).is_empty());
    assert_eq!(b.counters.nobody.rx_drops(RxDrop::UnknownSpi), 96);
    assert_eq!(key_drops(&b), 96);
}

#[test]
fn same_spi_with_another_key_delivers_nothing() {
    let (mut a, mut b) = pair::<Cipher>(Faults::default(), 4);
    a.install_tx(9, 1, secret(Suite::Aes256Gcm, 1), UNBOUNDED);
    b.install_rx(9, 1, secret(Suite::Aes256Gcm, 2));
    assert!(run(&mut a, &mut b, 4, |_, _, _| ()).is_empty());
    let peer = b.counters.peer(PEER);
    assert_eq!(peer.rx_drops(RxDrop::OpenFailed), 4 * 48);
    assert_eq!(peer.opened_frames.value(), 0);
}
