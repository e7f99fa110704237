//! A network namespace without a name.
//!
//! Invariant: all that keeps it is our descriptor and the processes in it, so it goes with them,
//! with its interfaces, however the run ends.

use std::{
    fs::{self, File},
    io::Write as _,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{self, Command, Stdio},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process::find;

/// The one of the thread that looks.
const OWN: &str = "/proc/thread-self/ns/net";
/// That of the namespace of the thread that looks.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// A guard of one.
pub(super) struct Namespace(Arc<File>);

impl Namespace {
    /// A new one, in which the kernel passes packets on between interfaces if it `forwards`: what
    /// that would be otherwise depends on the machine. An error if we are not root.
    pub(super) fn new(forwards: bool) -> Result<Self> {
        // A thread that ends, so that none of ours stays in there.
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("cannot make a network namespace, which root can (CAP_SYS_ADMIN)")?;
            fs::write(FORWARDING, if forwards { "1" } else { "0" })
                .with_context(|| format!("cannot write {FORWARDING} of a namespace"))?;
            File::open(OWN).with_context(|| format!("cannot open {OWN}"))
        });
        let file = thread.join().map_err(|_| anyhow!("a thread has panicked"))??;
        Ok(Self(Arc::new(file)))
    }

    /// A path by which others can find it for as long as we have it.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }

    /// Lets the command run in there.
    pub(super) fn enter(&self, command: &mut Command) {
        let file = Arc::clone(&self.0);
        let enter = move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?);
        // SAFETY: between fork and exec, a bare system call on a descriptor that the closure
        // keeps open: it neither allocates nor takes locks.
        unsafe {
            command.pre_exec(enter);
        }
    }

    /// Has `ip` do these lines in there. An error names the first that did not work.
    pub(super) fn ip(&self, lines: &str) -> Result<()> {
        let mut ip = Command::new(find("ip")?);
        ip.args(["-batch", "-"]);
        ip.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.enter(&mut ip);
        let mut ip = ip.spawn().context("cannot start ip")?;
        if let Some(mut stdin) = ip.stdin.take() {
            // It fails when `ip` has ended, which says why below.
            let _ = stdin.write_all(lines.as_bytes());
        }
        let output = ip.wait_with_output().context("cannot wait for ip")?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip -batch failed: {}\n{lines}", why.trim());
        Ok(())
    }
}
