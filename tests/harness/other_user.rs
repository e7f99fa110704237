//! Commands of an unprivileged user, with a copy of the program that every user can run.
//!
//! Invariant: the user has no capabilities, and only the groups that the test names.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::Uid;
use tempfile::TempDir;

use crate::{Outcome, TIMEOUT, binary, run, skip};

/// An unprivileged user.
#[derive(Debug)]
pub struct OtherUser {
    id: u32,
    groups: String,
    folder: TempDir,
}

impl OtherUser {
    /// The user with this number and these supplementary groups. `None` where the tests have no
    /// root, after a note.
    pub fn new(id: u32, groups: &[u32]) -> Option<Self> {
        if !Uid::effective().is_root() {
            skip("becoming another user needs root");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        open_for_all(folder.path());
        // A copy by this process could be inherited by a child of another test between fork and
        // exec; the copy would then be open for writing and could not be executed (ETXTBSY).
        let mut install = Command::new("install");
        let copy = folder.path().join("balance");
        let outcome = run(install.args(["-m", "755"]).args([&binary(), &copy]), TIMEOUT);
        assert!(outcome.status.success(), "{outcome:?}");
        let groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
        Some(Self { id, groups: groups.join(","), folder })
    }

    /// The copy of the program.
    pub fn program(&self) -> PathBuf {
        self.folder.path().join("balance")
    }

    /// The command of this user with the arguments of `command`, which runs the program.
    pub fn command(&self, command: &Command) -> Command {
        let mut own = Command::new("setpriv");
        own.args([&format!("--reuid={}", self.id), &format!("--regid={}", self.id)]);
        match self.groups.as_str() {
            "" => own.arg("--clear-groups"),
            groups => own.arg(format!("--groups={groups}")),
        };
        own.args(["--inh-caps=-all", "--bounding-set=-all"]).arg(self.program());
        own.args(command.get_args());
        own
    }

    /// Runs the program as this user with the arguments of `command`.
    pub fn run(&self, command: &Command) -> Outcome {
        run(&mut self.command(command), TIMEOUT)
    }
}

/// Lets every user enter a folder of a test.
pub fn open_for_all(folder: &Path) {
    fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("chmod");
}
