//! No byte of a connection gets into a log, at any level and destination, except by `-p`.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command},
    sync::mpsc,
    thread,
};

use nix::unistd::Uid;
use tests::{
    Builder, DaemonGuard, Datapath, End, KillOnDrop, RunDir, Syslog, TIMEOUT, accept, connect,
    end_of, eventually, listen, on_each_datapath, reset, run, skip,
};

/// Payload of the client and of the server.
const SECRETS: [&str; 2] = ["xyzzyPasswordOfTheClient", "plughAnswerOfTheServer"];

/// The most verbose level, which includes the log of libraries.
const EVERYTHING: &str = "trace,trace";

/// How often each payload is sent on a connection: enough for every datapath to take over.
const TIMES: usize = 40;

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Clean,
    ResetByClient,
    ResetByServer,
}

fn no_byte_is_logged(datapath: Datapath) {
    for (name, builder, level) in [
        ("-d, JSON", Builder::new(datapath), None),
        ("-d, text", Builder::new(datapath).text(), None),
        ("everything", Builder::new(datapath).quiet().text(), Some(EVERYTHING)),
    ] {
        let server = listen((Ipv4Addr::LOCALHOST, 0).into());
        let builder = builder.channel(server.local_addr().expect("getsockname"));
        let (mut command, _port, address) = builder.command();
        command.envs(level.map(|level| ("BALANCE_LOG", level)));
        let program = Logged::start(command);
        use_connections(&server, || connect(address));
        // The last log line about a connection follows its end.
        program.wait_for("backend reset", 1);
        let (out, err) = program.end();
        assert_eq!(out, "", "{name}");
        assert!(err.contains("DEBUG") || err.contains("TRACE"), "{name}: {err}");
        assert_has_no_secret(&err, name);
    }
}

on_each_datapath!(no_byte_is_logged);

#[test]
fn a_dump_shows_all_bytes_and_the_log_none() {
    let server = listen((Ipv4Addr::LOCALHOST, 0).into());
    let builder = Builder::auto().option(&["-p"]);
    let builder = builder.channel(server.local_addr().expect("getsockname"));
    let (command, _port, address) = builder.command();
    let program = Logged::start(command);
    use_connections(&server, || connect(address));
    let (out, err) = program.end();
    for secret in SECRETS {
        assert_eq!(out.matches(secret).count(), 3 * TIMES, "{secret}");
    }
    assert_has_no_secret(&err, "-p");
}

#[test]
fn no_byte_gets_to_syslog() {
    if !Uid::effective().is_root() {
        return skip("a syslog of its own needs root");
    }
    let dir = RunDir::new();
    let syslog = Syslog::new();
    let socket = syslog.socket.try_clone().expect("dup");
    socket.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");

    let server = listen((Ipv4Addr::LOCALHOST, 0).into());
    let builder = dir.use_in(Builder::auto().quiet().text().background());
    let builder = builder.channel(server.local_addr().expect("getsockname"));
    let (command, _port, address) = builder.command();
    let _guard = DaemonGuard(&dir);
    // Read from the start: the kernel drops what exceeds the socket's queue.
    let (lines, read) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut bytes = [0; 65_536];
        while let Ok(len) = socket.recv(&mut bytes) {
            let line = String::from_utf8_lossy(&bytes[..len]).into_owned();
            let is_last = line.contains("stopped connections=3");
            lines.send(line).expect("a reader");
            if is_last {
                break;
            }
        }
    });
    let outcome = run(syslog.in_front_of(&command).env("BALANCE_LOG", EVERYTHING), TIMEOUT);
    assert!(outcome.status.success(), "{outcome:?}");
    use_connections(&server, || connect(address));
    assert_eq!(dir.run_ok(address, "kill"), "shutdown complete, exiting.\n");
    reader.join().expect("the reader");
    let log: String = read.iter().map(|line| line + "\n").collect();
    assert!(log.contains("stopped connections=3"), "{log}");
    assert_has_no_secret(&log, "syslog");
}

/// Three connections on which both sides send their payload, each with another end.
fn use_connections(server: &TcpListener, connect: impl Fn() -> TcpStream) {
    for ending in [Ending::Clean, Ending::ResetByClient, Ending::ResetByServer] {
        let mut client = connect();
        let mut other = accept(server);
        for _ in 0..TIMES {
            transfer(&mut client, &mut other, SECRETS[0]);
            transfer(&mut other, &mut client, SECRETS[1]);
        }
        match ending {
            Ending::Clean => {
                drop(client);
                assert_eq!(end_of(&mut other), End::Clean, "{ending:?}");
            }
            Ending::ResetByClient => {
                reset(client);
                assert_eq!(end_of(&mut other), End::Reset, "{ending:?}");
            }
            Ending::ResetByServer => {
                reset(other);
                assert_eq!(end_of(&mut client), End::Reset, "{ending:?}");
            }
        }
    }
}

fn transfer(from: &mut TcpStream, to: &mut TcpStream, secret: &str) {
    from.write_all(secret.as_bytes()).expect("a secret");
    let mut received = vec![0; secret.len()];
    to.read_exact(&mut received).expect("the secret");
    assert_eq!(received, secret.as_bytes());
}

/// Asserts that the log has no secret, in any usual notation of bytes.
fn assert_has_no_secret(log: &str, name: &str) {
    for secret in SECRETS {
        let bytes = &secret.as_bytes()[..8];
        let each = |form: fn(&u8) -> String, between| {
            bytes.iter().map(form).collect::<Vec<_>>().join(between)
        };
        for form in [
            secret[..8].to_owned(),
            each(|byte| format!("{byte:02x}"), ""),
            each(|byte| format!("{byte:02x}"), " "),
            each(|byte| byte.to_string(), ", "),
        ] {
            assert!(!log.to_lowercase().contains(&form.to_lowercase()), "{name}: {form}: {log}");
        }
    }
}

/// A program whose output and log go to files.
struct Logged {
    child: KillOnDrop<Child>,
    outputs: [tempfile::NamedTempFile; 2],
}

impl Logged {
    /// Starts the program and waits until it serves.
    fn start(mut command: Command) -> Self {
        let outputs = [(); 2].map(|()| tempfile::NamedTempFile::new().expect("a temporary file"));
        let [out, err] = outputs
            .each_ref()
            .map(|file| File::options().append(true).open(file.path()).expect("a temporary file"));
        let child = command.stdout(out).stderr(err).spawn().expect("the program");
        let program = Self { child: KillOnDrop(child), outputs };
        program.wait_for("ready", 1);
        program
    }

    fn read(&self) -> [String; 2] {
        self.outputs.each_ref().map(|file| fs::read_to_string(file.path()).expect("text"))
    }

    /// Waits until this many lines of the log contain `what`.
    fn wait_for(&self, what: &str, times: usize) {
        eventually(TIMEOUT, &format!("it logs {what:?}"), || {
            let [_, err] = self.read();
            let count = err.lines().filter(|line| line.contains(what)).count();
            if count >= times { Ok(()) } else { Err(err) }
        });
    }

    /// Stops the program; returns its output and its log.
    fn end(mut self) -> (String, String) {
        let pid = i32::try_from(self.child.0.id()).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
            .expect("sending a signal");
        let status = tests::finish(&mut self.child.0, TIMEOUT, "the program");
        assert_eq!(status.code(), Some(0), "{status}");
        let [out, err] = self.read();
        (out, err)
    }
}
