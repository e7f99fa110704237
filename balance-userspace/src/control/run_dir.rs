//! The run directory, and the paths of an instance or a supervisor in it.
//!
//! Invariants: after [`RunDir::prepare`] only root and the owner of the directory can create files
//! in it. The owner is the user of this process, root, or the user to whom root has given the
//! directory. A path is made of the port and the literal text of `-b`; two different texts never
//! give the same path. Only `locate`, `prepare`, `examine` and `instances` access the file system.

use std::{
    env,
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, faccessat},
};

use crate::sys;

/// The run directory of root's instances.
const SYSTEM: &str = "/run/balance";

/// Stands for the address in the name of an instance without `-b`, as in the classic.
pub const ALL_ADDRESSES: &str = "0.0.0.0";

/// Longest path of a Unix socket in bytes: `sun_path` without the final zero.
const MAX_SOCKET_PATH: usize = 107;

/// Mode bits that let other users create files in a directory.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The sticky bit. It has no use in a directory that only its owner can write to.
const STICKY: u32 = 0o1000;

/// The reason why the run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// The user is not root and has no login session, and `--run-dir` is missing. The user can
    /// solve this.
    #[error("no run directory: XDG_RUNTIME_DIR is not set, name a directory by --run-dir")]
    Nowhere,
    /// The path of the socket does not fit into a socket address. The user can solve this.
    #[error("the path of the control socket is too long ({} bytes of at most {MAX_SOCKET_PATH}): {}",
            path.as_os_str().len(), path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The given directory does not exist. The user can solve this.
    #[error("--run-dir {}: no such directory", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The path is not a directory; links are not followed.
    #[error("the run directory {} is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Other users could create a socket in the directory.
    #[error("the run directory {} is not safe: {reason}", path.display())]
    Unsafe {
        /// The path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {act} the run directory {}: {source}", path.display())]
    System {
        /// The act.
        act: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl RunDirError {
    /// Exit code of sysexits(3).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::TooLong { .. } => 64,
            Self::Missing { .. } => 66,
            Self::Nowhere | Self::NotADirectory { .. } => 69,
            Self::System { .. } => 71,
            Self::Unsafe { .. } => 77,
        }
    }
}

/// The paths of one instance, or of one supervisor, in the run directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The control socket.
    pub socket: PathBuf,
    /// The control socket or the pid file before its rename.
    pub next: PathBuf,
    /// The pid file: the process id in decimal, with a newline.
    pub pid: PathBuf,
    /// The lock file. The instance or its supervisor holds the lock as long as the instance runs.
    pub lock: PathBuf,
}

impl Paths {
    /// The takeover socket of a supervisor. Another supervisor connects there to its processes when
    /// the supervisor has ended. The path is as long as that of the control socket.
    pub fn takeover(&self) -> PathBuf {
        self.socket.with_extension("over")
    }
}

/// A run directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
    /// The mode for creating the directory.
    mode: u32,
    /// Whether the directory belongs to balance by its name, so `prepare` may change its mode.
    is_own: bool,
}

