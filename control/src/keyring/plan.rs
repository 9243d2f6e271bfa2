//! How a new state of the keyring gets to the disk: a list of steps, so that a
//! test can stop after each of them as a crash would. Imports nothing from
//! this crate.
//!
//! There are two files: `master`, and beside it `master.1`, for the day when a
//! disk damages the first. `master.1` never holds a key that `master` does not
//! hold, or whoever falls back to it would bring back a key that was retired.
//! So a state that only adds keys or changes their roles leaves its predecessor
//! in `master.1`; one that drops a key removes `master.1` first, and then
//! writes both.
//!
//! A file gets its name when its content is on the disk, and the directory is
//! synced after each change of a name: a power loss leaves the names as they
//! were after some step.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

/// The newest state.
pub(super) const NEWEST: &str = "master";
/// The state before, or a copy.
pub(super) const OLDER: &str = "master.1";
/// Where a file is written before it gets its name.
const TEMPORARY: &str = "master.new";

/// One step; each is atomic for the processes that look, and a power loss may
/// undo those since the last `SyncDirectory`.
pub(super) enum Step {
    /// Removes a file that may not be there.
    Remove(&'static str),
    /// Writes the temporary file and syncs its content.
    Write(Zeroizing<String>),
    /// Gives the temporary file its name.
    Rename(&'static str),
    /// Makes names durable.
    SyncDirectory,
}

impl Step {
    /// The file that it is about; `None`: the directory.
    pub(super) fn file(&self) -> Option<&'static str> {
        match self {
            Self::Remove(name) => Some(name),
            Self::Write(_) | Self::Rename(_) => Some(TEMPORARY),
            Self::SyncDirectory => None,
        }
    }

    /// What it does, as a verb.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Remove(_) => "remove",
            Self::Write(_) => "write",
            Self::Rename(_) => "rename",
            Self::SyncDirectory => "sync",
        }
    }

    /// Takes the step in a directory.
    pub(super) fn take(&self, directory: &Path) -> io::Result<()> {
        let temporary = directory.join(TEMPORARY);
        match self {
            Self::Remove(name) => remove(&directory.join(name)),
            Self::Write(text) => {
                // Left by a crash; nobody else writes here.
                remove(&temporary)?;
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let mode = Mode::RUSR | Mode::WUSR;
                let mut file = File::from(rustix::fs::open(&temporary, flags, mode)?);
                let written = file
                    .write_all(text.as_bytes())
                    .and_then(|()| file.sync_all());
                // Keys must not lie around in a file that nobody looks at.
                written.inspect_err(|_| drop(fs::remove_file(&temporary)))
            }
            Self::Rename(name) => fs::rename(&temporary, directory.join(name))
                .inspect_err(|_| drop(fs::remove_file(&temporary))),
            Self::SyncDirectory => File::open(directory)?.sync_all(),
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The steps to a new state. `before` is the text of the present one, if every
/// key in it is in the new one too.
pub(super) fn steps(before: Option<Zeroizing<String>>, new: Zeroizing<String>) -> Vec<Step> {
    use Step::{Remove, Rename, SyncDirectory, Write};
    match before {
        Some(before) => vec![
            Write(before),
            Rename(OLDER),
            SyncDirectory,
            Write(new),
            Rename(NEWEST),
            SyncDirectory,
        ],
        None => vec![
            Remove(OLDER),
            SyncDirectory,
            Write(new.clone()),
            Rename(NEWEST),
            SyncDirectory,
            Write(new),
            Rename(OLDER),
            SyncDirectory,
        ],
    }
}
