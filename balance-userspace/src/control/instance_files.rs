//! The files of an instance in the run directory: its lock, its control socket and its pid file.
//!
//! Invariants: no process replaces a live instance. The kernel releases the lock with the process,
//! so the lock says whether an instance is alive. Only the holder of the lock creates, replaces or
//! removes the socket and the pid file. The holder releases the lock last, so a process that waits
//! for the lock can claim the files at once.
//!
//! Under a supervisor, the supervisor holds the lock and the listening socket, which it passes to
//! each process of the instance. So a client can connect while the processes change.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
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
    sys::stat::{Mode, fchmod, umask},
    unistd::{Gid, Uid},
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::run_dir::{Paths, RunDir, RunDirError};
use crate::{cli::args::Args, error::StartError, sys::privileges};

/// The reason why an instance has no control socket.
#[derive(Debug, thiserror::Error)]
pub enum InstanceFilesError {
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Another process holds the lock.
    #[error("another balance runs here (it holds {})", path.display())]
    Taken {
        /// The lock.
        path: PathBuf,
    },
    /// A file cannot be created.
    #[error("cannot create {}: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The process may not give the socket to the group of `--control-group`.
    #[error("cannot give {} to the group {group} of --control-group: {source}", path.display())]
    Group {
        /// The socket.
        path: PathBuf,
        /// The number of the group.
        group: Gid,
        /// The system's error.
        source: io::Error,
    },
}

impl From<InstanceFilesError> for StartError {
    fn from(error: InstanceFilesError) -> Self {
        let exit_code = match error {
            InstanceFilesError::Group { .. } => NO_PERMISSION,
            _ => CANNOT_CREATE,
        };
        Self::Control { message: error.to_string(), exit_code }
    }
}

/// EX_NOPERM of sysexits(3).
const NO_PERMISSION: u8 = 77;

/// EX_CANTCREAT of sysexits(3).
const CANNOT_CREATE: u8 = 73;

/// Clients that may wait for an accept on the control socket.
const BACKLOG: i32 = 128;

/// Who may connect to a control socket, beside root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketAccess {
    /// The user and the group that the serving process switches to; `None` if it keeps the user of
    /// this process.
    pub(crate) owner: Option<(Uid, Gid)>,
    /// The group whose members may connect; none for the owner alone.
    pub(crate) group: Option<Gid>,
}

impl SocketAccess {
    /// Looks up `--user` and `--control-group`. Blocks.
    ///
    /// # Errors
    /// [`StartError::NoUser`], [`StartError::NoGroup`], [`StartError::System`].
    pub(crate) fn of(args: &Args) -> Result<Self, StartError> {
        let user = args.user.as_deref().map(privileges::find).transpose()?;
        let group = args.control_group.as_deref().map(privileges::find_group).transpose()?;
        Ok(Self { owner: user.map(|user| (user.uid, user.gid)), group })
    }

    fn mode(self) -> Mode {
        let owner = Mode::S_IRUSR | Mode::S_IWUSR;
        if self.group.is_some() { owner | Mode::S_IRGRP | Mode::S_IWGRP } else { owner }
    }
}

/// Creates a Unix socket at a path with a mode, from the start: changing the mode later would be
/// unsafe, because the owner of the directory could replace the file.
fn bind_socket(path: &Path, mode: Mode) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // bind creates the file with the mode of the socket (net/unix/af_unix.c, unix_bind_bsd), less
    // the umask. Every other file of balance is created with a mode that needs no umask.
    fchmod(&socket, mode)?;
    let before = umask(Mode::empty());
    let bound = socket.bind(&SockAddr::unix(path)?);
    umask(before);
    bound?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The files of one instance in the run directory. Drop removes all files except the lock file, as
/// far as the process has the permission, and then releases the lock.
#[derive(Debug)]
pub(crate) struct InstanceFiles {
    paths: Paths,
    /// Released last, after all removals. So a free lock means that the instance has ended.
    lock: File,
}

impl InstanceFiles {
    /// Claims the files at these paths in a directory.
    ///
    /// # Errors
    /// When the directory cannot be used or another instance is alive.
    pub(crate) fn claim(dir: &RunDir, paths: Paths) -> Result<Self, InstanceFilesError> {
        let files = Self::reclaim(dir, paths)?;
        // A killed instance leaves its files behind.
        files.clear();
        Ok(files)
    }

