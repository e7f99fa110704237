//! The protocols between a service manager and balance: sd_notify(3), and listeners that existed
//! before the program (sd_listen_fds(3)).

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tests::{
    Backend, KillOnDrop, ReservedPort, Service, TIMEOUT, ask, binary, connect, eventually, finish,
    is_listening, skip,
};

/// A service manager's notify socket. Its thread reads all the time, because the socket holds few
/// messages and a full socket blocks the sender.
struct Manager {
    dir: TempDir,
    messages: Receiver<String>,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len) = socket.recv(&mut bytes)
                && sender.send(String::from_utf8_lossy(&bytes[..len]).into_owned()).is_ok()
            {
            }
        });
        Self { dir, messages }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("notify")
    }

    /// Waits for messages up to the first with `wanted` in a line; returns them.
    fn until(&self, wanted: &str) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            let text = self.messages.recv_timeout(TIMEOUT).unwrap_or_else(|error| {
                panic!("{error}: no {wanted} among {messages:?}");
            });
            let found = text.lines().any(|line| line.contains(wanted));
            messages.push(text);
            if found {
                return messages;
            }
        }
    }
}

fn term(child: &Child) {
    let pid = i32::try_from(child.id()).expect("a process id");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("sending a signal");
}

#[test]
fn a_manager_is_notified_of_start_reload_and_stop() {
    let a = Backend::echo("A");
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let line = |port: &ReservedPort| format!("-b 127.0.0.1 {} {}\n", port.port(), a.address());
    let service = Service::new(&line(&one));
    let manager = Manager::new();
    // Without -f: NOTIFY_SOCKET is set, so the supervisor stays in the foreground.
    let mut command = service.command(&["start"]);
    command.env("NOTIFY_SOCKET", manager.path()).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = KillOnDrop(command.spawn().expect("starting balance"));
    manager.until("READY=1");
    // The instance serves by now.
    let mut stream = connect(one.address());
    stream.read_exact(&mut [0]).expect("the server's name");
    manager.until("STATUS=1 of 1 instances serve, 1 connection");

    // A restart is not reported as STOPPING, because the manager would start its stop timeout.
    drop(stream);
    manager.until("STATUS=1 of 1 instances serve, 0 connections");
    assert_eq!(service.run_ok(&["restart"]), "balance is restarted\n");
    let messages = manager.until("READY=1");
    assert!(!messages.concat().contains("STOPPING"), "{messages:?}");
    let mut stream = connect(one.address());
    stream.read_exact(&mut [0]).expect("the server's name");
    manager.until("STATUS=1 of 1 instances serve, 1 connection");

    service.write(&(line(&one) + &line(&two)));
    service.run_ok(&["reload"]);
    let messages = manager.until("READY=1");
    let reloading = messages.iter().find(|text| text.contains("RELOADING=1"));
    assert!(reloading.is_some_and(|text| text.contains("MONOTONIC_USEC=")), "{messages:?}");
    assert!(is_listening(two.port()));
    manager.until("STATUS=2 of 2 instances serve, 1 connection");

    term(&child.0);
    manager.until("STOPPING=1");
    manager.until("STATUS=stopping, waiting for 1 connection");
    manager.until("EXTEND_TIMEOUT_USEC=10000000");
    stream.write_all(b"?").expect("a byte to the server");
    stream.read_exact(&mut [0]).expect("a byte from the server");
    drop(stream);
    assert_eq!(finish(&mut child.0, TIMEOUT, "the supervisor").code(), Some(0));
}

#[test]
fn the_watchdog_is_fed_unless_the_server_process_hangs() {
    let a = Backend::echo("A");
    let port = ReservedPort::new();
    let service = Service::new(&format!("-b 127.0.0.1 {} {}\n", port.port(), a.address()));
    let manager = Manager::new();
    let mut command = service.command(&["start"]);
    command.env("NOTIFY_SOCKET", manager.path()).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = KillOnDrop(command.spawn().expect("starting balance"));
    manager.until("READY=1");
    manager.until("WATCHDOG=1");

    // Connections that end at a restart.
    let stream = connect(port.address());
    manager.until("STATUS=1 of 1 instances serve, 1 connection");
    thread::scope(|scope| {
        let restart = scope.spawn(|| service.run_ok(&["restart"]));
        manager.until("STATUS=stopping, waiting for 1 connection");
        // The first message may have been on its way.
        let messages = [manager.until("WATCHDOG=1"), manager.until("WATCHDOG=1")].concat();
        assert!(!messages.concat().contains("READY"), "{messages:?}");
        drop(stream);
        restart.join().expect("no panic");
    });
    manager.until("READY=1");
    manager.until("WATCHDOG=1");

    // The new program of an upgrade.
    service.run_ok(&["upgrade"]);
    manager.until("RELOADING=1");
    manager.until("READY=1");
    manager.until("WATCHDOG=1");

    // A process that hangs, until it is killed.
    let pid = Pid::from_raw(service.status()[0].pid.expect("a process"));
    kill(pid, Signal::SIGSTOP).expect("the process runs");
    service.status_when("the process hangs", |rows| rows[0].state == "hung");
    while manager.messages.try_recv().is_ok() {}
    manager.until("WATCHDOG=1");
    assert_eq!(kill(pid, None), Err(Errno::ESRCH), "the watchdog was fed while a process hung");
    service.status_when("another process serves", |rows| rows[0].state == "running");
    term(&child.0);
    assert_eq!(finish(&mut child.0, TIMEOUT, "the supervisor").code(), Some(0));
}

