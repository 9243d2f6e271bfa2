//! Where a master key is read from: a file, a descriptor, a credential of
//! systemd. What others could read is not taken. Imports `master`.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::master::{MasterKey, MasterKeyError};

/// Names the directory of a service's credentials (systemd.exec(5),
/// `LoadCredential=`).
pub const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// More bytes than any text form of a key.
const MAX_INPUT_LEN: usize = 1024;

/// Why there is no key to be had. Never says what was read.
#[derive(Debug, thiserror::Error)]
pub enum KeySourceError {
    /// Others may read or write it.
    #[error(
        "{path} may be used by others (mode {mode:04o}), so its key is not taken: \
         `chmod 600 {path}`, and make a new key if others could read it"
    )]
    Mode {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// It cannot be read.
    #[error("cannot read {name}: {source}")]
    Io {
        /// The file, or what it is.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A directory.
    #[error("{0} is a directory")]
    Directory(String),
    /// More than one line with a key.
    #[error("{0} is longer than any master key; expected one line with a key")]
    TooLong(String),
    /// Not even ASCII.
    #[error("{0} is not text; expected one line with a key")]
    NotText(String),
    /// Text that is no key.
    #[error("{name}: {source}")]
    Key {
        /// Where it came from.
        name: String,
        /// What is wrong with it.
        source: MasterKeyError,
    },
    /// Not started by systemd, or without credentials.
    #[error(
        "there is no credential {0:?}, because {CREDENTIALS_VARIABLE} is not set: have systemd \
         start this with LoadCredential={0}:FILE, or LoadCredentialEncrypted="
    )]
    NoCredentials(String),
    /// A name that leads elsewhere.
    #[error("{0:?} is no name of a credential: expected the NAME of LoadCredential=NAME:FILE")]
    CredentialName(String),
}

/// Reads a key from a file that nobody but its owner may read; a pipe, as the
/// shell makes for `<(…)`, is one too.
///
/// # Errors
/// [`KeySourceError`].
pub fn from_file(path: &Path) -> Result<MasterKey, KeySourceError> {
    open(path, |meta| meta.mode() & 0o077 == 0)
}

/// Reads a key from a credential that systemd has given to this service.
///
/// # Errors
/// [`KeySourceError`].
pub fn from_credential(name: &str) -> Result<MasterKey, KeySourceError> {
    let directory = std::env::var_os(CREDENTIALS_VARIABLE);
    from_credential_in(directory.as_deref(), name)
}

/// Whether a credential may have this name.
///
/// # Errors
/// [`KeySourceError::CredentialName`].
pub fn check_credential_name(name: &str) -> Result<(), KeySourceError> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(KeySourceError::CredentialName(name.to_owned()));
    }
    Ok(())
}

fn from_credential_in(directory: Option<&OsStr>, name: &str) -> Result<MasterKey, KeySourceError> {
    check_credential_name(name)?;
    let directory = directory.ok_or_else(|| KeySourceError::NoCredentials(name.to_owned()))?;
    // systemd may give access by an access list, whose mask shows as the
    // group's bits: that the group may read says nothing there.
    let path = PathBuf::from(directory).join(name);
    open(&path, |meta| meta.mode() & 0o037 == 0)
}

fn open(path: &Path, is_private: impl Fn(&Metadata) -> bool) -> Result<MasterKey, KeySourceError> {
    let name = path.display().to_string();
    let failed = |source| KeySourceError::Io {
        name: name.clone(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // Of the open file: the path may lead elsewhere a moment later.
    let meta = file.metadata().map_err(failed)?;
    if !is_private(&meta) {
        let mode = meta.mode() & 0o7777;
        return Err(KeySourceError::Mode { path: name, mode });
    }
    if meta.is_dir() {
        return Err(KeySourceError::Directory(name));
    }
    from_reader(file, &name)
}

/// Reads a key from whatever is open already; `name` says in errors what.
///
/// # Errors
/// [`KeySourceError`].
pub fn from_reader(source: impl Read, name: &str) -> Result<MasterKey, KeySourceError> {
    // All room at once: a buffer that grows leaves copies of the key.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT_LEN + 1));
    source
        .take(MAX_INPUT_LEN as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| KeySourceError::Io {
            name: name.to_owned(),
            source,
        })?;
    if bytes.len() > MAX_INPUT_LEN {
        return Err(KeySourceError::TooLong(name.to_owned()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| KeySourceError::NotText(name.to_owned()))?;
    MasterKey::parse(text).map_err(|source| KeySourceError::Key {
        name: name.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_credential_is_a_file_of_the_directory_and_of_no_other() {
        let directory = std::env::temp_dir().join(format!("tipsec-cred-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let write = |mode| {
            let path = directory.join("key");
            let _ = fs::remove_file(&path);
            fs::write(&path, "000102030405060708090a0b0c0d0e0f\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let take = |name| from_credential_in(Some(directory.as_os_str()), name);
        for (mode, taken) in [(0o400, true), (0o440, true), (0o444, false), (0o460, false)] {
            write(mode);
            assert_eq!(take("key").is_ok(), taken, "{mode:o}");
        }
        assert!(matches!(take("none"), Err(KeySourceError::Io { .. })));
        for name in ["", ".", "..", "../key", "a/b", "/etc/shadow"] {
            assert!(matches!(take(name), Err(KeySourceError::CredentialName(_))));
        }
        let none = from_credential_in(None, "key");
        let Err(error @ KeySourceError::NoCredentials(_)) = none else {
            panic!("without a directory");
        };
        assert!(error.to_string().contains("LoadCredential=key:FILE"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
