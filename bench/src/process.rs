//! Child processes and the search for their executables.
//!
//! Invariant: a child and all its descendants end when their guard is dropped. If the benchmark is
//! killed, the kernel sends the child SIGTERM.

use std::{
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal, kill, killpg},
    },
    unistd::Pid,
};
use serde::de::DeserializeOwned;

use crate::{
    interrupt,
    probe::{memory, sockets},
};

/// Time limit for a process to end after SIGTERM.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two checks of a condition.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A running process in a process group of its own.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    lines: Receiver<String>,
}

impl Process {
    /// Starts a process. Standard error goes to the file `log`; lines on standard output are
    /// reports, see [`Self::receive`].
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let stderr =
            File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        // Signals of the terminal then reach only the benchmark.
        command.process_group(0);
        let prepare = || {
            // The benchmark blocks signals, see `interrupt`; the child must not inherit that.
            SigSet::empty().thread_set_mask()?;
            Ok(prctl::set_pdeathsig(Signal::SIGTERM)?)
        };
        // SAFETY: between fork and exec, both are bare system calls: they neither allocate nor
        // take locks.
        unsafe {
            command.pre_exec(prepare);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("a process has no standard output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Without a receiver, read on: a full pipe would block the writer.
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, name: name.to_owned(), log: log.to_owned(), lines })
    }

    /// Returns the next report.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self, timeout: Duration) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(10 * POLL_INTERVAL) {
                Ok(line) => {
                    return serde_json::from_str(&line)
                        .with_context(|| format!("{} sent an invalid report: {line}", self.name));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} sent no report within {} s", self.name, timeout.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.exit_error()),
            }
        }
    }

    /// Returns an error if the process has ended.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        interrupt::check()?;
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(self.exit_error()),
        }
    }

    /// Returns true if any process in the same network namespace listens on this port.
    pub(crate) fn listens(&mut self, port: u16) -> Result<bool> {
        let listens = sockets::listens(self.child.id(), port);
        // If the process has ended, the error of that explains more.
        self.check_running()?;
        listens
    }

    /// Returns the ids of all processes in the group.
    pub(crate) fn ids(&self) -> Vec<u32> {
        memory::group(self.child.id())
    }

    /// Returns what the process has written to standard error.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("cannot read the log: {error}"),
            |text| String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Kills the process, as in a crash.
    pub(crate) fn kill(mut self) {
        self.kill_group();
    }

    fn exit_error(&mut self) -> anyhow::Error {
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        let log = self.log();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("; ");
        anyhow!("{} ended with {status}: {last}", self.name)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    fn kill_group(&mut self) {
        // Both calls fail only if no process remains.
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Returns the path of an executable. The PATH of users other than root lacks the `sbin`
/// directories.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let folders = env::join_paths(folders).context("invalid PATH")?;
    which::which_in(program, Some(folders), "/").with_context(|| format!("{program} is missing"))
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(self.pid(), Signal::SIGTERM);
            let deadline = Instant::now() + TERMINATE_TIMEOUT;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(POLL_INTERVAL);
            }
        }
        // Ends descendants that still run.
        self.kill_group();
    }
}
