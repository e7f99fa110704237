//! The program under test: started, listened to, stopped.
//!
//! Invariant: no program outlives its guard, and a test that fails shows what it logged.

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::{Datapath, Process, ReservedPort, eventually, finish};

mod event;

pub use event::{Event, Session, Stopped};

const JSON: &str = "--log-format=json";

/// How long the program may take to get ready, or to end when nothing holds it.
const SOON: Duration = Duration::from_secs(30);

/// Where the program is: `BALANCE_BIN`, or where the workspace builds it.
pub fn binary() -> PathBuf {
    let path = env::var_os("BALANCE_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/balance"),
        PathBuf::from,
    );
    path.canonicalize()
        .unwrap_or_else(|_| panic!("{} is missing: run cargo xtask test", path.display()))
}

/// What a program is started with.
#[derive(Debug)]
pub struct Builder {
    binary: PathBuf,
    datapath: Option<Datapath>,
    listen: Option<SocketAddr>,
    service: Option<String>,
    options: Vec<String>,
    operands: Vec<String>,
    hosts: Option<tempfile::NamedTempFile>,
    descriptors: Option<u64>,
    user: Option<u32>,
}

impl Builder {
    /// A program on the given datapath, that listens on a port of 127.0.0.1 and logs all it can
    /// as JSON.
    pub fn new(datapath: Datapath) -> Self {
        Self { datapath: Some(datapath), ..Self::auto() }
    }

    /// The same, with the datapath left to the program.
    pub fn auto() -> Self {
        Self {
            binary: binary(),
            datapath: None,
            listen: None,
            service: None,
            options: ["-f", "-d", JSON].map(str::to_owned).into(),
            operands: Vec::new(),
            hosts: None,
            descriptors: None,
            user: None,
        }
    }

    /// Another file than [`binary`].
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = path.into();
        self
    }

    /// Without `-d`: what an operator sees.
    pub fn quiet(mut self) -> Self {
        self.options.retain(|option| option != "-d");
        self
    }

    /// With a log for people instead of one for these tests.
    pub fn text(mut self) -> Self {
        self.options.retain(|option| option != JSON);
        self
    }

    /// Adds an option, and what belongs to it.
    pub fn option(mut self, words: &[&str]) -> Self {
        self.options.extend(words.iter().map(|&word| word.into()));
        self
    }

    /// Listens there, on a port reserved by the caller, or on all addresses if `::`.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Gives the port to listen on by the name of a service.
    pub fn service(mut self, name: &str) -> Self {
        self.service = Some(name.into());
        self
    }

    /// Adds a channel by address.
    pub fn channel(self, address: SocketAddr) -> Self {
        self.operand(&address.to_string())
    }

    /// Adds an operand as it is: a channel with a name or a limit, or a separator.
    pub fn operand(mut self, word: &str) -> Self {
        self.operands.push(word.into());
        self
    }

    /// Runs with that text as `/etc/hosts`. Needs root.
    pub fn hosts(mut self, text: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("writing a temporary file");
        self.hosts = Some(file);
        self
    }

    /// Runs with at most that many descriptors.
    pub fn descriptors(mut self, limit: u64) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Runs as that user and group, without any capability. Needs root.
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// The command line, to be run with other limits and users if asked for; and the port.
    pub fn command(&self) -> (Command, Option<ReservedPort>, SocketAddr) {
        let mut command = match &self.hosts {
            None => Command::new(&self.binary),
            Some(file) => {
                let mut command = Command::new("unshare");
                command
                    .args(["--mount", "sh", "-e", "-c"])
                    .arg(r#"mount --bind "$1" /etc/hosts; shift; exec "$@""#)
                    .arg("sh")
                    .arg(file.path())
                    .arg(&self.binary);
                command
            }
        };
        command.args(&self.options);
        if let Some(datapath) = self.datapath {
            command.args(["--datapath", datapath.name()]);
        }
        let reserved = self.listen.is_none().then(ReservedPort::new);
        let address = match (&self.listen, &reserved) {
            (Some(address), _) => *address,
            (None, Some(port)) => port.address(),
            (None, None) => unreachable!("one of them is set"),
        };
        if !address.ip().is_unspecified() {
            command.args(["-b", &address.ip().to_string()]);
        }
        let port = address.port().to_string();
        command.arg(self.service.as_ref().unwrap_or(&port));
        command.args(&self.operands);
        if let Some(id) = self.user {
            command.uid(id).gid(id);
        }
        if let Some(limit) = self.descriptors {
            let limited = move || Ok(setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?);
            // SAFETY: setrlimit is a bare system call: it neither allocates nor takes locks.
            unsafe { command.pre_exec(limited) };
        }
        (command, reserved, address)
    }

    /// Starts the program and waits until it serves, on the datapath that was asked for.
    pub fn start(self) -> Balance {
        let balance = self.spawn();
        let ready = balance.wait_for("ready");
        if let Some(datapath) = balance.builder.datapath {
            assert_eq!(ready.text("datapath"), datapath.name(), "{ready:?}");
        }
        balance
    }

    /// Starts the program and does not wait.
    pub fn spawn(self) -> Balance {
        let (mut command, port, address) = self.command();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let log = Log::default();
        let reader = log.clone().follow(child.stderr.take().expect("piped"));
        Balance {
            builder: self,
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
    address: SocketAddr,
    _port: Option<ReservedPort>,
    child: Child,
    log: Log,
    reader: Option<JoinHandle<()>>,
}

impl Balance {
    /// Where clients connect; 127.0.0.1 if it listens everywhere.
    pub fn address(&self) -> SocketAddr {
        self.address
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
        eventually(SOON, &what, || {
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
        eventually(SOON, &what, || {
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
        let datapath = self.builder.datapath.expect("a program on one datapath");
        for session in self.sessions(count) {
            assert_eq!(session.datapath, datapath.name(), "{session:?}");
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
    pub fn stop(mut self) -> Stopped {
        self.signal(Signal::SIGTERM);
        self.farewell(SOON)
    }

    /// Waits for an end without error, and returns what it says about its life.
    pub fn farewell(&mut self, deadline: Duration) -> Stopped {
        let status = self.wait(deadline);
        assert_eq!(status.code(), Some(0), "{status}");
        let events = self.events();
        let stopped = events.iter().rfind(|event| event.message == "stopped");
        Stopped::of(stopped.expect("a last line that says stopped"))
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
