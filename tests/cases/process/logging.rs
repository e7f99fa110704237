//! A log that cannot be written does not stop the program.

use std::{
    io::{self, BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use tests::{
    Backend, Builder, DaemonGuard, End, Event, KillOnDrop, ReservedPort, RunDir, Service, Syslog,
    TIMEOUT, WHOLE_CHUNKS, ask, binary, both_ways, connect, end_of, eventually, finish, full_pipe,
    listen, run, skip,
};

#[test]
fn clients_are_served_when_the_log_is_closed() {
    let port = ReservedPort::new();
    let mut program = KillOnDrop(
        Command::new(binary())
            .args(["-f", "-d", "-b", "127.0.0.1", "--workers", "1"])
            .arg(port.port().to_string())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program"),
    );
    let mut log = BufReader::new(program.0.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(log.read_line(&mut line).expect("a line"), 0, "the program has exited");
    }
    drop(log);
    // Without a server the program logs each client and then closes it cleanly. There are more
    // clients than pending accepts.
    for _ in 0..40 {
        let mut client = connect(([127, 0, 0, 1], port.port()).into());
        assert!(matches!(end_of(&mut client), End::Clean), "a client was reset");
    }
}

/// Waits without reading the log.
fn wait_until_it_serves(address: SocketAddr) {
    let connected = || TcpStream::connect(address).map_err(|error| error.to_string());
    drop(eventually(TIMEOUT, "the program serves", connected));
    assert_eq!(ask(address).expect("the program serves"), "A");
}

/// Number of requests whose log lines exceed the log's queue.
const REQUESTS: usize = 24;

/// Length of the host name in each request.
const HOST_LENGTH: usize = 100_000;

#[test]
fn a_full_pipe_stalls_nothing_and_lost_lines_are_counted() {
    let (server, dir) = (Backend::greeter("A"), RunDir::new());
    let builder = dir.use_in(Builder::auto().channel(server.address()));
    let (mut command, _port, address) = builder.command();
    let (reader, writer) = full_pipe();
    let mut program = KillOnDrop(command.stderr(writer).spawn().expect("the program"));
    drop(command);
    wait_until_it_serves(address);
    let stats = || dir.ask(address, &serde_json::json!("stats"))["stats"].take();
    assert_eq!(stats()["log_lines_lost"], 0);
    for _ in 0..REQUESTS {
        let host = "x".repeat(HOST_LENGTH);
        let create = serde_json::json!({"create": {"group": 0, "host": host, "port": "1"}});
        dir.ask(address, &create);
        assert_eq!(ask(address).expect("the program still serves"), "A");
    }
    assert_ne!(stats()["log_lines_lost"], 0);
    let follow = thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map_while(Result::ok);
        lines.filter_map(|line| Event::parse(&line)).collect::<Vec<_>>()
    });
    // The log ends when the program exits.
    kill(Pid::from_raw(program.0.id().cast_signed()), Signal::SIGINT).expect("a signal");
    assert_eq!(finish(&mut program.0, TIMEOUT, "the program").code(), Some(0));
    let events = follow.join().expect("the reader");
    let message = "log lines lost because the log was not read";
    let lost = events.iter().find(|event| event.message == message);
    assert!(lost.is_some_and(|event| event.number("lost") > 0), "{} lines", events.len());
    assert!(events.iter().any(|event| event.message == "ready"), "the first lines are kept");
}

#[test]
fn a_program_whose_log_is_never_read_still_stops() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let server = Backend::greeter("A");
        let (mut command, _port, address) = Builder::auto().channel(server.address()).command();
        let (_reader, writer) = full_pipe();
        let mut program = KillOnDrop(command.stderr(writer).spawn().expect("the program"));
        wait_until_it_serves(address);
        kill(Pid::from_raw(program.0.id().cast_signed()), signal).expect("a signal");
        assert_eq!(finish(&mut program.0, TIMEOUT, "the program").code(), Some(0), "{signal}");
    }
}

