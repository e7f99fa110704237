//! Log destinations that do not read: a full pipe and a syslog socket.
//!
//! Invariant: the system's own syslog never sees the lines.

use std::{
    fs, io,
    io::{PipeReader, PipeWriter, Write as _},
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::Path,
    process::Command,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tempfile::TempDir;

/// A full pipe: a write to it blocks.
pub fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    flags(&writer, OFlag::O_NONBLOCK);
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    flags(&writer, OFlag::empty());
    (reader, writer)
}

fn flags(of: &impl AsFd, flags: OFlag) {
    fcntl(of, FcntlArg::F_SETFL(flags)).expect("fcntl");
}

/// A syslog socket for one program, in place of the system's.
#[derive(Debug)]
pub struct Syslog {
    folder: TempDir,
    /// The socket that receives the log lines.
    pub socket: UnixDatagram,
}

impl Syslog {
    /// A socket that has received nothing yet.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("devices")).expect("mkdir");
        let socket = UnixDatagram::bind(folder.path().join("socket")).expect("a socket");
        Self { folder, socket }
    }

    /// Wraps a command so that it runs in its own mount namespace, where `/dev/log` is this socket.
    /// Needs root.
    pub fn in_front_of(&self, command: &Command) -> Command {
        const SCRIPT: &str = r#"
            mount -t tmpfs none "$1"
            touch "$1/null"; mount --bind /dev/null "$1/null"
            ln -s "$2" "$1/log"
            mount --rbind "$1" /dev
            shift 2; exec "$@"
        "#;
        let path = |name: &str| Path::join(self.folder.path(), name);
        let mut front = Command::new("unshare");
        front.args(["--mount", "sh", "-e", "-c", SCRIPT, "sh"]);
        front.arg(path("devices")).arg(path("socket"));
        front.arg(command.get_program()).args(command.get_args());
        front
    }
}

impl Default for Syslog {
    fn default() -> Self {
        Self::new()
    }
}
