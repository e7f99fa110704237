//! A configuration file as one service: verbs, their output and exit codes, and the independence of
//! the instances.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use nix::{
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use tests::{
    Backend, End, InstanceStatus, Process, ReservedPort, Service, SetOnDrop, TIMEOUT, ask, binary,
    connect, end_of, eventually, finish, is_listening, run, with_signals_masked,
};

/// A line for an instance on a reserved port.
fn line(port: &ReservedPort, servers: &[&Backend]) -> String {
    let servers: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    format!("-b 127.0.0.1 {} {}\n", port.port(), servers.join(" "))
}

fn name(port: &ReservedPort) -> String {
    format!("127.0.0.1:{}", port.port())
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("sending a signal");
}

/// An open connection, after one byte each way.
fn open(port: &ReservedPort) -> TcpStream {
    let mut stream = connect(port.address());
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("the server's name");
    assert_echoes(&mut stream);
    stream
}

/// Asserts that the server at the other end still answers.
fn assert_echoes(stream: &mut TcpStream) {
    let mut byte = [0];
    stream.write_all(b"?").expect("a byte to the server");
    stream.read_exact(&mut byte).expect("a byte from the server");
    assert_eq!(&byte, b"?");
}

#[test]
fn start_status_restart_and_stop_print_what_they_do() {
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let text = format!("# two\n{}\n{}", line(&one, &[&a, &b]), line(&two, &[&b]));
    let service = Service::new(&text);

    let before = service.run(&["status"]);
    assert_eq!(before.status.code(), Some(3), "{before:?}");
    assert!(before.stdout.starts_with("balance is stopped ("), "{before:?}");
    assert_eq!(service.run_ok(&["stop"]), "balance is not running\n");
    assert_eq!(service.run(&["reload"]).status.code(), Some(7));

    assert_eq!(service.run_ok(&["start"]), "balance is started: 2 instances\n");
    let answers = [ask(one.address()), ask(one.address()), ask(two.address())];
    assert_eq!(answers.map(|answer| answer.expect("an answer")), ["A", "B", "B"]);
    let again = service.run_ok(&["start"]);
    let running = format!("balance is already running (pid {})", service.supervisor());
    assert_eq!(again, running + "; reload reads its file again\n");

    let status = service.run_ok(&["status"]);
    assert!(status.starts_with("balance is running (pid "), "{status}");
    let rows = service.status();
    assert_eq!(rows.len(), 2);
    for (row, (port, channels)) in rows.iter().zip([(&one, 2), (&two, 1)]) {
        assert_eq!((&row.name, &*row.state), (&name(port), "running"));
        assert_eq!((row.address, row.connections), (Some(port.address()), 0));
        assert_eq!(row.channels, Some((channels, channels)));
        let pid = row.pid.expect("a process").to_string();
        assert!(status.lines().any(|line| line.contains(&pid) && line.contains("running")));
    }

    assert_eq!(service.run_ok(&["reload"]), "balance is reloaded: nothing has changed\n");
    assert_eq!(service.status(), rows);
    let restarted = service.run_ok(&["restart"]);
    assert_eq!(restarted, "balance is stopped\nbalance is started: 2 instances\n");
    assert_eq!(ask(two.address()).expect("an answer"), "B");
    assert_eq!(service.run_ok(&["stop"]), "balance is stopped\n");
    assert!(!is_listening(one.port()) && !is_listening(two.port()));
    service.assert_all_ended();
    assert_eq!(service.run(&["status"]).status.code(), Some(3));
    assert_eq!(service.run_ok(&["restart"]), "balance is started: 2 instances\n");
    service.run_ok(&["stop"]);
}

#[test]
fn the_processes_have_the_name_of_the_program() {
    let (a, port) = (Backend::echo("A"), ReservedPort::new());
    let service = Service::new(&line(&port, &[&a]));
    service.run_ok(&["start"]);
    let processes = [service.supervisor(), service.status()[0].pid.expect("a process")];
    for pid in processes {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("a process");
        assert_eq!(name, "balance\n");
    }
    service.run_ok(&["stop"]);
}

