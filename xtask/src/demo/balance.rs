//! balance as a process of the demo, its log shown as it comes.
//!
//! Invariant: it does not outlive the demo.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::TIMEOUT;
use crate::{
    exec::{self, output},
    root::Root,
};

/// A running balance.
pub(super) struct Balance {
    child: Child,
    log: Receiver<String>,
    root: Root,
}

impl Balance {
    /// Starts it.
    pub(super) fn start(command: &mut Command, root: Root) -> Result<Self> {
        let mut child = command
            // Its standard error is ours now, and not the journal's.
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", exec::line(command)))?;
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, log) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                println!("    | {line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, log, root })
    }

    /// Waits for a line of its log with that word.
    pub(super) fn says(&self, word: &str) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.log.recv_timeout(deadline - Instant::now()) {
                Ok(line) if line.split_whitespace().any(|found| found == word) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("balance has not said `{word}` within {TIMEOUT:?}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("balance ended before it said `{word}`")
                }
            }
        }
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    pub(super) fn stop(mut self) -> Result<()> {
        self.terminate()?;
        self.says("stopped")?;
        let status = self.child.wait().context("cannot wait for balance")?;
        ensure!(status.success(), "balance ended with {status}");
        Ok(())
    }

    fn terminate(&self) -> Result<()> {
        // The shell's own `kill`: small systems have no program of that name.
        let mut kill = self.root.command("sh");
        kill.args(["-c", "kill -TERM $0", &self.child.id().to_string()]);
        // sudo passes no signal on that comes from its own process group.
        kill.process_group(0);
        output(&mut kill).context("cannot stop balance")?;
        Ok(())
    }
}

impl Drop for Balance {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The demo has failed already, and says why.
            let _ = self.terminate();
            let _ = self.child.wait();
        }
    }
}
