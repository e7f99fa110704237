//! For tests: a directory of one's own, and a balance in it that answers as it is told.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process,
    sync::{Arc, Mutex},
    thread,
};

use crate::control::{
    protocol::{Command, Reply, Request},
    run_dir::{Paths, RunDir},
};

/// The port of every fake.
pub(super) const PORT: u16 = 2500;

/// The process id that a fake tells.
pub(super) const PID: u32 = 4711;

/// A directory that is removed at the end.
pub(in crate::control) struct Scratch(pub(in crate::control) PathBuf);

impl Scratch {
    pub(in crate::control) fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("balance-{name}-{}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The paths of the instance in it that listens on all addresses.
    pub(in crate::control) fn paths(&self) -> Paths {
        RunDir::locate(Some(&self.0)).unwrap().instance(None, PORT).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a fake does with a request.
pub(super) enum Act {
    /// Answers it.
    Say(Reply),
    /// Answers it with a line that is not of the protocol.
    Line(String),
    /// Ends the connection.
    HangUp,
    /// Answers with [`Reply::Done`] and is gone, its socket too.
    Leave,
    /// The same, but it leaves its socket behind.
    Die,
}

/// A balance that answers [`Command::Hello`] itself and everything else as it is told.
pub(super) struct Fake {
    pub(super) dir: Scratch,
    asked: Arc<Mutex<Vec<Command>>>,
}

impl Fake {
    pub(super) fn new(name: &str, act: impl Fn(&Command) -> Act + Send + 'static) -> Self {
        Self::strange(name, move |command| match command {
            Command::Hello => {
                Act::Say(Reply::Hello { pid: PID, version: env!("CARGO_PKG_VERSION").to_owned() })
            }
            command => act(command),
        })
    }

    /// One that is told what to answer to [`Command::Hello`] too.
    pub(super) fn strange(name: &str, act: impl Fn(&Command) -> Act + Send + 'static) -> Self {
        let dir = Scratch::new(name);
        let (asked, paths) = (Arc::default(), dir.paths());
        let listener = UnixListener::bind(&paths.socket).unwrap();
        fs::write(&paths.pid, format!("{PID}\n")).unwrap();
        let requests = Arc::clone(&asked);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if !converse(&stream, &paths, &act, &requests) {
                    return;
                }
            }
        });
        Self { dir, asked }
    }

    /// What it was asked, in order, apart from who it is.
    pub(super) fn asked(&self) -> Vec<Command> {
        self.asked.lock().unwrap().clone()
    }
}

/// Answers a connection's requests; whether there is to be another connection.
fn converse(
    mut stream: &UnixStream,
    paths: &Paths,
    act: &impl Fn(&Command) -> Act,
    asked: &Mutex<Vec<Command>>,
) -> bool {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return true };
        let request: Request = serde_json::from_str(&line).unwrap();
        if request.command != Command::Hello {
            asked.lock().unwrap().push(request.command.clone());
        }
        let mut say = |line: &str| {
            let _ = writeln!(stream, "{line}");
        };
        let json = |reply: &Reply| serde_json::to_string(reply).unwrap();
        match act(&request.command) {
            Act::Say(reply) => say(&json(&reply)),
            Act::Line(line) => say(&line),
            Act::HangUp => return true,
            Act::Leave => {
                let _ = fs::remove_file(&paths.socket);
                say(&json(&Reply::Done));
                return false;
            }
            Act::Die => {
                say(&json(&Reply::Done));
                return false;
            }
        }
    }
    true
}
