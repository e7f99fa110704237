//! Processes of a service are replaced under load: by upgrades, and after each of them was killed.
//!
//! 500 clients a second connect, and idle connections stay open. No client is refused. An upgrade
//! cuts no connection. `REPLACEMENTS` sets the number of each kind.

use std::{
    env,
    fs::{self, Permissions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tests::{
    Backend, Datapath, End, Outcome, ReservedPort, Service, SetOnDrop, TIMEOUT, binary, connect,
    end_of, eventually, note, run,
};

/// Threads with clients.
const THREADS: u32 = 10;

/// Clients a second of all threads.
const RATE: u32 = 500;

/// Connections that stay open.
const IDLE: usize = 50;

/// A process that has served this long is replaced at once when it ends.
const HEALTHY_RUN: Duration = Duration::from_secs(5);

/// What clients saw.
#[derive(Debug, Default)]
struct Seen {
    visits: usize,
    /// Errors of connects.
    refused: Vec<String>,
    /// Errors after connects.
    cut: Vec<String>,
    slowest_connect: Duration,
    slowest_visit: Duration,
}

impl Seen {
    fn add(&mut self, address: SocketAddr) {
        let begun = Instant::now();
        self.visits += 1;
        let mut stream = match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => stream,
            Err(error) => return self.refused.push(error.to_string()),
        };
        self.slowest_connect = self.slowest_connect.max(begun.elapsed());
        if let Err(error) = visit(&mut stream) {
            self.cut.push(error.to_string());
        }
        self.slowest_visit = self.slowest_visit.max(begun.elapsed());
    }
}

/// Reads the name of the server, sends a line, reads it back, and reads the end.
fn visit(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.read_exact(&mut [0])?;
    stream.write_all(b"a line\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    if back == b"a line\n" { Ok(()) } else { Err(std::io::Error::other(format!("got {back:?}"))) }
}

/// Calls `act` while clients connect, and returns what they saw.
fn under_load(address: SocketAddr, act: impl FnOnce()) -> Seen {
    let (over, all) = (AtomicBool::new(false), Mutex::new(Seen::default()));
    thread::scope(|scope| {
        for i in 0..THREADS {
            let (over, all) = (&over, &all);
            scope.spawn(move || {
                let mut seen = Seen::default();
                let interval = Duration::from_secs(1) * THREADS / RATE;
                let mut next = Instant::now() + interval * i / THREADS;
                while !over.load(Relaxed) {
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                    next += interval;
                    seen.add(address);
                }
                let mut all = all.lock().expect("no panic");
                all.visits += seen.visits;
                all.refused.extend(seen.refused);
                all.cut.extend(seen.cut);
                all.slowest_connect = all.slowest_connect.max(seen.slowest_connect);
                all.slowest_visit = all.slowest_visit.max(seen.slowest_visit);
            });
        }
        let _over = SetOnDrop(&over);
        act();
    });
    all.into_inner().expect("no panic")
}

/// The number of replacements in a test.
fn replacements(default: usize) -> usize {
    let given = env::var("REPLACEMENTS").ok().map(|text| text.parse().expect("a number"));
    given.unwrap_or(default)
}

fn idle(address: SocketAddr) -> Vec<TcpStream> {
    let open = (0..IDLE).map(|_| {
        let mut stream = connect(address);
        stream.read_exact(&mut [0]).expect("the server's name");
        stream
    });
    open.collect()
}

fn assert_all_echo(idle: &mut [TcpStream]) {
    for stream in idle {
        stream.write_all(b"still here").expect("to the server");
        let mut back = [0; 10];
        stream.read_exact(&mut back).expect("from the server");
        assert_eq!(&back, b"still here");
    }
}

fn service(port: &ReservedPort, server: &Backend, datapath: Datapath) -> Service {
    Service::new(&format!(
        "--datapath {} -b 127.0.0.1 {} {}\n",
        datapath.name(),
        port.port(),
        server.address()
    ))
}

fn kill_process(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the process runs");
}

fn an_upgrade_refuses_and_cuts_nobody(datapath: Datapath) {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, datapath);
    service.run_ok(&["start"]);
    let supervisor = service.supervisor();
    let mut idle = idle(port.address());
    let count = replacements(4);
    let mut longest = Duration::ZERO;
    let seen = under_load(port.address(), || {
        for _ in 0..count {
            let before = service.status()[0].pid;
            let begun = Instant::now();
            let said = service.run_ok(&["upgrade"]);
            longest = longest.max(begun.elapsed());
            assert!(said.starts_with("balance is upgraded: version "), "{said}");
            let rows = service.status();
            assert_eq!(rows[0].state, "running");
            assert_ne!(rows[0].pid, before);
        }
    });
    assert_all_echo(&mut idle);
    note(&format!(
        "{count} upgrades on {}, the longest took {longest:?}: {seen:?}",
        datapath.name()
    ));
    assert!(seen.refused.is_empty() && seen.cut.is_empty(), "{seen:?}");
    assert!(seen.visits > 0);
    assert_eq!(service.supervisor(), supervisor, "the supervisor keeps its pid");
    drop(idle);
    service.status_when("the old processes have ended", |rows| rows.len() == 1);
    assert!(service.run_ok(&["stop"]).starts_with("balance is stopped"));
    service.assert_all_ended();
}

fn a_killed_supervisor_refuses_and_cuts_nobody(datapath: Datapath) {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, datapath);
    service.run_ok(&["start"]);
    let mut idle = idle(port.address());
    let count = replacements(3);
    let seen = under_load(port.address(), || {
        for _ in 0..count {
            let before = service.status()[0].pid;
            kill_process(service.supervisor());
            assert_eq!(service.run(&["status"]).status.code(), Some(1));
            assert_all_echo(&mut idle);
            assert_eq!(service.run_ok(&["start"]), "balance is started: 1 instance\n");
            let rows = service.status();
            assert_eq!(rows[0].state, "running");
            assert_ne!(rows[0].pid, before, "another process serves the lines of the file");
        }
    });
    assert_all_echo(&mut idle);
    note(&format!("{count} kills of the supervisor on {}: {seen:?}", datapath.name()));
    assert!(seen.refused.is_empty() && seen.cut.is_empty(), "{seen:?}");
    drop(idle);
    service.status_when("the old processes have ended", |rows| rows.len() == 1);
    service.run_ok(&["stop"]);
    service.assert_all_ended();
}

