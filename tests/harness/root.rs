//! A container to install the package in: files, processes and network of its own.
//!
//! Invariants: dropping the [`Root`] ends its processes and removes its files. If the test is
//! killed the processes end as well, because the first process waits for the end of its input.

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

/// How long one command in the container may take; it may install packages.
const LONG: Duration = Duration::from_secs(120);

/// Mounts what a system needs in the directory `$1`, and becomes the first process, which reaps
/// orphans and exits at the end of its input.
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

/// A minimal Debian container without services.
#[derive(Debug)]
pub struct Root {
    files: TempDir,
    network: Namespace,
    /// unshare(1), which runs as long as the first process.
    holder: Child,
}

impl Root {
    /// Unpacks a fresh container. Prints the reason and returns `None` where that is impossible.
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
        // Next to the archive: the build folder has room and is not mounted noexec.
        let place = archive.parent().expect("an archive in a folder");
        let files = tempfile::tempdir_in(place).expect("a temporary folder");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(files.path()).arg("-xpf").arg(&archive);
        let outcome = run(&mut tar, LONG);
        assert!(outcome.status.success(), "{outcome:?}");
        fs::write(files.path().join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")
            .expect("writing /etc/hosts");
        // Without an init system, policy-rc.d decides whether packages may start their services.
        let policy = files.path().join("usr/sbin/policy-rc.d");
        fs::write(&policy, "#!/bin/sh\nexit 0\n").expect("writing policy-rc.d");
        fs::set_permissions(&policy, Permissions::from_mode(0o755)).expect("chmod");

        let mut begin = Command::new("unshare");
        begin.args(["--mount", "--propagation", "private", "--ipc", "--uts", "--pid"]);
        begin.args(["--fork", "--kill-child", "--", "/bin/sh", "-c", BEGIN, "sh"]);
        begin.arg(files.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = network.enter(|| begin.spawn()).expect("starting unshare");
        let mut ready = String::new();
        let output = BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut ready);
        let root = Self { files, network, holder };
        assert!(output.is_ok() && ready == "ready\n", "the system did not begin: {ready:?}");
        Some(root)
    }

    /// The folder of the container's files.
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// The container's network, for peers outside of the container.
    pub fn network(&self) -> &Namespace {
        &self.network
    }

    /// A command that runs a program of the container in the container.
    pub fn command(&self, program: &str) -> Command {
        let id = self.holder.id();
        let mut command = Command::new("nsenter");
        command.args(["--target", &id.to_string(), "--mount", "--ipc", "--uts", "--net"]);
        command.arg(format!("--pid=/proc/{id}/ns/pid_for_children"));
        // chroot and not nsenter enters the folder: nsenter would resolve it without the mounts.
        command.args(["--", "chroot"]).arg(self.path()).arg(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs([("HOME", "/root"), ("LC_ALL", "C.UTF-8"), ("TERM", "dumb")]);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Runs a shell command in the container.
    pub fn sh(&self, line: &str) -> Outcome {
        run(self.command("sh").args(["-c", line]), LONG)
    }

    /// Runs a shell command that must exit with `code`; returns what it wrote.
    pub fn ends_with(&self, code: i32, line: &str) -> String {
        let outcome = self.sh(line);
        assert_eq!(outcome.status.code(), Some(code), "{line}: {outcome:?}");
        outcome.stdout + &outcome.stderr
    }

    /// Writes a file in the container.
    pub fn write(&self, path: &str, text: &str) {
        let inside = self.path().join(path.trim_start_matches('/'));
        fs::write(&inside, text).unwrap_or_else(|e| panic!("writing {}: {e}", inside.display()));
    }

    /// Installs a package without its suggestions; returns the output of dpkg(1).
    pub fn install(&self, package: &Path) -> String {
        fs::copy(package, self.path().join("package.deb")).expect("copying the package");
        let output = self.ends_with(0, "dpkg --install /package.deb");
        fs::remove_file(self.path().join("package.deb")).expect("removing the copy");
        output
    }

    /// All files and folders of the container, relative to its root.
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
        // Closing the input ends the first process. The kernel then kills the other processes of
        // the PID namespace before unshare(1) exits.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
