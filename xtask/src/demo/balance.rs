//! The balance process of the demo. Its log is shown line by line.
//!
//! Invariant: the process does not outlive the demo.

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
    /// Starts balance.
    pub(super) fn start(command: &mut Command, root: Root) -> Result<Self> {
        let mut child = command
            // Standard error leads to the demo and not to the journal.
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

    /// Waits for a log line that contains this word.
    pub(super) fn wait_for(&self, word: &str) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.log.recv_timeout(deadline - Instant::now()) {
                Ok(line) if line.split_whitespace().any(|found| found == word) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("balance has not logged `{word}` within {} s", TIMEOUT.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("balance ended before it logged `{word}`")
                }
            }
        }
    }

    /// Sends SIGTERM and waits for the end of the process.
    pub(super) fn stop(mut self) -> Result<()> {
        self.terminate()?;
        self.wait_for("stopped")?;
        let status = self.child.wait().context("cannot wait for balance")?;
        ensure!(status.success(), "balance ended with {status}");
        Ok(())
    }

    fn terminate(&self) -> Result<()> {
        // The `kill` of the shell: minimal systems lack the program.
        let mut kill = self.root.command("sh");
        kill.args(["-c", "kill -TERM $0", &self.child.id().to_string()]);
        // sudo does not forward signals from its own process group.
        kill.process_group(0);
        output(&mut kill).context("cannot stop balance")?;
        Ok(())
    }
}

impl Drop for Balance {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The demo has already failed and reports that error.
            let _ = self.terminate();
            let _ = self.child.wait();
        }
    }
}
