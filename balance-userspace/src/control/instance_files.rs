//! What a running balance leaves in the run directory: its lock, its control socket, its pid.
//!
//! Invariants: a live instance is never replaced by a stranger. The lock, which the kernel drops with the process,
//! says whether one lives; only its holder makes, exchanges or removes socket and pid, and it lets go of the lock
//! last. So who waits for the end of an instance waits for its lock, and may then claim the names at once. Under a
//! supervisor the holder is the supervisor, while the processes of an instance come and go: the socket's name
//! leads to the process before until the next one serves, and then to that, with no moment between.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt as _, OpenOptionsExt as _, lchown},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    sys::stat::{Mode, fchmod},
    unistd::{Gid, Uid},
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::run_dir::{Paths, RunDir, RunDirError};
use crate::error::StartError;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum InstanceFilesError {
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
    Create {
        /// What was to be made.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl From<InstanceFilesError> for StartError {
    fn from(error: InstanceFilesError) -> Self {
        Self::Control { message: error.to_string(), exit_code: CANNOT_CREATE }
    }
}

/// EX_CANTCREAT of sysexits(3).
const CANNOT_CREATE: u8 = 73;

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

/// The names of one instance in the run directory. Everything but the lock is removed when this is dropped, as far
/// as the process still may; then the lock is free.
#[derive(Debug)]
pub(crate) struct InstanceFiles {
    paths: Paths,
    /// Released last, when nothing is left to remove. So the lock says when an instance is gone.
    lock: File,
}

impl InstanceFiles {
    /// Claims these names in a directory.
    ///
    /// # Errors
    /// When the directory cannot be used or another instance lives.
    pub(crate) fn claim(dir: &RunDir, paths: Paths) -> Result<Self, InstanceFilesError> {
        dir.prepare()?;
        let open = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            // The directory may have been open to others once.
            .custom_flags(libc::O_NOFOLLOW)
            .open(&paths.lock);
        let lock = open.map_err(refused(&paths.lock))?;
        if !is_ours(&lock).map_err(refused(&paths.lock))? {
            return Err(InstanceFilesError::Taken { path: paths.lock });
        }
        let names = Self { paths, lock };
        // Left by an instance that was killed; ours is the lock.
        names.clear();
        Ok(names)
    }

    /// Whether these paths lead to them. One directory can have several paths, through links.
    pub(crate) fn are_at(&self, paths: &Paths) -> bool {
        let is_same_lock = || {
            let (ours, theirs) = (self.lock.metadata()?, fs::metadata(&paths.lock)?);
            io::Result::Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
        };
        self.paths == *paths || is_same_lock().unwrap_or(false)
    }

    /// Makes a control socket that listens, for another user's process if an owner is given. Clients find it after
    /// [`InstanceFiles::publish`]; until then those who look find the one before it.
    ///
    /// # Errors
    /// [`InstanceFilesError::Create`].
    pub(crate) fn socket(
        &self,
        owner: Option<(Uid, Gid)>,
    ) -> Result<UnixListener, InstanceFilesError> {
        let path = &self.paths.next;
        let listen = || {
            let _ = fs::remove_file(path);
            let socket = private_socket(Type::STREAM, path)?;
            if let Some((user, group)) = owner {
                lchown(path, Some(user.as_raw()), Some(group.as_raw()))?;
            }
            socket.listen(BACKLOG)?;
            Ok(OwnedFd::from(socket).into())
        };
        listen().map_err(refused(path))
    }

    /// Gives the socket that was made last its name, in place of the one before it, and writes the pid of the
    /// process that serves it.
    ///
    /// # Errors
    /// [`InstanceFilesError::Create`].
    pub(crate) fn publish(&self, pid: u32) -> Result<(), InstanceFilesError> {
        let Paths { next, socket, pid: pid_file, .. } = &self.paths;
        fs::rename(next, socket).map_err(refused(socket))?;
        let write = || {
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(0o644).open(next)?;
            writeln!(file, "{pid}")?;
            fs::rename(next, pid_file)
        };
        write().map_err(refused(pid_file))
    }

    /// Removes what a process has left that is gone.
    pub(crate) fn clear(&self) {
        for path in [&self.paths.next, &self.paths.socket, &self.paths.pid] {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for InstanceFiles {
    fn drop(&mut self) {
        // The lock stays: removing it would let two others each lock a file of that name.
        self.clear();
    }
}

fn refused(path: &Path) -> impl Fn(io::Error) -> InstanceFilesError {
    move |source| InstanceFilesError::Create { path: path.to_owned(), source }
}

/// Locks a file, unless an instance has it locked. Who only looks ([`is_held`]) shares the lock for a moment.
fn is_ours(file: &File) -> io::Result<bool> {
    for _ in 0..LOOKS {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(e)) => return Err(e),
        }
        match file.try_lock_shared() {
            Ok(()) => file.unlock()?,
            Err(fs::TryLockError::WouldBlock) => return Ok(false),
            Err(fs::TryLockError::Error(e)) => return Err(e),
        }
        thread::sleep(LOOK);
    }
    Ok(false)
}

/// How often to try a lock that is only looked at.
const LOOKS: usize = 1000;

/// Between two attempts.
const LOOK: Duration = Duration::from_millis(1);

/// What a process serves on its control socket, and the names that it has itself: none under a supervisor, which has
/// them for it.
#[derive(Debug)]
pub struct ControlEndpoint {
    listener: Option<UnixListener>,
    _names: Option<InstanceFiles>,
}

impl ControlEndpoint {
    /// Claims these names in a directory for this process, which is to become another user's if an owner is given.
    ///
    /// # Errors
    /// When the directory cannot be used or another instance lives.
    pub(crate) fn claim(
        dir: &RunDir,
        paths: Paths,
        owner: Option<(Uid, Gid)>,
    ) -> Result<Self, InstanceFilesError> {
        let names = InstanceFiles::claim(dir, paths)?;
        let listener = names.socket(owner)?;
        names.publish(std::process::id())?;
        Ok(Self { listener: Some(listener), _names: Some(names) })
    }

    /// One whose names are its supervisor's.
    pub(crate) fn supervised(listener: UnixListener) -> Self {
        Self { listener: Some(listener), _names: None }
    }

    /// The socket, once.
    pub(crate) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

/// Whether somebody holds the lock among these names, as far as we may see.
pub(crate) fn is_held(paths: &Paths) -> bool {
    let Ok(lock) = File::open(&paths.lock) else { return false };
    // Taken for a moment, and given back with the file.
    matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixStream,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    use super::*;

    #[test]
    fn a_live_instance_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::locate(Some(folder.path())).unwrap();
        let paths = || dir.instance(Some("127.0.0.1"), 25).unwrap();
        let inode = || fs::metadata(paths().socket).unwrap().ino();

        let claim = |paths| ControlEndpoint::claim(&dir, paths, None);
        let first = claim(paths()).unwrap();
        let (socket, pid) = (inode(), fs::read(paths().pid).unwrap());
        let refusal = claim(paths()).unwrap_err();
        assert!(matches!(&refusal, InstanceFilesError::Taken { path } if *path == paths().lock));
        assert_eq!((inode(), fs::read(paths().pid).unwrap()), (socket, pid));
        // Another name is nobody's.
        assert!(claim(dir.instance(None, 25).unwrap()).is_ok());

        drop(first);
        assert!(!fs::exists(paths().socket).unwrap() && !fs::exists(paths().pid).unwrap());
        assert!(claim(paths()).is_ok());
    }

    #[test]
    fn names_are_found_by_every_path_that_leads_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let [real, other, link] = ["real", "other", "link"].map(|name| folder.path().join(name));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let paths = |path: &Path| RunDir::locate(Some(path)).unwrap().instance(None, 25).unwrap();
        let names =
            InstanceFiles::claim(&RunDir::locate(Some(&real)).unwrap(), paths(&real)).unwrap();
        assert!(names.are_at(&paths(&real)) && names.are_at(&paths(&link.join("real"))));
        assert!(!names.are_at(&paths(&other)));
        fs::remove_file(paths(&real).lock).unwrap();
        assert!(names.are_at(&paths(&real)) && !names.are_at(&paths(&link.join("real"))));
    }

    #[test]
    fn who_only_looks_keeps_no_instance_from_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::locate(Some(folder.path())).unwrap();
        let paths = || dir.instance(None, 25).unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    is_held(&paths());
                }
            });
            let claims = (0..1000).map(|_| ControlEndpoint::claim(&dir, paths(), None).map(drop));
            let failed = claims.filter_map(Result::err).next();
            is_over.store(true, Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }

    #[test]
    fn a_client_finds_the_socket_before_or_the_next_at_any_moment() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::locate(Some(folder.path())).unwrap();
        let names = InstanceFiles::claim(&dir, dir.instance(None, 25).unwrap()).unwrap();
        let Paths { socket, pid, next, .. } = names.paths.clone();
        let connects = || UnixStream::connect(&socket).is_ok();
        let first = names.socket(None).unwrap();
        assert!(!connects());
        names.publish(7).unwrap();
        let inode = || fs::metadata(&socket).unwrap().ino();
        let before = inode();
        assert!(connects());
        let second = names.socket(None).unwrap();
        assert_eq!(inode(), before);
        names.publish(8).unwrap();
        assert_ne!(inode(), before);
        drop(first);
        assert!(connects());
        assert_eq!(fs::read_to_string(&pid).unwrap(), "8\n");
        drop((second, names));
        assert!([socket, pid, next].iter().all(|path| !path.exists()));
    }
}
