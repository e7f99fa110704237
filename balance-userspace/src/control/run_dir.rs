//! Where a running balance is found: the run directory, and the names of what lies in it.
//!
//! Invariant: nobody but root and the owner can put something into a directory that
//! [`RunDir::prepare`] has accepted, and the owner is ourselves, root, or who has it from root. Names are made of the port and of the literal text of `-b`,
//! two different texts never give the same name. Apart from `prepare`, nothing is looked at.

use std::{
    env,
    fs::{DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use crate::sys;

/// The run directory of root's instances.
const SYSTEM: &str = "/run/balance";

/// What stands for `-b` in the name of an instance without it, as in the classic.
pub const ALL: &str = "0.0.0.0";

/// Bytes of the longest path that a Unix socket can have: `sun_path` without the final zero.
const SOCKET_PATH: usize = 107;

/// Bits of a directory's mode that let others put something into it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The bit that has no use any more in a directory that only its owner can write to.
const STICKY: u32 = 0o1000;

/// Why there is no run directory to use.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// Neither root nor in a login session, and nothing was given. The user's to solve.
    #[error("no run directory: XDG_RUNTIME_DIR is not set, give one with --run-dir")]
    Nowhere,
    /// The path of the socket does not fit into a socket address. The user's to solve.
    #[error("the path of the control socket is too long ({} bytes of at most {SOCKET_PATH}): {}",
            path.as_os_str().len(), path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// What is there is not a directory; links are not followed.
    #[error("the run directory {} is no directory", path.display())]
    NoDirectory {
        /// The path.
        path: PathBuf,
    },
    /// Others could put their own socket there.
    #[error("the run directory {} is not safe: {why}", path.display())]
    Unsafe {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel refuses.
    #[error("cannot {act} the run directory {}: {source}", path.display())]
    System {
        /// What was tried.
        act: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl RunDirError {
    /// Exit code of sysexits(3).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::TooLong { .. } => 64,
            Self::Nowhere | Self::NoDirectory { .. } => 69,
            Self::System { .. } => 71,
            Self::Unsafe { .. } => 77,
        }
    }
}

/// What one instance has in the run directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The control socket.
    pub socket: PathBuf,
    /// The control socket, or the pid, before it has its name.
    pub next: PathBuf,
    /// The process id, in decimal with a newline.
    pub pid: PathBuf,
    /// Locked for as long as the instance runs, by itself or by its supervisor.
    pub lock: PathBuf,
    /// Where a supervisor hears of its instances.
    pub notify_socket: PathBuf,
}

/// A run directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
    /// The mode to create it with.
    mode: u32,
    /// Whether it is balance's own, by its name, so that its mode is ours to mend.
    own: bool,
}

impl RunDir {
    /// The one to use: as given, or what this process's user and environment say.
    ///
    /// # Errors
    /// [`RunDirError::Nowhere`].
    pub fn locate(given: Option<&Path>) -> Result<Self, RunDirError> {
        let session = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let service = env::var("RUNTIME_DIRECTORY").ok();
        let root = sys::effective_user() == 0;
        // A service manager has made it for us; of several the first (systemd.exec(5)).
        let service = service.as_deref().filter(|_| !root).and_then(|list| list.split(':').next());
        Self::choose(given.or(service.map(Path::new)), root, session.as_deref())
    }

    /// Where root's instances are, for a client of whoever.
    pub fn system() -> Self {
        Self { path: SYSTEM.into(), mode: 0o755, own: true }
    }

    fn choose(
        given: Option<&Path>,
        root: bool,
        session: Option<&Path>,
    ) -> Result<Self, RunDirError> {
        match (given, session) {
            (Some(path), _) => {
                let own = path == Path::new(SYSTEM);
                Ok(Self { path: path.to_owned(), mode: 0o755, own })
            }
            (None, _) if root => Ok(Self::system()),
            // The specification has relative paths ignored.
            (None, Some(path)) if path.is_absolute() => {
                Ok(Self { path: path.join("balance"), mode: 0o700, own: true })
            }
            (None, _) => Err(RunDirError::Nowhere),
        }
    }

    /// Its path.
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
            notify_socket: with("in"),
        };
        if paths.socket.as_os_str().as_bytes().len() > SOCKET_PATH {
            return Err(RunDirError::TooLong { path: paths.socket });
        }
        Ok(paths)
    }

    /// Creates it if it is missing, and makes sure that nobody else can write to it. Balance's own
    /// that others can write to, as the classic left it, is closed to them; one that was given
    /// may be /tmp, so its mode is left alone.
    ///
    /// # Errors
    /// All but [`RunDirError::Nowhere`] and [`RunDirError::TooLong`].
    pub fn prepare(&self) -> Result<(), RunDirError> {
        let system =
            |act| move |source| RunDirError::System { act, path: self.path.clone(), source };
        match DirBuilder::new().mode(self.mode).create(&self.path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(system("create")(e)),
        }
        // From here on by descriptor: the path could be exchanged meanwhile, this cannot.
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(&self.path);
        let dir = match open {
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Err(RunDirError::NoDirectory { path: self.path.clone() });
            }
            open => open.map_err(system("open"))?,
        };
        let found = dir.metadata().map_err(system("look at"))?;
        let us = sys::effective_user();
        let unsafe_for = |why: String| RunDirError::Unsafe { path: self.path.clone(), why };
        // Whom the system's own belongs to, root has given it to: the user of the service.
        let is_given = us == 0 && self.path == Path::new(SYSTEM);
        if found.uid() != us && found.uid() != 0 && !is_given {
            return Err(unsafe_for(format!("it belongs to user {}", found.uid())));
        }
        let mode = found.mode() & 0o7777;
        if mode & WRITABLE_BY_OTHERS != 0 {
            if !self.own || found.uid() != us {
                return Err(unsafe_for(format!("others can write to it, mode {mode:04o}")));
            }
            let closed = Permissions::from_mode(mode & !(WRITABLE_BY_OTHERS | STICKY));
            dir.set_permissions(closed).map_err(system("close"))?;
        }
        Ok(())
    }
}

