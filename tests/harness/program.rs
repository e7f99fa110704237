//! The program under test: start, log, stop.
//!
//! Invariants: no program outlives its guard; a failed test prints the program's log.

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Datapath, Process, ReservedPort, eventually, finish};

mod builder;
mod event;

pub use builder::Builder;
pub use event::{Event, Session, StopSummary};

/// How long the program may take to get ready, or to exit without open connections.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The path of the program: `BALANCE_BIN`, or the release build of the workspace.
pub fn binary() -> PathBuf {
    let path = env::var_os("BALANCE_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/balance"),
        PathBuf::from,
    );
    path.canonicalize()
        .unwrap_or_else(|_| panic!("{} is missing: run cargo xtask test", path.display()))
}

/// The lines that the program has logged so far.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn follow(self, pipe: ChildStderr) -> JoinHandle<()> {
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        })
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.clone()
    }
}

/// A running program. Dropping it kills the program, and prints its log if the test has failed.
#[derive(Debug)]
pub struct Balance {
    builder: Builder,
    arguments: Vec<String>,
    address: SocketAddr,
    _port: Option<ReservedPort>,
    child: Child,
    log: Log,
    reader: Option<JoinHandle<()>>,
}

impl Balance {
    fn spawn(builder: Builder) -> Self {
        let (mut command, port, address) = builder.command();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let log = Log::default();
        let reader = log.clone().follow(child.stderr.take().expect("piped"));
        Self {
            arguments: builder.arguments(address),
            builder,
            address: match address.ip() {
                ip if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
                _ => address,
            },
            _port: port,
            child,
            log,
            reader: Some(reader),
        }
    }

    /// The address for clients; 127.0.0.1 if the program listens on the unspecified address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The command line up to the servers.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// The process.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Lines written to standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Events logged so far, in order.
    pub fn events(&self) -> Vec<Event> {
        let lines = self.log.lines();
        lines.iter().filter_map(|line| Event::parse(line)).collect()
    }

    /// Waits for an event with that message and returns the first.
    pub fn wait_for(&self, message: &str) -> Event {
        let what = format!("the program logs {message:?}");
        eventually(READY_TIMEOUT, &what, || {
            // Checked before the events are read, so that the last lines of an exited program
            // count.
            let ended = self.ended();
            let found = self.events().into_iter().find(|e| e.message == message);
            match (found, ended) {
                (Some(event), _) => Ok(event),
                (None, true) => {
                    panic!("the program exited without the event: {:#?}", self.log.lines())
                }
                (None, false) => Err(format!("{} other lines", self.log.lines().len())),
            }
        })
    }

    /// Whether the program has closed its log.
    fn ended(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until `count` connections have ended; returns all that have.
    pub fn sessions(&self, count: usize) -> Vec<Session> {
        let what = format!("{count} connections have ended");
        eventually(READY_TIMEOUT, &what, || {
            let events = self.events();
            let sessions: Vec<_> = events.iter().filter_map(Session::of).collect();
            match sessions.len() {
                len if len >= count => Ok(sessions),
                len => Err(format!("{len} have")),
            }
        })
    }

    /// Asserts that `count` connections end on the datapath that this program was started with.
    pub fn assert_all_on_its_datapath(&self, count: usize) {
        let datapath = self.builder.datapath().expect("a program on one datapath");
        for session in self.sessions(count) {
            assert!(datapath.may_end_on(&session.datapath), "{session:?}");
        }
    }

    /// Asserts the same; with splice also that every connection was handed over.
    pub fn assert_all_handed_over(&self, count: usize) {
        self.assert_all_on_its_datapath(count);
        if self.builder.datapath() == Some(Datapath::Splice) {
            let sessions = self.sessions(count);
            let left =
                sessions.iter().filter(|session| session.datapath != Datapath::Splice.name());
            let left: Vec<_> = left.collect();
            assert!(left.is_empty(), "not spliced: {left:?}");
        }
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("sending a signal");
    }

    /// Waits until the program exits.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let status = finish(&mut self.child, deadline, "the program");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of its log");
        }
        status
    }

    /// Stops the program, which must have no open connection; returns its final totals.
    pub fn stop(mut self) -> StopSummary {
        self.signal(Signal::SIGTERM);
        self.wait_stopped(READY_TIMEOUT)
    }

    /// Waits until the program exits with status 0; returns its final totals.
    pub fn wait_stopped(&mut self, deadline: Duration) -> StopSummary {
        let status = self.wait(deadline);
        assert_eq!(status.code(), Some(0), "{status}");
        let events = self.events();
        let stopped = events.iter().rfind(|event| event.message == "stopped");
        StopSummary::of(stopped.expect("a stopped event"))
    }
}

impl Drop for Balance {
    #[expect(clippy::print_stderr, reason = "the test harness captures it")]
    fn drop(&mut self) {
        // Both fail harmlessly when the program has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let lines = self.log.lines();
            let skipped = lines.len().saturating_sub(100);
            eprintln!("log of the program, without its first {skipped} lines:");
            for line in &lines[skipped..] {
                eprintln!("    {line}");
            }
        }
    }
}
