//! A run directory of a test's own, and the commands that are given to the programs in it.

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
    /// An empty one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Lets a program that is yet to be started use it.
    pub fn use_in(&self, builder: Builder) -> Builder {
        builder.option(&["--run-dir", self.path().to_str().expect("a path in UTF-8")])
    }

    /// What the program that listens at `address` has there: `sock` or `pid`.
    pub fn file(&self, address: SocketAddr, kind: &str) -> PathBuf {
        self.path().join(format!("balance.{}.{}.{kind}", address.port(), address.ip()))
    }

    /// What gives `line` to the program at `address`.
    pub fn command(&self, address: SocketAddr, line: &str) -> Command {
        self.command_of(&binary(), address, line)
    }

    /// The same by another file than [`binary`].
    pub fn command_of(&self, program: &Path, address: SocketAddr, line: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--run-dir").arg(self.path()).args(["-b", &address.ip().to_string()]);
        command.args(["-c", line, &address.port().to_string()]);
        command
    }

    /// Gives it that line and returns what came of it.
    pub fn run(&self, address: SocketAddr, line: &str) -> Outcome {
        run(&mut self.command(address, line), TIMEOUT)
    }

    /// Gives it that line, which must succeed, and returns what is printed.
    pub fn run_ok(&self, address: SocketAddr, line: &str) -> String {
        let outcome = run(self.command(address, line).arg("--strict"), TIMEOUT);
        assert_eq!(outcome.status.code(), Some(0), "{line}: {outcome:?}");
        assert_eq!(outcome.stderr, "", "{line}");
        outcome.stdout
    }

    /// Sends the program at `address` a command as the shell's own clients do, and returns the reply.
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

    /// Lets a program take `words` in place of all that follows its port on its command line, and
    /// returns the reply.
    pub fn configure(&self, balance: &Balance, words: &[&str]) -> Value {
        let own = balance.arguments().iter().map(String::as_str);
        let words: Vec<_> = own.chain(words.iter().copied()).collect();
        self.ask(balance.address(), &json!({"configure": {"words": words}}))
    }

    /// Processes that have this directory on their command line.
    pub fn processes(&self) -> Vec<i32> {
        let path = self.path().to_str().expect("a path in UTF-8");
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // Those that have ended since have none.
        let line = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pids.filter(|pid| line(pid).split(|&byte| byte == 0).any(|word| word == path.as_bytes()))
            .collect()
    }

    /// What carries each connection that stands, as `sessions` says.
    pub fn carriers(&self, address: SocketAddr) -> Vec<String> {
        let text = self.run_ok(address, "sessions");
        let last = |line: &str| line.split_whitespace().next_back().map(str::to_owned);
        text.lines().skip(1).filter_map(last).collect()
    }

    /// What `show` says of each channel, in its order.
    pub fn show(&self, address: SocketAddr) -> Vec<ChannelRow> {
        let text = self.run_ok(address, "show");
        text.lines().skip(1).map(|line| ChannelRow::parse(line, &text)).collect()
    }

    /// The same when all connections have ended, which has to be soon.
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

/// Kills what a test left running in its run directory.
#[derive(Debug)]
pub struct DaemonGuard<'d>(
    /// That directory.
    pub &'d RunDir,
);

impl Drop for DaemonGuard<'_> {
    fn drop(&mut self) {
        for pid in self.0.processes() {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A channel as `show` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRow {
    /// Its group.
    pub group: usize,
    /// `RR` or `Hash`.
    pub method: String,
    /// Its number in the group.
    pub channel: usize,
    /// Whether it takes new connections.
    pub enabled: bool,
    /// Where its server is.
    pub address: SocketAddr,
    /// Connections now.
    pub current: u64,
    /// Attempts so far.
    pub total: u64,
    /// Connections at a time.
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
