//! Reads the test vectors out of docs/protocol.md.
//!
//! A vector is a fenced block: its first line is the fence, `vector` and a name,
//! the others are `field = value`. A value is hex, perhaps on several
//! lines (those that follow are indented), or text in double quotes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// One vector.
pub(crate) struct Vector {
    pub(crate) name: String,
    fields: BTreeMap<String, Vec<u8>>,
    /// Fields that the test has looked at: in the end, all.
    used: RefCell<BTreeSet<String>>,
    /// The field that [`Vector::with_one_bit_flipped`] has changed.
    changed: String,
}

impl Vector {
    /// Copies of the vector, each with one bit of one field flipped.
    pub(crate) fn with_one_bit_flipped(&self) -> impl Iterator<Item = Vector> {
        self.fields.keys().map(|changed| {
            let mut fields = self.fields.clone();
            let bytes = fields.get_mut(changed).expect("a field of the vector");
            *bytes.last_mut().expect("no field is empty") ^= 1;
            Vector {
                name: self.name.clone(),
                fields,
                used: RefCell::default(),
                changed: changed.clone(),
            }
        })
    }

    /// The field that was changed.
    pub(crate) fn changed(&self) -> &str {
        &self.changed
    }

    /// A field of any length.
    pub(crate) fn bytes(&self, field: &str) -> &[u8] {
        self.used.borrow_mut().insert(field.to_owned());
        match self.fields.get(field) {
            Some(bytes) => bytes,
            None => panic!("vector {} has no field {field}", self.name),
        }
    }

    /// A field of exactly `N` bytes.
    pub(crate) fn array<const N: usize>(&self, field: &str) -> [u8; N] {
        let bytes = self.bytes(field);
        match bytes.try_into() {
            Ok(array) => array,
            Err(_) => panic!(
                "field {field} of vector {} has {} bytes, expected {N}",
                self.name,
                bytes.len()
            ),
        }
    }

    pub(crate) fn u8(&self, field: &str) -> u8 {
        u8::from_be_bytes(self.array(field))
    }

    pub(crate) fn u16(&self, field: &str) -> u16 {
        u16::from_be_bytes(self.array(field))
    }

    pub(crate) fn u32(&self, field: &str) -> u32 {
        u32::from_be_bytes(self.array(field))
    }

    pub(crate) fn u64(&self, field: &str) -> u64 {
        u64::from_be_bytes(self.array(field))
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        std::str::from_utf8(self.bytes(field)).expect("text in quotes")
    }

    /// Compares what the code computes with what the document says.
    pub(crate) fn says(&self, field: &str, computed: &[u8]) {
        let expected = self.bytes(field);
        assert!(
            expected == computed,
            "field {field} of vector {}:\ndocument {}\ncode     {}",
            self.name,
            hex(expected),
            hex(computed)
        );
    }

    /// Fails for a field that nothing has looked at.
    pub(crate) fn end(&self) {
        let used = self.used.borrow();
        let unknown: Vec<_> = self.fields.keys().filter(|f| !used.contains(*f)).collect();
        assert!(
            unknown.is_empty(),
            "vector {}: the test knows no {unknown:?}",
            self.name
        );
    }
}

/// Every vector of the document, in its order.
pub(crate) fn read(document: &str) -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```vector ") else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        vectors.push(Vector {
            name: name.to_owned(),
            fields: fields(name, &block),
            used: RefCell::default(),
            changed: String::new(),
        });
    }
    vectors
}

fn fields(name: &str, block: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let mut fields = BTreeMap::new();
    let mut present: Option<(String, String)> = None;
    for line in block {
        match (line.split_once('='), &mut present) {
            (Some((field, value)), _) => {
                keep(name, &mut fields, present.take());
                present = Some((field.trim().to_owned(), value.trim().to_owned()));
            }
            (None, Some((_, value))) if line.starts_with(' ') => value.push_str(line.trim()),
            _ => panic!("vector {name}: what is {line:?}?"),
        }
    }
    keep(name, &mut fields, present);
    fields
}

fn keep(name: &str, fields: &mut BTreeMap<String, Vec<u8>>, field: Option<(String, String)>) {
    let Some((field, value)) = field else { return };
    let bytes = match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        Some(text) => text.as_bytes().to_vec(),
        None => unhex(&value).unwrap_or_else(|| panic!("vector {name}: {field} is not hex")),
    };
    let twice = fields.insert(field.clone(), bytes).is_some();
    assert!(!twice, "vector {name} has {field} twice");
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
