//! What the object's tests share: frames of every kind, the loaded program
//! with its maps, and the model it is compared with. Imports the library and
//! libbpf-rs.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up is a failed test
#![allow(clippy::cast_possible_truncation, clippy::print_stdout)]

use std::io::Write as _;

pub mod frames;
pub mod kernel;
pub mod model;

/// The object under test: `TIPSEC_XDP_OBJECT` or the committed one.
pub fn object() -> Vec<u8> {
    match std::env::var_os("TIPSEC_XDP_OBJECT") {
        Some(path) => std::fs::read(&path).expect("TIPSEC_XDP_OBJECT must name a readable file"),
        None => tipsec_xdp::OBJECT.to_vec(),
    }
}

/// Whether the test may load programs; says so where it may not.
pub fn root_or_skip(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        // Past the harness, which would swallow it since the test passes.
        let line = format!("SKIPPED (needs root): {test}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    root
}

/// Xorshift64*: reproducible from its seed, which the test prints.
pub struct Rng(u64);

impl Rng {
    /// Seeds from `TIPSEC_SEED` or the clock, and prints the seed.
    pub fn from_env(test: &str) -> Rng {
        let seed = match std::env::var("TIPSEC_SEED") {
            Ok(text) => text.parse().expect("TIPSEC_SEED must be a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
        };
        println!("{test}: TIPSEC_SEED={seed}");
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