fn a_killed_server_process_refuses_nobody(datapath: Datapath) {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, datapath);
    service.run_ok(&["start"]);
    let count = replacements(2);
    let mut longest = Duration::ZERO;
    let mut started = Instant::now();
    let seen = under_load(port.address(), || {
        for _ in 0..count {
            thread::sleep(HEALTHY_RUN.saturating_sub(started.elapsed()));
            let pid = service.status()[0].pid.expect("a process");
            let begun = Instant::now();
            kill_process(pid);
            // The dying process may still accept a client, and then resets its connection.
            eventually(TIMEOUT, "a client is served", || served(port.address()));
            longest = longest.max(begun.elapsed());
            eventually(TIMEOUT, "another process serves", || match &service.status()[0] {
                row if row.state == "running" && row.pid != Some(pid) => Ok(()),
                row => Err(format!("{row:?}")),
            });
            started = Instant::now();
        }
    });
    note(&format!(
        "{count} kills of the server process on {}, served again within {longest:?}: {} visits, {} \
         cut, {seen:?}",
        datapath.name(),
        seen.visits,
        seen.cut.len(),
        seen = (seen.refused.len(), seen.slowest_connect, seen.slowest_visit),
    ));
    assert!(seen.refused.is_empty(), "{seen:?}");
    service.run_ok(&["stop"]);
}

fn served(address: SocketAddr) -> Result<(), String> {
    visit(&mut connect(address)).map_err(|error| error.to_string())
}

#[test]
fn an_upgrade_is_not_held_up_by_a_line_that_cannot_serve() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    // Another program listens there.
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let busy_port = busy.local_addr().expect("an address").port();
    let line = |port: u16| format!("-b 127.0.0.1 {port} {}\n", server.address());
    let service = Service::new(&(line(port.port()) + &line(busy_port)));
    assert_eq!(service.run(&["start"]).status.code(), Some(71));
    let before = service.status()[0].pid;
    let outcome = service.run(&["upgrade"]);
    // The failure of the line is told; the other line has a new process.
    assert_eq!(outcome.status.code(), Some(71), "{outcome:?}");
    assert!(outcome.stderr.contains(&format!("127.0.0.1:{busy_port}")), "{outcome:?}");
    let rows = service.status();
    assert!(rows[0].state == "running" && rows[0].pid != before, "{rows:?}");
    served(port.address()).expect("an echo");
    // As soon as the port is free, the line serves.
    drop(busy);
    service.status_when("both run", |rows| rows.iter().all(|row| row.state == "running"));
    service.run_ok(&["stop"]);
}

