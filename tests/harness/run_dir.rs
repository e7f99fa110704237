//! A temporary run directory, and control commands to the programs that use it.
//!
//! Invariant: each test has its own directory, so programs of other tests are never addressed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Balance, Builder, Outcome, TIMEOUT, binary, eventually, run};

/// A run directory; removed when dropped.
#[derive(Debug)]
pub struct RunDir(TempDir);

impl RunDir {
    /// Creates an empty directory.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Makes a program use this directory.
    pub fn use_in(&self, builder: Builder) -> Builder {
        builder.option(&["--run-dir", self.path().to_str().expect("a path in UTF-8")])
    }

    /// Path of a file of the program that listens at `address`; `kind` is `sock` or `pid`.
    pub fn file(&self, address: SocketAddr, kind: &str) -> PathBuf {
        self.path().join(format!("balance.{}.{}.{kind}", address.port(), address.ip()))
    }

    /// A command that sends `line` to the program at `address`.
    pub fn command(&self, address: SocketAddr, line: &str) -> Command {
        self.command_of(&binary(), address, line)
    }

    /// Like [`RunDir::command`], with another binary than [`binary`].
    pub fn command_of(&self, program: &Path, address: SocketAddr, line: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--run-dir").arg(self.path()).args(["-b", &address.ip().to_string()]);
        command.args(["-c", line, &address.port().to_string()]);
        command
    }

    /// Sends `line` and returns the outcome.
    pub fn run(&self, address: SocketAddr, line: &str) -> Outcome {
        run(&mut self.command(address, line), TIMEOUT)
    }

    /// Sends `line`, which must succeed, and returns the output.
    pub fn run_ok(&self, address: SocketAddr, line: &str) -> String {
        let outcome = run(self.command(address, line).arg("--strict"), TIMEOUT);
        assert_eq!(outcome.status.code(), Some(0), "{line}: {outcome:?}");
        assert_eq!(outcome.stderr, "", "{line}");
        outcome.stdout
    }

    /// Sends a request in the protocol of the control socket, as `balance -c` does; returns the
    /// reply.
    pub fn ask(&self, address: SocketAddr, command: &Value) -> Value {
        let mut stream =
            UnixStream::connect(self.file(address, "sock")).expect("connecting to the socket");
        stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
        let request = json!({"version": 1, "command": command});
        stream.write_all(format!("{request}\n").as_bytes()).expect("the request");
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).expect("the reply");
        serde_json::from_str(&reply).unwrap_or_else(|error| panic!("{reply:?}: {error}"))
    }

    /// Replaces all arguments of a program that follow its port by `words`; returns the reply.
    pub fn configure(&self, balance: &Balance, words: &[&str]) -> Value {
        let own = balance.arguments().iter().map(String::as_str);
        let words: Vec<_> = own.chain(words.iter().copied()).collect();
        self.ask(balance.address(), &json!({"configure": {"words": words}}))
    }

    /// Ids of the processes that have this directory on their command line.
    pub fn processes(&self) -> Vec<i32> {
        let path = self.path().to_str().expect("a path in UTF-8");
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // A process that has exited meanwhile has no command line.
        let line = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pids.filter(|pid| line(pid).split(|&byte| byte == 0).any(|word| word == path.as_bytes()))
            .collect()
    }

    /// The datapath of each open connection, as `sessions` shows it.
    pub fn carriers(&self, address: SocketAddr) -> Vec<String> {
        let text = self.run_ok(address, "sessions");
        let last = |line: &str| line.split_whitespace().next_back().map(str::to_owned);
        text.lines().skip(1).filter_map(last).collect()
    }

    /// The rows of `show`, in order.
    pub fn show(&self, address: SocketAddr) -> Vec<ChannelRow> {
        let text = self.run_ok(address, "show");
        text.lines().skip(1).map(|line| ChannelRow::parse(line, &text)).collect()
    }

    /// Waits until no connection is open; returns the rows of `show`.
    pub fn show_at_rest(&self, address: SocketAddr) -> Vec<ChannelRow> {
        eventually(TIMEOUT, "all connections have ended", || {
            let rows = self.show(address);
            let ended = rows.iter().all(|row| row.current == 0);
            if ended { Ok(rows) } else { Err(format!("{rows:?}")) }
        })
    }
}

impl Default for RunDir {
    fn default() -> Self {
        Self::new()
    }
}

/// Kills the processes that use a run directory when dropped.
#[derive(Debug)]
pub struct DaemonGuard<'d>(
    /// The run directory.
    pub &'d RunDir,
);

impl Drop for DaemonGuard<'_> {
    fn drop(&mut self) {
        for pid in self.0.processes() {
            // The process may have exited meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A row of `show`: one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRow {
    /// Number of the group.
    pub group: usize,
    /// `RR` or `Hash`.
    pub method: String,
    /// Number of the channel in its group.
    pub channel: usize,
    /// Whether the channel takes new connections.
    pub enabled: bool,
    /// Address of the server.
    pub address: SocketAddr,
    /// Open connections.
    pub current: u64,
    /// Connection attempts so far.
    pub total: u64,
    /// Maximum number of open connections.
    pub max: u64,
    /// Bytes from clients.
    pub sent: u64,
    /// Bytes to clients.
    pub rcvd: u64,
}

impl ChannelRow {
    fn parse(line: &str, text: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[group, method, channel, state, ip, port, current, total, max, sent, rcvd] =
            &words[..]
        else {
            panic!("no row of eleven fields: {line:?} in {text}");
        };
        let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{word}: {text}"));
        let index = |word: &str| word.parse().unwrap_or_else(|_| panic!("{word}: {text}"));
        Self {
            group: index(group),
            method: method.into(),
            channel: index(channel),
            enabled: match state {
                "ENA" => true,
                "dis" => false,
                other => panic!("state {other}: {text}"),
            },
            address: SocketAddr::new(ip.parse().expect(text), port.parse().expect(text)),
            current: number(current),
            total: number(total),
            max: number(max),
            sent: number(sent),
            rcvd: number(rcvd),
        }
    }
}
