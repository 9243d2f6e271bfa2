//! Counts what a thread asks the allocator for, so that "no allocation per
//! frame" is a figure in the results and not a promise. Imports nothing.
#![allow(unsafe_code)] // a global allocator is unsafe by its trait

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Constant and without a destructor: touching it allocates nothing.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Allocations that the calling thread has made since it started, also those
/// that only grew or shrank a block.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.get()
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

struct Counting;

// SAFETY: every call goes to the system allocator with the caller's arguments,
// whose contract is the same; counting touches a thread's own cell alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; the block came from the system allocator.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn every_way_to_allocate_counts_and_other_threads_do_not() {
        let before = allocations();
        let mut list = black_box(Vec::<u8>::with_capacity(8));
        list.reserve_exact(black_box(100_000));
        drop(black_box(list));
        drop(black_box(vec![0u64; black_box(1000)]));
        assert_eq!(allocations() - before, 3);
        let thread = std::thread::spawn(|| drop(black_box(Box::new(1u8))));
        let before = allocations();
        thread.join().unwrap();
        assert_eq!(allocations(), before);
    }
}
