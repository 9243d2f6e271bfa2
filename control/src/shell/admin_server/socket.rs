//! The listening socket as a file: made once, replaced only when dead, removed
//! at the end. Imports nothing from this crate.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::AdminServerError;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// The socket's file; removed on drop if it is still ours.
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| meta.dev() == self.device && meta.ino() == self.inode);
        if ours {
            // Nobody is left to tell; the next start finds it dead.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`: mode 0660 for the group, or 0600 without one.
pub(super) fn listen(
    path: &Path,
    group: Option<Gid>,
) -> Result<(OwnedFd, SocketFile), AdminServerError> {
    let failed = |what: &'static str| {
        let path = path.to_owned();
        move |source: io::Error| AdminServerError::Socket { what, path, source }
    };
    let address = SocketAddrUnix::new(path).map_err(|e| failed("use the name of")(e.into()))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    if !parent.exists() {
        DirBuilder::new()
            .mode(0o755)
            .create(parent)
            .map_err(failed("make the directory of"))?;
    }
    // Held until the end: two daemons that start at the same moment must not
    // both find the old socket dead and remove each other's new one.
    let _lock = lock_directory(parent);
    remove_if_dead(path, &address)?;

    let socket = new_socket().map_err(failed("make"))?;
    rustix::net::bind(&socket, &address).map_err(|e| failed("bind")(e.into()))?;
    let meta = fs::symlink_metadata(path).map_err(failed("look at"))?;
    let file = SocketFile {
        path: path.to_owned(),
        device: meta.dev(),
        inode: meta.ino(),
    };
    // Nobody can connect before `listen`, so the mode is never too wide.
    if let Some(group) = group {
        rustix::fs::chown(path, None, Some(group))
            .map_err(|e| failed("give the admin group")(e.into()))?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("set the mode of"))?;
    rustix::net::listen(&socket, BACKLOG).map_err(|e| failed("listen at")(e.into()))?;
    Ok((socket, file))
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(socket)
}

/// A lock on the directory, so that no lock file is left behind. Whoever may
/// read the directory could hold the lock, so after a second start without it.
fn lock_directory(parent: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty()).ok()?;
    for _ in 0..100 {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(_) => return None,
        }
    }
    None
}

/// Removes a socket that refuses connections, and nothing else.
fn remove_if_dead(path: &Path, address: &SocketAddrUnix) -> Result<(), AdminServerError> {
    let failed = |what: &'static str, source: io::Error| AdminServerError::Socket {
        what,
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(AdminServerError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let probe = new_socket().map_err(|e| failed("probe", e))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(|e| failed("remove", e)),
        Err(Errno::NOENT) => Ok(()),
        // EAGAIN: alive, with a full backlog.
        Ok(()) | Err(Errno::AGAIN) => {
            let peer = rustix::net::sockopt::socket_peercred(&probe).ok();
            Err(AdminServerError::AlreadyServed {
                path: path.to_owned(),
                pid: peer.map(|peer| peer.pid.as_raw_nonzero().get()),
            })
        }
        Err(error) => Err(failed("probe", error.into())),
    }
}
