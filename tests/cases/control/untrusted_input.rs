//! Hostile clients of the control sockets of an instance and of a supervisor. The cost of such
//! clients is bounded, other clients and operators are still served, and another user is refused by
//! the mode of the socket, or by user id where the mode was loosened.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::Ipv4Addr,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Barrier, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{libc, unistd::Uid};
use tests::{
    Backend, Balance, Builder, KillOnDrop, Link, NOBODY, OtherUser, Outcome, Process, ReservedPort,
    RunDir, Service, TIMEOUT, ask, binary, eventually, run, skip,
};

/// Clients served at a time.
const PERMITS: usize = 64;

const MIB: u64 = 1 << 20;

/// A control socket under attack, and what must still work meanwhile.
trait ControlSocket: Sync {
    /// Path of the socket.
    fn socket(&self) -> PathBuf;

    /// The process that serves the socket.
    fn process(&self) -> Process;

    /// A read-only command of an operator.
    fn status_command(&self) -> Command;

    /// A valid request.
    const REQUEST: &'static str;

    /// Asserts that a client of the port is served.
    fn assert_serves(&self);

    /// Asserts that an operator's command is answered.
    fn assert_answers(&self) {
        let outcome = run(&mut self.status_command(), TIMEOUT);
        assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(0), ""), "{outcome:?}");
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("connecting to the socket");
        stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
        stream.set_write_timeout(Some(TIMEOUT)).expect("SO_SNDTIMEO");
        stream
    }
}

struct Instance {
    dir: RunDir,
    balance: Balance,
    _server: Backend,
}

impl Instance {
    fn start() -> Self {
        let (dir, server) = (RunDir::new(), Backend::greeter("A"));
        let balance = dir.use_in(Builder::auto().channel(server.address())).start();
        Self { dir, balance, _server: server }
    }
}

impl ControlSocket for Instance {
    const REQUEST: &'static str = "{\"version\":1,\"command\":\"show\"}\n";

    fn socket(&self) -> PathBuf {
        self.dir.file(self.balance.address(), "sock")
    }

    fn process(&self) -> Process {
        self.balance.process()
    }

    fn status_command(&self) -> Command {
        self.dir.command(self.balance.address(), "show")
    }

    fn assert_serves(&self) {
        assert_eq!(ask(self.balance.address()).expect("an orderly close"), "A");
    }
}

struct Supervisor {
    child: KillOnDrop<Child>,
    service: Service,
    port: ReservedPort,
    _server: Backend,
}

impl Supervisor {
    fn start() -> Self {
        let (port, server) = (ReservedPort::new(), Backend::greeter("A"));
        let service = Service::new(&format!("-b 127.0.0.1 {} {}\n", port.port(), server.address()));
        let child = KillOnDrop(service.foreground(|_| {}));
        service
            .status_when("the instance runs", |rows| rows.iter().all(|row| row.state == "running"));
        Self { child, service, port, _server: server }
    }
}

impl ControlSocket for Supervisor {
    const REQUEST: &'static str = "{\"version\":1,\"command\":\"instances\"}\n";

    fn socket(&self) -> PathBuf {
        let entries = fs::read_dir(self.service.run_dir()).expect("the run directory").flatten();
        let sockets = entries.filter(|entry| {
            let name = entry.file_name().into_string().expect("UTF-8");
            name.starts_with("conf.") && name.ends_with(".sock")
        });
        let [socket] = &sockets.map(|entry| entry.path()).collect::<Vec<_>>()[..] else {
            panic!("not one socket of a supervisor")
        };
        socket.clone()
    }

    fn process(&self) -> Process {
        Process(self.child.0.id())
    }

    fn status_command(&self) -> Command {
        self.service.command(&["status"])
    }

    fn assert_serves(&self) {
        assert_eq!(ask(self.port.address()).expect("an orderly close"), "A");
    }
}