#[test]
fn an_upgrade_while_nothing_serves_keeps_the_supervisor() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, Datapath::Relay);
    service.run_ok(&["start"]);
    let mut open = connect(port.address());
    open.read_exact(&mut [0]).expect("the server's name");
    let mut kill = Command::new(binary());
    kill.args(["-b", "127.0.0.1", "-c", "kill", "--run-dir"]).arg(service.run_dir());
    assert!(run(kill.arg(port.port().to_string()), TIMEOUT).status.success());
    service.status_when("the instance is stopped", |rows| rows[0].state != "running");
    let supervisor = service.supervisor();
    service.run_ok(&["upgrade"]);
    assert_eq!(service.supervisor(), supervisor);
    assert_all_echo(std::slice::from_mut(&mut open));
    assert_eq!(service.status()[0].state, "stopped", "an operator stopped it");
    // A reload starts it.
    service.run_ok(&["reload"]);
    served(port.address()).expect("an echo");
    drop(open);
    service.run_ok(&["stop"]);
}

#[test]
fn the_supervisor_answers_while_addresses_are_in_use() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let busy: Vec<_> =
        (0..20).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a listener")).collect();
    let ports = busy.iter().map(|it| it.local_addr().expect("an address").port());
    let lines = [port.port()].into_iter().chain(ports);
    let lines: Vec<_> =
        lines.map(|port| format!("-b 127.0.0.1 {port} {}\n", server.address())).collect();
    let service = Service::new(&lines.concat());
    let begun = Instant::now();
    assert_eq!(service.run(&["start"]).status.code(), Some(71));
    // Each waits 2 s for its address, beside the others.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    // Every line is tried again within 4 s.
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        assert_eq!(service.status()[0].state, "running");
        slowest = slowest.max(asked.elapsed());
    }
    note(&format!("the slowest status took {slowest:?}"));
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    service.run_ok(&["stop"]);
}

#[test]
fn a_process_that_is_suspended_without_a_supervisor_is_not_lost() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, Datapath::Relay);
    service.run_ok(&["start"]);
    let mut open = connect(port.address());
    open.read_exact(&mut [0]).expect("the server's name");
    let process = Pid::from_raw(service.status()[0].pid.expect("a process"));
    kill_process(service.supervisor());
    kill(process, Signal::SIGSTOP).expect("the process runs");
    for verb in ["start", "stop"] {
        let outcome = service.run(&[verb]);
        assert_eq!(outcome.status.code(), Some(75), "{outcome:?}");
        assert!(outcome.stderr.contains("does not reply, it may be stopped"), "{outcome:?}");
    }
    // Many requests of its state do not block either.
    for _ in 0..200 {
        assert_eq!(service.run(&["status"]).status.code(), Some(1));
    }
    kill(process, Signal::SIGCONT).expect("the process runs");
    assert_all_echo(std::slice::from_mut(&mut open));
    service.run_ok(&["start"]);
    assert_all_echo(std::slice::from_mut(&mut open));
    drop(open);
    service.run_ok(&["stop"]);
    service.assert_all_ended();
}

#[test]
fn a_supervisor_with_relative_paths_is_upgraded() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, Datapath::Relay);
    let mut start = Command::new(binary());
    start.args(["start", "--config", "balance.conf", "--run-dir", "run"]);
    let folder = service.file().parent().expect("a folder").to_owned();
    let outcome = run(start.current_dir(folder), TIMEOUT);
    assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
    let before = service.status()[0].pid;
    // Twice: the arguments of the process stay as they were.
    for _ in 0..2 {
        service.run_ok(&["upgrade"]);
    }
    let after = service.status();
    assert!(after[0].state == "running" && after[0].pid != before, "{after:?}");
    service.run_ok(&["stop"]);
    service.assert_all_ended();
}

#[test]
fn a_supervisor_that_a_restart_has_started_is_upgraded() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, Datapath::Relay);
    service.run_ok(&["start"]);
    service.run_ok(&["restart"]);
    let (supervisor, before) = (service.supervisor(), service.status()[0].pid);
    for _ in 0..2 {
        let said = service.run_ok(&["upgrade"]);
        assert!(said.starts_with("balance is upgraded: version "), "{said}");
    }
    assert_eq!(service.supervisor(), supervisor);
    assert_ne!(service.status()[0].pid, before);
    served(port.address()).expect("an echo");
    service.run_ok(&["stop"]);
    service.assert_all_ended();
}

