//! The fuzzer: LLVM's libFuzzer around one target, which the environment
//! variable `TIPSEC_FUZZ_TARGET` names. It first writes the target's seeds to
//! the directory `TIPSEC_FUZZ_SEEDS`, if that is set. Built and called by
//! `ci/fuzz`.

#![no_main]
// The macro defines the entry points that libFuzzer calls from C++, by their
// names and with raw slices (docs/unsafe.md).
#![allow(unsafe_code)]

use std::path::Path;
use std::sync::OnceLock;
use std::{fs, io};

use libfuzzer_sys::fuzz_target;
use tipsec_fuzz::Target;

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fn chosen() -> &'static Target {
    CHOSEN.get_or_init(|| {
        let name = std::env::var("TIPSEC_FUZZ_TARGET").unwrap_or_default();
        tipsec_fuzz::target(&name).unwrap_or_else(|| {
            let names: Vec<_> = tipsec_fuzz::TARGETS.iter().map(|t| t.name).collect();
            eprintln!(
                "TIPSEC_FUZZ_TARGET={name:?} is no target: {}",
                names.join(", ")
            );
            std::process::exit(2)
        })
    })
}

/// What a corpus starts from.
fn write_seeds(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (at, seed) in (chosen().seeds)().into_iter().enumerate() {
        fs::write(directory.join(format!("seed-{at:02}")), seed)?;
    }
    Ok(())
}

fn prepare() {
    let Some(directory) = std::env::var_os("TIPSEC_FUZZ_SEEDS") else {
        return;
    };
    if let Err(error) = write_seeds(Path::new(&directory)) {
        eprintln!("cannot write seeds to {}: {error}", directory.display());
        std::process::exit(2);
    }
}

fuzz_target!(
    init: prepare(),
    |data: &[u8]| (chosen().run)(data)
);
