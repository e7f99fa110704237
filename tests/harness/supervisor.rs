//! A configuration file, its run directory, and the verbs that act on it.
//!
//! Invariant: no process that was started for it outlives its guard.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Outcome, TIMEOUT, binary, eventually, run};

/// All instances of a file.
#[derive(Debug)]
pub struct Service {
    dir: TempDir,
}

/// How an instance is, as `status --json` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceStatus {
    /// Port, and address if it was given.
    pub name: String,
    /// `running`, `draining`, `failed` and so on.
    pub state: String,
    /// Its process.
    pub pid: Option<i32>,
    /// Where it listens.
    pub address: Option<SocketAddr>,
    /// Channels that are enabled, and all.
    pub channels: Option<(u64, u64)>,
    /// Connections now.
    pub connections: u64,
    /// Why it does not run.
    pub why: Option<String>,
}

impl Service {
    /// A file with this text; nothing is started.
    pub fn new(text: &str) -> Self {
        let service = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        service.write(text);
        service
    }

    /// Writes the file anew.
    pub fn write(&self, text: &str) {
        fs::write(self.file(), text).expect("writing a temporary file");
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("balance.conf")
    }

    /// The run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// What gives a verb, with its options.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(words).arg("--config").arg(self.file()).arg("--run-dir").arg(self.run_dir());
        command
    }

    /// Gives a verb, and returns what came of it.
    pub fn run(&self, words: &[&str]) -> Outcome {
        run(&mut self.command(words), TIMEOUT)
    }

    /// Gives a verb that must succeed without a complaint, and returns what is printed.
    pub fn run_ok(&self, words: &[&str]) -> String {
        let outcome = self.run(words);
        assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(0), ""), "{outcome:?}");
        outcome.stdout
    }

    /// Starts the supervisor in the foreground, as a child that the caller waits for.
    pub fn foreground(&self, change: impl FnOnce(&mut Command)) -> Child {
        let mut command = self.command(&["start", "-f"]);
        command.stdin(Stdio::null());
        change(&mut command);
        command.spawn().expect("starting balance")
    }

    /// What `status` says of each instance.
    pub fn status(&self) -> Vec<InstanceStatus> {
        let outcome = self.run(&["status", "--json"]);
        let json: Value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        let rows = json["instances"].as_array().expect("instances");
        rows.iter().map(InstanceStatus::of).collect()
    }

    /// The same, once it is as it should be.
    pub fn status_when(
        &self,
        what: &str,
        is_so: impl Fn(&[InstanceStatus]) -> bool,
    ) -> Vec<InstanceStatus> {
        eventually(TIMEOUT, what, || {
            let status = self.status();
            if is_so(&status) { Ok(status) } else { Err(format!("{status:?}")) }
        })
    }

    /// How many verbs are connected to the supervisor at this moment.
    pub fn connected_verbs(&self) -> usize {
        let path = self.run_dir().join("conf.").display().to_string();
        let sockets = fs::read_to_string("/proc/net/unix").expect("the sockets of this host");
        // SS_CONNECTED of include/uapi/linux/net.h.
        let is_connected = |line: &&str| line.split_whitespace().nth(5) == Some("03");
        sockets.lines().filter(is_connected).filter(|line| line.contains(&path)).count()
    }

    /// The process of the supervisor, as its pid file says.
    pub fn supervisor(&self) -> i32 {
        let files = fs::read_dir(self.run_dir()).expect("the run directory").flatten();
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("conf.") && name.ends_with(".pid")
        };
        let path = files.map(|entry| entry.path()).find(is_it).expect("a pid file");
        fs::read_to_string(path).expect("a pid file").trim().parse().expect("a process id")
    }

    /// Processes that have its directory on their command line or in their environment.
    pub fn processes(&self) -> Vec<i32> {
        processes_of(self.dir.path())
    }
}

fn processes_of(dir: &Path) -> Vec<i32> {
    let path = dir.to_str().expect("a path in UTF-8");
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).expect("a process id");
    let mentions = |pid: &i32, file: &str| {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(path)
    };
    pids.filter(|pid| *pid != own && (mentions(pid, "cmdline") || mentions(pid, "environ")))
        .collect()
}

impl Drop for Service {
    fn drop(&mut self) {
        for pid in self.processes() {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl InstanceStatus {
    fn of(row: &Value) -> Self {
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        let number = |name: &str| row[name].as_u64();
        Self {
            name: text("instance").expect("a name"),
            state: text("state").expect("a state"),
            pid: number("pid").map(|pid| i32::try_from(pid).expect("a process id")),
            address: text("address").map(|address| address.parse().expect("an address")),
            channels: number("channels_up").zip(number("channels")),
            connections: number("connections").expect("a number"),
            why: text("why"),
        }
    }
}