#[test]
fn a_program_that_cannot_start_exits_when_its_log_is_not_read() {
    let (_reader, writer) = full_pipe();
    let mut command = Command::new(binary());
    command.args(["-f", "-b", "192.0.2.1", "1"]).stderr(writer);
    let mut program = KillOnDrop(command.spawn().expect("the program"));
    assert_eq!(finish(&mut program.0, TIMEOUT, "the program").code(), Some(71));
}

#[test]
fn a_dump_that_is_not_read_stalls_no_connection() {
    let server = listen(([127, 0, 0, 1], 0).into());
    let (reader, writer) = full_pipe();
    let dir = RunDir::new();
    let builder = dir.use_in(Builder::auto()).option(&["-p"]);
    let builder = builder.channel(server.local_addr().expect("getsockname"));
    let (mut command, _port, address) = builder.command();
    command.stdout(writer).stderr(Stdio::null());
    let _program = KillOnDrop(command.spawn().expect("the program"));
    eventually(TIMEOUT, "the program serves", || match dir.file(address, "sock").exists() {
        true => Ok(()),
        false => Err("no control socket".to_owned()),
    });
    let client = connect(address);
    let (other, _) = server.accept().expect("accept");
    both_ways(&client, &other, (4 << 20, 4 << 20), WHOLE_CHUNKS);
    drop(reader);
    both_ways(&client, &other, (1000, 1000), WHOLE_CHUNKS);
}

#[test]
fn a_supervisor_whose_log_is_not_read_answers_and_its_instances_serve() {
    let (server, port) = (Backend::greeter("A"), ReservedPort::new());
    let text = |more| format!("-b 127.0.0.1 {} {}{more}\n", port.port(), server.address());
    let service = Service::new(&text(""));
    let (_reader, writer) = full_pipe();
    let mut supervisor = KillOnDrop(service.foreground(|command| {
        command.stderr(writer).stdout(Stdio::null());
    }));
    let is_running = |rows: &[tests::InstanceStatus]| rows.iter().all(|row| row.state == "running");
    eventually(TIMEOUT, "the supervisor answers", || {
        match service.run(&["status"]).status.code() {
            Some(0) => Ok(()),
            code => Err(format!("{code:?}")),
        }
    });
    for more in [" -t 7", " -B 127.0.0.1", " -t 8"] {
        service.write(&text(more));
        assert_eq!(service.run(&["reload"]).status.code(), Some(0), "{more}");
        service.status_when("the instance runs", is_running);
        assert_eq!(ask(port.address()).expect("the program serves"), "A");
    }
    assert_eq!(service.run(&["stop"]).status.code(), Some(0));
    assert_eq!(finish(&mut supervisor.0, TIMEOUT, "the supervisor").code(), Some(0));
}

#[test]
fn a_syslog_that_does_not_read_stalls_nothing() {
    if !Uid::effective().is_root() {
        return skip("a syslog of its own needs root");
    }
    let (server, dir, syslog) = (Backend::greeter("A"), RunDir::new(), Syslog::new());
    // Fills the receive queue of the socket before the program uses it.
    let filler = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("O_NONBLOCK");
    let path = syslog.socket.local_addr().expect("getsockname");
    let path = path.as_pathname().expect("a path").to_owned();
    let full = loop {
        if let Err(error) = filler.send_to(b"x", &path) {
            break error;
        }
    };
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    let builder = dir.use_in(Builder::auto().text().background().channel(server.address()));
    let (command, _port, address) = builder.command();
    let _guard = DaemonGuard(&dir);
    let outcome = run(&mut syslog.in_front_of(&command), TIMEOUT);
    assert!(outcome.status.success(), "{outcome:?}");
    for _ in 0..100 {
        assert_eq!(ask(address).expect("the program serves"), "A");
    }
    for pid in dir.processes() {
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("a signal");
    }
    eventually(TIMEOUT, "the process exits", || match dir.processes() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}
