//! Asks the processor to move memory out of this core's own caches, for whoever
//! writes to it next on another core. A hint: it changes nothing and cannot
//! fault. Imports nothing from this crate.

#![allow(unsafe_code)]

/// Bytes that one hint moves.
const LINE_LEN: usize = 64;

/// A processor that takes the hint: CLDEMOTE of x86-64 (Intel's Software
/// Developer's Manual, volume 2), which others take for no operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demotion(());

impl Demotion {
    /// `None` where the hint does nothing and would only cost its time.
    pub(crate) fn find() -> Option<Self> {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::x86_64::{__cpuid, __cpuid_count};
            /// The leaf of structured features, and CLDEMOTE's bit in its ECX.
            const FEATURES: u32 = 7;
            const CLDEMOTE: u32 = 1 << 25;
            let has_leaf = __cpuid(0).eax >= FEATURES;
            (has_leaf && __cpuid_count(FEATURES, 0).ecx & CLDEMOTE != 0).then_some(Self(()))
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        None
    }

    /// Hints at `len` bytes that may lie at `start`. Whether anything does, and
    /// whose it is, makes no difference but in time.
    #[inline]
    pub(crate) fn demote_at(self, start: usize, len: usize) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        for line in (start / LINE_LEN)..start.saturating_add(len).div_ceil(LINE_LEN) {
            // SAFETY: the instruction reads and writes no memory, and faults on
            // no address.
            unsafe {
                std::arch::asm!(
                    "cldemote [{at}]",
                    at = in(reg) line * LINE_LEN,
                    options(nostack, preserves_flags),
                );
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = (start, len, LINE_LEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_changes_nothing_and_takes_any_address() {
        let Some(demotion) = Demotion::find() else {
            println!("SKIPPED: this processor does not know CLDEMOTE");
            return;
        };
        let bytes: Vec<u8> = (0..=255).collect();
        demotion.demote_at(bytes.as_ptr().addr() + 3, 200);
        assert!(bytes.iter().copied().eq(0..=255));
        demotion.demote_at(0, 4096);
        demotion.demote_at(usize::MAX - 200, 4096);
    }
}