#[test]
fn a_bad_line_affects_no_other_line() {
    let a = Backend::greeter("A");
    let (one, taken) = (ReservedPort::new(), ReservedPort::new());
    let _other = tests::listen(([127, 0, 0, 1], 0).into());
    let taken_by = _other.local_addr().expect("getsockname");
    let text =
        format!("nosuch a\n{}-b 127.0.0.1 {} x\n26 'a\n", line(&one, &[&a]), taken_by.port());
    let service = Service::new(&text);
    let file = service.file().display().to_string();
    let started = service.run(&["start"]);
    assert_eq!(started.status.code(), Some(78), "{started:?}");
    let complaints: Vec<_> = started.stderr.lines().collect();
    assert_eq!(complaints.len(), 3, "{complaints:?}");
    let begins =
        ["1: port nosuch: expected", "4: a quote is not closed", "3: cannot listen on 127"];
    for (complaint, begin) in complaints.iter().zip(begins) {
        assert!(complaint.starts_with(&format!("{file}:{begin}")), "{complaint}");
    }
    assert_eq!(ask(one.address()).expect("an answer"), "A");
    let status = service.run(&["status"]);
    assert_eq!(status.status.code(), Some(150), "{status:?}");
    assert_eq!(status.stderr.lines().count(), 3, "{status:?}");
    let rows = service.status();
    let states: Vec<_> = rows.iter().map(|row| &*row.state).collect();
    assert_eq!(states, ["running", "failed"]);

    // A file with only mistakes starts nothing.
    service.run_ok(&["stop"]);
    service.write("nosuch a\n");
    let started = service.run(&["start"]);
    assert_eq!(started.status.code(), Some(78), "{started:?}");
    // Nor does a file whose only instance fails; the exit code is that of the failure.
    service.write(&format!("-b 127.0.0.1 {} a.invalid\n", taken.port()));
    let started = service.run(&["start"]);
    assert_eq!(started.status.code(), Some(65), "{started:?}");
    assert!(started.stderr.contains(":1: cannot resolve [a.invalid]"), "{started:?}");
    service.assert_all_ended();
}

#[test]
fn a_file_without_instances_starts() {
    let service = Service::new("# nothing yet\n");
    assert_eq!(service.run_ok(&["start"]), "balance is started: 0 instances\n");
    assert_eq!(service.run(&["status"]).status.code(), Some(0));
    let (a, one) = (Backend::greeter("A"), ReservedPort::new());
    service.write(&line(&one, &[&a]));
    assert_eq!(
        service.run_ok(&["reload"]),
        format!("{}: started\nbalance is reloaded\n", name(&one))
    );
    assert_eq!(ask(one.address()).expect("an answer"), "A");
    service.run_ok(&["stop"]);
}

#[test]
fn a_crashed_process_is_restarted_and_no_client_refused() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let service = Service::new(&(line(&one, &[&a]) + &line(&two, &[&b])));
    service.run_ok(&["start"]);
    let mut streams = [open(&one), open(&two)];
    let before = service.status();
    let pid = before[0].pid.expect("a process");
    assert_eq!(before[1].pid, Some(pid), "one process serves all");
    signal(pid, Signal::SIGKILL);
    for stream in &mut streams {
        assert_eq!(end_of(stream), End::Reset);
    }
    eventually(TIMEOUT, "the process exits", || {
        match std::fs::read(format!("/proc/{pid}/cmdline")) {
            Ok(line) if !line.is_empty() => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    });
    // At once: the supervisor holds the listeners.
    [&one, &two].map(open).iter_mut().for_each(assert_echoes);
    let after =
        service.status_when("both run", |rows| rows.iter().all(|row| row.state == "running"));
    assert!(after.iter().all(|row| row.pid == after[0].pid && row.pid != before[0].pid));
    let pid_file = service.run_dir().join(format!("balance.{}.127.0.0.1.pid", one.port()));
    let pid = after[0].pid.expect("a process");
    assert_eq!(std::fs::read_to_string(pid_file).expect("a pid file"), format!("{pid}\n"));
    service.run_ok(&["stop"]);
}

#[test]
fn a_file_with_a_mistake_changes_nothing() {
    let a = Backend::echo("A");
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let good = line(&one, &[&a]);
    let service = Service::new(&good);
    service.run_ok(&["start"]);
    let mut stream = open(&one);
    let before = service.status();
    service.write(&(line(&two, &[&a]) + "-x 25\n"));
    let reloaded = service.run(&["reload"]);
    assert_eq!(reloaded.status.code(), Some(78), "{reloaded:?}");
    assert!(reloaded.stderr.contains(":2: -x: unknown option"), "{reloaded:?}");
    assert!(reloaded.stderr.ends_with("balance is not reloaded\n"), "{reloaded:?}");
    assert_eq!(service.status(), before);
    assert_echoes(&mut stream);
    // A restart does not stop what it could not start again.
    service.write("-x 25\n");
    assert_eq!(service.run(&["restart"]).status.code(), Some(78));
    std::fs::remove_file(service.file()).expect("removing the file");
    assert_eq!(service.run(&["reload"]).status.code(), Some(78));
    assert_eq!(service.run(&["restart"]).status.code(), Some(66));
    assert_echoes(&mut stream);
    drop(stream);
    service.run_ok(&["stop"]);
}

#[test]
fn a_line_whose_name_does_not_resolve_keeps_what_it_had() {
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let ports = [ReservedPort::new(), ReservedPort::new(), ReservedPort::new()];
    let [one, two, new] = &ports;
    let service = Service::new(&(line(one, &[&a]) + &line(two, &[&a])));
    service.run_ok(&["start"]);
    let unresolved = |port: &ReservedPort| format!("-b 127.0.0.1 {} a.invalid\n", port.port());
    service.write(&(unresolved(one) + &line(two, &[&b]) + &unresolved(new)));
    let reloaded = service.run(&["reload"]);
    assert_eq!(reloaded.status.code(), Some(65), "{reloaded:?}");
    assert_eq!(reloaded.stdout, format!("{}: changed\n", name(two)));
    for line in [":1: cannot resolve [a.invalid]", ":3: cannot resolve [a.invalid]"] {
        assert!(reloaded.stderr.contains(line), "{reloaded:?}");
    }
    assert!(reloaded.stderr.ends_with("balance is reloaded in part\n"), "{reloaded:?}");
    assert_eq!(ask(one.address()).expect("an answer"), "A");
    assert_eq!(ask(two.address()).expect("an answer"), "B");
    assert!(!is_listening(new.port()));
    let states: Vec<_> = service.status().into_iter().map(|row| row.state).collect();
    assert_eq!(states, ["running", "running", "failed"]);
    service.run_ok(&["stop"]);
}

