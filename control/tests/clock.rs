//! Clocks: the wall clock decides nothing, and the boot-time clock may jump, as it
//! does over a suspend, or stand still, as that of a paused machine does.

// Helpers may stop at the first surprise, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tipsec_control::machine::EventKind;
use tipsec_control::sim::{Losses, Universe, master, ms, node_id};
use tipsec_control::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const TEN_YEARS: Duration = Duration::from_hours(10 * 8766);
const JUMPS: [Duration; 5] = [ms(1), SECOND, Duration::from_mins(1), HOUR, TEN_YEARS];
/// Every pair rekeys this often.
const INTERVAL: Duration = Duration::from_secs(20);
/// From a jump to links that are up and data both ways, and to new keys: the lower
/// id's rekey, or the higher one's as backup, or a retry, and an exchange.
const LIVE_MAX: Duration = Duration::from_secs(5);
const FRESH_MAX: Duration = Duration::from_secs(7);

/// So many nodes that are up and carry data.
fn cluster(seed: u64, nodes: usize) -> Universe {
    println!("seed {seed}");
    let mut universe = Universe::new(seed);
    for _ in 0..nodes {
        universe.add(&master(1), Some(INTERVAL));
    }
    universe.run_until(2 * SECOND, Universe::all_up);
    universe.run_with_traffic(7 * SECOND, ms(20));
    assert_eq!(universe.losses(), Losses::default());
    universe
}

fn jump(universe: &mut Universe, n: usize, by: Duration) {
    let shown = universe.local(n) + by;
    universe.set_clock(n, shown);
}

fn epochs(universe: &Universe) -> [u32; 2] {
    [(0, 1), (1, 0)].map(|(n, of)| universe.view(n, of).unwrap().tx_epoch.unwrap().0)
}

/// All data of the next second arrives, and no link goes down.
fn assert_settled(universe: &mut Universe) {
    let (losses, data) = (universe.losses(), universe.data());
    universe.run_with_traffic(SECOND, ms(20));
    universe.run(ms(100));
    assert_eq!(universe.losses(), losses);
    let (sealed, delivered) = universe.data();
    assert!(sealed >= data.0 + 100, "{data:?} {sealed}");
    assert_eq!(sealed - data.0, delivered - data.1);
    assert!(universe.all_up());
}

/// What has to be so after time did something odd: live sessions soon, and keys
/// that are due, made.
fn assert_recovers(universe: &mut Universe, keys_are_due: bool, before: [u32; 2]) {
    let began = universe.now;
    universe.step_with_traffic(LIVE_MAX, ms(20));
    universe.assert_sound();
    assert_settled(universe);
    if keys_are_due {
        universe.step_with_traffic(FRESH_MAX - LIVE_MAX, ms(20));
        let after = epochs(universe);
        assert!(
            after[0] > before[0] && after[1] > before[1],
            "keys that are due are not made: {before:?} {after:?}"
        );
    }
    // The schedule goes on from there.
    let before = epochs(universe);
    universe.run_with_traffic(2 * INTERVAL, ms(20));
    let after = epochs(universe);
    assert!(after[0] > before[0] && after[1] > before[1]);
    assert!(
        after[0] - before[0] <= 4,
        "not in a loop: {before:?} {after:?}"
    );
    assert_settled(universe);
    println!(
        "{:?} of seconds later all is well",
        universe.now.since(began)
    );
}

#[test]
fn a_node_whose_clock_jumps_is_soon_back_with_keys_that_are_not_overdue() {
    for (seed, by) in (1..).zip(JUMPS) {
        for n in 0..2 {
            let mut universe = cluster(seed, 3);
            let before = epochs(&universe);
            jump(&mut universe, n, by);
            assert_recovers(&mut universe, by > INTERVAL, before);
        }
    }
}

#[test]
fn all_clocks_jump_at_once() {
    for (seed, by) in (10..).zip(JUMPS) {
        let mut universe = cluster(seed, 3);
        let before = epochs(&universe);
        for n in 0..3 {
            jump(&mut universe, n, by);
        }
        assert_recovers(&mut universe, by > INTERVAL, before);
    }
}

#[test]
fn a_node_that_was_suspended_comes_back() {
    for (seed, length) in (20..).zip([SECOND, Duration::from_mins(1), 5 * HOUR]) {
        let mut universe = cluster(seed, 3);
        let before = epochs(&universe);
        universe.stop(0);
        universe.run(length);
        universe.resume(0);
        assert_recovers(&mut universe, length > INTERVAL, before);
    }
}

