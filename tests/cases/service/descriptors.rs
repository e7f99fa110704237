//! A server process at its limit of open files.

use std::{fs, process::Command};

use tests::{Backend, ReservedPort, Service, TIMEOUT, ask, eventually, run};

/// Descriptors of a line with two workers: two listeners and the control socket.
const DESCRIPTORS: usize = 3;

/// The open descriptors of a process, by number.
fn descriptors(pid: i32) -> Vec<usize> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("/proc").flatten();
    let numbers = fds.filter_map(|fd| fd.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

/// Sets the limit of open files of a process.
fn limit(pid: i32, limit: usize) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nofile={limit}:")]);
    let outcome = run(&mut command, TIMEOUT);
    assert!(outcome.status.success(), "{outcome:?}");
}

#[test]
fn lines_that_find_no_descriptors_fail_alone_and_leave_none_open() {
    let servers = ["A", "B", "C"].map(Backend::greeter);
    let ports = [ReservedPort::new(), ReservedPort::new(), ReservedPort::new()];
    let line = |i: usize| {
        let (port, server) = (ports[i].port(), servers[i].address());
        format!("--datapath relay --workers 2 -b 127.0.0.1 {port} {server}\n")
    };
    let service = Service::new(&line(0));
    service.run_ok(&["start"]);
    // Unlike `status`, the pid file opens no connection in the process.
    let pid_file = service.run_dir().join(format!("balance.{}.127.0.0.1.pid", ports[0].port()));
    let pid = fs::read_to_string(pid_file).expect("a pid file");
    let pid: i32 = pid.trim().parse().expect("a process id");
    let before = descriptors(pid);
    // The free numbers below the limit of open files can be opened.
    let free_number = |n: usize| (0..).filter(|fd| !before.contains(fd)).nth(n).expect("a number");
    service.write(&(line(0) + &line(1) + &line(2)));
    for free in 0..DESCRIPTORS {
        limit(pid, free_number(free));
        let reloaded = service.run(&["reload"]);
        assert_eq!(reloaded.status.code(), Some(71), "{reloaded:?}");
        let why = "no descriptor left for the listeners\n";
        assert_eq!(reloaded.stderr.matches(why).count(), 2, "{reloaded:?}");
        eventually(TIMEOUT, "all are closed", || match descriptors(pid) {
            now if now == before => Ok(()),
            now => Err(format!("{free} were free: {now:?}, before {before:?}")),
        });
    }
    limit(pid, free_number(100));
    service.run_ok(&["reload"]);
    let states: Vec<_> = service.status().into_iter().map(|row| (row.state, row.pid)).collect();
    assert_eq!(states, vec![("running".to_owned(), Some(pid)); 3]);
    let answers = ports.each_ref().map(|port| ask(port.address()).expect("an answer"));
    assert_eq!(answers, ["A", "B", "C"]);
    service.run_ok(&["stop"]);
}