#[test]
fn a_single_instance_notifies_a_manager() {
    let a = Backend::echo("A");
    let port = ReservedPort::new();
    let manager = Manager::new();
    let start = |servers: &str| {
        let mut command = Command::new(binary());
        command.env("NOTIFY_SOCKET", manager.path()).stdin(Stdio::null()).stderr(Stdio::null());
        command.args(["--run-dir"]).arg(manager.dir.path());
        command.args(["-b", "127.0.0.1", &port.port().to_string(), servers]);
        KillOnDrop(command.spawn().expect("starting balance"))
    };
    let mut child = start(&a.address().to_string());
    manager.until("READY=1");
    let _stream = connect(port.address());
    manager.until("1 of 1 channels up, 1 connection");
    term(&child.0);
    manager.until("STOPPING=1");
    term(&child.0);
    assert_eq!(finish(&mut child.0, TIMEOUT, "the instance").code(), Some(0));

    let mut child = start("a.invalid");
    manager.until("STATUS=cannot resolve [a.invalid]");
    assert_eq!(finish(&mut child.0, TIMEOUT, "the instance").code(), Some(65));
}

/// systemd's tool that listens and starts a program at the first connection.
const ACTIVATE: &str = "/usr/bin/systemd-socket-activate";

fn activator() -> bool {
    let is_there = std::path::Path::new(ACTIVATE).exists();
    if !is_there {
        skip(&format!("{ACTIVATE} is missing"));
    }
    is_there
}

/// Starts the tool, which starts a program at the first connection to the port.
fn activate(port: &ReservedPort, words: &[&str]) -> KillOnDrop<Child> {
    let mut command = Command::new(ACTIVATE);
    command.arg("-l").arg(port.address().to_string()).arg(binary()).args(words);
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("the activator");
    let child = KillOnDrop(child);
    eventually(TIMEOUT, "the program listens", || match is_listening(port.port()) {
        true => Ok(()),
        false => Err("not yet".to_owned()),
    });
    child
}

#[test]
fn an_instance_takes_a_passed_socket() {
    if !activator() {
        return;
    }
    let a = Backend::greeter("A");
    let (port, number) = (ReservedPort::new(), a.address().to_string());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run_dir = dir.path().to_str().expect("a path in UTF-8");
    let own = port.port().to_string();
    let words = ["-f", "--run-dir", run_dir, "-b", "127.0.0.1", &own, &number];
    let mut child = activate(&port, &words);
    // The first client triggers the start.
    for _ in 0..4 {
        assert_eq!(ask(port.address()).expect("an answer"), "A");
    }
    term(&child.0);
    assert_eq!(finish(&mut child.0, TIMEOUT, "the instance").code(), Some(0));

    // A passed socket that matches no listener is reported.
    let other = ReservedPort::new();
    let mut child = activate(&other, &words);
    let _ = std::net::TcpStream::connect(other.address());
    assert_eq!(finish(&mut child.0, TIMEOUT, "the instance").code(), Some(71));
}

#[test]
fn a_supervisor_passes_the_sockets_of_the_manager_on() {
    if !activator() {
        return;
    }
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let line = |port: &ReservedPort, server: &Backend| {
        format!("-b 127.0.0.1 {} {}\n", port.port(), server.address())
    };
    let service = Service::new(&(line(&one, &a) + &line(&two, &b)));
    let (config, run_dir) = (service.file(), service.run_dir());
    let path = |path: &PathBuf| path.to_str().expect("a path in UTF-8").to_owned();
    let (config, run_dir) = (path(&config), path(&run_dir));
    let words = ["start", "-f", "--config", &config, "--run-dir", &run_dir];
    let mut child = activate(&one, &words);
    assert_eq!(ask(one.address()).expect("an answer"), "A");
    let rows =
        service.status_when("both run", |rows| rows.iter().all(|row| row.state == "running"));
    assert_eq!(ask(two.address()).expect("an answer"), "B");
    // The listener survives each process that accepts from it.
    let pid = rows[0].pid.expect("a process");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("sending a signal");
    service.status_when("another accepts", |rows| {
        rows[0].state == "running" && rows[0].pid != Some(pid)
    });
    assert_eq!(ask(one.address()).expect("an answer"), "A");
    // The listener also survives a restart, and a reload whose file lacks its line for a while.
    assert_eq!(service.run_ok(&["restart"]), "balance is restarted\n");
    assert_eq!(ask(one.address()).expect("an answer"), "A");
    service.write(&line(&two, &b));
    service.run_ok(&["reload"]);
    service.write(&(line(&one, &a) + &line(&two, &b)));
    service.run_ok(&["reload"]);
    assert_eq!(ask(one.address()).expect("an answer"), "A");
    term(&child.0);
    assert_eq!(finish(&mut child.0, TIMEOUT, "the supervisor").code(), Some(0));
}