    /// Claims the files of a process that has ended, and whose control socket another process
    /// serves.
    ///
    /// # Errors
    /// When the directory cannot be used or another instance is alive.
    pub(crate) fn reclaim(dir: &RunDir, paths: Paths) -> Result<Self, InstanceFilesError> {
        dir.prepare()?;
        let lock = lock_at(&paths.lock)?;
        Ok(Self { paths, lock })
    }

    /// The files at these paths, whose lock this process holds already.
    pub(crate) fn with_lock(paths: Paths, lock: File) -> Self {
        Self { paths, lock }
    }

    /// The lock, to pass it on to another program.
    pub(crate) fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Whether these paths lead to these files. Through links, one directory can have several
    /// paths.
    pub(crate) fn are_at(&self, paths: &Paths) -> bool {
        let is_same_lock = || {
            let (own, other) = (self.lock.metadata()?, fs::metadata(&paths.lock)?);
            io::Result::Ok((own.dev(), own.ino()) == (other.dev(), other.ino()))
        };
        self.paths == *paths || is_same_lock().unwrap_or(false)
    }

    /// Creates a listening control socket. Clients find the previous socket until
    /// [`InstanceFiles::publish`].
    ///
    /// # Errors
    /// [`InstanceFilesError::Create`], [`InstanceFilesError::Group`].
    pub(crate) fn socket(&self, access: SocketAccess) -> Result<UnixListener, InstanceFilesError> {
        let path = &self.paths.next;
        let bind = || {
            let _ = fs::remove_file(path);
            let socket = bind_socket(path, access.mode())?;
            if let Some((user, group)) = access.owner {
                lchown(path, Some(user.as_raw()), Some(group.as_raw()))?;
            }
            Ok(socket)
        };
        let socket = bind().map_err(create_error(path))?;
        if let Some(group) = access.group {
            lchown(path, None, Some(group.as_raw())).map_err(|source| {
                InstanceFilesError::Group { path: path.clone(), group, source }
            })?;
        }
        // Nobody can connect before.
        socket.listen(BACKLOG).map_err(create_error(path))?;
        Ok(OwnedFd::from(socket).into())
    }

    /// Removes a socket that is not published.
    pub(crate) fn discard(&self) {
        let _ = fs::remove_file(&self.paths.next);
    }

    /// Moves the newest socket to its final path, in place of the previous socket, and writes the
    /// pid file of the process that serves it. Call this again when another process serves the same
    /// socket.
    ///
    /// # Errors
    /// [`InstanceFilesError::Create`].
    pub(crate) fn publish(&self, pid: u32) -> Result<(), InstanceFilesError> {
        let Paths { next, socket, pid: pid_file, .. } = &self.paths;
        match fs::rename(next, socket) {
            // The socket is at its path already.
            Err(error) if error.kind() == io::ErrorKind::NotFound && socket.exists() => {}
            renamed => renamed.map_err(create_error(socket))?,
        }
        let write = || {
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(0o644).open(next)?;
            writeln!(file, "{pid}")?;
            fs::rename(next, pid_file)
        };
        write().map_err(create_error(pid_file))
    }

