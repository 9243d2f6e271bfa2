//! Every interleaving of two threads at one window:
//! `RUSTFLAGS="--cfg loom" cargo test -p tipsec-dataplane --release
//! --no-default-features --features crypto-ring --test loom_window`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use tipsec_dataplane::window::{Block, Window};

/// Commits `prepare`, then `left` and `right` at the same time; hands what
/// both said to `judge`, with the window.
fn race(
    prepare: &'static [u64],
    left: u64,
    right: u64,
    judge: impl Fn(bool, bool, &Window) + Send + Sync + 'static,
) {
    loom::model(move || {
        let window = Arc::new(Window::new());
        for &n in prepare {
            assert!(window.commit(n));
        }
        let shared = Arc::clone(&window);
        let other = thread::spawn(move || shared.commit(right));
        let left = window.commit(left);
        let right = other.join().unwrap();
        judge(left, right, &window);
    });
}

#[test]
fn same_number_is_won_once() {
    race(&[], 5, 5, |left, right, window| {
        assert!(left ^ right);
        assert!(!window.check(5));
    });
}

#[test]
fn different_numbers_of_a_block_are_both_won() {
    race(&[1], 5, 6, |left, right, window| {
        assert!(left && right);
        assert!(!window.check(1) && !window.check(5) && !window.check(6));
        assert!(window.check(7));
    });
}

#[test]
fn slot_that_moves_forward_refuses_a_late_one() {
    const OLD: u64 = 6;
    const NEW: u64 = 5 + (1 << 13);
    race(&[5], OLD, NEW, |old, new, window| {
        assert!(new, "the newer number wins whenever it comes");
        // The old one wins only if it came first; afterwards nothing of its
        // block is accepted, and it is never accepted twice.
        let _ = old;
        assert!(!window.check(OLD) && !window.commit(OLD));
        assert!(!window.commit(5) && !window.commit(NEW));
        assert!(window.commit(NEW + 1));
    });
}

#[test]
fn same_new_number_moves_a_slot_once() {
    const NEW: u64 = 5 + (1 << 13);
    race(&[5], NEW, NEW, |left, right, window| {
        assert!(left ^ right);
        assert!(!window.check(NEW));
    });
}

#[test]
fn overlapping_masks_win_each_number_once() {
    const FIRST: u64 = 1 << 13;
    loom::model(|| {
        let window = Arc::new(Window::new());
        let (block, _) = Block::of(FIRST).unwrap();
        let shared = Arc::clone(&window);
        let other = thread::spawn(move || shared.commit_block(block, 0b0110));
        let left = window.commit_block(block, 0b0011);
        let right = other.join().unwrap();
        assert_eq!((left & right, left | right), (0, 0b0111));
        assert!(window.check(FIRST + 3) && !window.check(FIRST + 1));
    });
}
