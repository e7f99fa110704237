//! The verb `health`: each exit code for its reason, and never more than two seconds, whatever
//! hangs.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{
    Backend, Balance, Builder, OtherUser, ReservedPort, RunDir, Service, TIMEOUT, binary, connect,
    eventually, open_for_all, run,
};

const OK: i32 = 0;
const WARNING: i32 = 1;
const CRITICAL: i32 = 2;
const UNKNOWN: i32 = 3;

/// The longest run of the verb, with the start of the program.
const LIMIT: Duration = Duration::from_millis(2_500);

/// Runs a command of the verb; returns exit code and line.
fn health(command: &mut Command) -> (i32, String) {
    let begun = Instant::now();
    let outcome = run(command, TIMEOUT);
    let took = begun.elapsed();
    assert!(took < LIMIT, "{took:?}: {outcome:?}");
    assert_eq!((outcome.stdout.lines().count(), &*outcome.stderr), (1, ""), "{outcome:?}");
    (outcome.status.code().expect("an exit code"), outcome.stdout.trim_end().to_owned())
}

/// A service with two named instances: one with two servers, one with one.
struct Mail {
    service: Service,
    smtp: ReservedPort,
    imap: ReservedPort,
    _server: Backend,
}

impl Mail {
    fn start(options: &str) -> Self {
        let (server, smtp, imap) = (Backend::echo("A"), ReservedPort::new(), ReservedPort::new());
        let mail = Self { service: Service::new(""), smtp, imap, _server: server };
        mail.write(options, "-b 127.0.0.1");
        mail.service.run_ok(&["start"]);
        mail
    }

    /// Writes the file with options of all lines, and with options of imap.
    fn write(&self, options: &str, imap: &str) {
        let (a, b) = (self.smtp.port(), self.imap.port());
        let server = self._server.address();
        self.service.write(&format!(
            "default {options} --workers 1\n\
             -b 127.0.0.1 --name smtp {a} {server},name=mx1 {server},name=mx2\n\
             {imap} --name imap {b} {server},name=store\n"
        ));
    }

    fn health(&self, words: &[&str]) -> (i32, String) {
        health(&mut self.service.command(&[&["health"], words].concat()))
    }

    /// Sends commands to an instance.
    fn command(&self, name: &str, line: &str) {
        let mut command = Command::new(binary());
        command.arg("--run-dir").arg(self.service.run_dir()).args(["--strict", "-c", line, name]);
        let outcome = run(&mut command, TIMEOUT);
        assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
    }
}

fn assert_starts(found: &(i32, String), code: i32, start: &str) {
    assert!(found.0 == code && found.1.starts_with(start), "{found:?} is not {code} {start}");
}

#[test]
fn usable_servers_are_ok_and_the_line_has_performance_data() {
    let mail = Mail::start("");
    let (code, line) = mail.health(&[]);
    assert_eq!(code, OK, "{line}");
    let (text, data) = line.split_once(" | ").expect("performance data");
    assert_eq!(text, "BALANCE OK - 2 listeners, 3 of 3 servers usable");
    assert!(data.starts_with("connections=0;;;0 'smtp connections'=0;"), "{line}");
    assert!(data.contains(" 'smtp servers'=2;2:;1:;0;2 'imap connections'=0;"), "{line}");
    assert!(data.ends_with(" 'imap servers'=1;1:;1:;0;1"), "{line}");
    let one = "BALANCE OK - 1 listener, 2 of 2 servers usable | connections=0;;;0 'smtp conn";
    for name in ["smtp", &mail.smtp.port().to_string(), &format!("127.0.0.1:{}", mail.smtp.port())]
    {
        assert_starts(&mail.health(&[name]), OK, one);
    }
}

#[test]
fn a_server_that_cannot_be_used_is_a_warning_and_none_is_critical() {
    let mail = Mail::start("");
    mail.command("smtp", "disable mx2");
    let why = "BALANCE WARNING - smtp: 1 of 2 servers usable (mx2 disabled); 2 listeners, 2 of 3 ";
    assert_starts(&mail.health(&[]), WARNING, why);
    assert_eq!(mail.health(&["imap"]).0, OK);
    mail.command("smtp", "disable mx1");
    let why = "BALANCE CRITICAL - smtp: no usable server (mx1 disabled, mx2 disabled); 2 listeners";
    assert_starts(&mail.health(&[]), CRITICAL, why);
    assert_eq!(mail.health(&["imap"]).0, OK);
    mail.command("smtp", "enable mx1; enable mx2");
    assert_eq!(mail.health(&[]).0, OK);
}