fn endless_lines_take_bounded_memory(target: &impl ControlSocket) {
    /// Memory for each line: the longest request, and the spare capacity of a buffer that grows by
    /// doubling.
    const LINE: u64 = 2 * MIB;

    let process = target.process();
    let before = process.resident();
    // If any round kept even one request of each client, the total would exceed the limit.
    for _ in 0..6 {
        let over = AtomicBool::new(false);
        let most = thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut most = 0;
                while !over.load(Ordering::Relaxed) {
                    most = most.max(process.resident());
                    thread::sleep(Duration::from_millis(2));
                }
                most
            });
            let endless: Vec<_> = (0..PERMITS)
                .map(|_| scope.spawn(|| assert_disconnected(target.connect(), &[b'x'; 65_536])))
                .collect();
            target.assert_serves();
            endless.into_iter().for_each(|client| client.join().expect("an endless line"));
            over.store(true, Ordering::Relaxed);
            watch.join().expect("the watch")
        });
        let growth = most.saturating_sub(before);
        assert!(growth <= PERMITS as u64 * LINE, "{growth} bytes more");
        target.assert_answers();
    }
}

/// Writes the same bytes repeatedly until the socket is closed, which must happen soon.
fn assert_disconnected(mut stream: UnixStream, bytes: &[u8]) {
    let start = Instant::now();
    let error = loop {
        if let Err(error) = stream.write_all(bytes) {
            break error;
        }
        assert!(start.elapsed() < TIMEOUT, "the client is still connected");
    };
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
}

fn a_line_sent_byte_by_byte_is_disconnected(target: &impl ControlSocket) {
    let mut stream = target.connect();
    // Slower than allowed in total, although each single byte comes in time.
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("SO_RCVTIMEO");
    let start = Instant::now();
    loop {
        let written = stream.write_all(b"x");
        match stream.read(&mut [0; 256]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && written.is_ok() => {}
            _ => break,
        }
        assert!(start.elapsed() < TIMEOUT, "the client is still connected");
    }
    target.assert_answers();
}

fn a_client_that_never_reads_is_disconnected(target: &impl ControlSocket) {
    let process = target.process();
    let (before, descriptors) = (process.resident(), process.descriptors());
    let requests = many_requests(target);
    thread::scope(|scope| {
        for _ in 0..PERMITS / 2 {
            scope.spawn(|| assert_disconnected(target.connect(), requests.as_bytes()));
        }
        target.assert_serves();
        target.assert_answers();
    });
    let growth = process.resident().saturating_sub(before);
    assert!(growth <= 16 * MIB, "{growth} bytes more");
    eventually(TIMEOUT, "their descriptors are closed", || match process.descriptors() {
        now if now <= descriptors => Ok(()),
        now => Err(format!("{now}, {descriptors} before")),
    });
    target.assert_answers();
}

/// Many requests, after checking that one is answered.
fn many_requests<A: ControlSocket>(target: &A) -> String {
    let mut stream = target.connect();
    stream.write_all(A::REQUEST.as_bytes()).expect("a request");
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).expect("a reply");
    assert!(!reply.contains("refused"), "{reply}");
    A::REQUEST.repeat(100)
}

fn a_thousand_connections_block_no_client(target: &impl ControlSocket) {
    const CLIENTS: usize = 1000;

    let descriptors = target.process().descriptors();
    let (begin, over) = (Barrier::new(CLIENTS + 1), RwLock::new(()));
    thread::scope(|scope| {
        // Dropping the guard releases the clients also when an assertion fails.
        let not_over = over.write().expect("a new lock");
        for _ in 0..CLIENTS {
            let silent = || {
                begin.wait();
                // Clients beyond the backlog wait in connect.
                let stream = target.connect();
                drop(over.read());
                drop(stream);
            };
            thread::Builder::new()
                .stack_size(65_536)
                .spawn_scoped(scope, silent)
                .expect("a thread");
        }
        begin.wait();
        eventually(TIMEOUT, "all permits are taken", || match target.process().descriptors() {
            now if now >= descriptors + PERMITS => Ok(()),
            now => Err(format!("{now} descriptors, {descriptors} before")),
        });
        for _ in 0..20 {
            target.assert_serves();
        }
        let now = target.process().descriptors();
        assert!(now <= descriptors + 2 * PERMITS, "{now} descriptors, {descriptors} before");
        assert_answered_or_unavailable(&run(&mut target.status_command(), TIMEOUT));
        target.assert_serves();
        drop(not_over);
    });
    target.assert_answers();
}

