//! docs/benchmarks.md says what the committed reports say.

use std::path::{Path, PathBuf};

use tipsec_bench::report_md::{render, replace};
use tipsec_bench::results::Run;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[test]
fn benchmarks_are_those_of_the_reports() {
    let entries = std::fs::read_dir(docs().join("benchmarks")).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    files.sort();
    let runs: Vec<Run> = files.iter().map(|path| Run::read(path).unwrap()).collect();
    for run in &runs {
        assert!(!run.is_unoptimised(), "{}", run.bench);
        assert_eq!(run.unaccounted().count(), 0, "{}", run.bench);
    }
    let document = std::fs::read_to_string(docs().join("benchmarks.md")).unwrap();
    assert!(
        replace(&document, &render(&runs)) == document,
        "run: tipsec-bench report docs/benchmarks/*.json --html docs/benchmarks/report.html \
         --markdown docs/benchmarks.md"
    );
}