#[test]
fn a_node_that_stood_still_takes_nobodys_link_down() {
    // What came meanwhile waits, and the others answer as soon as they are asked.
    for (seed, length) in (60..).zip([ms(1600), 3 * SECOND, Duration::from_mins(2)]) {
        let mut universe = cluster(seed, 3);
        universe.stop(0);
        universe.run(length);
        universe.resume(0);
        universe.step_with_traffic(2 * SECOND, ms(20));
        universe.assert_sound();
        assert_eq!(universe.events(0, EventKind::LinkDown), 0, "{length:?}");
        assert_eq!(universe.events(0, EventKind::KeysOld), 0, "{length:?}");
        assert_settled(&mut universe);
        // Who is silent after that is down as ever.
        universe.kill(1);
        universe.run(2 * SECOND);
        assert_eq!(universe.events(0, EventKind::LinkDown), 1, "{length:?}");
    }
}

#[test]
fn a_node_whose_clock_stood_still_comes_back() {
    for (seed, length) in (30..).zip([SECOND, Duration::from_mins(1), 5 * HOUR]) {
        let mut universe = cluster(seed, 3);
        let (before, shown) = (epochs(&universe), universe.local(0));
        universe.stop(0);
        universe.run(length);
        universe.set_clock(0, shown);
        universe.resume(0);
        assert_recovers(&mut universe, length > INTERVAL, before);
    }
}

#[test]
fn jumps_again_and_again_end_no_session_for_good() {
    for seed in 40..44 {
        let mut universe = cluster(seed, 3);
        for round in 0..20 {
            jump(&mut universe, round % 3, JUMPS[round % JUMPS.len()]);
            universe.step_with_traffic(ms(700), ms(20));
            universe.assert_sound();
        }
        let before = epochs(&universe);
        assert_recovers(&mut universe, false, before);
        for n in 0..3 {
            assert_eq!(universe.events(n, EventKind::DuplicateNode), 0);
        }
    }
}

#[test]
fn a_machine_that_runs_since_for_ever_is_a_node() {
    let nanoseconds = Duration::from_nanos(u64::MAX);
    let seconds = Duration::from_secs(u64::from(u32::MAX));
    let most = Duration::MAX - HOUR;
    for (seed, uptime) in (50..).zip([Duration::ZERO, seconds, nanoseconds, most]) {
        println!("seed {seed}, {uptime:?} after boot");
        let mut universe = Universe::new(seed);
        universe.add(&master(1), Some(INTERVAL));
        let old = universe.add_place(0);
        universe.set_clock(old, Instant::since_boot(uptime));
        universe.start(old, node_id(old), &master(1), Some(INTERVAL));
        universe.run_until(2 * SECOND, Universe::all_up);
        universe.run_with_traffic(7 * SECOND, ms(20));
        assert_eq!(universe.losses(), Losses::default());
        let before = epochs(&universe);
        assert_recovers(&mut universe, false, before);
    }
}

/// Where the wall clock may be read: to show times of day to people.
const FOR_PEOPLE: [&str; 2] = [
    "control/src/admin/wall_time.rs",
    "control/src/shell/reports.rs",
];
/// How it is read, in Rust, by way of rustix or libc, and in an XDP program.
const WALL_CLOCK: [&str; 5] = [
    "SystemTime",
    "Realtime",
    "CLOCK_REALTIME",
    "CLOCK_TAI",
    "ktime_get_tai",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_wall_clock_is_read_for_people_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for part in ["control/src", "dataplane/src", "xdp-ebpf/src", "keyctl/src"] {
        sources(&root.join(part), &mut files);
    }
    assert!(files.len() > 100, "{} files", files.len());
    let reads = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        WALL_CLOCK.iter().any(|name| text.contains(name))
    };
    let readers: Vec<_> = files.iter().filter(|path| reads(path)).collect();
    let allowed = FOR_PEOPLE.map(|path| root.join(path));
    for reader in &readers {
        assert!(
            allowed.contains(reader),
            "{} reads the wall clock",
            reader.display()
        );
    }
    assert_eq!(
        readers.len(),
        allowed.len(),
        "the search finds those there are"
    );
}
