//! What `status` and `reload` tell beside the state of the instances: names, processes that hang,
//! and the difference between what runs and what the file says.

use std::{
    fs::{self, File},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{Backend, Outcome, ReservedPort, Service, TIMEOUT, binary, eventually, run};

/// The longest time that `status` may take, whatever hangs.
const LIMIT: Duration = Duration::from_secs(2);

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("sending a signal");
}

/// Runs a control command on an instance of a service.
fn control(service: &Service, line: &str, operand: &str) {
    let mut command = Command::new(binary());
    command.arg("--run-dir").arg(service.run_dir()).args(["--strict", "-c", line, operand]);
    let outcome = run(&mut command, TIMEOUT);
    assert_eq!(outcome.status.code(), Some(0), "{line}: {outcome:?}");
}

/// Runs `status`, which must end in time.
fn status(service: &Service, words: &[&str]) -> Outcome {
    let begun = Instant::now();
    let outcome = service.run(&[&["status"], words].concat());
    assert!(begun.elapsed() < LIMIT, "{:?}: {outcome:?}", begun.elapsed());
    outcome
}

/// The first words of the lines of the table.
fn first_words(table: &str) -> Vec<&str> {
    table.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect()
}

#[test]
fn status_has_the_names_of_instances() {
    let a = Backend::greeter("A");
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let text = |port: &ReservedPort, name: &str| {
        format!("-b 127.0.0.1 {} {} {name}\n", port.port(), a.address())
    };
    let service = Service::new(&(text(&one, "--name smtp") + &text(&two, "")));
    let plain = format!("127.0.0.1:{}", two.port());
    let names = |json: serde_json::Value| -> Vec<_> {
        let rows = json["instances"].as_array().expect("instances").clone();
        rows.iter().map(|row| (row["instance"].clone(), row["name"].clone())).collect()
    };
    let expected = [
        (format!("127.0.0.1:{}", one.port()).into(), "smtp".into()),
        (plain.clone().into(), serde_json::Value::Null),
    ];
    assert_eq!(first_words(&service.run(&["status"]).stdout), ["smtp", &plain]);
    assert_eq!(names(service.status_json()), expected);
    service.run_ok(&["start"]);
    let running = service.run_ok(&["status"]);
    assert_eq!(first_words(&running), ["smtp", &plain]);
    assert!(running.lines().nth(2).expect("a row").contains(&one.address().to_string()));
    assert_eq!(names(service.status_json()), expected);
    service.write(&(text(&one, "--name smtp -t 7") + &text(&two, "--name mx")));
    assert_eq!(service.run_ok(&["reload"]), "smtp: changed\nmx: changed\nbalance is reloaded\n");
    assert_eq!(first_words(&service.run_ok(&["status"])), ["smtp", "mx"]);
    service.run_ok(&["stop"]);
}

