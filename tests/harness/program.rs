//! The program under test: started, listened to, stopped.
//!
//! Invariant: no program outlives its guard, and a test that fails shows what it logged.

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

/// How long the program may take to get ready, or to end when nothing holds it.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the program is: `BALANCE_BIN`, or where the workspace builds it.
pub fn binary() -> PathBuf {
    let path = env::var_os("BALANCE_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/balance"),
        PathBuf::from,
    );
    path.canonicalize()
        .unwrap_or_else(|_| panic!("{} is missing: run cargo xtask test", path.display()))
}

/// The lines that a program has written so far.
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

/// A running program; killed when dropped, and its log shown if the test has failed.
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

    /// Where clients connect; 127.0.0.1 if it listens everywhere.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its command line, up to the servers.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Lines that it has written to its standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// What it has logged so far, in order.
    pub fn events(&self) -> Vec<Event> {
        let lines = self.log.lines();
        lines.iter().filter_map(|line| Event::parse(line)).collect()
    }

    /// The first event with that message, once it has come.
    pub fn wait_for(&self, message: &str) -> Event {
        let what = format!("the program logs {message:?}");
        eventually(READY_TIMEOUT, &what, || {
            // In this order: what it wrote before it ended counts.
            let ended = self.ended();
            let found = self.events().into_iter().find(|e| e.message == message);
            match (found, ended) {
                (Some(event), _) => Ok(event),
                (None, true) => panic!("it ended without: {:#?}", self.log.lines()),
                (None, false) => Err(format!("{} other lines", self.log.lines().len())),
            }
        })
    }

    /// True when nothing more can come out of it.
    fn ended(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// The connections that have ended, once there are `count` of them.
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

    /// Asserts that `count` connections have ended by now, or soon, all on the datapath that
    /// this program was started with.
    pub fn assert_all_on_its_datapath(&self, count: usize) {
        let datapath = self.builder.datapath().expect("a program on one datapath");
        for session in self.sessions(count) {
            assert!(datapath.may_end_on(&session.datapath), "{session:?}");
        }
    }

    /// Asserts the same, and of a program on splice that all have been handed over to it.
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

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("sending a signal");
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let status = finish(&mut self.child, deadline, "the program");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of its log");
        }
        status
    }

    /// Asks it to end, with no connection standing, and returns what it says about its life.
    pub fn stop(mut self) -> StopSummary {
        self.signal(Signal::SIGTERM);
        self.wait_stopped(READY_TIMEOUT)
    }

    /// Waits for an end without error, and returns what it says about its life.
    pub fn wait_stopped(&mut self, deadline: Duration) -> StopSummary {
        let status = self.wait(deadline);
        assert_eq!(status.code(), Some(0), "{status}");
        let events = self.events();
        let stopped = events.iter().rfind(|event| event.message == "stopped");
        StopSummary::of(stopped.expect("a last line that says stopped"))
    }
}

impl Drop for Balance {
    #[expect(clippy::print_stderr, reason = "the test harness captures it")]
    fn drop(&mut self) {
        // Harmless when it has ended by itself.
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
