//! Counts allocations: rx and tx make none after start; and looks at what is
//! freed: a dropped lane leaves no key schedule behind.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may stop
#![allow(unsafe_code)] // a global allocator is unsafe by its trait

mod common;
mod endpoints;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Cipher, UNBOUNDED, pair, secret};
use tipsec_dataplane::bearer::memory::{Faults, MemorySizes};
use tipsec_dataplane::secret::Suite;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Size of freed blocks to look into; 0 for none.
    static WATCHED_SIZE: Cell<usize> = const { Cell::new(0) };
    static FREED_ZEROED: Cell<u64> = const { Cell::new(0) };
    static FREED_DIRTY: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is the system allocator's; before a block is given back
// to it, the block is only read.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() == WATCHED_SIZE.get() {
            let is_zero = (0..layout.size()).all(|i| {
                // SAFETY: the block has this size and is still allocated; a
                // volatile read takes whatever is there.
                unsafe { block.add(i).read_volatile() == 0 }
            });
            let counter = if is_zero { &FREED_ZEROED } else { &FREED_DIRTY };
            counter.set(counter.get() + 1);
        }
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steady_state_allocates_nothing() {
    let faults = Faults {
        duplicate_permille: 10,
        ..Faults::default()
    };
    let (mut a, mut b) = pair::<Cipher>(faults, 1);
    b.install_rx(7, 1, secret(Suite::Aes256Gcm, 1));
    a.install_tx(7, 1, secret(Suite::Aes256Gcm, 1), UNBOUNDED);
    let mut delivered = 0u64;
    let mut turn = |a: &mut common::Node<Cipher>, b: &mut common::Node<Cipher>| {
        a.send(64, |index, _| 20 * index);
        b.receive(|_| delivered += 1);
    };
    // The fault log's list grows to its bound before counting starts.
    for _ in 0..8000 {
        turn(&mut a, &mut b);
    }
    let before = ALLOCATIONS.get();
    for _ in 0..4000 {
        turn(&mut a, &mut b);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert!(delivered > 500_000);
    // The counter counts.
    drop(std::hint::black_box(Box::new(1u8)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

#[test]
fn messages_of_a_program_allocate_nothing() {
    let (mut a, mut b) = endpoints::ends(MemorySizes::default());
    let to = endpoints::node(2);
    let mut answers = 0;
    let mut turn = || {
        for size in 0..60 {
            let mut frame = a.endpoint.reserve(to).unwrap();
            frame.payload_mut()[..20 * size].fill(1);
            frame.commit(20 * size).unwrap();
        }
        a.endpoint.flush();
        b.endpoint.poll().unwrap();
        b.endpoint.receive(|message| {
            message.answer().unwrap().commit(8).unwrap();
        });
        b.endpoint.flush();
        a.endpoint.poll().unwrap();
        answers += a.endpoint.receive(|_| {});
    };
    turn();
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        turn();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(answers, 60 * 1001);
}

#[test]
#[cfg(feature = "crypto-ring")]
fn dropped_lane_leaves_no_ring_key_behind() {
    use tipsec_dataplane::aead::Aead;
    use tipsec_dataplane::aead::ring::Ring;

    for suite in Suite::ALL {
        let key = Ring::key(&secret(suite, 9));
        WATCHED_SIZE.set(size_of::<ring::aead::LessSafeKey>());
        drop(key);
        WATCHED_SIZE.set(0);
        assert_eq!(FREED_DIRTY.get(), 0, "{}", suite.name());
        assert_eq!(FREED_ZEROED.replace(0), 1, "{}", suite.name());
    }
}