impl RunDir {
    /// Chooses the run directory: the given one, or the default for the user and the environment of
    /// this process.
    ///
    /// # Errors
    /// [`RunDirError::Nowhere`]; [`RunDirError::Missing`] for a given directory, unless balance
    /// creates it.
    pub fn locate(given: Option<&Path>) -> Result<Self, RunDirError> {
        let is_missing = |path: &Path| {
            let found = fs::symlink_metadata(path);
            path != Path::new(SYSTEM)
                && found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        if let Some(path) = given.filter(|path| is_missing(path)) {
            return Err(RunDirError::Missing { path: path.to_owned() });
        }
        let session = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let service = env::var("RUNTIME_DIRECTORY").ok();
        let root = sys::effective_user() == 0;
        // A service manager has created RUNTIME_DIRECTORY. Use the first of several
        // (systemd.exec(5)).
        let service = service.as_deref().filter(|_| !root).and_then(|list| list.split(':').next());
        Self::choose(given.or(service.map(Path::new)), root, session.as_deref())
    }

    /// The run directory of root's instances. A client of any user may look there.
    pub fn system() -> Self {
        Self { path: SYSTEM.into(), mode: 0o755, is_own: true }
    }

    /// The run directories in which a client looks for instances: the given one, or the user's own
    /// and the system's.
    ///
    /// # Errors
    /// [`RunDirError::Missing`].
    pub fn to_search(given: Option<&Path>) -> Result<Vec<Self>, RunDirError> {
        let own = match Self::locate(given) {
            Err(RunDirError::Nowhere) => Self::system(),
            dir => dir?,
        };
        let system = Some(Self::system()).filter(|dir| given.is_none() && *dir != own);
        Ok(std::iter::once(own).chain(system).collect())
    }

    fn choose(
        given: Option<&Path>,
        root: bool,
        session: Option<&Path>,
    ) -> Result<Self, RunDirError> {
        match (given, session) {
            (Some(path), _) => {
                let is_own = path == Path::new(SYSTEM);
                Ok(Self { path: path.to_owned(), mode: 0o755, is_own })
            }
            (None, _) if root => Ok(Self::system()),
            // The XDG specification says to ignore relative paths.
            (None, Some(path)) if path.is_absolute() => {
                Ok(Self { path: path.join("balance"), mode: 0o700, is_own: true })
            }
            (None, _) => Err(RunDirError::Nowhere),
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The paths of the instance on this port with this `-b`.
    ///
    /// # Errors
    /// [`RunDirError::TooLong`].
    pub fn instance(&self, bind: Option<&str>, port: u16) -> Result<Paths, RunDirError> {
        self.paths(&name(bind, port))
    }

    /// Port and `-b` of each instance that has a pid file here. Without `-b` the address is
    /// [`ALL_ADDRESSES`].
    pub fn instances(&self) -> Vec<(u16, String)> {
        let files = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let names = files.map(|file| file.file_name());
        let mut found: Vec<_> = names.filter_map(|name| instance_of(name.to_str()?)).collect();
        found.sort();
        found
    }

    /// The paths of the supervisor of a configuration file, given by an absolute path.
    ///
    /// # Errors
    /// [`RunDirError::TooLong`].
    pub fn supervisor(&self, file: &Path) -> Result<Paths, RunDirError> {
        let escape = |text: &str| text.replace('%', "%25").replace('-', "%2D").replace('/', "-");
        let name = file.as_os_str().as_bytes().utf8_chunks().map(|chunk| {
            let invalid = chunk.invalid().iter().map(|byte| format!("%{byte:02X}"));
            escape(chunk.valid()) + &invalid.collect::<String>()
        });
        self.paths(&format!("conf.{}", name.collect::<String>().trim_start_matches('-')))
    }

    fn paths(&self, name: &str) -> Result<Paths, RunDirError> {
        let with = |end: &str| self.path.join(format!("{name}.{end}"));
        let paths = Paths {
            socket: with("sock"),
            next: with("next"),
            pid: with("pid"),
            lock: with("lock"),
        };
        if paths.socket.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
            return Err(RunDirError::TooLong { path: paths.socket });
        }
        Ok(paths)
    }

    /// Creates the directory if it is missing, and ensures that no other user can write to it. The
    /// mode of balance's own directory is corrected: the classic left it writable for all users.
    /// The mode of a given directory is not changed, because the directory may be /tmp.
    ///
    /// # Errors
    /// All except [`RunDirError::Nowhere`] and [`RunDirError::TooLong`].
    pub fn prepare(&self) -> Result<(), RunDirError> {
        let system =
            |act| move |source| RunDirError::System { act, path: self.path.clone(), source };
        match DirBuilder::new().mode(self.mode).create(&self.path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(system("create")(e)),
        }
        // Use the descriptor from here on: the directory at the path could be replaced meanwhile.
        let dir = self.open()?;
        if let Some(closed) =
            self.correction(&dir.metadata().map_err(system("read the metadata of"))?)?
        {
            dir.set_permissions(closed).map_err(system("change the mode of"))?;
        }
        Ok(())
    }

    /// Checks whether this user can create files in the directory once [`RunDir::prepare`] has run.
    /// Changes nothing.
    ///
    /// # Errors
    /// Those of `prepare`, and [`RunDirError::System`] when the user may not create files.
    pub fn examine(&self) -> Result<(), RunDirError> {
        let system = |act| {
            move |source: io::Error| RunDirError::System { act, path: self.path.clone(), source }
        };
        let can_create_in = |dir: &Path| {
            let access = AccessFlags::W_OK | AccessFlags::X_OK;
            faccessat(AT_FDCWD, dir, access, AtFlags::AT_EACCESS).map_err(io::Error::from)
        };
        match self.open() {
            Ok(dir) => {
                self.correction(&dir.metadata().map_err(system("read the metadata of"))?)?;
                can_create_in(&self.path).map_err(system("create files in"))
            }
            Err(RunDirError::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
                can_create_in(parent.unwrap_or(Path::new("."))).map_err(system("create"))
            }
            Err(error) => Err(error),
        }
    }

    fn open(&self) -> Result<File, RunDirError> {
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(&self.path);
        open.map_err(|source| match source.kind() {
            io::ErrorKind::NotADirectory => RunDirError::NotADirectory { path: self.path.clone() },
            _ => RunDirError::System { act: "open", path: self.path.clone(), source },
        })
    }

    /// The mode that the directory needs so that no other user can write to it; `None` if its mode
    /// is right.
    fn correction(&self, found: &Metadata) -> Result<Option<Permissions>, RunDirError> {
        let user = sys::effective_user();
        let unsafe_for = |reason: String| RunDirError::Unsafe { path: self.path.clone(), reason };
        // If the system's directory has another owner, root has given it to the user of the
        // service.
        let is_given = user == 0 && self.path == Path::new(SYSTEM);
        if found.uid() != user && found.uid() != 0 && !is_given {
            return Err(unsafe_for(format!("it belongs to user {}", found.uid())));
        }
        let mode = found.mode() & 0o7777;
        if mode & WRITABLE_BY_OTHERS != 0 {
            if !self.is_own || found.uid() != user {
                return Err(unsafe_for(format!("other users can write to it, mode {mode:04o}")));
            }
            return Ok(Some(Permissions::from_mode(mode & !(WRITABLE_BY_OTHERS | STICKY))));
        }
        Ok(None)
    }
}

/// Returns the port and `-b` of the instance whose pid file has this name. Without `-b` the address
/// is [`ALL_ADDRESSES`].
pub fn instance_of(pid_file: &str) -> Option<(u16, String)> {
    let name = pid_file.strip_prefix("balance.")?.strip_suffix(".pid")?;
    let (port, bind) = name.split_once('.')?;
    Some((port.parse().ok()?, bind.replace("%2F", "/").replace("%25", "%")))
}

/// Returns `balance.PORT.BIND`. A slash in BIND is escaped without ambiguity.
fn name(bind: Option<&str>, port: u16) -> String {
    let bind = bind.unwrap_or(ALL_ADDRESSES).replace('%', "%25").replace('/', "%2F");
    format!("balance.{port}.{bind}")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::prelude::*;

    use super::{super::client::fake::ScratchDir, *};

    fn chosen(given: Option<&str>, root: bool, session: Option<&str>) -> Option<(String, u32)> {
        let dir = RunDir::choose(given.map(Path::new), root, session.map(Path::new)).ok()?;
        Some((dir.path.display().to_string(), dir.mode))
    }

    #[test]
    fn the_directory_is_the_given_one_or_the_default_of_the_user() {
        let some = |path: &str, mode| Some((path.to_owned(), mode));
        assert_eq!(chosen(Some("x"), true, None), some("x", 0o755));
        assert_eq!(chosen(Some("x"), false, Some("/run/user/1")), some("x", 0o755));
        assert_eq!(chosen(None, true, Some("/run/user/0")), some("/run/balance", 0o755));
        assert_eq!(chosen(None, false, Some("/run/user/1")), some("/run/user/1/balance", 0o700));
        assert_eq!(chosen(None, false, Some("relative")), None);
        assert_eq!(chosen(None, false, None), None);
    }

    #[test]
    fn paths_are_those_of_the_classic_with_a_suffix() {
        let paths = |bind| RunDir::system().instance(bind, 25).unwrap();
        assert_eq!(paths(None).socket, Path::new("/run/balance/balance.25.0.0.0.0.sock"));
        assert_eq!(paths(None).pid, Path::new("/run/balance/balance.25.0.0.0.0.pid"));
        assert_eq!(paths(None).lock, Path::new("/run/balance/balance.25.0.0.0.0.lock"));
        assert_eq!(
            paths(Some("localhost")).pid,
            Path::new("/run/balance/balance.25.localhost.pid")
        );
        let supervisor = |file| RunDir::system().supervisor(Path::new(file)).unwrap().socket;
        assert_eq!(
            supervisor("/etc/balance/balance.conf"),
            Path::new("/run/balance/conf.etc-balance-balance.conf.sock")
        );
        assert_ne!(supervisor("/a/b-c"), supervisor("/a-b/c"));
        let no_text = |byte| {
            let file = Path::new(OsStr::from_bytes(&[b'/', byte])).to_owned();
            RunDir::system().supervisor(&file).unwrap().socket
        };
        assert_eq!(no_text(0xff), Path::new("/run/balance/conf.%FF.sock"));
        assert_ne!(no_text(0xff), no_text(0xfe));
        assert_eq!(
            paths(Some("../no/such")).pid,
            Path::new("/run/balance/balance.25...%2Fno%2Fsuch.pid")
        );
    }

    #[test]
    fn a_path_that_does_not_fit_a_socket_address_is_rejected() {
        let room = MAX_SOCKET_PATH - "/run/balance/balance.25..sock".len();
        let dir = RunDir::system();
        assert!(dir.instance(Some(&"h".repeat(room)), 25).is_ok());
        let e = dir.instance(Some(&"h".repeat(room + 1)), 25).unwrap_err();
        assert_eq!(e.exit_code(), 64);
        assert!(e.to_string().contains("108 bytes of at most 107"), "{e}");
    }

    #[test]
    fn a_missing_directory_is_created_and_the_mode_of_an_own_one_is_corrected() {
        let parent = ScratchDir::new("prepare");
        let path = parent.0.join("balance");
        let dir = RunDir { path: path.clone(), mode: 0o700, is_own: true };
        dir.prepare().unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        dir.prepare().unwrap();
        assert_eq!(mode(&path), 0o755);
        dir.prepare().unwrap();
    }

    #[test]
    fn a_given_directory_that_others_can_write_to_is_rejected_unchanged() {
        let given = ScratchDir::new("given");
        let dir = RunDir::choose(Some(&given.0), true, None).unwrap();
        for open in [0o1777, 0o777, 0o770] {
            fs::set_permissions(&given.0, Permissions::from_mode(open)).unwrap();
            let e = dir.prepare().unwrap_err();
            assert!(e.to_string().contains("other users can write to it"), "{e}");
            assert_eq!(mode(&given.0), open);
        }
        fs::set_permissions(&given.0, Permissions::from_mode(0o755)).unwrap();
        dir.prepare().unwrap();
        assert!(RunDir::choose(Some(Path::new(SYSTEM)), true, None).unwrap().is_own);
    }

    #[test]
    fn an_examination_finds_the_same_and_changes_nothing() {
        let parent = ScratchDir::new("examine");
        let path = parent.0.join("balance");
        let dir = RunDir { path: path.clone(), mode: 0o700, is_own: true };
        dir.examine().unwrap();
        assert!(!path.exists());
        dir.prepare().unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        dir.examine().unwrap();
        assert_eq!(mode(&path), 0o777);
        let e = RunDir { is_own: false, ..dir }.examine().unwrap_err();
        assert!(e.to_string().contains("other users can write to it"), "{e}");
        let missing = RunDir { path: parent.0.join("a/b"), mode: 0o755, is_own: true };
        let e = missing.examine().unwrap_err();
        assert!(matches!(e, RunDirError::System { act: "create", .. }), "{e}");
    }

    #[test]
    fn a_path_without_a_directory_or_a_parent_is_rejected() {
        let parent = ScratchDir::new("refused");
        let file = parent.0.join("file");
        fs::write(&file, "").unwrap();
        let link = parent.0.join("link");
        std::os::unix::fs::symlink(&parent.0, &link).unwrap();
        for path in [file, link] {
            let e = RunDir { path, mode: 0o755, is_own: true }.prepare().unwrap_err();
            assert!(matches!(e, RunDirError::NotADirectory { .. }), "{e}");
        }
        let e =
            RunDir { path: parent.0.join("a/b"), mode: 0o755, is_own: true }.prepare().unwrap_err();
        assert!(matches!(e, RunDirError::System { act: "create", .. }), "{e}");
        assert_eq!(e.exit_code(), 71);
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    proptest! {
        #[test]
        fn a_name_is_one_component_and_no_two_binds_share_it(a in "[a%/.25F]{0,8}", b in "[a%/.25F]{0,8}") {
            let (one, other) = (name(Some(&a), 25), name(Some(&b), 25));
            prop_assert!(!one.contains('/'));
            prop_assert_eq!(one == other, a == b);
            prop_assert_eq!(instance_of(&format!("{one}.pid")), Some((25, a)));
        }
    }
}