#[test]
fn what_control_commands_have_changed_is_told_by_status_and_reload() {
    let a = Backend::greeter("A");
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let text = |port: &ReservedPort, rest: &str| {
        format!("-b 127.0.0.1 {} {},name=mx1 {rest}\n", port.port(), a.address())
    };
    let line = text(&one, "127.0.0.1:9,name=mx2 --name smtp");
    let other = text(&two, "");
    let service = Service::new(&(line.clone() + &other));
    service.run_ok(&["start"]);
    assert_eq!(service.run_ok(&["reload"]), "balance is reloaded: nothing has changed\n");
    assert_eq!(service.status()[0].differences, [""; 0]);

    control(&service, "disable mx1; maxc mx2 5; hash; group 1; create 127.0.0.1 7", "smtp");
    let differences = [
        "group 0: hash, the file says rr",
        "server mx1 is disabled",
        "server mx2: maximum 5, the file says 0",
        "group 1: server 127.0.0.1:7 is not in the file",
    ];
    let told = status(&service, &[]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let notes = differences.map(|text| format!("  differs from the file: {text}"));
    let lines: Vec<_> = told.stdout.lines().collect();
    assert!(lines[2].starts_with("smtp"), "{told:?}");
    assert_eq!(lines[3..7], notes);
    assert!(lines[7].starts_with(&format!("127.0.0.1:{}", two.port())), "{told:?}");
    assert_eq!(lines.len(), 8, "{told:?}");
    let rows = service.status();
    assert_eq!(
        (&rows[0].differences[..], rows[1].differences.len()),
        (&differences.map(str::to_owned)[..], 0)
    );

    // The line is the same, so the reload keeps the differences.
    let kept = format!("smtp: differs from the file: {}\n", differences.join("; "));
    let nothing = "balance is reloaded: nothing has changed\n";
    assert_eq!(service.run_ok(&["reload"]), format!("{kept}{nothing}"));
    // A changed line overwrites all but a disabled server.
    service.write(&(line.replace("--name", "-t 7 --name") + &other));
    let disabled = differences[1];
    let overwritten = [differences[0], differences[2], differences[3]].join("; ");
    let expected = format!(
        "smtp: changed\nsmtp: differs from the file: {disabled}\n\
         smtp: overwritten by the file: {overwritten}\nbalance is reloaded\n"
    );
    assert_eq!(service.run_ok(&["reload"]), expected);
    assert_eq!(service.status()[0].differences, [disabled]);
    control(&service, "enable mx1", "smtp");
    assert_eq!(service.run_ok(&["reload"]), nothing);
    service.run_ok(&["stop"]);
}

#[test]
fn a_changed_file_is_told_until_a_reload_applies_it() {
    let a = Backend::greeter("A");
    let port = ReservedPort::new();
    let line = format!("-b 127.0.0.1 {} {}\n", port.port(), a.address());
    let service = Service::new(&format!("{line}include more\n"));
    let included = service.file().with_file_name("more");
    let write = |text: &str| fs::write(&included, text).expect("writing a file");
    write("");
    service.run_ok(&["start"]);
    let told = || {
        let outcome = status(&service, &[]);
        assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
        let json = service.status_json()["file_changed"].clone();
        let last = outcome.stdout.lines().next_back().expect("a line").to_owned();
        (json.as_bool(), if last.starts_with("the file") { last } else { String::new() })
    };
    let same = (Some(false), String::new());
    assert_eq!(told(), same);
    write("# a comment\n");
    assert_eq!(told(), same);
    write(":\n");
    let mistake =
        "the file has changed since it was loaded and has a mistake; balance check reports it";
    assert_eq!(told(), (Some(true), mistake.to_owned()));
    let second = ReservedPort::new();
    write(&line.replace(&port.port().to_string(), &second.port().to_string()));
    let changed = "the file has changed since it was loaded; balance reload applies it";
    assert_eq!(told(), (Some(true), changed.to_owned()));
    service.run_ok(&["reload"]);
    assert_eq!(told(), same);
    fs::remove_file(service.file()).expect("removing the file");
    assert_eq!(told(), (None, String::new()));
    service.run_ok(&["stop"]);
}

#[test]
fn a_process_that_hangs_is_told_after_three_seconds() {
    let a = Backend::greeter("A");
    let (one, two) = (ReservedPort::new(), ReservedPort::new());
    let line = |port: &ReservedPort| format!("-b 127.0.0.1 {} {}\n", port.port(), a.address());
    let service = Service::new(&(line(&one) + &line(&two)));
    let log = service.file().with_file_name("log");
    let stderr = File::create(&log).expect("creating a file");
    let mut child = service.foreground(|command| {
        command.stderr(stderr);
    });
    let runs = |rows: &[tests::InstanceStatus]| rows.iter().all(|row| row.state == "running");
    let pid = service.status_when("both run", runs)[0].pid.expect("a process");
    signal(pid, Signal::SIGSTOP);
    let stopped = Instant::now();
    let hung = eventually(TIMEOUT, "status tells", || {
        let outcome = status(&service, &[]);
        match outcome.status.code() {
            Some(1) => Ok(outcome),
            Some(0) => Err(format!("{outcome:?}")),
            _ => panic!("{outcome:?}"),
        }
    });
    // The process may have replied just before the signal, and is asked once a second.
    let elapsed = stopped.elapsed();
    assert!((3..7).contains(&elapsed.as_secs()), "{elapsed:?}");
    assert_eq!(hung.stdout.matches("hung").count(), 2, "{hung:?}");
    let why = format!("server process {pid} has not replied for ");
    assert!(hung.stderr.starts_with(&why) && hung.stderr.lines().count() == 1, "{hung:?}");
    let rows = service.status();
    let states: Vec<_> = rows.iter().map(|row| (&*row.state, row.pid)).collect();
    assert_eq!(states, [("hung", Some(pid)); 2]);
    assert!(rows.iter().all(|row| row.why.as_ref().is_some_and(|text| text.starts_with(&why))));
    signal(pid, Signal::SIGCONT);
    let rows = service.status_when("both run again", runs);
    assert_eq!(rows[0].pid, Some(pid));
    service.run_ok(&["stop"]);
    assert!(tests::finish(&mut child, TIMEOUT, "the supervisor").success());
    let log = fs::read_to_string(log).expect("the log");
    for line in ["server process does not reply", "server process replies again"] {
        let lines = log.lines().filter(|logged| logged.contains(line));
        assert_eq!(lines.filter(|line| line.contains(&format!("pid={pid}"))).count(), 1, "{log}");
    }
}

#[test]
fn a_supervisor_that_does_not_answer_is_told_in_time() {
    let a = Backend::greeter("A");
    let port = ReservedPort::new();
    let service = Service::new(&format!("-b 127.0.0.1 {} {}\n", port.port(), a.address()));
    service.run_ok(&["start"]);
    let pid = service.supervisor();
    signal(pid, Signal::SIGSTOP);
    let text = status(&service, &[]);
    let json = status(&service, &["--json"]);
    signal(pid, Signal::SIGCONT);
    assert_eq!((text.status.code(), &*text.stdout), (Some(4), ""), "{text:?}");
    let file = service.file().display().to_string();
    let why = format!("balance: the running balance does not answer ({file})\n");
    assert_eq!(text.stderr, why);
    assert_eq!((json.status.code(), &*json.stderr), (Some(4), ""), "{json:?}");
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["error"], "the running balance does not answer");
    assert_eq!((&json["running"], &json["pid"]), (&true.into(), &serde_json::Value::Null));
    assert_eq!(status(&service, &[]).status.code(), Some(0));
    service.run_ok(&["stop"]);
}
