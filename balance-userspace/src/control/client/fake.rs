//! For tests: a scratch directory, and a fake instance in it that sends prepared replies.
//!
//! Invariant: a fake reads requests as the real server does.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process,
    sync::{Arc, Mutex},
    thread,
};

use serde::Serialize;

use crate::control::{
    protocol::{InstanceCommand, InstanceReply, SocketReply},
    run_dir::{Paths, RunDir},
    server::{Incoming, read_request},
};

/// The port of every fake.
pub(super) const PORT: u16 = 2500;

/// The process id that every fake reports.
pub(super) const PID: u32 = 4711;

/// A directory that is removed when this is dropped.
pub(in crate::control) struct ScratchDir(pub(in crate::control) PathBuf);

impl ScratchDir {
    pub(in crate::control) fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("balance-{name}-{}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The paths of the instance in the directory that listens on all addresses.
    pub(in crate::control) fn paths(&self) -> Paths {
        RunDir::locate(Some(&self.0)).unwrap().instance(None, PORT).unwrap()
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How a fake responds to a request.
pub(super) enum FakeReply {
    /// Sends this line, which need not be of the protocol.
    Line(String),
    /// Closes the connection.
    HangUp,
    /// Sends [`InstanceReply::Done`], removes its socket and ends.
    Leave,
    /// Sends [`InstanceReply::Done`] and ends; the socket stays behind.
    Die,
}

impl FakeReply {
    /// Sends this reply.
    pub(super) fn json(reply: impl Serialize) -> Self {
        Self::Line(serde_json::to_string(&reply).unwrap())
    }
}

/// A fake instance.
pub(super) struct FakeInstance {
    pub(super) dir: ScratchDir,
    commands: Arc<Mutex<Vec<InstanceCommand>>>,
}

impl FakeInstance {
    /// Starts a fake that answers the handshake like an instance, and commands by `respond`.
    pub(super) fn new(
        name: &str,
        respond: impl Fn(&InstanceCommand) -> FakeReply + Send + 'static,
    ) -> Self {
        Self::with_handshake(name, move |incoming| match incoming {
            Incoming::Hello => {
                let version = env!("CARGO_PKG_VERSION").to_owned();
                FakeReply::json(SocketReply::Hello {
                    pid: PID,
                    version,
                    name: Some("smtp".to_owned()),
                })
            }
            Incoming::Command(command) => respond(command),
        })
    }

    /// Starts a fake that answers the handshake by `respond` too.
    pub(super) fn with_handshake(
        name: &str,
        respond: impl Fn(&Incoming<InstanceCommand>) -> FakeReply + Send + 'static,
    ) -> Self {
        let dir = ScratchDir::new(name);
        let (commands, paths) = (Arc::default(), dir.paths());
        let listener = UnixListener::bind(&paths.socket).unwrap();
        fs::write(&paths.pid, format!("{PID}\n")).unwrap();
        let received = Arc::clone(&commands);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if !serve_client(&stream, &paths, &respond, &received) {
                    return;
                }
            }
        });
        Self { dir, commands }
    }

    /// The commands received so far, in order, without handshakes.
    pub(super) fn commands(&self) -> Vec<InstanceCommand> {
        self.commands.lock().unwrap().clone()
    }
}

/// Answers the requests of a connection. Returns whether the fake accepts another connection.
fn serve_client(
    mut stream: &UnixStream,
    paths: &Paths,
    respond: &impl Fn(&Incoming<InstanceCommand>) -> FakeReply,
    commands: &Mutex<Vec<InstanceCommand>>,
) -> bool {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return true };
        let incoming = read_request::<InstanceCommand>(line.as_bytes()).unwrap();
        if let Incoming::Command(command) = &incoming {
            commands.lock().unwrap().push(command.clone());
        }
        let mut send = |line: &str| {
            let _ = writeln!(stream, "{line}");
        };
        let done = serde_json::to_string(&InstanceReply::Done).unwrap();
        match respond(&incoming) {
            FakeReply::Line(line) => send(&line),
            FakeReply::HangUp => return true,
            FakeReply::Leave => {
                let _ = fs::remove_file(&paths.socket);
                send(&done);
                return false;
            }
            FakeReply::Die => {
                send(&done);
                return false;
            }
        }
    }
    true
}
