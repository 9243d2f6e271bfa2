//! Asks the processor to load memory that is needed soon. A hint: it changes
//! nothing and cannot fault. Imports nothing from this crate.
#![allow(unsafe_code)]

/// Bytes that one hint loads.
const LINE_LEN: usize = 64;
/// Hints for one value: a key schedule of AES-256-GCM with its hash table has
/// some 700 bytes.
const LINES_MAX: usize = 12;

/// Starts to load a value into the first cache; does nothing on processors
/// other than x86-64, whose own prefetchers have to do.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in 0..size_of::<T>().div_ceil(LINE_LEN).min(LINES_MAX) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        // SAFETY: prefetching reads nothing and faults on no address; this one
        // is computed without being dereferenced.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE_LEN)) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = value;
}