#[test]
fn an_instance_that_needs_a_new_process_keeps_its_connections() {
    let a = Backend::echo("A");
    let one = ReservedPort::new();
    let service = Service::new(&line(&one, &[&a]));
    service.run_ok(&["start"]);
    let mut stream = open(&one);
    let before = service.status();
    service.write(&line(&one, &[&a]).replace("-b", "--datapath relay --workers 3 -b"));
    let reloaded = service.run_ok(&["reload"]);
    assert_eq!(reloaded, format!("{}: replaced\nbalance is reloaded\n", name(&one)));
    let after = service.status();
    let states: Vec<_> = after.iter().map(|row| (&*row.state, row.pid == before[0].pid)).collect();
    assert_eq!(states, [("running", false), ("draining", true)]);
    assert_echoes(&mut stream);
    drop(open(&one));
    drop(stream);
    service.status_when("the old process has left", |rows| rows.len() == 1);
    service.run_ok(&["stop"]);
}

#[test]
fn an_instance_removed_from_the_file_drains() {
    let a = Backend::echo("A");
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let service = Service::new(&(line(&one, &[&a]) + &line(&two, &[&a])));
    service.run_ok(&["start"]);
    let mut stream = open(&one);
    service.write(&line(&two, &[&a]));
    let reloaded = service.run_ok(&["reload"]);
    assert_eq!(reloaded, format!("{}: stopped\nbalance is reloaded\n", name(&one)));
    assert!(!is_listening(one.port()));
    assert_echoes(&mut stream);
    assert_eq!(service.status().iter().filter(|row| row.state == "draining").count(), 1);
    drop(stream);
    service.status_when("the old process has exited", |rows| rows.len() == 1);
    service.run_ok(&["stop"]);
}

#[test]
fn stop_waits_for_connections_and_prints_how_long() {
    let a = Backend::echo("A");
    let one = ReservedPort::new();
    let service = Service::new(&line(&one, &[&a]).replace("-b", "--grace 600 -b"));
    service.run_ok(&["start"]);
    let mut stream = open(&one);
    service.status_when("a connection", |rows| rows[0].connections == 1);
    thread::scope(|scope| {
        let stopping = scope.spawn(|| service.run_ok(&["stop"]));
        eventually(TIMEOUT, "the listener is closed", || match is_listening(one.port()) {
            false => Ok(()),
            true => Err("not yet".to_owned()),
        });
        assert_echoes(&mut stream);
        // A second request does not shorten the wait.
        let second = scope.spawn(|| service.run_ok(&["stop"]));
        eventually(TIMEOUT, "both wait", || match service.connected_verbs() {
            2.. => Ok(()),
            few => Err(format!("{few} are connected")),
        });
        service.status_when("the instance drains", |rows| rows[0].state == "draining");
        assert_echoes(&mut stream);
        drop(stream);
        let output = [stopping, second].map(|verb| verb.join().expect("the verb"));
        for output in output {
            let end = " s for 1 connection\n";
            assert!(
                output.starts_with("balance is stopped: waited ") && output.ends_with(end),
                "{output}"
            );
        }
    });
    service.assert_all_ended();
}

#[test]
fn stop_also_waits_for_processes_that_already_drain() {
    let a = Backend::echo("A");
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let text = |port| line(port, &[&a]).replace("-b", "--grace 600 -b");
    let service = Service::new(&(text(&one) + &text(&two)));
    service.run_ok(&["start"]);
    let mut stream = open(&one);
    service.write(&text(&two));
    service.run_ok(&["reload"]);
    thread::scope(|scope| {
        let stopping = scope.spawn(|| service.run_ok(&["stop"]));
        service.status_when("one is left", |rows| {
            rows.iter().filter(|r| r.pid.is_some()).count() == 1
        });
        assert_echoes(&mut stream);
        // A start waits for the end of the running supervisor.
        let starting = scope.spawn(|| service.run_ok(&["start"]));
        assert_echoes(&mut stream);
        drop(stream);
        assert!(stopping.join().expect("the verb").starts_with("balance is stopped"));
        let output = starting.join().expect("the verb");
        assert!(output.ends_with("balance is started: 1 instance\n"), "{output}");
    });
    drop(open(&two));
    service.run_ok(&["stop"]);
}

