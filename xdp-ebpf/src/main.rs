//! The XDP program's binary. It is one only for `bpfel-unknown-none`
//! (`ci/ebpf` builds it); for any other target it is empty, so that
//! `--all-features` builds everywhere. Imports `program` only.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Inline assembly for BPF is unstable; the program needs `build-std` and with it
// an unstable compiler in any case.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod program;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
