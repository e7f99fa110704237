//! The state that a supervisor passes to the program that it executes in its place.
//!
//! The state is JSON in a memfd. The descriptors keep their numbers across execve(2).
//!
//! Invariants:
//! - A program that does not know the format of a state rejects the state in its check
//!   ([`examine`]), before the supervisor executes the program.
//! - A failed execution changes nothing: the descriptors are closed in programs that this process
//!   executes, as before.

use std::{
    env,
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
    unistd::execve,
};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::conf::Line;
use crate::{cli::ServiceLocation, error::StartError, process::protocol::InstanceLine};

/// The environment variable with the number of the memfd.
pub(super) const VARIABLE: &str = "BALANCE_STATE";

/// The format of the state. Raise the number when a reader of the old format would misread the new
/// one.
pub(super) const FORMAT: u32 = 1;

/// The part that every format has.
#[derive(Deserialize)]
struct Preamble {
    format: u32,
    version: String,
}

/// The state of a supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) format: u32,
    /// The version of the program that has written the state.
    pub(super) version: String,
    /// Absolute path of the configuration file. In the background the arguments are relative to
    /// another directory.
    pub(super) file: PathBuf,
    /// Absolute path of the given run directory; none for the default.
    pub(super) run_dir: Option<PathBuf>,
    /// The path of the program.
    pub(super) program: PathBuf,
    /// Whether the supervisor runs in the background.
    pub(super) background: bool,
    /// The lock and the control socket of the supervisor.
    pub(super) lock: RawFd,
    pub(super) control: RawFd,
    /// Unused listeners of the service manager.
    pub(super) unused: Vec<RawFd>,
    pub(super) instances: Vec<HeldInstance>,
    /// Processes that are to drain.
    pub(super) draining: Vec<u32>,
    /// All processes.
    pub(super) processes: Vec<u32>,
}

/// An instance of a supervisor, and the numbers of its descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeldInstance {
    pub(super) id: u64,
    pub(super) line: InstanceLine,
    pub(super) is_stopped: bool,
    pub(super) is_inherited: bool,
    pub(super) listeners: Vec<RawFd>,
    pub(super) control: Option<RawFd>,
    pub(super) lock: Option<RawFd>,
}

/// The state of the previous program of this process, with its descriptors.
pub(super) struct Inherited {
    pub(super) location: ServiceLocation,
    pub(super) program: PathBuf,
    pub(super) background: bool,
    pub(super) lock: File,
    pub(super) control: UnixListener,
    pub(super) unused: Vec<Socket>,
    pub(super) previous: Previous,
}

/// The instances and processes of the previous program.
pub(super) struct Previous {
    pub(super) instances: Vec<InheritedInstance>,
    pub(super) draining: Vec<u32>,
    pub(super) processes: Vec<u32>,
}

/// An instance of the previous program.
pub(super) struct InheritedInstance {
    pub(super) id: u64,
    pub(super) line: Line,
    pub(super) is_stopped: bool,
    pub(super) is_inherited: bool,
    pub(super) listeners: Vec<Socket>,
    /// The control socket and the lock.
    pub(super) control: Option<(UnixListener, File)>,
}

