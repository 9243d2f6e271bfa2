//! TOML read by hand, so that every error names file, line, key and what was
//! expected. Imports nothing from this crate.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with a configuration, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}{}: {}{message}", line.map(|n| format!(":{n}")).unwrap_or_default(),
        if key.is_empty() { String::new() } else { format!("{key}: ") })]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1, if it is about one.
    pub line: Option<usize>,
    /// Path of the key, such as `bearer.interface`; may be empty.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

/// A file's name and text.
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn line_of(&self, span: &Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    fn error(&self, span: &Range<usize>, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            line: Some(self.line_of(span)),
            key: key.to_owned(),
            message: message.into(),
        }
    }

    /// The whole text as a tree.
    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'_>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| match error.span() {
            Some(span) => self.error(&span, "", error.message()),
            None => ConfigError {
                file: self.file.to_owned(),
                line: None,
                key: String::new(),
                message: error.message().to_owned(),
            },
        })
    }
}

/// A table, all of whose keys are known.
pub(super) struct Table<'a> {
    source: &'a Source<'a>,
    /// Path of its name with a dot behind it; empty for the whole file.
    prefix: String,
    /// Where it is; `None`: nowhere, and so empty.
    place: Option<(Range<usize>, &'a DeTable<'a>)>,
}

impl<'a> Table<'a> {
    /// The whole file.
    pub(super) fn root(
        source: &'a Source<'a>,
        root: &'a Spanned<DeTable<'a>>,
        known: &[&str],
    ) -> Result<Self, ConfigError> {
        let table = Self {
            source,
            prefix: String::new(),
            // What is missing from the file is missing at its beginning.
            place: Some((0..0, root.get_ref())),
        };
        table.refuse_unknown(known)?;
        Ok(table)
    }

    fn refuse_unknown(&self, known: &[&str]) -> Result<(), ConfigError> {
        let Some((_, table)) = &self.place else {
            return Ok(());
        };
        for key in table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let closest = known
                .iter()
                .map(|candidate| (distance(name, candidate), candidate))
                .min()
                .filter(|(distance, _)| *distance <= 2);
            let message = match closest {
                Some((_, candidate)) => format!("unknown key; did you mean `{candidate}`?"),
                None => format!("unknown key; there are: {}", known.join(", ")),
            };
            let path = format!("{}{name}", self.prefix);
            return Err(self.source.error(&key.span(), &path, message));
        }
        Ok(())
    }

    /// The value of a key, if it is there.
    pub(super) fn field(&self, key: &str) -> Option<Field<'a>> {
        let (_, table) = self.place.as_ref()?;
        let value = table.get(key)?;
        Some(Field {
            source: self.source,
            path: format!("{}{key}", self.prefix),
            value,
        })
    }

    /// The value of a key that must be there.
    pub(super) fn required(&self, key: &str, expected: &str) -> Result<Field<'a>, ConfigError> {
        self.field(key).ok_or_else(|| {
            let span = self.place.as_ref().map_or(0..0, |(span, _)| span.clone());
            let path = format!("{}{key}", self.prefix);
            let message = format!("missing; expected {expected}");
            self.source.error(&span, &path, message)
        })
    }

    /// An error about the table as a whole.
    pub(super) fn error(&self, message: impl Into<String>) -> ConfigError {
        let span = self.place.as_ref().map_or(0..0, |(span, _)| span.clone());
        let path = self.prefix.trim_end_matches('.');
        self.source.error(&span, path, message)
    }

    /// The table under a key; empty if it is not there.
    pub(super) fn table(&self, key: &str, known: &[&str]) -> Result<Self, ConfigError> {
        match self.field(key) {
            Some(field) => field.table(known),
            None => Ok(Self {
                source: self.source,
                prefix: format!("{}{key}.", self.prefix),
                place: None,
            }),
        }
    }
}

/// A value and where it is.
pub(super) struct Field<'a> {
    source: &'a Source<'a>,
    path: String,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Field<'a> {
    /// An error about it.
    pub(super) fn error(&self, message: impl Into<String>) -> ConfigError {
        self.source.error(&self.value.span(), &self.path, message)
    }

    /// Its line, for errors that are found later.
    pub(super) fn line(&self) -> usize {
        self.source.line_of(&self.value.span())
    }

    fn wrong_type(&self, expected: &str) -> ConfigError {
        let found = self.value.get_ref().type_str();
        self.error(format!("expected {expected}, found {found}"))
    }

    /// It as a string.
    pub(super) fn string(&self, expected: &str) -> Result<&'a str, ConfigError> {
        self.value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.wrong_type(expected))
    }

    /// It as a string that `parse` understands.
    pub(super) fn parsed<T, E: ToString>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        let text = self.string(expected)?;
        parse(text).map_err(|error| self.error(error.to_string()))
    }

    /// It as one of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let words: Vec<_> = choices
            .iter()
            .map(|(word, _)| format!("{word:?}"))
            .collect();
        let expected = format!("one of {}", words.join(", "));
        let text = self.string(&expected)?;
        choices
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, choice)| *choice)
            .ok_or_else(|| self.error(format!("expected {expected}, found {text:?}")))
    }

    /// It as a whole number in a range.
    pub(super) fn integer<T>(&self, range: RangeInclusive<T>) -> Result<T, ConfigError>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let number = self
            .value
            .get_ref()
            .as_integer()
            .ok_or_else(|| self.wrong_type(&expected))?;
        i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|value| T::try_from(value).ok())
            .filter(|value| range.contains(value))
            .ok_or_else(|| {
                let found = &self.source.text[self.value.span()];
                self.error(format!("{found} is out of range; expected {expected}"))
            })
    }

    /// It as true or false.
    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        let value = self.value.get_ref().as_bool();
        value.ok_or_else(|| self.wrong_type("true or false"))
    }

    /// It as an array, each of whose values bears the array's name.
    pub(super) fn array(&self, expected: &str) -> Result<Vec<Field<'a>>, ConfigError> {
        let array = self
            .value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.wrong_type(expected))?;
        Ok(array
            .iter()
            .map(|value| Field {
                source: self.source,
                path: self.path.clone(),
                value,
            })
            .collect())
    }

    /// It as a table.
    pub(super) fn table(&self, known: &[&str]) -> Result<Table<'a>, ConfigError> {
        let table = self
            .value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.wrong_type(&format!("a table [{}]", self.path)))?;
        let table = Table {
            source: self.source,
            prefix: format!("{}.", self.path),
            place: Some((self.value.span(), table)),
        };
        table.refuse_unknown(known)?;
        Ok(table)
    }
}

/// Edits (insert, delete, replace) from one word to another.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (from, to, edits) in [
            ("", "", 0),
            ("", "abc", 3),
            ("interfase", "interface", 1),
            ("quue", "queue", 1),
            ("core", "queue", 4),
        ] {
            assert_eq!(distance(from, to), edits, "{from} {to}");
            assert_eq!(distance(to, from), edits, "{to} {from}");
        }
    }
}
