//! A box whose memory is zeroed when it is dropped, for key schedules of
//! crates that do not wipe their own. Imports nothing from this crate.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ops::Deref;

use zeroize::Zeroize;

/// Owns a `T` on the heap; dropping it drops the `T` and then overwrites its
/// memory, padding included, with zeros that the compiler may not elide.
///
/// Only what lies inline in `T` is wiped. Moving a `T` in may leave a copy on
/// the stack of whoever built it: build it where the stack is soon reused.
pub(crate) struct Wiped<T>(Box<MaybeUninit<T>>);

impl<T> Wiped<T> {
    /// Moves `value` to the heap.
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(MaybeUninit::new(value)))
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `new` initialized the value and only `drop` takes it away.
        unsafe { self.0.assume_init_ref() }
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: `new` initialized the value, and a drop runs once.
        unsafe { self.0.assume_init_drop() };
        self.0.zeroize();
    }
}