/// Writes a state to a memfd.
///
/// # Errors
/// When the kernel has no descriptor or memory.
pub(super) fn write(state: &State) -> io::Result<OwnedFd> {
    let memory = memfd_create(c"balance-state", MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(memory);
    serde_json::to_writer(&mut file, state)?;
    file.flush()?;
    Ok(file.into())
}

/// Checks that this program understands the inherited state, if there is one.
///
/// # Errors
/// [`StartError::Usage`] with the reason.
pub(super) fn examine() -> Result<(), StartError> {
    let Some((_, mut file)) = inherited_file()? else { return Ok(()) };
    let state = read(&mut file)?;
    state.instances.into_iter().try_for_each(|it| Line::try_from(it.line).map(drop))
}

/// Reads the state of the previous program of this process; `None` if there was no such program.
///
/// # Safety
/// To be called at most once, before this process opens a descriptor or starts a thread.
///
/// # Errors
/// [`StartError::Usage`] when this program does not understand the state.
pub(super) unsafe fn inherit() -> Result<Option<Inherited>, StartError> {
    let Some((number, mut file)) = inherited_file()? else { return Ok(None) };
    let state = read(&mut file)?;
    // SAFETY: the previous program has passed these descriptors to this program, once each, and by
    // this function's contract nothing in this process owns them.
    let owned = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
    drop(owned(number));
    // SAFETY: the process has one thread, so nothing reads the environment meanwhile. Programs that
    // this one executes must not find a variable of their own there.
    unsafe { env::remove_var(VARIABLE) };
    let sockets =
        |fds: Vec<RawFd>| fds.into_iter().map(|fd| owned(fd).into()).collect::<Vec<Socket>>();
    let mut instances = Vec::new();
    for it in state.instances {
        let control = it.control.zip(it.lock);
        instances.push(InheritedInstance {
            id: it.id,
            is_stopped: it.is_stopped,
            is_inherited: it.is_inherited,
            listeners: sockets(it.listeners),
            control: control.map(|(socket, lock)| (owned(socket).into(), owned(lock).into())),
            line: it.line.try_into()?,
        });
    }
    Ok(Some(Inherited {
        location: ServiceLocation { config: state.file, run_dir: state.run_dir },
        program: state.program,
        background: state.background,
        lock: owned(state.lock).into(),
        control: owned(state.control).into(),
        unused: sockets(state.unused),
        previous: Previous { instances, draining: state.draining, processes: state.processes },
    }))
}

/// The number of the memfd, and the memfd opened once more.
fn inherited_file() -> Result<Option<(RawFd, File)>, StartError> {
    let Some(number) = env::var_os(VARIABLE) else { return Ok(None) };
    let malformed = || StartError::Usage(format!("{VARIABLE} is malformed"));
    let number: RawFd = number.to_str().and_then(|it| it.parse().ok()).ok_or_else(malformed)?;
    let file = File::open(format!("/proc/self/fd/{number}")).map_err(|_| malformed())?;
    Ok(Some((number, file)))
}

fn read(file: &mut File) -> Result<State, StartError> {
    let wrong = |why: &str| StartError::Usage(format!("{VARIABLE}: {why}"));
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|e| wrong(&e.to_string()))?;
    let preamble: Preamble = serde_json::from_str(&text).map_err(|e| wrong(&e.to_string()))?;
    if preamble.format != FORMAT {
        return Err(wrong(&format!(
            "the state of balance {} has format {}, this program reads format {FORMAT}: restart balance",
            preamble.version, preamble.format
        )));
    }
    serde_json::from_str(&text).map_err(|e| wrong(&e.to_string()))
}

/// Whether this process ran another program before, which has passed on its state.
pub fn is_continued() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Executes a program in this process, with the arguments of this process and a state. Returns only
/// on failure.
pub(super) fn execute(program: &Path, state: &State, fds: &[BorrowedFd<'_>]) -> io::Error {
    let run = || {
        let memory = write(state)?;
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::other);
        let path = text(program.as_os_str())?;
        let args = words().iter().map(|word| text(word)).collect::<io::Result<Vec<_>>>()?;
        // The listeners of the service manager are in the state.
        let is_kept = |name: &OsStr| {
            !["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", VARIABLE].iter().any(|it| name == *it)
        };
        let mut variables = env::vars_os()
            .filter(|(name, _)| is_kept(name))
            .map(|(name, value)| text(&[name, value].join(OsStr::new("="))))
            .collect::<io::Result<Vec<_>>>()?;
        variables.push(text(OsStr::new(&format!("{VARIABLE}={}", memory.as_raw_fd())))?);
        let all = || fds.iter().copied().chain([memory.as_fd()]);
        all().try_for_each(|fd| close_on_exec(fd, false))?;
        let failed = execve(&path, &args, &variables).unwrap_err();
        all().for_each(|fd| drop(close_on_exec(fd, true)));
        Err::<(), _>(failed.into())
    };
    run().err().unwrap_or_else(|| io::ErrorKind::Other.into())
}

/// The arguments of this process, as those of a `start`. A supervisor in the background may have been
/// started by `restart`.
fn words() -> Vec<OsString> {
    let mut words: Vec<_> = env::args_os().collect();
    if let Some(verb) = words.get_mut(1)
        && verb == "restart"
    {
        *verb = "start".into();
    }
    words
}

fn close_on_exec(fd: BorrowedFd<'_>, is_closed: bool) -> io::Result<()> {
    let flags = if is_closed { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// The path of this program.
///
/// # Errors
/// When the path of this program is unknown.
pub(super) fn program() -> io::Result<PathBuf> {
    let path = env::current_exe()?;
    // The kernel marks the path of a program that was replaced.
    let name = path.as_os_str().as_bytes();
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    Ok(OsStr::from_bytes(name).into())
}
