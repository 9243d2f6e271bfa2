//! The master keys on disk, and who was evicted: files that only their owner may
//! read, replaced step by step, never guessed at when they are damaged. Imports
//! `master`, `masters` and `evictions`.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::master::MasterKey;
use crate::masters::Masters;

mod evicted;
mod file;
mod plan;

pub use evicted::{parse as parse_evictions, render as render_evictions};
use file::MAX_FILE_LEN;
pub use file::{parse as parse_file, render as render_file};
use plan::{NEWEST, OLDER, Step};

/// Where state lies unless configured.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/tipsec";

/// Why the keyring cannot be used. The files stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Others may read or write it.
    #[error("{} may be used by others (mode {mode:04o}): `chmod {wanted:04o} {}`, and \
             consider the key known if they could read it", path.display(), path.display())]
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        wanted: u32,
    },
    /// It belongs to another user.
    #[error("{} belongs to user {owner}, but this process is user {us}: `chown {us} {}`",
            path.display(), path.display())]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// A symbolic link, a directory, a device.
    #[error("{} is not a regular file (symbolic links are not followed)", .0.display())]
    NotAFile(PathBuf),
    /// Cut, mistyped or of another version, and so is the older copy.
    #[error("{} is damaged ({what}), and there is no older copy that can be used: restore it, or \
             remove it and its copy master.1 and give the master key again \
             (`tipsec-keyctl master set`)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The list of evicted nodes is cut, mistyped or of another version.
    #[error("{} is damaged ({what}): restore it, or remove it and evict again whoever shall stay \
             out (`tipsec-keyctl evict`)", path.display())]
    DamagedEvictions {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Only the older copy is there.
    #[error("{} is gone, but its older copy {} is there: rename that to {} to go on with its keys, \
             or remove it to start without", path.display(), older.display(), path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Its copy.
        older: PathBuf,
    },
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// What the keyring holds.
pub struct Loaded {
    /// The keys.
    pub masters: Masters<MasterKey>,
    /// Why these are the keys of the older copy: to be said aloud, for the last
    /// step of a rotation may be missing.
    pub fallback: Option<String>,
}

/// The files that hold the master keys between two lives of the daemon.
pub struct Keyring {
    directory: PathBuf,
}

impl Keyring {
    /// Opens the state directory, made with mode 0700 if it is missing.
    ///
    /// # Errors
    /// [`KeyringError`]: not ours, or others may write to it.
    pub fn open(state_dir: &Path) -> Result<Self, KeyringError> {
        let failed = io_error(state_dir);
        match DirBuilder::new().mode(0o700).create(state_dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make the directory", error)),
        }
        let meta = fs::metadata(state_dir).map_err(|e| failed("look at", e))?;
        check_owner(state_dir, &meta)?;
        // Who may write here may put another key in the file's place.
        check_mode(state_dir, &meta, 0o022, 0o700)?;
        Ok(Self {
            directory: state_dir.to_owned(),
        })
    }

