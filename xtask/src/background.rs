//! A command that runs in the background while a task continues with other steps.
//!
//! Invariants: the output of the command goes to a log file and is shown as one block when the
//! command ends; the command does not outlive the task.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, stderr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::{exec, workspace};

/// Time between two updates of the progress line.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Characters of the progress line, so that the line fits a terminal of 80 columns.
const PROGRESS_WIDTH: usize = 76;

/// A running command. Dropping the value ends the command.
pub(crate) struct BackgroundCommand {
    line: String,
    log: PathBuf,
    child: Child,
    started: Instant,
}

impl BackgroundCommand {
    /// Starts the command in a process group of its own, with the log file `target/logs/NAME`.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;

        let line = exec::line(command);
        let log = workspace::log(name)?;
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let errors = file.try_clone()?;
        eprintln!("+ {line} &   # {}", log.display());
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child = child.spawn().with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self { line, log, child, started: Instant::now() })
    }

    /// Waits for the end of the command and shows the output. On a terminal, a progress line shows
    /// the last line of the log until then.
    ///
    /// # Errors
    ///
    /// The command has failed.
    pub(crate) fn finish(mut self) -> Result<()> {
        let status = self.wait()?;
        let output = fs::read(&self.log).with_context(|| self.log.display().to_string())?;
        eprintln!("output of `{}`:\n{}", self.line, String::from_utf8_lossy(&output));
        ensure!(status.success(), "`{}` failed: {status}", self.line);
        Ok(())
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        if !stderr().is_terminal() {
            return Ok(self.child.wait()?);
        }
        loop {
            let status = self.child.try_wait()?;
            // Return to the first column and clear the line.
            eprint!("\r\x1b[K");
            if let Some(status) = status {
                return Ok(status);
            }
            eprint!("{}", progress(self.started.elapsed(), &last_line(&self.log)));
            thread::sleep(PROGRESS_INTERVAL);
        }
    }
}

impl Drop for BackgroundCommand {
    fn drop(&mut self) {
        // Once the child has been waited for, the kernel may reuse its process group id.
        if let Ok(None) = self.child.try_wait()
            && let Ok(group) = i32::try_from(self.child.id())
        {
            // The error of a child that has just ended does not matter.
            let _ = killpg(Pid::from_raw(group), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

fn progress(elapsed: Duration, last_line: &str) -> String {
    let line = format!("[{:>3} s] {last_line}", elapsed.as_secs());
    line.chars().filter(|c| !c.is_control()).take(PROGRESS_WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_failed_command_names_the_command() {
        let mut command = Command::new("sh");
        let running =
            BackgroundCommand::start("test-background-fails", command.args(["-c", "exit 3"]));
        let error = running.unwrap().finish().unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` failed: exit status: 3");
    }

    #[test]
    fn dropping_the_command_ends_all_its_processes() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]);
        let running = BackgroundCommand::start("test-background-drop", &mut command).unwrap();
        let group = Pid::from_raw(i32::try_from(running.child.id()).unwrap());
        drop(running);
        // The shell is gone. The same signal ends its child, which init then reaps.
        while killpg(group, None).is_ok() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_progress_line_shows_the_time_and_fits_a_terminal() {
        let line = progress(Duration::from_secs(83), "Compiling\tfoo");
        assert_eq!(line, "[ 83 s] Compilingfoo");
        assert_eq!(progress(Duration::ZERO, &"x".repeat(200)).len(), PROGRESS_WIDTH);
    }
}
