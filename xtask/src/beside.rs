//! A command that runs beside other steps of a task.
//!
//! Invariants: its output is one block, shown at its end; it does not outlive the task that needs it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::{exec, workspace};

/// The command, from its start on; it ends when this is dropped.
pub(crate) struct Beside {
    line: String,
    log: PathBuf,
    child: Child,
}

impl Beside {
    /// Starts it, in a process group of its own, with the log `target/logs/NAME`.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;

        let line = exec::line(command);
        let log = workspace::log(name)?;
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let errors = file.try_clone()?;
        eprintln!("+ {line} &   # {}", log.display());
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child = child.spawn().with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self { line, log, child })
    }

    /// Waits for its end and shows its output.
    pub(crate) fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        let output = fs::read(&self.log).with_context(|| self.log.display().to_string())?;
        eprintln!("output of `{}`:\n{}", self.line, String::from_utf8_lossy(&output));
        ensure!(status.success(), "`{}` failed: {status}", self.line);
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Once it has been waited for, its group may be another's.
        if let Ok(None) = self.child.try_wait()
            && let Ok(group) = i32::try_from(self.child.id())
        {
            // Harmless when it has just ended.
            let _ = killpg(Pid::from_raw(group), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_beside_is_an_error_that_names_the_command() {
        let mut command = Command::new("sh");
        let beside = Beside::start("test-beside-fails", command.args(["-c", "exit 3"])).unwrap();
        let error = beside.finish().unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` failed: exit status: 3");
    }

    #[test]
    fn what_runs_beside_ends_with_the_task() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]);
        let beside = Beside::start("test-beside-ends", &mut command).unwrap();
        let group = Pid::from_raw(i32::try_from(beside.child.id()).unwrap());
        drop(beside);
        // The shell is gone; its child ends by the same signal and is collected by the system.
        while killpg(group, None).is_ok() {
            std::thread::yield_now();
        }
    }
}