#[test]
fn a_port_moves_to_another_line_that_overlaps_it() {
    let a = Backend::greeter("A");
    let port = ReservedPort::new();
    let narrow = line(&port, &[&a]);
    let wide = narrow.replace("-b 127.0.0.1 ", "");
    let service = Service::new(&narrow);
    service.run_ok(&["start"]);
    for i in 0..10 {
        service.write(if i % 2 == 0 { &wide } else { &narrow });
        service.run_ok(&["reload"]);
        assert_eq!(ask(port.address()).expect("an answer"), "A");
    }
    service.run_ok(&["stop"]);
}

#[test]
fn a_reload_prints_what_it_did_and_what_failed() {
    let a = Backend::greeter("A");
    let taken = tests::listen(([127, 0, 0, 1], 0).into());
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let service = Service::new(&line(&one, &[&a]));
    service.run_ok(&["start"]);
    let port = taken.local_addr().expect("getsockname").port();
    service.write(&(line(&two, &[&a]) + &format!("-b 127.0.0.1 {port} {}\n", a.address())));
    let reloaded = service.run(&["reload"]);
    assert_eq!(reloaded.status.code(), Some(71), "{reloaded:?}");
    // Not for the instance that failed to start.
    let changed = format!("{}: stopped\n{}: started\n", name(&one), name(&two));
    assert_eq!(reloaded.stdout, changed);
    assert!(reloaded.stderr.contains(":2: cannot listen on 127.0.0.1:"), "{reloaded:?}");
    assert!(reloaded.stderr.ends_with("balance is reloaded in part\n"), "{reloaded:?}");
    assert_eq!(ask(two.address()).expect("an answer"), "A");
    service.run_ok(&["stop"]);
}

/// A descriptor limit that suffices for few workers but not for many.
const DESCRIPTORS: u64 = 90;

/// Options with too many workers.
const TOO_MANY_WORKERS: &str = "--datapath relay --workers 80 -b";

#[test]
fn a_new_process_that_fails_leaves_the_old_one_serving() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let few = |port| line(port, &[&a]).replace("-b", "--datapath relay --workers 1 -b");
    let good = few(&one) + &few(&two);
    let service = Service::new(&good);
    let limited = || Ok(setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS)?);
    let mut child = service.foreground(|command| {
        // SAFETY: setrlimit is one system call: it neither allocates nor takes locks.
        unsafe { command.pre_exec(limited) };
    });
    let runs = |rows: &[InstanceStatus]| rows.iter().all(|row| row.state == "running");
    let before = service.status_when("both run", runs);
    let mut stream = open(&one);
    let before = InstanceStatus { connections: 1, ..before[0].clone() };
    service.status_when("a connection", |rows| rows[0] == before);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                drop(open(&one));
            }
        });
        let _over = SetOnDrop(&is_over);
        let bad = line(&one, &[&b]).replace("-b", TOO_MANY_WORKERS);
        service.write(&bad);
        for changed in [format!("{}: stopped\n", name(&two)), String::new()] {
            let reloaded = service.run(&["reload"]);
            assert_eq!(reloaded.status.code(), Some(71), "{reloaded:?}");
            let how = if changed.is_empty() { "not reloaded" } else { "reloaded in part" };
            assert_eq!(reloaded.stdout, changed, "{reloaded:?}");
            assert!(reloaded.stderr.starts_with("cannot start a worker"), "{reloaded:?}");
            let end = format!("; the old process continues to serve\nbalance is {how}\n");
            assert!(reloaded.stderr.ends_with(&end), "{reloaded:?}");
            let now = service.status();
            assert_eq!((&now[0].state, now[0].pid), (&before.state, before.pid));
            assert_echoes(&mut stream);
        }
        service.write(&good);
        let reloaded = format!("{}: started\nbalance is reloaded\n", name(&two));
        assert_eq!(service.run_ok(&["reload"]), reloaded);
    });
    assert_echoes(&mut stream);
    drop(stream);
    service.run_ok(&["stop"]);
    assert_eq!(finish(&mut child, TIMEOUT, "the supervisor").code(), Some(0));
}

#[test]
fn an_instance_moves_to_another_run_directory() {
    let a = Backend::echo("A");
    let one = ReservedPort::new();
    let service = Service::new("");
    let text = |dir: &str, options: &str| {
        let dir = service.run_dir().with_file_name(dir);
        let options = format!("--run-dir {} {options} -b", dir.display());
        line(&one, &[&a]).replace("-b", &options)
    };
    let socket = |dir: &str| {
        let name = format!("balance.{}.127.0.0.1.sock", one.port());
        service.run_dir().with_file_name(dir).join(name)
    };
    for dir in ["here", "there"] {
        std::fs::create_dir(service.run_dir().with_file_name(dir)).expect("a run directory");
    }
    service.write(&text("here", ""));
    service.run_ok(&["start"]);
    let mut stream = open(&one);
    // A process that fails to start changes nothing: the parent of this directory does not exist.
    service.write(&text("no/such", ""));
    assert_eq!(service.run(&["reload"]).status.code(), Some(73));
    assert!(socket("here").exists());
    service.write(&text("there", ""));
    let output = |what: &str| format!("{}: {what}\nbalance is reloaded\n", name(&one));
    assert_eq!(service.run_ok(&["reload"]), output("replaced"));
    assert!(socket("there").exists() && !socket("here").exists());
    // The supervisor asks the process on its control socket, here and in the next reload.
    assert_eq!(service.status()[0].channels, Some((1, 1)));
    service.write(&text("there", "-t 7"));
    assert_eq!(service.run_ok(&["reload"]), output("changed"));
    // The first directory is free again.
    service.write(&text("here", ""));
    assert_eq!(service.run_ok(&["reload"]), output("replaced"));
    assert!(socket("here").exists() && !socket("there").exists());
    assert_echoes(&mut stream);
    drop(stream);
    service.run_ok(&["stop"]);
}

