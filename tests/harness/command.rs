//! Commands that run to their end, or are killed when they take too long.

use std::{
    borrow::BorrowMut,
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use crate::eventually;

/// What a command left behind.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs `command` without input; panics, after killing it, if it does not end in time.
pub fn run(command: &mut Command, deadline: Duration) -> Outcome {
    run_with_input(command, Stdio::null(), deadline)
}

/// The same with an input.
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

/// The same command as a careless parent runs it: with signals that are blocked, and others that are ignored.
pub fn with_signals_masked(command: &Command) -> Command {
    let mut careless = Command::new("env");
    careless.args(SIGNAL_OPTIONS).arg(command.get_program()).args(command.get_args());
    careless
}

/// What env(1) does to the signals of [`with_signals_masked`].
pub const SIGNAL_OPTIONS: [&str; 2] = [
    "--block-signal=TERM,INT,QUIT,HUP,USR1,CHLD,PIPE",
    "--ignore-signal=TERM,INT,QUIT,HUP,CHLD,PIPE",
];

/// Kills a child when it goes out of scope, so that a test that fails leaves nothing behind.
pub struct KillOnDrop<C: BorrowMut<Child>>(pub C);

impl<C: BorrowMut<Child>> Drop for KillOnDrop<C> {
    fn drop(&mut self) {
        let child = self.0.borrow_mut();
        // Harmless when it has ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits for a child's end; kills it and panics if it does not come in time.
pub fn finish(child: &mut Child, deadline: Duration, name: &str) -> ExitStatus {
    let killer = KillOnDrop(child);
    eventually(deadline, &format!("{name} ends"), || {
        match killer.0.try_wait().expect("waiting for a child") {
            Some(status) => Ok(status),
            None => Err("still running".into()),
        }
    })
}