#[test]
fn a_replaced_process_drains_until_its_timeout() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let text =
        |options: &str| format!("{options} -b 127.0.0.1 {} {}\n", port.port(), server.address());
    let service = Service::new(&text("--datapath relay"));
    service.run_ok(&["start"]);
    let mut stays = connect(port.address());
    stays.read_exact(&mut [0]).expect("the server's name");
    let old = service.status()[0].pid.expect("a process");
    service.run_ok(&["upgrade"]);
    let outcome = service.run(&["status"]);
    let line = format!("process {old} (version {}) has drained for ", env!("CARGO_PKG_VERSION"));
    assert!(outcome.stdout.contains(&line), "{outcome:?}");
    assert!(outcome.stdout.contains(" s, 1 connection left"), "{outcome:?}");
    // Without a timeout the connection continues; with one it ends.
    let mut ends = connect(port.address());
    ends.read_exact(&mut [0]).expect("the server's name");
    service.write(&text("--datapath relay --drain-timeout 1"));
    service.run_ok(&["reload"]);
    service.run_ok(&["upgrade"]);
    assert_eq!(end_of(&mut ends), End::Reset);
    assert_all_echo(std::slice::from_mut(&mut stays));
    drop(stays);
    service.status_when("one process remains", |rows| rows.len() == 1);
    service.run_ok(&["stop"]);
}

/// A copy of the program, which a test can replace as a package does.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Self {
        let installed = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        installed.install(&fs::read(binary()).expect("the program"));
        installed
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("balance")
    }

    /// Puts another program in the place of the present one.
    fn install(&self, program: &[u8]) {
        let next = self.folder.path().join("balance.new");
        fs::write(&next, program).expect("writing a temporary file");
        fs::set_permissions(&next, Permissions::from_mode(0o755)).expect("changing the mode");
        fs::rename(next, self.path()).expect("renaming a temporary file");
    }

    fn run(&self, service: &Service, verb: &str) -> Outcome {
        let command = service.command(&[verb]);
        let mut own = Command::new(self.path());
        own.args(command.get_args());
        run(&mut own, TIMEOUT)
    }
}

#[test]
fn a_reload_upgrades_if_the_program_on_the_disk_is_another_one() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, Datapath::Relay);
    let installed = Installed::new();
    assert_eq!(installed.run(&service, "start").status.code(), Some(0));
    let (supervisor, before) = (service.supervisor(), service.status()[0].pid);
    assert_eq!(service.run_ok(&["reload"]), "balance is reloaded: nothing has changed\n");
    assert_eq!(service.status()[0].pid, before);
    installed.install(&fs::read(binary()).expect("the program"));
    let said = service.run_ok(&["reload"]);
    assert!(said.contains("balance is upgraded: version "), "{said}");
    assert_ne!(service.status()[0].pid, before);
    assert_eq!(service.supervisor(), supervisor);
    // The program is up to date now.
    assert_eq!(service.run_ok(&["reload"]), "balance is reloaded: nothing has changed\n");
    // The signal does the same as the verb.
    let before = service.status()[0].pid;
    kill(Pid::from_raw(supervisor), Signal::SIGUSR2).expect("the supervisor runs");
    service.status_when("another process serves", |rows| rows.len() == 1 && rows[0].pid != before);
    service.run_ok(&["stop"]);
}

#[test]
fn a_moved_program_is_replaced_by_the_program_at_its_path() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, Datapath::Relay);
    let installed = Installed::new();
    assert_eq!(installed.run(&service, "start").status.code(), Some(0));
    fs::rename(installed.path(), installed.folder.path().join("balance.old")).expect("a rename");
    installed.install(&fs::read(binary()).expect("the program"));
    let said = service.run_ok(&["reload"]);
    assert!(said.contains("balance is upgraded: version "), "{said}");
    let program = fs::read_link(format!("/proc/{}/exe", service.supervisor())).expect("a program");
    assert_eq!(program, installed.path());
    service.run_ok(&["stop"]);
}