#[test]
fn settings_that_this_host_lacks_are_rejected_before_any_change() {
    let a = Backend::echo("A");
    let one = ReservedPort::new();
    let good = line(&one, &[&a]);
    let service = Service::new(&good);
    service.run_ok(&["start"]);
    let mut stream = open(&one);
    let before = service.status_when("a connection", |rows| rows[0].connections == 1);
    for (option, why) in [
        ("-B 192.0.2.1", "cannot connect from 192.0.2.1: "),
        ("-B 2001:db8::1", "cannot connect from 2001:db8::1: "),
        ("--user nosuchuser", "there is no user nosuchuser\n"),
    ] {
        service.write(&good.replace("-b", &format!("{option} -b")));
        let mut check = Command::new(binary());
        let checked = run(check.arg("check").arg("--no-dns").arg(service.file()), TIMEOUT);
        for (outcome, verb) in [
            (checked, ""),
            (service.run(&["reload"]), "balance is not reloaded\n"),
            (service.run(&["restart"]), ""),
        ] {
            assert_eq!(outcome.status.code(), Some(78), "{outcome:?}");
            let output = format!("{}:1: {why}", service.file().display());
            assert!(outcome.stderr.starts_with(&output), "{outcome:?}");
            assert!(outcome.stderr.ends_with(verb), "{outcome:?}");
        }
        assert_eq!(service.status(), before);
        assert_echoes(&mut stream);
        drop(open(&one));
    }
    drop(stream);
    service.run_ok(&["stop"]);
}

#[test]
fn a_restored_line_starts_while_its_old_process_drains() {
    let a = Backend::echo("A");
    let one = ReservedPort::new();
    let service = Service::new(&line(&one, &[&a]));
    service.run_ok(&["start"]);
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(open(&one));
        service.write("");
        service.run_ok(&["reload"]);
        assert!(!is_listening(one.port()));
        service.write(&line(&one, &[&a]));
        let reloaded = service.run_ok(&["reload"]);
        assert_eq!(reloaded, format!("{}: started\nbalance is reloaded\n", name(&one)));
    }
    streams.iter_mut().for_each(assert_echoes);
    drop(streams);
    service.status_when("those of before have left", |rows| rows.len() == 1);
    service.run_ok(&["stop"]);
}

#[test]
fn a_symlink_to_another_file_is_followed() {
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let port = ReservedPort::new();
    let service = Service::new("");
    let file = service.file();
    let lead = |name: &str, text: &str| {
        let target = file.with_file_name(name);
        std::fs::write(&target, text).expect("writing a file");
        std::fs::remove_file(&file).expect("removing a file");
        std::os::unix::fs::symlink(&target, &file).expect("a link");
    };
    lead("v1", &line(&port, &[&a]));
    service.run_ok(&["start"]);
    lead("v2", &line(&port, &[&b]));
    service.run_ok(&["reload"]);
    assert_eq!(ask(port.address()).expect("an answer"), "B");
    std::fs::remove_file(&file).expect("removing a file");
    service.run_ok(&["stop"]);
    // Without its file the service counts as stopped.
    assert_eq!(service.run(&["status"]).status.code(), Some(3));
}

#[test]
fn an_instance_stopped_by_an_operator_is_not_restarted() {
    let a = Backend::greeter("A");
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let service = Service::new(&(line(&one, &[&a]) + &line(&two, &[&a])));
    service.run_ok(&["start"]);
    let run_dir = service.run_dir();
    let mut killing = Command::new(binary());
    killing.arg("--run-dir").arg(run_dir).args(["-b", "127.0.0.1", "-c", "kill"]);
    let killed = run(killing.arg(one.port().to_string()), TIMEOUT);
    assert_eq!(killed.status.code(), Some(0), "{killed:?}");
    let rows = service.status_when("the instance is stopped", |rows| rows[0].state == "stopped");
    assert!(!is_listening(one.port()));
    assert_eq!((&*rows[1].state, service.run(&["status"]).status.code()), ("running", Some(150)));
    service.run_ok(&["reload"]);
    assert_eq!(ask(one.address()).expect("an answer"), "A");
    service.run_ok(&["stop"]);
}

