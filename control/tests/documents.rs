//! What the documents say about the sources, and the sources about the
//! documents: headings that are cited, tests that are named, unsafe files.

#![allow(clippy::expect_used)] // a test that panics has failed

use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 6] = [
    "xdp-ebpf",
    "dataplane",
    "control",
    "keyctl",
    "bench",
    "ci/fuzzing",
];

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
    for name in ["threats.md", "testing.md"] {
        // Test names are the only words with two underscores or more.
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut named = 0;
        for word in document(name).split(|c| !is_word(c)) {
            if word.matches('_').count() >= 2 {
                let function = format!("fn {word}(");
                let exists = sources.iter().any(|(_, text)| text.contains(&function));
                assert!(exists, "docs/{name} names {word}, which is no test");
                named += 1;
            }
        }
        assert!(named > 10, "only {named} tests were found in docs/{name}");
    }
}

/// What a name in a document's list of tests was looked for in.
struct Place<'a> {
    krate: &'a str,
    file: &'a str,
}

impl Place<'_> {
    /// Whether a source is meant by the name: a test file or a directory of
    /// them, or a module.
    fn is_of(&self, path: &str) -> bool {
        let Self { krate, file } = self;
        let inside = |directory: &str| {
            let below = path.strip_prefix(&format!("{krate}/{directory}/{file}"));
            below.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        inside("tests") || inside("src")
    }
}

/// Whether the text has a test of this name.
fn has_test(text: &str, name: &str) -> bool {
    let Some((before, _)) = text.split_once(&format!("fn {name}(")) else {
        return false;
    };
    // Its attributes, directly above.
    let above = before.lines().rev().take_while(|line| !line.is_empty());
    above.into_iter().any(|line| line.trim() == "#[test]")
}

/// Each failure of another system has a test, and each that is named is in the
/// file that is named: "`crate file: test`, `test`; `file: test`".
#[test]
fn failures_of_others_have_their_tests() {
    let sources = sources();
    let testing = document("testing.md");
    let (_, section) = testing
        .split_once("## How others failed")
        .expect("the section");
    let rows: Vec<_> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what"))
        .collect();
    assert!(rows.len() >= 25, "only {} failures", rows.len());
    let holds = |place: &Place<'_>, name: &str| {
        let mut of_place = sources.iter().filter(|(path, _)| place.is_of(path));
        of_place.any(|(_, text)| has_test(text, name))
    };
    for row in rows {
        let cell = row.rsplit(" | ").next().unwrap_or_default();
        let mut place: Option<Place<'_>> = None;
        let mut tests = 0;
        // What is between backticks: every second part.
        for (at, quoted) in cell.split('`').enumerate().skip(1).step_by(2) {
            let (whole, name) = match quoted.split_once(": ") {
                Some((place, name)) => (Some(place), name),
                None => (None, quoted),
            };
            if let Some(whole) = whole {
                let (krate, file) = match (whole.split_once(' '), &place) {
                    (Some(parts), _) => parts,
                    (None, Some(before)) => (before.krate, whole),
                    (None, None) => panic!("of which crate is {quoted} ({at})?"),
                };
                place = Some(Place { krate, file });
            }
            if is_defect_or_target(name, &sources) {
                tests += 1;
                continue;
            }
            let Some(place) = &place else {
                panic!("{name} is neither a defect nor a fuzz target, and has no file");
            };
            let (krate, file) = (place.krate, place.file);
            assert!(holds(place, name), "{krate} {file} has no test {name}");
            tests += 1;
        }
        assert!(tests > 0, "no test for: {row}");
    }
}

/// Whether it is a deliberate defect of the simulator or a fuzz target.
fn is_defect_or_target(name: &str, sources: &[(String, String)]) -> bool {
    let has = |path: &str, words: &str| {
        let mut of_path = sources.iter().filter(|(file, _)| file.starts_with(path));
        of_path.any(|(_, text)| text.contains(words))
    };
    has("control/src/sim/mutants.rs", &format!("\"{name}\","))
        || has("ci/fuzzing/src/", &format!("name: \"{name}\","))
}