    /// Removes the files of a process that has ended.
    pub(crate) fn clear(&self) {
        for path in [&self.paths.next, &self.paths.socket, &self.paths.pid] {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for InstanceFiles {
    fn drop(&mut self) {
        // Keep the lock file. Two processes could otherwise lock two different files at its path.
        self.clear();
    }
}

/// Opens and locks a lock file.
fn lock_at(path: &Path) -> Result<File, InstanceFilesError> {
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        // Other users may have had access to the directory before.
        .custom_flags(libc::O_NOFOLLOW)
        .open(path);
    let lock = open.map_err(create_error(path))?;
    if !lock_file(&lock).map_err(create_error(path))? {
        return Err(InstanceFilesError::Taken { path: path.to_owned() });
    }
    Ok(lock)
}

fn create_error(path: &Path) -> impl Fn(io::Error) -> InstanceFilesError {
    move |source| InstanceFilesError::Create { path: path.to_owned(), source }
}

/// Locks a file. Returns false if an instance holds the lock. A check by [`is_held`] holds a shared
/// lock for a moment; then this function tries again.
fn lock_file(file: &File) -> io::Result<bool> {
    for _ in 0..LOCK_ATTEMPTS {
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
        thread::sleep(LOCK_RETRY_PAUSE);
    }
    Ok(false)
}

/// Attempts to take a lock that a check holds.
const LOCK_ATTEMPTS: usize = 1000;

/// Pause between two attempts.
const LOCK_RETRY_PAUSE: Duration = Duration::from_millis(1);

/// The control socket of a process, and the files that the process holds itself. Under a supervisor
/// the supervisor holds the files.
#[derive(Debug)]
pub struct ControlEndpoint {
    listener: Option<UnixListener>,
    _files: Option<InstanceFiles>,
}

impl ControlEndpoint {
    /// Claims the files at these paths for this process.
    ///
    /// # Errors
    /// When the directory cannot be used or another instance is alive.
    pub(crate) fn claim(
        dir: &RunDir,
        paths: Paths,
        access: SocketAccess,
    ) -> Result<Self, InstanceFilesError> {
        let files = InstanceFiles::claim(dir, paths)?;
        let listener = files.socket(access)?;
        files.publish(std::process::id())?;
        Ok(Self { listener: Some(listener), _files: Some(files) })
    }

    /// Returns the endpoint of a process whose supervisor holds the files.
    pub(crate) fn supervised(listener: UnixListener) -> Self {
        Self { listener: Some(listener), _files: None }
    }

    /// Takes the socket out.
    pub(crate) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

/// Whether a process holds the lock at these paths. False if the lock file cannot be opened.
pub(crate) fn is_held(paths: &Paths) -> bool {
    let Ok(lock) = File::open(&paths.lock) else { return false };
    // Closing the file releases the shared lock.
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

        let claim = |paths| ControlEndpoint::claim(&dir, paths, SocketAccess::default());
        let first = claim(paths()).unwrap();
        let (socket, pid) = (inode(), fs::read(paths().pid).unwrap());
        let refusal = claim(paths()).unwrap_err();
        assert!(matches!(&refusal, InstanceFilesError::Taken { path } if *path == paths().lock));
        assert_eq!((inode(), fs::read(paths().pid).unwrap()), (socket, pid));
        // No instance holds the files of another address.
        assert!(claim(dir.instance(None, 25).unwrap()).is_ok());

        drop(first);
        assert!(!fs::exists(paths().socket).unwrap() && !fs::exists(paths().pid).unwrap());
        assert!(claim(paths()).is_ok());
    }

    #[test]
    fn files_are_recognised_by_every_path_that_leads_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let [real, other, link] = ["real", "other", "link"].map(|name| folder.path().join(name));
        fs::create_dir(&real).unwrap();
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let paths = |path: &Path| RunDir::locate(Some(path)).unwrap().instance(None, 25).unwrap();
        let files =
            InstanceFiles::claim(&RunDir::locate(Some(&real)).unwrap(), paths(&real)).unwrap();
        assert!(files.are_at(&paths(&real)) && files.are_at(&paths(&link.join("real"))));
        assert!(!files.are_at(&paths(&other)));
        fs::remove_file(paths(&real).lock).unwrap();
        assert!(files.are_at(&paths(&real)) && !files.are_at(&paths(&link.join("real"))));
    }

    #[test]
    fn a_check_of_the_lock_keeps_no_instance_from_its_files() {
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
            let access = SocketAccess::default();
            let claims = (0..1000).map(|_| ControlEndpoint::claim(&dir, paths(), access).map(drop));
            let failed = claims.filter_map(Result::err).next();
            is_over.store(true, Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }

    #[test]
    fn a_client_always_finds_the_old_socket_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::locate(Some(folder.path())).unwrap();
        let files = InstanceFiles::claim(&dir, dir.instance(None, 25).unwrap()).unwrap();
        let Paths { socket, pid, next, .. } = files.paths.clone();
        let connects = || UnixStream::connect(&socket).is_ok();
        let first = files.socket(SocketAccess::default()).unwrap();
        assert!(!connects());
        files.publish(7).unwrap();
        let inode = || fs::metadata(&socket).unwrap().ino();
        let before = inode();
        assert!(connects());
        let second = files.socket(SocketAccess::default()).unwrap();
        assert_eq!(inode(), before);
        files.publish(8).unwrap();
        assert_ne!(inode(), before);
        drop(first);
        assert!(connects());
        let before = inode();
        files.publish(9).unwrap();
        assert_eq!((inode(), fs::read_to_string(&pid).unwrap()), (before, "9\n".to_owned()));
        files.publish(8).unwrap();
        assert_eq!(fs::read_to_string(&pid).unwrap(), "8\n");
        drop((second, files));
        assert!([socket, pid, next].iter().all(|path| !path.exists()));
    }
}