#[test]
fn when_the_supervisor_is_killed_its_process_serves_on_and_can_be_stopped() {
    let a = Backend::echo("A");
    let one = ReservedPort::new();
    let service = Service::new(&line(&one, &[&a]));
    service.run_ok(&["start"]);
    let mut stream = open(&one);
    signal(service.supervisor(), Signal::SIGKILL);
    eventually(TIMEOUT, "the supervisor has ended", || match service.run(&["status"]) {
        outcome if outcome.status.code() == Some(1) => {
            assert!(outcome.stdout.contains("its server process still serves"), "{outcome:?}");
            Ok(())
        }
        outcome => Err(format!("{outcome:?}")),
    });
    assert_echoes(&mut stream);
    assert_echoes(&mut open(&one));
    drop(stream);
    let said = service.run_ok(&["stop"]);
    assert!(said.starts_with("balance is stopped: its supervisor had ended"), "{said}");
    assert!(!is_listening(one.port()));
    service.assert_all_ended();
    assert_eq!(service.run_ok(&["stop"]), "balance is not running\n");
}

#[test]
fn a_service_whose_process_hangs_is_stopped_and_restarted() {
    let a = Backend::echo("A");
    let one = ReservedPort::new();
    let service = Service::new(&line(&one, &[&a]));
    service.run_ok(&["start"]);
    let before = service.status()[0].pid.expect("a process");
    signal(before, Signal::SIGSTOP);
    let said = service.run_ok(&["restart"]);
    assert!(said.ends_with("balance is started: 1 instance\n"), "{said}");
    let after = service.status()[0].pid.expect("a process");
    assert_ne!(after, before);
    assert_echoes(&mut open(&one));
    signal(after, Signal::SIGSTOP);
    let said = service.run_ok(&["stop"]);
    assert!(said.starts_with("balance is stopped"), "{said}");
    service.assert_all_ended();
}

#[test]
fn an_upgrade_that_is_refused_changes_nothing() {
    let a = Backend::echo("A");
    let one = ReservedPort::new();
    let service = Service::new(&line(&one, &[&a]));
    assert_eq!(service.run(&["upgrade"]).status.code(), Some(7));
    service.run_ok(&["start"]);
    let mut stream = open(&one);
    let before = (service.supervisor(), service.status());
    service.write(&(line(&one, &[&a]) + "bad\n"));
    let outcome = service.run(&["upgrade"]);
    assert_eq!(outcome.status.code(), Some(78), "{outcome:?}");
    assert!(outcome.stderr.contains("balance.conf:2: port bad: "), "{outcome:?}");
    assert!(outcome.stderr.ends_with("balance is not upgraded\n"), "{outcome:?}");
    assert_eq!((service.supervisor(), service.status()), before);
    assert_echoes(&mut stream);
    // It can be tried again.
    service.write(&line(&one, &[&a]));
    service.run_ok(&["upgrade"]);
    assert_ne!(service.status()[0].pid, before.1[0].pid);
    assert_echoes(&mut stream);
    drop(stream);
    service.run_ok(&["stop"]);
}

#[test]
fn signals_reload_drain_and_stop() {
    let a = Backend::echo("A");
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let text = line(&one, &[&a]).replace("-b", "--grace 600 -b");
    let service = Service::new(&text);
    let mut child = service.foreground(|_| {});
    let pid = i32::try_from(child.id()).expect("a process id");
    service.status_when("the instance runs", |rows| rows.iter().all(|row| row.state == "running"));
    let mut stream = open(&one);
    service.write(&(text + &line(&two, &[&a])));
    signal(pid, Signal::SIGUSR1);
    signal(pid, Signal::SIGHUP);
    service.status_when("two run", |rows| {
        rows.len() == 2 && rows.iter().all(|row| row.state == "running")
    });
    assert_echoes(&mut stream);
    signal(pid, Signal::SIGTERM);
    service.status_when("the instance drains", |rows| rows[0].state == "draining");
    assert_echoes(&mut stream);
    signal(pid, Signal::SIGTERM);
    assert_eq!(finish(&mut child, TIMEOUT, "the supervisor").code(), Some(0));
    assert_eq!(end_of(&mut stream), End::Reset);
    service.assert_all_ended();
}

#[test]
fn signals_that_the_parent_masked_reach_every_process() {
    let a = Backend::greeter("A");
    let one = ReservedPort::new();
    let service = Service::new(&line(&one, &[&a]));
    let masked = |words: &[&str]| {
        let outcome = run(&mut with_signals_masked(&service.command(words)), TIMEOUT);
        assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
        outcome.stdout
    };
    assert_eq!(masked(&["start"]), "balance is started: 1 instance\n");
    let pids = service.processes();
    assert_eq!(pids.len(), 2, "{pids:?}");
    for pid in pids {
        let process = Process(u32::try_from(pid).expect("a process id"));
        // The Rust runtime ignores SIGPIPE, so that a write to a closed pipe is an error.
        let ignored = 1 << (Signal::SIGPIPE as u32 - 1);
        assert_eq!((process.blocked_signals(), process.ignored_signals()), (0, ignored), "{pid}");
    }
    assert_eq!(masked(&["restart"]), "balance is stopped\nbalance is started: 1 instance\n");
    signal(service.status()[0].pid.expect("a process"), Signal::SIGKILL);
    service.status_when("another runs", |rows| rows[0].state == "running");
    assert_eq!(masked(&["stop"]), "balance is stopped\n");
    service.assert_all_ended();
    // In the foreground, stopped by a signal.
    let mut command = with_signals_masked(&service.command(&["start", "-f"]));
    let mut child = command.stderr(Stdio::null()).spawn().expect("starting balance");
    service.status_when("the instance runs", |rows| rows.iter().all(|row| row.state == "running"));
    signal(service.supervisor(), Signal::SIGTERM);
    assert_eq!(finish(&mut child, TIMEOUT, "the supervisor").code(), Some(0));
}

