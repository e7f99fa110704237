//! Commands that run until they exit, or are killed at a deadline.
//!
//! Invariant: no child outlives the guard or the call that started it.

use std::{
    borrow::BorrowMut,
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use crate::eventually;

/// The result of a command.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `command` without input. Kills it and panics if it has not exited by the deadline.
pub fn run(command: &mut Command, deadline: Duration) -> Outcome {
    run_with_input(command, Stdio::null(), deadline)
}

/// Runs `command` like [`run`], with `input` as its standard input.
pub fn run_with_input(command: &mut Command, input: Stdio, deadline: Duration) -> Outcome {
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    let stdout = drain(child.stdout.take().expect("piped"));
    let stderr = drain(child.stderr.take().expect("piped"));
    let status = finish(&mut child, deadline, &format!("{command:?}"));
    Outcome {
        status,
        stdout: stdout.join().expect("the reader of standard output"),
        stderr: stderr.join().expect("the reader of standard error"),
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("reading a pipe");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Returns the command wrapped in env(1), which blocks some signals and ignores others, as a
/// careless parent process might.
pub fn with_signals_masked(command: &Command) -> Command {
    let mut careless = Command::new("env");
    careless.args(SIGNAL_OPTIONS).arg(command.get_program()).args(command.get_args());
    careless
}

/// Options of env(1) that [`with_signals_masked`] uses.
pub const SIGNAL_OPTIONS: [&str; 2] = [
    "--block-signal=TERM,INT,QUIT,HUP,USR1,CHLD,PIPE",
    "--ignore-signal=TERM,INT,QUIT,HUP,CHLD,PIPE",
];

/// Kills a child process when dropped, so that a failed test leaves no process behind.
pub struct KillOnDrop<C: BorrowMut<Child>>(pub C);

impl<C: BorrowMut<Child>> Drop for KillOnDrop<C> {
    fn drop(&mut self) {
        let child = self.0.borrow_mut();
        // Both fail harmlessly when the child has already exited.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits until the child exits. Kills it and panics if it has not exited by the deadline.
pub fn finish(child: &mut Child, deadline: Duration, name: &str) -> ExitStatus {
    let killer = KillOnDrop(child);
    eventually(deadline, &format!("{name} ends"), || {
        match killer.0.try_wait().expect("waiting for a child") {
            Some(status) => Ok(status),
            None => Err("still running".into()),
        }
    })
}