/// Port and `-b` of the instance whose pid file has that name; without `-b` the second is the
/// address of all, as in the name.
pub fn instance_of(pid_file: &str) -> Option<(u16, String)> {
    let name = pid_file.strip_prefix("balance.")?.strip_suffix(".pid")?;
    let (port, bind) = name.split_once('.')?;
    Some((port.parse().ok()?, bind.replace("%2F", "/").replace("%25", "%")))
}

/// `balance.PORT.BIND`; a slash cannot be in it, and what stands for one is unambiguous.
fn name(bind: Option<&str>, port: u16) -> String {
    let bind = bind.unwrap_or(ALL).replace('%', "%25").replace('/', "%2F");
    format!("balance.{port}.{bind}")
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs};

    use proptest::prelude::*;

    use super::{super::client::fake::ScratchDir, *};

    fn chosen(given: Option<&str>, root: bool, session: Option<&str>) -> Option<(String, u32)> {
        let dir = RunDir::choose(given.map(Path::new), root, session.map(Path::new)).ok()?;
        Some((dir.path.display().to_string(), dir.mode))
    }

    #[test]
    fn the_directory_is_the_given_one_or_roots_or_that_of_the_session() {
        let some = |path: &str, mode| Some((path.to_owned(), mode));
        assert_eq!(chosen(Some("x"), true, None), some("x", 0o755));
        assert_eq!(chosen(Some("x"), false, Some("/run/user/1")), some("x", 0o755));
        assert_eq!(chosen(None, true, Some("/run/user/0")), some("/run/balance", 0o755));
        assert_eq!(chosen(None, false, Some("/run/user/1")), some("/run/user/1/balance", 0o700));
        assert_eq!(chosen(None, false, Some("relative")), None);
        assert_eq!(chosen(None, false, None), None);
    }

    #[test]
    fn names_are_those_of_the_classic_with_an_ending() {
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
    fn a_path_that_does_not_fit_a_socket_address_is_refused() {
        let room = SOCKET_PATH - "/run/balance/balance.25..sock".len();
        let dir = RunDir::system();
        assert!(dir.instance(Some(&"h".repeat(room)), 25).is_ok());
        let e = dir.instance(Some(&"h".repeat(room + 1)), 25).unwrap_err();
        assert_eq!(e.exit_code(), 64);
        assert!(e.to_string().contains("108 bytes of at most 107"), "{e}");
    }

    #[test]
    fn a_missing_directory_is_created_and_an_open_one_of_ours_is_closed() {
        let parent = ScratchDir::new("prepare");
        let path = parent.0.join("balance");
        let dir = RunDir { path: path.clone(), mode: 0o700, own: true };
        dir.prepare().unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        dir.prepare().unwrap();
        assert_eq!(mode(&path), 0o755);
        dir.prepare().unwrap();
    }

    #[test]
    fn a_given_directory_that_others_can_write_to_is_refused_and_keeps_its_mode() {
        let given = ScratchDir::new("given");
        let dir = RunDir::choose(Some(&given.0), true, None).unwrap();
        for open in [0o1777, 0o777, 0o770] {
            fs::set_permissions(&given.0, Permissions::from_mode(open)).unwrap();
            let e = dir.prepare().unwrap_err();
            assert!(e.to_string().contains("others can write to it"), "{e}");
            assert_eq!(mode(&given.0), open);
        }
        fs::set_permissions(&given.0, Permissions::from_mode(0o755)).unwrap();
        dir.prepare().unwrap();
        assert!(RunDir::choose(Some(Path::new(SYSTEM)), true, None).unwrap().own);
    }

    #[test]
    fn what_is_no_directory_or_has_no_parent_is_refused() {
        let parent = ScratchDir::new("refused");
        let file = parent.0.join("file");
        fs::write(&file, "").unwrap();
        let link = parent.0.join("link");
        std::os::unix::fs::symlink(&parent.0, &link).unwrap();
        for path in [file, link] {
            let e = RunDir { path, mode: 0o755, own: true }.prepare().unwrap_err();
            assert!(matches!(e, RunDirError::NoDirectory { .. }), "{e}");
        }
        let e =
            RunDir { path: parent.0.join("a/b"), mode: 0o755, own: true }.prepare().unwrap_err();
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