#[test]
fn a_reload_waits_for_the_check_of_an_upgrade() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, Datapath::Relay);
    let installed = Installed::new();
    assert_eq!(installed.run(&service, "start").status.code(), Some(0));
    let (begun, go_on) =
        (installed.folder.path().join("begun"), installed.folder.path().join("go"));
    let script = format!(
        "#!/bin/sh\n: > {}\nwhile [ ! -e {} ]; do sleep 0.05; done\nexit 3\n",
        begun.display(),
        go_on.display()
    );
    installed.install(script.as_bytes());
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| service.run(&["upgrade"]));
        eventually(TIMEOUT, "the check has begun", || match begun.exists() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
        let reload = scope.spawn(|| service.run(&["reload"]));
        eventually(TIMEOUT, "the reload waits", || match service.connected_verbs() {
            2 => Ok(()),
            other => Err(format!("{other} verbs")),
        });
        installed.install(&fs::read(binary()).expect("the program"));
        fs::write(&go_on, "").expect("a file");
        let (upgrade, reload) =
            (upgrade.join().expect("no panic"), reload.join().expect("no panic"));
        assert_eq!(upgrade.status.code(), Some(3), "{upgrade:?}");
        assert_eq!(reload.status.code(), Some(0), "{reload:?}");
        assert!(reload.stdout.contains("balance is upgraded: version "), "{reload:?}");
    });
    service.run_ok(&["stop"]);
}

#[test]
fn a_program_that_does_not_start_changes_nothing() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, Datapath::Relay);
    let installed = Installed::new();
    assert_eq!(installed.run(&service, "start").status.code(), Some(0));
    let before = (service.supervisor(), service.status());
    for (program, code, reason) in [
        (&b"no program"[..], 127, ": not found\n"),
        (b"#!/bin/sh\necho broken >&2; exit 3\n", 3, "broken\n"),
        (b"#!/bin/sh\nkill -9 $$\n", 78, "ended its check: signal: 9"),
    ] {
        installed.install(program);
        for verb in ["upgrade", "reload"] {
            let outcome = service.run(&[verb]);
            assert_eq!(outcome.status.code(), Some(code), "{outcome:?}");
            assert!(outcome.stderr.contains(reason), "{outcome:?}");
        }
        assert_eq!((service.supervisor(), service.status()), before);
    }
    // A program that ends after it has found no mistake takes the supervisor with it, and nothing
    // else.
    installed.install(b"#!/bin/sh\n[ \"$1\" = check ]\n");
    let outcome = service.run(&["upgrade"]);
    assert_eq!(outcome.status.code(), Some(69), "{outcome:?}");
    assert!(outcome.stderr.contains("the server process still serves"), "{outcome:?}");
    served(port.address()).expect("an echo");
    service.run_ok(&["start"]);
    service.run_ok(&["stop"]);
    service.assert_all_ended();
}

/// Passes lines between a client and the supervisor on. The supervisor gets the word `weight`, which
/// it does not know, in place of `upgrade`.
fn pass_on_without_upgrades(client: UnixStream, supervisor: &Path) {
    let other = UnixStream::connect(supervisor).expect("the control socket");
    let streams = [&client, &other].map(|stream| BufReader::new(stream.try_clone().expect("dup")));
    let [mut from_client, mut from_other] = streams;
    loop {
        let mut line = String::new();
        if !from_client.read_line(&mut line).is_ok_and(|len| len > 0) {
            return;
        }
        let line = line.replace("upgrade", "weight");
        (&other).write_all(line.as_bytes()).expect("to the supervisor");
        let mut reply = String::new();
        from_other.read_line(&mut reply).expect("from the supervisor");
        (&client).write_all(reply.as_bytes()).expect("to the client");
    }
}

#[test]
fn a_running_program_that_knows_no_upgrades_is_left_alone() {
    let (server, port) = (Backend::echo("A"), ReservedPort::new());
    let service = service(&port, &server, Datapath::Relay);
    service.run_ok(&["start"]);
    let before = service.status();
    let socket = service.file_of_supervisor("sock");
    let moved = socket.with_extension("moved");
    fs::rename(&socket, &moved).expect("moving the control socket");
    let listener = UnixListener::bind(&socket).expect("a socket in its place");
    let moved_socket = moved.clone();
    let proxy = thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        pass_on_without_upgrades(client, &moved_socket);
    });
    let outcome = service.run(&["upgrade"]);
    proxy.join().expect("no panic");
    fs::rename(&moved, &socket).expect("moving the control socket");
    let expected = "the running balance is too old for an upgrade: restart it\n";
    assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(65), expected), "{outcome:?}");
    assert_eq!(service.status(), before);
    service.run_ok(&["stop"]);
}

tests::on_each_datapath! {
    a_killed_server_process_refuses_nobody,
    a_killed_supervisor_refuses_and_cuts_nobody,
    an_upgrade_refuses_and_cuts_nobody,
}