#[test]
fn in_the_foreground_restart_keeps_the_supervisor_process() {
    let a = Backend::greeter("A");
    let one = ReservedPort::new();
    let service = Service::new(&line(&one, &[&a]));
    let mut child = service.foreground(|_| {});
    let before = service
        .status_when("the instance runs", |rows| rows.iter().all(|row| row.state == "running"));
    assert_eq!(service.run_ok(&["restart"]), "balance is restarted\n");
    let after = service.status();
    assert_ne!(after[0].pid, before[0].pid);
    assert_eq!(u32::try_from(service.supervisor()), Ok(child.id()));
    assert_eq!(ask(one.address()).expect("an answer"), "A");
    service.run_ok(&["stop"]);
    assert_eq!(finish(&mut child, TIMEOUT, "the supervisor").code(), Some(0));
}

#[test]
fn start_and_reload_read_included_files() {
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let service = Service::new(&format!(
        "default -b 127.0.0.1 -t 7\nset both {} {}\n{} @both\ninclude conf.d/*.conf\n",
        a.address(),
        b.address(),
        one.port(),
    ));
    let folder = service.file().with_file_name("conf.d");
    std::fs::create_dir(&folder).expect("creating a folder");
    assert_eq!(service.run_ok(&["start"]), "balance is started: 1 instance\n");
    let understood = service.run_ok(&["check", "--print"]);
    let options = "--bind 127.0.0.1 --connect-timeout 7";
    let servers = format!("{} {}", a.address(), b.address());
    assert_eq!(understood, format!("{options} {} {servers}\n", one.port()));

    let included = folder.join("two.conf");
    let write = |text: String| std::fs::write(&included, text).expect("writing a file");
    write(format!("-T 9 {} @both\n", two.port()));
    let started = format!("{}: started\nbalance is reloaded\n", name(&two));
    assert_eq!(service.run_ok(&["reload"]), started);
    assert_eq!(ask(two.address()).expect("an answer"), "A");

    write(format!("\n{} @both !\n", two.port()));
    let reload = service.run(&["reload"]);
    assert_eq!(reload.stdout, format!("{}: changed\nbalance is reloaded\n", name(&two)));
    write(format!("\n{} @neither\n", two.port()));
    let reload = service.run(&["reload"]);
    assert_eq!(reload.status.code(), Some(78), "{reload:?}");
    let mistake = format!("{}:2: @neither: no line above defines this set\n", included.display());
    assert_eq!(reload.stderr, mistake + "balance is not reloaded\n");
    assert_eq!(ask(two.address()).expect("an answer"), "B");
    service.run_ok(&["stop"]);
}

#[test]
fn check_warns_and_prints_the_file_as_understood() {
    let service = Service::new(
        "default -t 7 --name x\nset s 127.0.0.1:1 ! '127.0.0.1:2'\n25 @s %\ninclude more\n",
    );
    let file = service.file().display().to_string();
    let more = service.file().with_file_name("more");
    std::fs::write(&more, "\n26 -t 8\n27 --max-connections 1000000000 --name y @s\n")
        .expect("writing a file");
    let check = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("check").args(words).arg(service.file());
        run(&mut command, TIMEOUT)
    };
    let outcome = check(&[]);
    assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout, format!("{file}: 3 instances, 3 warnings\n"));
    let more = more.display();
    let lines: Vec<_> = outcome.stderr.lines().collect();
    let empty = format!("{more}:2: warning: port 26 has no servers: balance closes every client");
    let twice = format!("{more}:2: warning: --name x: the instance at {file}:3 has this name too");
    assert_eq!(lines[..2], [&*empty, &*twice]);
    let limit = format!("{more}:3: warning: --max-connections 1000000000: the limit of open files");
    assert!(lines.len() == 3 && lines[2].starts_with(&limit), "{lines:?}");
    let strict = check(&["--strict"]);
    assert_eq!((strict.status.code(), &*strict.stdout), (Some(78), ""), "{strict:?}");

    let printed = check(&["--print"]);
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    let (t, x) = ("--connect-timeout 7", "--name x");
    let servers = "127.0.0.1:1 ! 127.0.0.1:2";
    let expected = [
        format!("{t} {x} 25 {servers} %\n"),
        format!("{x} 26 -t 8\n"),
        format!("{t} 27 --max-connections 1000000000 --name y {servers}\n"),
    ];
    assert_eq!(printed.stdout, expected.concat());
    service.write(&printed.stdout);
    assert_eq!(check(&["--print"]).stdout, printed.stdout);
    service.write("25 127.0.0.1:1\n26 :\n");
    let wrong = check(&["--print"]);
    assert_eq!((wrong.status.code(), &*wrong.stdout), (Some(78), ""), "{wrong:?}");
}

