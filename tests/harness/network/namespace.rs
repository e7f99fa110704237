//! Network namespaces without a name.
//!
//! Invariant: one is kept by our descriptor, and by what runs or is open in it; so nothing of it
//! is left once the test has ended, whichever way. A thread that is in one was made for it, and
//! ends there.

use std::{
    fs::{self, File},
    io::{self, Seek as _, Write as _},
    os::fd::AsRawFd as _,
    panic::resume_unwind,
    process::{self, Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::{PATIENCE, run_with_input};

/// A network of its own: devices, addresses, ports.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// One with nothing but its loopback.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn new() -> io::Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let namespace = Self(made.join().expect("the thread that makes a namespace")?);
        namespace.ip("link set lo up");
        Ok(namespace)
    }

    /// Runs `act` in it. Sockets and programs that come of it stay there.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("entering a namespace");
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Has ip(8) do that there, a command a line.
    pub fn ip(&self, commands: &str) {
        let mut input = tempfile::tempfile().expect("a temporary file");
        input.write_all(commands.as_bytes()).expect("writing a temporary file");
        input.rewind().expect("rewinding a temporary file");
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        let outcome = self.enter(|| run_with_input(&mut command, Stdio::from(input), PATIENCE));
        assert!(outcome.status.success(), "{commands}: {outcome:?}");
    }

    /// Sets a variable of sysctl(8), named by its path.
    pub fn set(&self, variable: &str, value: &str) {
        let path = format!("/proc/sys/net/{variable}");
        let written = self.enter(|| fs::write(&path, value));
        written.unwrap_or_else(|error| panic!("writing {value} to {path}: {error}"));
    }

    /// Where ip(8) finds it while we hold it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }
}
