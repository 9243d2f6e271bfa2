//! The master key on disk: one file that only its owner may read, replaced in
//! one step, never guessed at when it is damaged. Imports `master`.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use ring::digest;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::master::MasterKey;

/// Where state lies unless configured.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/tipsec";

const FILE_NAME: &str = "master";
const TEMPORARY_NAME: &str = "master.new";

/// First line of the file.
const HEADER: &str = "tipsec keyring 1";

/// Largest file in bytes that can be a keyring.
const MAX_FILE_LEN: usize = 4096;

/// Why the keyring cannot be used. The file stays as it is.
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
    /// Cut, mistyped or of another version.
    #[error("{} is damaged ({what}): restore it, or remove it and give the master key again \
             (`tipsec-keyctl master set`)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
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

/// The file that holds the master key between two lives of the daemon.
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

    /// The stored master key, or `None` if none was stored yet.
    ///
    /// # Errors
    /// [`KeyringError`]; a damaged file is an error, not an empty one.
    pub fn load(&self) -> Result<Option<MasterKey>, KeyringError> {
        let path = self.path();
        let failed = io_error(&path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(KeyringError::NotAFile(path)),
            Err(error) => return Err(failed("open", error.into())),
        };
        let meta = file.metadata().map_err(|e| failed("look at", e))?;
        if !meta.is_file() {
            return Err(KeyringError::NotAFile(path));
        }
        check_owner(&path, &meta)?;
        check_mode(&path, &meta, 0o077, 0o600)?;
        let text = read_bounded(file).map_err(|e| failed("read", e))?;
        match parse(&text) {
            Ok(key) => Ok(Some(key)),
            Err(what) => Err(KeyringError::Damaged { path, what }),
        }
    }

    /// Stores the master key: after it returns, a crash leaves the new one;
    /// before, the old one.
    ///
    /// # Errors
    /// [`KeyringError`]; the old file is unchanged, or (if only the last step,
    /// making the new name durable, failed) the new one is complete.
    pub fn store(&self, key: &MasterKey) -> Result<(), KeyringError> {
        let temporary = self.directory.join(TEMPORARY_NAME);
        let failed = io_error(&temporary);
        // Left by a crash; nobody else writes here.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", error));
            }
            _ => {}
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(
            rustix::fs::open(&temporary, flags, mode).map_err(|e| failed("make", e.into()))?,
        );
        let written = file
            .write_all(render(key).as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&temporary, self.path()));
        if let Err(error) = written {
            // The key must not lie around in a file that nobody looks at.
            let _ = fs::remove_file(&temporary);
            return Err(failed("write", error));
        }
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|e| io_error(&self.directory)("sync", e))
    }

    /// Path of the file.
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE_NAME)
    }
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
fn read_bounded(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN + 1));
    file.take(MAX_FILE_LEN as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Header, key and a checksum of both, one a line.
fn render(key: &MasterKey) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE_LEN));
    text.push_str(HEADER);
    text.push_str("\ncurrent ");
    text.push_str(&key.to_text());
    text.push('\n');
    let sum = checksum(text.as_bytes());
    text.push_str("sha256 ");
    text.push_str(&sum);
    text.push('\n');
    text
}

/// The key in a file's text, or what does not fit.
fn parse(text: &[u8]) -> Result<MasterKey, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() > MAX_FILE_LEN {
        return Err(format!("it is longer than {MAX_FILE_LEN} bytes"));
    }
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
    let mut lines = text.lines();
    match lines.next() {
        Some(HEADER) => {}
        Some(other) if other.starts_with("tipsec keyring ") => {
            return Err("it was written by another version of tipsecd".to_owned());
        }
        _ => return Err("it is not a keyring".to_owned()),
    }
    // The checksum covers everything before its own line, and ends the file.
    let (body, sum) = text
        .split_once("sha256 ")
        .ok_or("it ends before its checksum")?;
    if sum.strip_suffix('\n') != Some(checksum(body.as_bytes()).as_str()) {
        return Err("its checksum does not match".to_owned());
    }
    let key = lines
        .next()
        .and_then(|line| line.strip_prefix("current "))
        .ok_or("it has no line `current`")?;
    MasterKey::parse(key).map_err(|error| error.to_string())
}