fn assert_answered_or_unavailable(outcome: &Outcome) {
    match outcome.status.code() {
        Some(0) => assert_eq!(outcome.stderr, "", "{outcome:?}"),
        // The client of an instance, and the verb `status`.
        Some(69 | 4) => assert!(outcome.stderr.contains("does not answer"), "{outcome:?}"),
        _ => panic!("{outcome:?}"),
    }
}

fn another_user_is_refused_by_mode_and_by_user_id(target: &impl ControlSocket) {
    if !Uid::effective().is_root() {
        return skip("becoming another user needs root");
    }
    let socket = target.socket();
    let folders = socket.ancestors().skip(1).take_while(|folder| folder.starts_with("/tmp/"));
    folders.for_each(|folder| set_mode(folder, 0o755));
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);

    // The mode of the socket refuses the first connect and allows the second.
    let error = as_nobody(target).expect_err("a refused connect");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    set_mode(&socket, 0o666);
    let reply = as_nobody(target).expect("a reply");
    assert_eq!(reply, "{\"denied\":{\"owner\":0,\"may_read\":false}}\n");
    target.assert_answers();
}

/// Sends a request as another user; returns the reply.
fn as_nobody<A: ControlSocket>(target: &A) -> io::Result<String> {
    let socket = target.socket();
    let ask = || {
        // SAFETY: a raw system call, which changes the user of this thread alone, unlike the C
        // library's wrapper. The thread does nothing else that depends on its user.
        let done = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(done, 0, "setresuid: {}", io::Error::last_os_error());
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(A::REQUEST.as_bytes())?;
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply)?;
        Ok(reply)
    };
    thread::scope(|scope| scope.spawn(ask).join().expect("another user"))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

macro_rules! on_both_sockets {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn of_an_instance() {
                super::$name(&super::Instance::start());
            }

            #[test]
            fn of_a_supervisor() {
                super::$name(&super::Supervisor::start());
            }
        }
    )+};
}

on_both_sockets!(
    endless_lines_take_bounded_memory,
    a_line_sent_byte_by_byte_is_disconnected,
    a_client_that_never_reads_is_disconnected,
    a_thousand_connections_block_no_client,
    another_user_is_refused_by_mode_and_by_user_id,
);

#[test]
fn a_waiting_drain_keeps_no_request_in_memory() {
    const WAITING: usize = 100;
    const DRAIN: &str = "{\"version\":1,\"command\":{\"drain\":{\"id\":{\"group\":0,\"channel\":0},\"seconds\":null}}}";

    let dir = RunDir::new();
    let link = Link::with(dir.use_in(Builder::auto()), (Ipv4Addr::LOCALHOST, 0).into());
    let (client, server) = link.pair();
    let process = link.balance.process();
    let (before, descriptors) = (process.resident(), process.descriptors());
    // The longest request that is accepted.
    let mut request = DRAIN.as_bytes().to_vec();
    request.resize(MIB as usize - 1, b' ');
    request.push(b'\n');
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let mut stream =
                UnixStream::connect(dir.file(link.balance.address(), "sock")).expect("connecting");
            stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
            stream.write_all(&request).expect("the request");
            stream
        })
        .collect();
    eventually(TIMEOUT, "all wait", || match process.descriptors() - descriptors {
        WAITING => Ok(()),
        now => Err(format!("{now} do")),
    });
    // A reply proves that all requests before it were read.
    assert_eq!(dir.show(link.balance.address())[0].current, 1);
    let growth = process.resident().saturating_sub(before);
    assert!(growth <= 32 * MIB, "{growth} bytes more");
    drop((client, server));
    for stream in waiting {
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).expect("the reply");
        assert_eq!(reply, "{\"connections\":0}\n");
    }
}

