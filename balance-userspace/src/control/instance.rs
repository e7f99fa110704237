//! What a running balance leaves in the run directory: its lock, its control socket, its pid.
//!
//! Invariant: a live instance is never replaced. The lock, which the kernel drops with the
//! process, says whether one lives; only its holder removes a stale socket or writes a pid.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{OpenOptionsExt as _, lchown},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::stat::{Mode, fchmod},
    unistd::{Gid, Uid},
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::rundir::{Paths, RunDir, RunDirError};

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Somebody holds the lock.
    #[error("another balance runs here (it holds {})", path.display())]
    Taken {
        /// The lock.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot make {}: {source}", path.display())]
    Refused {
        /// What was to be made.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Clients of the control socket that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A Unix socket at a path that nobody but its owner and root can connect to, from its first moment: the
/// directory may be another user's, who could put something else in its place afterwards.
pub(crate) fn private_socket(kind: Type, path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    // What bind makes has this mode (net/unix/af_unix.c, unix_bind_bsd).
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A claim on the names of one instance. Everything is removed when it is dropped, as far as the process
/// still may.
#[derive(Debug)]
pub struct Instance {
    paths: Paths,
    listener: Option<UnixListener>,
    _lock: File,
}

impl Instance {
    /// Claims these names in a directory.
    ///
    /// # Errors
    /// When the directory cannot be used or another instance lives.
    pub fn claim(dir: &RunDir, paths: Paths) -> Result<Self, InstanceError> {
        dir.prepare()?;
        let refused = |path: &Path| {
            let path = path.to_owned();
            move |source| InstanceError::Refused { path, source }
        };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            // The directory may have been open to others once.
            .custom_flags(libc::O_NOFOLLOW)
            .open(&paths.lock)
            .map_err(refused(&paths.lock))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(InstanceError::Taken { path: paths.lock });
            }
            Err(fs::TryLockError::Error(e)) => return Err(refused(&paths.lock)(e)),
        }
        // Left by an instance that was killed; ours is the lock.
        let _ = fs::remove_file(&paths.socket);
        let listen = || {
            let socket = private_socket(Type::STREAM, &paths.socket)?;
            socket.listen(BACKLOG)?;
            Ok(OwnedFd::from(socket).into())
        };
        let listener = listen().map_err(refused(&paths.socket))?;
        Ok(Self { paths, listener: Some(listener), _lock: lock })
    }

    /// Writes the pid of this process.
    ///
    /// # Errors
    /// [`InstanceError::Refused`].
    pub fn write_pid(&self) -> Result<(), InstanceError> {
        let path = &self.paths.pid;
        let write = || {
            let _ = fs::remove_file(path);
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(0o644).open(path)?;
            writeln!(file, "{}", std::process::id())
        };
        write().map_err(|source| InstanceError::Refused { path: path.clone(), source })
    }

    /// Lets another user connect, whose this process is about to be.
    ///
    /// # Errors
    /// [`InstanceError::Refused`].
    pub(crate) fn give_to(&self, user: Uid, group: Gid) -> Result<(), InstanceError> {
        let path = &self.paths.socket;
        lchown(path, Some(user.as_raw()), Some(group.as_raw()))
            .map_err(|source| InstanceError::Refused { path: path.clone(), source })
    }

    /// The socket, once.
    pub(crate) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

/// Removes what an instance has left behind that could not do so itself.
pub(crate) fn sweep(paths: &Paths) {
    if !is_held(paths) {
        let _ = fs::remove_file(&paths.socket);
        let _ = fs::remove_file(&paths.pid);
    }
}

/// Whether somebody holds the lock among these names, as far as we may see.
pub(crate) fn is_held(paths: &Paths) -> bool {
    let Ok(lock) = File::open(&paths.lock) else { return false };
    // Taken for a moment, and given back with the file.
    matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The lock stays: removing it would let two others each lock a file of that name.
        let _ = fs::remove_file(&self.paths.socket);
        let _ = fs::remove_file(&self.paths.pid);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_live_instance_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::locate(Some(folder.path())).unwrap();
        let paths = || dir.instance(Some("127.0.0.1"), 25).unwrap();
        let inode = || fs::metadata(paths().socket).unwrap().ino();

        let first = Instance::claim(&dir, paths()).unwrap();
        first.write_pid().unwrap();
        let (socket, pid) = (inode(), fs::read(paths().pid).unwrap());
        let refusal = Instance::claim(&dir, paths()).unwrap_err();
        assert!(matches!(&refusal, InstanceError::Taken { path } if *path == paths().lock));
        assert_eq!((inode(), fs::read(paths().pid).unwrap()), (socket, pid));
        // Another name is nobody's.
        assert!(Instance::claim(&dir, dir.instance(None, 25).unwrap()).is_ok());

        drop(first);
        assert!(!fs::exists(paths().socket).unwrap() && !fs::exists(paths().pid).unwrap());
        assert!(Instance::claim(&dir, paths()).is_ok());
    }
}