/// SHA-256 in hex.
fn checksum(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("tipsec-keyring-{}-{number}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn stored() -> (Directory, Keyring, MasterKey) {
        let directory = Directory::new();
        let keyring = Keyring::open(&directory.0).unwrap();
        let key = MasterKey::generate().unwrap();
        keyring.store(&key).unwrap();
        (directory, keyring, key)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn error(keyring: &Keyring) -> String {
        match keyring.load() {
            Ok(_) => panic!("loaded"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_key_is_kept_and_replaced() {
        let directory = Directory::new();
        let keyring = Keyring::open(&directory.0).unwrap();
        assert!(keyring.load().unwrap().is_none());
        for _ in 0..2 {
            let key = MasterKey::generate().unwrap();
            keyring.store(&key).unwrap();
            assert!(keyring.load().unwrap().unwrap().same_as(&key));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&keyring.path()), 0o600);
        assert_eq!(mode(&directory.0), 0o700);
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_does_not_disturb() {
        let (directory, keyring, key) = stored();
        fs::write(directory.0.join(TEMPORARY_NAME), "half a k").unwrap();
        assert!(keyring.load().unwrap().unwrap().same_as(&key));
        keyring.store(&key).unwrap();
        assert!(!directory.0.join(TEMPORARY_NAME).exists());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let (_directory, keyring, key) = stored();
        let good = fs::read(keyring.path()).unwrap();
        for len in 0..good.len() {
            assert!(parse(&good[..len]).is_err(), "cut to {len}");
        }
        for bit in 0..8 * good.len() {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit}");
        }
        assert!(parse(&[&good[..], b"x\n"].concat()).is_err());
        assert!(parse(&good).is_ok_and(|read| read.same_as(&key)));
    }

    #[test]
    fn a_damaged_file_is_named_and_left_as_it_is() {
        let (_directory, keyring, _) = stored();
        for bad in [
            "",
            "hello",
            "tipsec keyring 2\n",
            "tipsec keyring 1\ncurrent",
        ] {
            fs::write(keyring.path(), bad).unwrap();
            let message = error(&keyring);
            assert!(message.contains("is damaged"), "{message}");
            assert_eq!(fs::read_to_string(keyring.path()).unwrap(), bad);
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let (directory, keyring, _) = stored();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            set_mode(&keyring.path(), mode);
            assert!(error(&keyring).contains("chmod 0600"), "{mode:o}");
        }
        set_mode(&keyring.path(), 0o400);
        assert!(keyring.load().is_ok());
        set_mode(&directory.0, 0o770);
        assert!(matches!(
            Keyring::open(&directory.0),
            Err(KeyringError::Mode { .. })
        ));
    }

    #[test]
    fn links_and_directories_are_refused() {
        let (directory, keyring, _) = stored();
        let elsewhere = directory.0.join("elsewhere");
        fs::rename(keyring.path(), &elsewhere).unwrap();
        symlink(&elsewhere, keyring.path()).unwrap();
        assert!(matches!(keyring.load(), Err(KeyringError::NotAFile(_))));
        fs::remove_file(keyring.path()).unwrap();
        fs::create_dir(keyring.path()).unwrap();
        assert!(matches!(keyring.load(), Err(KeyringError::NotAFile(_))));
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED (needs root): a keyring of another user");
            return;
        }
        let (_directory, keyring, _) = stored();
        std::os::unix::fs::chown(keyring.path(), Some(54321), None).unwrap();
        assert!(error(&keyring).contains("user 54321"));
    }
}
