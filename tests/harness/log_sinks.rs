//! Readers of a log that do not read.

use std::{
    fs, io,
    io::{PipeReader, PipeWriter, Write as _},
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::Path,
    process::Command,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tempfile::TempDir;

/// A pipe that takes no more, whose writer waits.
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

/// A syslog for one program, in place of the system's.
#[derive(Debug)]
pub struct Syslog {
    folder: TempDir,
    /// What the program's lines come to.
    pub socket: UnixDatagram,
}

impl Syslog {
    /// One that has heard nothing yet.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("devices")).expect("mkdir");
        let socket = UnixDatagram::bind(folder.path().join("socket")).expect("a socket");
        Self { folder, socket }
    }

    /// The same command in a view of the file system of its own, with this `/dev/log`. Needs root.
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