#[test]
fn a_full_server_and_a_limit_that_is_near_are_warnings() {
    let mail = Mail::start("--max-connections 10");
    let open = |count: usize| (0..count).map(|_| connect(mail.smtp.address())).collect::<Vec<_>>();
    let held = open(8);
    let connected = |n: u64| {
        eventually(TIMEOUT, "the connections are open", || {
            let open: u64 = mail.service.status().iter().map(|row| row.connections).sum();
            if open == n { Ok(()) } else { Err(format!("{open} of {n}")) }
        });
    };
    connected(8);
    assert_eq!(mail.health(&[]).0, OK);
    let more = open(1);
    connected(9);
    let found = mail.health(&[]);
    assert_starts(&found, WARNING, "BALANCE WARNING - smtp: 9 of 10 connections; 2 listeners");
    assert!(found.1.contains("'smtp connections'=9;8;10;0;10"), "{found:?}");
    drop((held, more));
    connected(0);
    mail.command("imap", "maxc store 1");
    let _held = connect(mail.imap.address());
    connected(1);
    let why = "BALANCE CRITICAL - imap: no usable server (store full)";
    assert_starts(&mail.health(&[]), CRITICAL, why);
}

#[test]
fn a_listener_that_is_not_served_is_critical() {
    let mail = Mail::start("");
    mail.command("smtp", "kill");
    assert_starts(&mail.health(&[]), CRITICAL, "BALANCE CRITICAL - smtp: stopped on request; 2 l");
    mail.service.run_ok(&["stop"]);
    assert_starts(&mail.health(&[]), UNKNOWN, "BALANCE UNKNOWN - no supervisor and no instance f");

    // An address that this host does not have.
    mail.write("", "-b 192.0.2.1");
    assert_ne!(mail.service.run(&["start"]).status.code(), Some(0));
    let found = mail.health(&[]);
    assert_starts(&found, CRITICAL, "BALANCE CRITICAL - imap: ");
    assert!(found.1.contains("cannot listen on 192.0.2.1:"), "{found:?}");
    assert_eq!(mail.health(&["smtp"]).0, OK);
    assert_eq!(mail.health(&["imap"]).0, CRITICAL);
}

#[test]
fn a_mistake_in_the_file_is_critical() {
    let mail = Mail::start("");
    mail.service.run_ok(&["stop"]);
    mail.write("", "-b 127.0.0.1 --nosuch");
    mail.service.run(&["start"]);
    let found = mail.health(&[]);
    let why = format!("BALANCE CRITICAL - {}:3: --nosuch: ", mail.service.file().display());
    assert_starts(&found, CRITICAL, &why);
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("a signal");
}

