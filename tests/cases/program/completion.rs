//! Completion of command lines, with the requests that the shell functions send.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tests::{Balance, Builder, TIMEOUT, binary, run};

#[test]
fn verbs_come_first_and_options_when_asked_for() {
    assert_eq!(offers(&["st"]), ["start", "stop", "status"]);
    assert!(offers(&[""]).iter().all(|word| !word.starts_with('-')));
    assert_eq!(offers(&["--half"]), ["--half-close-timeout"]);
    assert_eq!(offers(&["status", "--j"]), ["--json"]);
    assert_eq!(offers(&["--datapath", "s"]), ["splice", "sockmap"]);
    // A verb cannot follow a port.
    assert_eq!(offers(&["25", "st"]), [""; 0]);
}

#[test]
fn file_names_are_offered_for_options_that_take_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("mail.conf");
    std::fs::write(&file, "").expect("writing a file");
    let (file, begin) = (file.display().to_string(), folder.path().join("ma"));
    let begin = begin.display().to_string();
    assert_eq!(offers(&["check", &begin]), std::slice::from_ref(&file));
    assert_eq!(offers(&["start", "--config", &begin]), [file]);
}

#[test]
fn control_commands_follow_c() {
    assert_eq!(offers(&["-c", "d"]), ["disable", "drain", "drop"]);
    assert_eq!(offers(&["-c", "s"]), ["show", "servers", "sessions", "stats"]);
}

#[test]
fn only_running_instances_are_offered_to_commands() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().display().to_string();
    let start = || Builder::auto().option(&["--run-dir", &dir]).operand("127.0.0.1:9").start();
    let (one, mut other) = (start(), start());
    let port = |balance: &Balance| balance.address().port().to_string();
    let bind = one.address().ip().to_string();
    assert_eq!(other.address().ip().to_string(), bind);
    let ask = |words: &[&str]| {
        let mut found = offers(&[&["--run-dir", &dir], words].concat());
        found.sort();
        found
    };
    let mut both = [port(&one), port(&other)];
    both.sort();
    assert_eq!(ask(&["-b", &bind, "-c", "show", ""]), both);
    assert_eq!(ask(&["-b", &bind, "-i", ""]), both);
    assert_eq!(ask(&["-i", "-b", ""]), std::slice::from_ref(&bind));
    // The instances listen on another address.
    assert_eq!(ask(&["-b", "127.0.0.2", "-c", "show", &port(&one)]), [""; 0]);
    assert_eq!(ask(&["-c", "show", &port(&one)]), [""; 0]);

    other.signal(Signal::SIGKILL);
    other.wait(TIMEOUT);
    assert_eq!(ask(&["-b", &bind, "-c", "show", ""]), [port(&one)]);
}

#[test]
fn names_of_running_instances_and_servers_are_offered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().display().to_string();
    let start = |name: &str, server: &str| {
        let builder = Builder::auto().option(&["--run-dir", &dir, "--name", name]);
        builder.operand(&format!("127.0.0.1:9,name={server}")).start()
    };
    let (one, _two) = (start("inbound", "mx1"), start("outbound", "mx2"));
    let ask = |words: &[&str]| {
        let mut found = offers(&[&["--run-dir", &dir], words].concat());
        found.sort();
        found
    };
    assert_eq!(ask(&["-c", "show", ""]), ["inbound", "outbound"]);
    assert_eq!(ask(&["-i", "in"]), ["inbound"]);
    let bind = one.address().ip().to_string();
    let port = one.address().port().to_string();
    assert_eq!(ask(&["-b", &bind, "-c", "show", &port]), std::slice::from_ref(&port));
    assert_eq!(ask(&["-b", "127.0.0.2", "-c", "show", "in"]), [""; 0]);
    assert_eq!(ask(&["-c", "disable "]), ["disable mx1", "disable mx2"]);
    assert_eq!(ask(&["-c", "'show; d mx1"]), ["show; d mx1"]);
    assert_eq!(ask(&["-c", "maxc mx1 "]), [""; 0]);
    let behind = |operand: &str| offers_at(&["--run-dir", &dir, "-c", "drop m", operand], 4);
    assert_eq!(behind("outbound"), ["drop mx2"]);

    // A process that does not answer delays no shell.
    one.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    assert_eq!(ask(&["-b", &bind, "-c", "show", &port]), std::slice::from_ref(&port));
    let elapsed = begun.elapsed();
    one.signal(Signal::SIGCONT);
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}

#[test]
fn completion_variables_of_other_programs_are_ignored() {
    let outcome = run(Command::new(binary()).arg("--version").env("COMPLETE", "1"), TIMEOUT);
    assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
    assert!(outcome.stdout.starts_with("balance "), "{outcome:?}");
}

/// The completions of the last word.
fn offers(words: &[&str]) -> Vec<String> {
    offers_at(words, words.len())
}

/// The completions of the word at `index`; `balance` is the word at 0.
fn offers_at(words: &[&str], index: usize) -> Vec<String> {
    let mut shell = Command::new(binary());
    shell.args(["--", "balance"]).args(words).env("COMPLETE", "bash");
    shell.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_INDEX", index.to_string());
    let outcome = run(&mut shell, TIMEOUT);
    assert_eq!(outcome.status.code(), Some(0), "{words:?}: {outcome:?}");
    assert_eq!(outcome.stderr, "", "{words:?}");
    outcome.stdout.lines().map(str::to_owned).collect()
}