    /// The stored keys, or `None` if none were stored yet.
    ///
    /// A damaged file gives way to its older copy, which by construction
    /// (`plan.rs`) holds no key that the damaged file did not hold: at worst the
    /// last `stage` or `activate` is undone, and never a `retire`.
    ///
    /// # Errors
    /// [`KeyringError`]; a damaged file is never taken for an empty one.
    pub fn load(&self) -> Result<Option<Loaded>, KeyringError> {
        let path = self.path();
        let Some(newest) = read(&path, MAX_FILE_LEN)? else {
            let older = self.directory.join(OLDER);
            return match fs::symlink_metadata(&older) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(io_error(&older)("look at", error)),
                Ok(_) => Err(KeyringError::Missing { path, older }),
            };
        };
        let what = match file::parse(&newest) {
            Ok(masters) => {
                let fallback = None;
                return Ok(Some(Loaded { masters, fallback }));
            }
            Err(what) => what,
        };
        let older = read(&self.directory.join(OLDER), MAX_FILE_LEN)
            .ok()
            .flatten();
        match older.and_then(|text| file::parse(&text).ok()) {
            Some(masters) => {
                let path = path.display();
                let fallback = format!(
                    "{path} is damaged ({what}); the keys of its older copy {path}.1 are used. The \
                     last `master stage` or `master activate` at this node may be undone: see \
                     `tipsec-keyctl master status`, and repeat it"
                );
                let fallback = Some(fallback);
                Ok(Some(Loaded { masters, fallback }))
            }
            None => Err(KeyringError::Damaged { path, what }),
        }
    }

    /// Stores the keys: after it returns, a crash leaves the new ones; before,
    /// the old ones or the new ones.
    ///
    /// # Errors
    /// [`KeyringError`]; the keys are the old ones, or (if making the new name
    /// durable failed) the new ones.
    pub fn store(&self, masters: &Masters<MasterKey>) -> Result<(), KeyringError> {
        let mut steps = self.steps(masters).into_iter();
        for step in steps.by_ref() {
            self.take(&step)?;
            if matches!(step, Step::Rename(NEWEST)) {
                break;
            }
        }
        steps.next().map_or(Ok(()), |sync| self.take(&sync))?;
        for step in steps {
            // The keys are safe; only a disk that damages them needs the copy.
            if let Err(error) = self.take(&step) {
                tracing::warn!("there is no older copy of the keyring: {error}");
                break;
            }
        }
        Ok(())
    }

    /// What storing these keys takes, given what is stored.
    fn steps(&self, masters: &Masters<MasterKey>) -> Vec<Step> {
        // What cannot be read is not kept.
        let present = self.load().ok().flatten().map(|loaded| loaded.masters);
        let kept = present.filter(|present| masters.holds_all_of(present));
        plan::steps(kept.as_ref().map(file::render), file::render(masters))
    }

    fn take(&self, step: &Step) -> Result<(), KeyringError> {
        let place = step.file();
        let path = place.map_or(self.directory.clone(), |name| self.directory.join(name));
        step.take(&self.directory)
            .map_err(|error| io_error(&path)(step.verb(), error))
    }

    /// Path of the newest file.
    pub fn path(&self) -> PathBuf {
        self.directory.join(NEWEST)
    }
}

/// The content of a file that is ours alone, or a little more than `max` bytes of
/// it; `None` if it is not there.
fn read(path: &Path, max: usize) -> Result<Option<Zeroizing<Vec<u8>>>, KeyringError> {
    let failed = io_error(path);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(KeyringError::NotAFile(path.to_owned())),
        Err(error) => return Err(failed("open", error.into())),
    };
    let meta = file.metadata().map_err(|e| failed("look at", e))?;
    if !meta.is_file() {
        return Err(KeyringError::NotAFile(path.to_owned()));
    }
    check_owner(path, &meta)?;
    check_mode(path, &meta, 0o077, 0o600)?;
    read_bounded(file, max)
        .map(Some)
        .map_err(|e| failed("read", e))
}

fn io_error(path: &Path) -> impl Fn(&'static str, io::Error) -> KeyringError + use<> {
    let path = path.to_owned();
    move |what, source| KeyringError::Io {
        what,
        path: path.clone(),
        source,
    }
}

fn check_owner(path: &Path, meta: &Metadata) -> Result<(), KeyringError> {
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() == us {
        return Ok(());
    }
    Err(KeyringError::Owner {
        path: path.to_owned(),
        owner: meta.uid(),
        us,
    })
}

fn check_mode(
    path: &Path,
    meta: &Metadata,
    forbidden: u32,
    wanted: u32,
) -> Result<(), KeyringError> {
    let mode = meta.mode() & 0o7777;
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(KeyringError::Mode {
        path: path.to_owned(),
        mode,
        wanted,
    })
}

/// The whole file, or a little more than can be right.
fn read_bounded(file: File, max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(max + 1));
    file.take(max as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
