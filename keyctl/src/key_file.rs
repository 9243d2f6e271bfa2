//! Master keys from and to files and standard input. Imports `error`.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use tipsec_control::master::MasterKey;
use zeroize::Zeroizing;

use crate::error::Error;

/// More bytes than any text form of a key.
const MAX_INPUT_LEN: usize = 1024;

/// Reads a key from a file that nobody but its owner may read; a pipe, as the
/// shell makes for `<(…)`, is one too.
pub(crate) fn read_file(path: &Path) -> Result<MasterKey, Error> {
    let failed =
        |error: io::Error| Error::Usage(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(failed)?;
    // Of the open file: the path may lead elsewhere a moment later.
    let meta = file.metadata().map_err(failed)?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Usage(format!(
            "{path} may be used by others (mode {mode:04o}), so its key is not taken: `chmod 600 {path}`, \
             and make a new key if others could read it",
            path = path.display()
        )));
    }
    if meta.is_dir() {
        return Err(Error::Usage(format!("{} is a directory", path.display())));
    }
    read(file, &path.display().to_string())
}

/// Reads a key from standard input.
pub(crate) fn read_stdin() -> Result<MasterKey, Error> {
    read(io::stdin().lock(), "standard input")
}

fn read(source: impl Read, name: &str) -> Result<MasterKey, Error> {
    // All room at once: a buffer that grows leaves copies of the key.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT_LEN + 1));
    source
        .take(MAX_INPUT_LEN as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::Usage(format!("cannot read {name}: {error}")))?;
    if bytes.len() > MAX_INPUT_LEN {
        return Err(Error::Usage(format!(
            "{name} is longer than any master key; expected one line with a key"
        )));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Error::Usage(format!("{name} is not text; expected one line with a key")))?;
    parse(text, name)
}

/// Reads a key's text; `name` says in errors where it came from.
pub(crate) fn parse(text: &str, name: &str) -> Result<MasterKey, Error> {
    MasterKey::parse(text).map_err(|error| Error::Usage(format!("{name}: {error}")))
}

/// Writes a key to a file that is not there yet, for its owner alone.
pub(crate) fn write_new(path: &Path, key: &MasterKey) -> Result<(), Error> {
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => "; it is not overwritten, for it may be the only copy",
            _ => "",
        };
        Error::Usage(format!("cannot write {}: {error}{hint}", path.display()))
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let mut text = key.to_text();
    text.push('\n');
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a key is of no use, and would be in the way of the next try.
        let _ = std::fs::remove_file(path);
        failed(error)
    })
}
