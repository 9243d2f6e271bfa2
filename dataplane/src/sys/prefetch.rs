//! Asks the processor to load memory that is needed soon. A hint: it changes
//! nothing and cannot fault. Imports nothing from this crate.
#![allow(unsafe_code)]

/// Bytes that one hint loads.
const LINE_LEN: usize = 64;
/// Hints for one value: a key schedule of AES-256-GCM with its hash table has
/// some 600 bytes.
const LINES_MAX: usize = 12;

/// Starts to load a value into the first cache; does nothing on processors
/// other than x86-64, whose own prefetchers have to do.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    prefetch_at(std::ptr::from_ref(value).addr(), size_of::<T>());
}

/// [`prefetch`] for `len` bytes, at most some hundred, that may lie at `start`.
/// Whether anything does, and whose it is, makes no difference but in time.
#[inline]
pub(crate) fn prefetch_at(start: usize, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in 0..len.div_ceil(LINE_LEN).min(LINES_MAX) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = std::ptr::without_provenance(start.wrapping_add(line * LINE_LEN));
        // SAFETY: prefetching reads nothing and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (start, len);
}

/// The words of a value, padding included: guesses of where it points to, for
/// [`prefetch_at`]. None on processors that are not asked.
#[cfg(feature = "crypto-aws-lc")]
pub(crate) fn words<T>(value: &T) -> impl Iterator<Item = usize> {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    let len = size_of::<T>() / size_of::<usize>();
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let len = 0;
    let start = std::ptr::from_ref(value).cast::<usize>();
    (0..len).map(move |at| word(start.wrapping_add(at)))
}

#[cfg(all(feature = "crypto-aws-lc", target_arch = "x86_64", not(miri)))]
fn word(at: *const usize) -> usize {
    let word: usize;
    // SAFETY: the word is part of a value that is borrowed. The instruction loads
    // whatever bits are there, initialised or not, and does nothing else.
    unsafe {
        std::arch::asm!(
            "mov {word}, [{at}]",
            at = in(reg) at,
            word = lateout(reg) word,
            options(nostack, preserves_flags, readonly),
        );
    }
    word
}

#[cfg(all(feature = "crypto-aws-lc", not(all(target_arch = "x86_64", not(miri)))))]
fn word(_: *const usize) -> usize {
    0
}