#[test]
fn check_adds_the_connections_of_all_lines() {
    let service =
        Service::new("25 127.0.0.1:1 --max-connections 30\n26 127.0.0.1:1 --max-connections 30\n");
    let mut command = Command::new(binary());
    command.arg("check").arg(service.file());
    let limited = || Ok(setrlimit(Resource::RLIMIT_NOFILE, 100, 100)?);
    // SAFETY: setrlimit is one system call: it neither allocates nor takes locks.
    unsafe { command.pre_exec(limited) };
    let outcome = run(&mut command, TIMEOUT);
    let file = service.file().display().to_string();
    assert_eq!(outcome.stdout, format!("{file}: 2 instances, 1 warning\n"));
    let expected = format!(
        "{file}:2: warning: --max-connections: 60 in 2 instances together, the limit of open files \
         allows at most 50\n"
    );
    assert_eq!(outcome.stderr, expected);
}

#[test]
fn check_examines_the_run_directory_as_start_does() {
    let service = Service::new("25 127.0.0.1:1\n-b 127.0.0.1 26 127.0.0.1:1\n");
    let check = |dir: &std::path::Path| {
        let mut command = Command::new(binary());
        run(command.args(["check", "--run-dir"]).arg(dir).arg(service.file()), TIMEOUT)
    };
    assert_eq!(check(&service.run_dir()).status.code(), Some(0));
    let missing = check(&service.run_dir().join("a"));
    assert_eq!(missing.status.code(), Some(66), "{missing:?}");
    let why = format!("--run-dir {}/a: no such directory", service.run_dir().display());
    assert!(missing.stderr.contains(&why), "{missing:?}");
    assert!(!service.run_dir().join("a").exists());
    let no_folder = check(&service.file());
    assert_eq!(no_folder.status.code(), Some(69), "{no_folder:?}");
    let long_dir = service.file().with_file_name("l".repeat(100));
    std::fs::create_dir(&long_dir).expect("a run directory");
    let long = check(&long_dir);
    assert_eq!(long.status.code(), Some(78), "{long:?}");
    let first =
        format!("{}:1: the path of the control socket is too long", service.file().display());
    assert!(long.stderr.starts_with(&first), "{long:?}");
}

#[test]
fn check_binds_nothing_and_names_the_line_of_a_mistake() {
    let taken = tests::listen(([127, 0, 0, 1], 0).into());
    let port = taken.local_addr().expect("getsockname").port();
    let check = |text: &str, words: &[&str]| {
        let service = Service::new(text);
        let mut command = Command::new(binary());
        command.args(words).arg(service.file());
        let outcome = run(&mut command, TIMEOUT);
        let file = service.file().display().to_string();
        (
            outcome.status.code(),
            outcome.stdout.replace(&file, "F"),
            outcome.stderr.replace(&file, "F"),
        )
    };
    let good = format!("-b 127.0.0.1 {port} 127.0.0.1:1 # taken, which is no matter\n");
    let fine = (Some(0), "F: 1 instance, nothing wrong\n".to_owned(), String::new());
    assert_eq!(check(&good, &["check"]), fine);
    assert_eq!(check(&good, &["--check-config"]), fine);
    let (code, out, err) = check("\n25 a.invalid\n26 :\n", &["check"]);
    assert_eq!((code, &*out), (Some(78), ""), "{err}");
    let lines: Vec<_> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].starts_with("F:2: cannot resolve [a.invalid]"), "{err}");
    assert!(lines[1].starts_with("F:3: server :: the host is missing"), "{err}");
    assert_eq!(check("25 a.invalid\n", &["check", "--no-dns"]), fine);
    let (code, _, err) = check("25 127.0.0.1:26\n26 127.0.0.1:25 --run-dir here\n", &["check"]);
    assert_eq!((code, &*err), (Some(78), "F:2: --run-dir must be an absolute path here\n"));
    let missing = run(Command::new(binary()).args(["check", "/no/such/file"]), TIMEOUT);
    assert_eq!(missing.status.code(), Some(66), "{missing:?}");
    assert!(missing.stderr.starts_with("balance: cannot read /no/such/file: "), "{missing:?}");
}

#[test]
fn a_process_that_hangs_is_replaced() {
    let a = Backend::echo("A");
    let one = ReservedPort::new();
    let service = Service::new(&line(&one, &[&a]));
    service.run_ok(&["start"]);
    let hung = service.status()[0].pid.expect("a process");
    signal(hung, Signal::SIGSTOP);
    service.status_when("another process serves", |rows| {
        rows[0].state == "running" && rows[0].pid.is_some_and(|pid| pid != hung)
    });
    assert_echoes(&mut open(&one));
    service.run_ok(&["stop"]);
}