/// A program without `--run-dir`, in a mount namespace with an empty `/run`.
fn with_empty_run(prepare: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("mount -t tmpfs none /run; {prepare}; exec \"$0\" \"$@\"");
    command.args(["--mount", "sh", "-e", "-c", &script]).arg(binary());
    command.args(["-f", "--datapath", "relay", "-b", "127.0.0.1"]);
    command
}

#[test]
fn the_default_run_directory_is_private_or_not_used() {
    if !Uid::effective().is_root() {
        return skip("the default directory of root needs root");
    }
    for prepare in ["true", "mkdir -m 1777 /run/balance", "mkdir -m 0775 /run/balance"] {
        let port = ReservedPort::new();
        let mut command = with_empty_run(prepare);
        let program = KillOnDrop(command.arg(port.port().to_string()).spawn().expect("unshare"));
        let run = PathBuf::from(format!("/proc/{}/root/run/balance", program.0.id()));
        let pid_file = run.join(format!("balance.{}.127.0.0.1.pid", port.port()));
        eventually(TIMEOUT, "the program serves", || match fs::exists(&pid_file) {
            Ok(true) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let mode = fs::metadata(&run).expect("the directory").permissions().mode();
        assert_eq!(mode & 0o7022, 0, "{prepare}: {mode:o}");
    }
    for prepare in [
        "mkdir -m 0777 /run/balance; chown nobody /run/balance",
        "mkdir -m 0700 /run/other; ln -s other /run/balance",
    ] {
        let port = ReservedPort::new();
        let mut command = with_empty_run(prepare);
        command.arg(port.port().to_string());
        let folder = assert_serves_without_socket(&mut command, |program| {
            PathBuf::from(format!("/proc/{program}/root/run/balance"))
        });
        assert!(folder.is_empty(), "{prepare}: {folder:?}");
    }
}

/// Asserts that a program serves and warns that it has no control socket; returns the content of
/// its run directory.
fn assert_serves_without_socket(
    command: &mut Command,
    folder: impl FnOnce(u32) -> PathBuf,
) -> Vec<PathBuf> {
    let mut program = KillOnDrop(command.stderr(Stdio::piped()).spawn().expect("the program"));
    let log = BufReader::new(program.0.stderr.take().expect("piped"));
    let mut lines = log.lines().map(|line| line.expect("a line"));
    let warning = lines.next().expect("a warning");
    assert!(warning.contains("cannot create the control socket"), "{warning}");
    assert!(lines.any(|line| line.contains("ready")), "{warning}");
    let entries = fs::read_dir(folder(program.0.id())).expect("the directory").flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn the_default_run_directory_of_a_session_is_private_or_not_used() {
    let session = tempfile::tempdir().expect("a temporary folder");
    set_mode(session.path(), 0o755);
    let own = session.path().join("balance");
    fs::create_dir(&own).expect("mkdir");
    let Some(nobody) = OtherUser::new(NOBODY, &[]) else { return };
    let program = nobody.program();
    let start = || {
        let builder = Builder::auto().quiet().binary(&program).user(NOBODY);
        let (mut command, port, address) = builder.operand("127.0.0.1:9").command();
        command.env("XDG_RUNTIME_DIR", session.path());
        (command, port, address)
    };
    set_mode(&own, 0o777);
    let (mut command, _port, _) = start();
    let left = assert_serves_without_socket(&mut command, |_| own.clone());
    assert!(left.is_empty(), "{left:?}");

    chown(&own, Some(NOBODY), Some(NOBODY)).expect("chown");
    let (mut command, _port, address) = start();
    let _program = KillOnDrop(command.spawn().expect("the program"));
    let pid_file = own.join(format!("balance.{}.{}.pid", address.port(), address.ip()));
    eventually(TIMEOUT, "the program serves", || match fs::exists(&pid_file) {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(fs::metadata(&own).expect("the directory").permissions().mode() & 0o7777, 0o755);
}
