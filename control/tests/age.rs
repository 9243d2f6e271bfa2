//! Keys that grow old are told of: a peer that completes no rekey stops nobody
//! else, and somebody hears of it.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use tipsec_control::machine::{EventKind, Input};
use tipsec_control::sim::{Losses, Universe, master, ms};

const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(4);

/// Three nodes that are up; no handshake passes between the first two.
fn straggling(seed: u64) -> Universe {
    let mut universe = Universe::new(seed);
    for _ in 0..3 {
        universe.add(&master(1), Some(INTERVAL));
    }
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.cut_control.extend([(0, 1), (1, 0)]);
    universe
}

fn alarms(universe: &Universe) -> [usize; 3] {
    [0, 1, 2].map(|n| universe.events(n, EventKind::KeysOld))
}

#[test]
fn a_straggler_is_told_of_once_and_delays_nobody_else() {
    let mut universe = straggling(1);
    let epoch = |universe: &Universe, of| universe.view(0, of).unwrap().tx_epoch.unwrap();
    let before = [1, 2].map(|of| epoch(&universe, of));
    universe.run_with_traffic(2 * INTERVAL, ms(20));
    assert_eq!(alarms(&universe), [0, 0, 0], "not yet");
    universe.run_with_traffic(6 * INTERVAL, ms(20));
    assert_eq!(alarms(&universe), [1, 1, 0]);
    assert_eq!(epoch(&universe, 1), before[0], "the pair keeps its keys");
    let others = epoch(&universe, 2).0 - before[1].0;
    assert!(others >= 6, "{others} rekeys with the third");
    assert!(universe.all_up());
    assert_eq!(universe.losses(), Losses::default());
    // New keys end it, and the next time is told again.
    universe.cut_control.clear();
    universe.run_with_traffic(4 * INTERVAL, ms(20));
    assert!(epoch(&universe, 1) > before[0]);
    assert_eq!(alarms(&universe), [1, 1, 0]);
    universe.cut_control.extend([(0, 1), (1, 0)]);
    universe.run_with_traffic(5 * INTERVAL, ms(20));
    assert_eq!(alarms(&universe), [2, 2, 0]);
}

#[test]
fn nothing_is_old_when_the_interval_gets_shorter_or_ends() {
    let mut universe = Universe::new(2);
    for _ in 0..2 {
        universe.add(&master(1), Some(1000 * SECOND));
    }
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.run(500 * SECOND);
    for interval in [Some(SECOND), None] {
        for n in [0, 1] {
            universe.input(n, Input::SetRekeyInterval(interval));
        }
        universe.run(100 * SECOND);
        for n in [0, 1] {
            assert_eq!(universe.events(n, EventKind::KeysOld), 0, "{interval:?}");
        }
    }
}
