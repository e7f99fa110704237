//! A configuration file, its run directory, and the verbs that act on them.
//!
//! Invariant: dropping a [`Service`] kills every process that was started for it.

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

/// The supervisor and the instances of one configuration file.
#[derive(Debug)]
pub struct Service {
    dir: TempDir,
}

/// The state of an instance, as `status --json` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceStatus {
    /// Port, with the address if one was configured.
    pub name: String,
    /// `running`, `draining`, `failed` and so on.
    pub state: String,
    /// Process id.
    pub pid: Option<i32>,
    /// Address of the listener.
    pub address: Option<SocketAddr>,
    /// Number of enabled channels, and of all.
    pub channels: Option<(u64, u64)>,
    /// Open connections.
    pub connections: u64,
    /// Reason why the instance does not run.
    pub why: Option<String>,
    /// What control commands have changed.
    pub differences: Vec<String>,
}

impl Service {
    /// Writes a configuration file with this text; starts nothing.
    pub fn new(text: &str) -> Self {
        let service = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        fs::create_dir(service.run_dir()).expect("a run directory");
        service.write(text);
        service
    }

    /// Replaces the configuration file.
    pub fn write(&self, text: &str) {
        fs::write(self.file(), text).expect("writing a temporary file");
    }

    /// Lets every user read the configuration file and enter the run directory.
    pub fn open_for_all(&self) {
        crate::open_for_all(self.dir.path());
        crate::open_for_all(&self.run_dir());
    }

    /// Path of the configuration file.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("balance.conf")
    }

    /// Path of the run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// A command that runs a verb with its options.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(words).arg("--config").arg(self.file()).arg("--run-dir").arg(self.run_dir());
        command
    }

    /// Runs a verb and returns the outcome.
    pub fn run(&self, words: &[&str]) -> Outcome {
        run(&mut self.command(words), TIMEOUT)
    }

    /// Runs a verb that must succeed without a message on standard error; returns the output.
    pub fn run_ok(&self, words: &[&str]) -> String {
        let outcome = self.run(words);
        assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(0), ""), "{outcome:?}");
        outcome.stdout
    }

    /// Starts the supervisor in the foreground, as a child of the test.
    pub fn foreground(&self, change: impl FnOnce(&mut Command)) -> Child {
        let mut command = self.command(&["start", "-f"]);
        command.stdin(Stdio::null());
        change(&mut command);
        command.spawn().expect("starting balance")
    }

    /// The output of `status --json`.
    pub fn status_json(&self) -> Value {
        let outcome = self.run(&["status", "--json"]);
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
    }

    /// The rows of `status --json`.
    pub fn status(&self) -> Vec<InstanceStatus> {
        let json = self.status_json();
        let rows = json["instances"].as_array().expect("instances");
        rows.iter().map(InstanceStatus::of).collect()
    }

    /// Waits until `status` fulfils `is_so`; returns its rows.
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

    /// Number of verbs that are connected to the supervisor now.
    pub fn connected_verbs(&self) -> usize {
        let path = self.run_dir().join("conf.").display().to_string();
        let sockets = fs::read_to_string("/proc/net/unix").expect("the sockets of this host");
        // SS_CONNECTED of include/uapi/linux/net.h.
        let is_connected = |line: &&str| line.split_whitespace().nth(5) == Some("03");
        sockets.lines().filter(is_connected).filter(|line| line.contains(&path)).count()
    }

    /// Process id of the supervisor, from its pid file.
    pub fn supervisor(&self) -> i32 {
        let text = fs::read_to_string(self.file_of_supervisor("pid")).expect("a pid file");
        text.trim().parse().expect("a process id")
    }

    /// Path of a file of the supervisor; `kind` is `sock` or `pid`.
    pub fn file_of_supervisor(&self, kind: &str) -> PathBuf {
        let files = fs::read_dir(self.run_dir()).expect("the run directory").flatten();
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("conf.") && name.ends_with(&format!(".{kind}"))
        };
        let path = files.map(|entry| entry.path()).find(is_it);
        path.unwrap_or_else(|| panic!("no {kind} file of the supervisor"))
    }

    /// Waits until no process is left. A process releases its locks a moment before its end.
    pub fn assert_all_ended(&self) {
        eventually(TIMEOUT, "all processes have ended", || match self.processes() {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        });
    }

    /// Ids of the processes that have the directory on their command line or in their environment.
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
            // The process may have exited meanwhile.
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
            differences: row["differences"].as_array().map_or_else(Vec::new, |texts| {
                texts.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
            }),
        }
    }
}