#[test]
fn a_process_that_hangs_is_critical_within_two_seconds() {
    let mail = Mail::start("");
    let process = mail.service.status()[0].pid.expect("a process");
    let supervisor = mail.service.supervisor();

    signal(process, Signal::SIGSTOP);
    let silent = format!("pid {process} does not answer");
    let both = format!("BALANCE CRITICAL - smtp: {silent}; imap: {silent}; 2 listeners, 0 of 0 s");
    assert_starts(&mail.health(&[]), CRITICAL, &both);
    let one = format!("BALANCE CRITICAL - imap: {silent}; 1 listener");
    assert_starts(&mail.health(&["imap"]), CRITICAL, &one);
    signal(process, Signal::SIGCONT);
    eventually(TIMEOUT, "the process answers", || match mail.health(&[]) {
        (OK, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    signal(supervisor, Signal::SIGSTOP);
    let found = mail.health(&[]);
    signal(supervisor, Signal::SIGCONT);
    let why = "BALANCE CRITICAL - supervisor: the process does not answer; 2 listeners, 3 of 3 ser";
    assert_starts(&found, CRITICAL, why);

    signal(supervisor, Signal::SIGSTOP);
    signal(process, Signal::SIGSTOP);
    let found = [mail.health(&[]), mail.health(&["smtp"])];
    signal(process, Signal::SIGCONT);
    signal(supervisor, Signal::SIGCONT);
    for found in found {
        let why = "BALANCE CRITICAL - supervisor: the process does not answer; ";
        assert_starts(&found, CRITICAL, why);
        assert!(found.1.contains(": the process does not answer; "), "{found:?}");
    }
}

#[test]
fn a_supervisor_that_is_gone_is_critical() {
    let mail = Mail::start("");
    let supervisor = mail.service.supervisor();
    // The server process stays for its connection.
    let _held = connect(mail.smtp.address());
    signal(supervisor, Signal::SIGKILL);
    let gone = format!("BALANCE CRITICAL - supervisor: no process, pid {supervisor} is gone");
    eventually(TIMEOUT, "the supervisor has ended", || match mail.health(&[]) {
        (CRITICAL, line) if line.starts_with(&gone) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// An instance without a supervisor.
struct Alone {
    dir: RunDir,
    balance: Balance,
    _server: Backend,
}

impl Alone {
    fn start(options: &[&str]) -> Self {
        let (dir, server) = (RunDir::new(), Backend::greeter("A"));
        let builder = Builder::auto().option(options).channel(server.address());
        let balance = dir.use_in(builder).start();
        Self { dir, balance, _server: server }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("health").args(words).arg("--run-dir").arg(self.dir.path());
        command
    }

    fn health(&self, words: &[&str]) -> (i32, String) {
        health(&mut self.command(words))
    }
}

#[test]
fn an_instance_without_a_supervisor_is_found_in_the_run_directory() {
    let alone = Alone::start(&["--name", "smtp"]);
    let address = alone.balance.address();
    let ok = "BALANCE OK - 1 listener, 1 of 1 server usable | connections=0;;;0 'smtp connections'";
    for words in [&[][..], &["smtp"], &[&address.port().to_string()], &[&address.to_string()]] {
        assert_starts(&alone.health(words), OK, ok);
    }
    for name in ["imap", "1"] {
        let why = format!("BALANCE UNKNOWN - {name}: no listener has this port or name");
        assert_eq!(alone.health(&[name]), (UNKNOWN, why));
    }
    alone.dir.run_ok(address, "disable 0");
    assert_eq!(alone.health(&[]).0, CRITICAL);
    alone.dir.run_ok(address, "enable 0");

    alone.balance.signal(Signal::SIGSTOP);
    let found = [alone.health(&[]), alone.health(&["smtp"])];
    alone.balance.signal(Signal::SIGCONT);
    let silent = format!("BALANCE CRITICAL - {address}: the process does not answer");
    found.iter().for_each(|found| assert_starts(found, CRITICAL, &silent));

    let pid = alone.balance.process().0;
    alone.balance.signal(Signal::SIGKILL);
    let gone = format!("BALANCE CRITICAL - {address}: no process, pid {pid} is gone; 1 listener");
    eventually(TIMEOUT, "the process has ended", || match alone.health(&[]) {
        (CRITICAL, line) if line.starts_with(&gone) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn the_instances_of_another_file_do_not_count() {
    let mail = Mail::start("");
    let other = mail.service.run_dir().join("other.conf");
    let mut command = Command::new(binary());
    command.args(["health", "--config"]).arg(other);
    command.arg("--run-dir").arg(mail.service.run_dir());
    assert_eq!(health(&mut command).0, UNKNOWN);
}

#[test]
fn mistakes_and_missing_rights_are_unknown() {
    let line = |words: &[&str]| {
        let mut command = Command::new(binary());
        health(command.arg("health").args(words))
    };
    let why = "BALANCE UNKNOWN - --nosuch: unknown option";
    assert_starts(&line(&["--nosuch"]), UNKNOWN, why);
    assert_starts(&line(&["a", "b"]), UNKNOWN, "BALANCE UNKNOWN - b: ");
    let why = "BALANCE UNKNOWN - --run-dir /no/such: no such directory";
    assert_starts(&line(&["--run-dir", "/no/such"]), UNKNOWN, why);

    let group = 4_711_000;
    let Some(member) = OtherUser::new(1, &[group]) else { return };
    let Some(stranger) = OtherUser::new(1, &[]) else { return };
    let grouped = ["--control-group".to_owned(), group.to_string()];
    let alone = Alone::start(&grouped.each_ref().map(String::as_str));
    open_for_all(alone.dir.path());
    assert_eq!(health(&mut member.command(&alone.command(&[]))).0, OK);
    let found = health(&mut stranger.command(&alone.command(&[])));
    let why = format!("BALANCE UNKNOWN - {}: permission denied: ", alone.balance.address());
    assert_starts(&found, UNKNOWN, &why);

    let mail = Mail::start(&grouped.join(" "));
    mail.service.open_for_all();
    assert_eq!(health(&mut member.command(&mail.service.command(&["health"]))).0, OK);
    let found = health(&mut stranger.command(&mail.service.command(&["health"])));
    assert_starts(&found, UNKNOWN, "BALANCE UNKNOWN - permission denied: only root and members o");
}

#[test]
fn json_has_the_same_verdict() {
    let mail = Mail::start("--max-connections 10");
    mail.command("smtp", "disable mx2");
    let outcome = mail.service.run(&["health", "--json"]);
    assert_eq!(outcome.status.code(), Some(WARNING), "{outcome:?}");
    let json: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!((&json["version"], &json["status"]), (&1.into(), &"warning".into()));
    assert_eq!(json["reasons"][0], "smtp: 1 of 2 servers usable (mx2 disabled)");
    let [smtp, imap] = &json["listeners"].as_array().expect("listeners")[..] else {
        panic!("{json}")
    };
    assert_eq!((&smtp["name"], &smtp["state"]), (&"smtp".into(), &"running".into()));
    assert_eq!((&smtp["connections"], &smtp["max_connections"]), (&0.into(), &10.into()));
    assert_eq!(smtp["address"], mail.smtp.address().to_string());
    assert_eq!(smtp["servers"][1]["reason"], "disabled");
    assert_eq!(imap["servers"][0]["usable"], true);

    let outcome = mail.service.run(&["health", "--json", "nosuch"]);
    assert_eq!(outcome.status.code(), Some(UNKNOWN), "{outcome:?}");
    let json: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(json["status"], "unknown");
}
