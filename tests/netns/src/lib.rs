//! Unnamed network namespaces, for the tests and the benchmarks.
//!
//! Invariants: a namespace is kept alive by the descriptor in [`Namespace`] and by the processes
//! and sockets inside, so nothing of it is left when the run ends, however the run ends. A thread
//! that enters a namespace was created for that and ends there.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    panic::resume_unwind,
    process::{self, Command, Stdio},
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// Folders in which Debian installs ip(8), and which the PATH of a user may lack.
const SYSTEM_FOLDERS: &str = ":/usr/sbin:/sbin";

/// A network namespace: devices, addresses, routes and ports.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// Creates a namespace whose only device is its loopback, which is up.
    ///
    /// # Errors
    /// When unshare(2) fails, which needs CAP_SYS_ADMIN, or when ip(8) fails.
    pub fn new() -> io::Result<Self> {
        // unshare(2) moves the calling thread, so the thread must end afterwards.
        let create = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open(OWN)
        });
        let file = create.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        let namespace = Self(Arc::new(file));
        namespace.try_ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `act` in the namespace, on a thread of its own. Sockets and processes that `act`
    /// creates stay in the namespace.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("entering a namespace");
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Makes the command start in the namespace.
    pub fn enter_command(&self, command: &mut Command) {
        let file = Arc::clone(&self.0);
        let enter = move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?);
        // SAFETY: between fork and exec, `enter` is one system call on a descriptor that the
        // closure keeps open. The call neither allocates nor takes locks.
        unsafe {
            command.pre_exec(enter);
        }
    }

    /// Runs commands of ip(8) in the namespace, one a line.
    ///
    /// # Panics
    /// When a command fails.
    pub fn ip(&self, commands: &str) {
        self.try_ip(commands).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Runs commands of ip(8) in the namespace, one a line.
    ///
    /// # Errors
    /// When ip(8) is missing or a command fails; the error has what ip(8) printed.
    pub fn try_ip(&self, commands: &str) -> io::Result<()> {
        let mut path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
        path.push(SYSTEM_FOLDERS);
        let mut ip = Command::new("ip");
        ip.args(["-batch", "-"]).env("PATH", path);
        ip.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.enter_command(&mut ip);
        let start =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot start ip: {error}"));
        let mut ip = ip.spawn().map_err(start)?;
        if let Some(mut stdin) = ip.stdin.take() {
            // A write fails when ip(8) has already exited; its status and output say why.
            let _ = stdin.write_all(commands.as_bytes());
        }
        let output = ip.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("ip -batch failed: {}\n{commands}", reason.trim())))
    }

    /// Sets a variable of sysctl(8) in the namespace; `variable` is its path below /proc/sys/net.
    ///
    /// # Panics
    /// When the variable cannot be written.
    pub fn set(&self, variable: &str, value: &str) {
        self.try_set(variable, value).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Sets a variable of sysctl(8) in the namespace; `variable` is its path below /proc/sys/net.
    ///
    /// # Errors
    /// When the variable cannot be written.
    pub fn try_set(&self, variable: &str, value: &str) -> io::Result<()> {
        let path = format!("/proc/sys/net/{variable}");
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot write {value} to {path}: {error}"))
        };
        self.enter(|| fs::write(&path, value)).map_err(failed)
    }

    /// A path by which ip(8) finds the namespace for as long as this process holds it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }
}
