//! What the documents say about the sources, and the sources about the
//! documents: headings that are cited, tests that are named, unsafe files.

#![allow(clippy::expect_used)] // a test that panics has failed

use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 5] = ["xdp-ebpf", "dataplane", "control", "keyctl", "bench"];

/// Every Rust source of the workspace: path from its root, and text.
fn sources() -> Vec<(String, String)> {
    let mut directories: Vec<PathBuf> = CRATES
        .iter()
        .flat_map(|krate| ["src", "tests"].map(|part| root().join(krate).join(part)))
        .filter(|directory| directory.is_dir())
        .collect();
    let mut sources = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                let name = path.strip_prefix(root()).expect("below the root");
                sources.push((name.display().to_string(), text));
            }
        }
    }
    assert!(sources.len() > 50, "only {} sources", sources.len());
    sources
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).expect("a document")
}

#[test]
fn cited_headings_exist() {
    let protocol = document("protocol.md");
    // Put together here, so that this file cites nothing itself.
    let citation = ["docs/protocol.md", ", \""].concat();
    let mut cited = 0;
    for (file, text) in sources() {
        for rest in text.split(&citation).skip(1) {
            let heading = rest.split('"').next().unwrap_or_default();
            let line = format!("## {heading}");
            assert!(
                protocol.lines().any(|l| l == line),
                "{file} cites {heading:?}"
            );
            cited += 1;
        }
    }
    assert!(cited > 5, "only {cited} citations were found");
}

#[test]
fn files_with_unsafe_code_are_listed() {
    let list = document("unsafe.md");
    let permission = ["allow(", "unsafe_code", ")"].concat();
    for (file, text) in sources() {
        if text.contains(&permission) {
            let entry = format!("| `{file}` |");
            assert!(list.contains(&entry), "{file} is not in docs/unsafe.md");
        }
    }
}

#[test]
fn tests_that_show_a_promise_exist() {
    let sources = sources();
    let threats = document("threats.md");
    // Test names are the only words with two underscores or more.
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut named = 0;
    for word in threats.split(|c| !is_word(c)) {
        if word.matches('_').count() >= 2 {
            let function = format!("fn {word}(");
            let exists = sources.iter().any(|(_, text)| text.contains(&function));
            assert!(exists, "docs/threats.md names {word}, which is no test");
            named += 1;
        }
    }
    assert!(named > 10, "only {named} tests were found");
}
