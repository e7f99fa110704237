//! A system of its own to install the package in: files, processes, network.
//!
//! Invariant: everything in it ends, and its files go, with the guard; and should the test be
//! killed, its processes end all the same, because the first of them waits for us.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, Permissions},
    io::{self, BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{Namespace, Outcome, run, skip};

/// How long one command in it may take; packages are installed.
const LONG: Duration = Duration::from_secs(120);

/// Gives the directory `$1` what a system needs beside files, and becomes its first process: one that
/// takes care of orphans, and ends with its input.
const BEGIN: &str = r#"
set -eu
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sys "$1/sys"
mount -t tmpfs -o mode=755 dev "$1/dev"
for node in null zero full random urandom tty; do
    touch "$1/dev/$node"
    mount --bind "/dev/$node" "$1/dev/$node"
done
mkdir -m 1777 "$1/dev/shm"
ln -s /proc/self/fd "$1/dev/fd"
exec chroot "$1" /bin/sh -c 'exec 3<&0; echo ready; cat <&3 >/dev/null & wait $!'
"#;

/// A minimal Debian that runs nothing yet.
#[derive(Debug)]
pub struct Root {
    files: TempDir,
    network: Namespace,
    /// unshare(1), which lives as long as the first process.
    holder: Child,
}

impl Root {
    /// One that is fresh; nothing, after saying why, where that is not possible.
    pub fn unpack() -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            skip("a system of its own needs root");
            return None;
        }
        let Some(archive) = env::var_os("BALANCE_BASE_SYSTEM").map(PathBuf::from) else {
            skip("BALANCE_BASE_SYSTEM is not set: run cargo xtask test");
            return None;
        };
        let network = match Namespace::new() {
            Ok(network) => network,
            Err(error) => {
                skip(&format!("no network of its own: {error}"));
                return None;
            }
        };
        // Beside the archive: where packages are built, there is room, and programs may be run.
        let place = archive.parent().expect("an archive in a folder");
        let files = tempfile::tempdir_in(place).expect("a temporary folder");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(files.path()).arg("-xpf").arg(&archive);
        let outcome = run(&mut tar, LONG);
        assert!(outcome.status.success(), "{outcome:?}");
        fs::write(files.path().join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")
            .expect("writing /etc/hosts");
        // Without an init system this is what has to allow that packages start their services.
        let policy = files.path().join("usr/sbin/policy-rc.d");
        fs::write(&policy, "#!/bin/sh\nexit 0\n").expect("writing policy-rc.d");
        fs::set_permissions(&policy, Permissions::from_mode(0o755)).expect("chmod");

        let mut begin = Command::new("unshare");
        begin.args(["--mount", "--propagation", "private", "--ipc", "--uts", "--pid"]);
        begin.args(["--fork", "--kill-child", "--", "/bin/sh", "-c", BEGIN, "sh"]);
        begin.arg(files.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = network.enter(|| begin.spawn()).expect("starting unshare");
        let mut ready = String::new();
        let said = BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut ready);
        let root = Self { files, network, holder };
        assert!(said.is_ok() && ready == "ready\n", "the system did not begin: {ready:?}");
        Some(root)
    }

    /// Where its files are for others.
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// Its network, for peers that are not part of it.
    pub fn network(&self) -> &Namespace {
        &self.network
    }

    /// A program of its own, to be run in it.
    pub fn command(&self, program: &str) -> Command {
        let id = self.holder.id();
        let mut command = Command::new("nsenter");
        command.args(["--target", &id.to_string(), "--mount", "--ipc", "--uts", "--net"]);
        command.arg(format!("--pid=/proc/{id}/ns/pid_for_children"));
        // Not by nsenter, for which the folder would be the one without the mounts.
        command.args(["--", "chroot"]).arg(self.path()).arg(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs([("HOME", "/root"), ("LC_ALL", "C.UTF-8"), ("TERM", "dumb")]);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Runs a line of the shell in it, to its end.
    pub fn sh(&self, line: &str) -> Outcome {
        run(self.command("sh").args(["-c", line]), LONG)
    }

    /// The same of a line that must end with this exit code; returns what it wrote.
    pub fn ends_with(&self, code: i32, line: &str) -> String {
        let outcome = self.sh(line);
        assert_eq!(outcome.status.code(), Some(code), "{line}: {outcome:?}");
        outcome.stdout + &outcome.stderr
    }

    /// Puts a file into it.
    pub fn write(&self, path: &str, text: &str) {
        let inside = self.path().join(path.trim_start_matches('/'));
        fs::write(&inside, text).unwrap_or_else(|e| panic!("writing {}: {e}", inside.display()));
    }

    /// Installs a package, without what it only suggests; returns what was said.
    pub fn install(&self, package: &Path) -> String {
        fs::copy(package, self.path().join("package.deb")).expect("copying the package");
        let said = self.ends_with(0, "dpkg --install /package.deb");
        fs::remove_file(self.path().join("package.deb")).expect("removing the copy");
        said
    }

    /// All its files and folders.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        list(self.path(), self.path(), &mut found).expect("listing its files");
        found
    }
}

fn list(root: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        found.insert(path.strip_prefix(root).expect("a path below").to_owned());
        if entry.file_type()?.is_dir() {
            list(root, &path, found)?;
        }
    }
    Ok(())
}

impl Drop for Root {
    fn drop(&mut self) {
        // Ends its input, and with it the first process; the kernel ends the others then, before
        // unshare comes back.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
