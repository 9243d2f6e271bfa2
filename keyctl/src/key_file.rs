//! Master keys from descriptors and standard input, and to files. Imports
//! `error`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tipsec_control::key_source;
use tipsec_control::master::MasterKey;

use crate::error::Error;

/// Reads a key from standard input.
pub(crate) fn read_stdin() -> Result<MasterKey, Error> {
    Ok(key_source::from_reader(
        io::stdin().lock(),
        "standard input",
    )?)
}

/// Reads a key from a descriptor that the parent has opened for us: whoever
/// opened it has decided who may read it.
pub(crate) fn read_fd(fd: u32) -> Result<MasterKey, Error> {
    let name = format!("descriptor {fd}");
    let file = File::open(format!("/proc/self/fd/{fd}"))
        .map_err(|error| Error::Usage(format!("cannot read {name}: {error}")))?;
    Ok(key_source::from_reader(file, &name)?)
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
