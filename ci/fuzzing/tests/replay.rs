//! Every committed input through its target, and every seed. A fuzzer finds
//! inputs by chance; whatever it found once is tried by every test run.
#![allow(clippy::unwrap_used)] // a test may stop

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tipsec_fuzz::TARGETS;

/// Corpora are for every checkout: they stay small, in bytes.
const CORPORA_MAX: u64 = 200_000;
/// Fewest files of a target: fewer are no corpus, but a mistake.
const FILES_MIN: usize = 5;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("no corpus {}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_input_holds() {
    let mut failed = Vec::new();
    let mut bytes = 0;
    for target in TARGETS {
        let files = files(&corpora().join(target.name));
        assert!(
            files.len() >= FILES_MIN,
            "corpus of {}: {} files",
            target.name,
            files.len()
        );
        for file in &files {
            let input = fs::read(file).unwrap();
            bytes += u64::try_from(input.len()).unwrap();
            if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
                failed.push(file.display().to_string());
            }
        }
        println!("{}: {} inputs", target.name, files.len());
    }
    assert!(failed.is_empty(), "these break a property: {failed:#?}");
    assert!(bytes <= CORPORA_MAX, "the corpora have {bytes} bytes");
}

#[test]
fn every_seed_holds() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(seeds.len() >= FILES_MIN, "{} has few seeds", target.name);
        for seed in seeds {
            (target.run)(&seed);
        }
    }
}

#[test]
fn every_corpus_has_its_target() {
    let names: BTreeSet<_> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "two targets of one name");
    let corpora = files(&corpora());
    let found = corpora.iter().map(|path| {
        let name = path.file_name().unwrap();
        name.to_str().unwrap().to_owned()
    });
    assert_eq!(found.collect::<BTreeSet<_>>(), names);
}
