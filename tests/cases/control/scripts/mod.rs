//! Random command lines and control scripts, compared with models: the program never crashes or
//! hangs, and its output is byte for byte that of the model.
//!
//! Every run has the same cases. `BALANCE_TEST_SEED=N` generates others.

use std::{
    fs::File,
    process::{Command, Stdio},
};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestError, TestRunner},
};
use tests::{
    Backend, Builder, ChannelRow, DaemonGuard, Datapath, Outcome, ReservedPort, RunDir, TIMEOUT,
    ask, binary, eventually, run, run_with_input,
};

mod commands;
mod lines;
mod model;

use commands::TypedCommand;
use lines::Line;
use model::Model;

const CASES: u32 = 500;

#[test]
fn any_command_line_exits_as_documented() {
    for_all(lines::line(), |line| check_line(&line));
}

#[test]
fn any_script_has_the_output_and_effects_of_the_model() {
    let server = Backend::greeter("A");
    let help = help();
    let scripts = commands::script(server.address());
    for_all(scripts, |(visits, strict_once, script)| {
        let dir = RunDir::new();
        let builder = Builder::new(Datapath::Relay).quiet().option(&["--workers", "1"]);
        let (first, second) = (server.address(), format!("{}:7", server.address()));
        let builder = builder.channel(first).operand("!").operand(&second).operand("%");
        let balance = dir.use_in(builder).start();
        let address = balance.address();
        for _ in 0..visits {
            assert_eq!(ask(address).expect("an orderly close"), "A");
        }
        let rows = eventually(TIMEOUT, "all connections have ended", || {
            let rows = dir.show(address);
            if rows.iter().all(|row| row.current == 0) {
                Ok(rows)
            } else {
                Err(format!("{rows:?}"))
            }
        });
        assert_eq!(counts(&rows), [(visits, visits), (0, 0)], "connections, bytes to clients");

        let pid = balance.process().0;
        let mut model = Model::new(pid, visits, server.address(), &help);
        if strict_once {
            // The first line is given alone, the others to the shell.
            let line = &script[0];
            let mut command = dir.command(address, &commands::text(line));
            let outcome = run(command.arg("--strict"), TIMEOUT);
            let (output, code) = model.once(line);
            assert_eq!(outcome.stdout, output, "{line:?}");
            assert_only_hints(&outcome);
            assert_eq!(outcome.status.code(), Some(code), "{line:?}: {outcome:?}");
        } else {
            let outcome = shell(&dir, address.port(), &script);
            let output = model.shell(&script);
            assert_eq!(outcome.stdout, output);
            assert_only_hints(&outcome);
            assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
        }
        assert_eq!(dir.run_ok(address, "show"), model.show());
        let log = balance.log();
        assert!(!log.iter().any(|line| line.contains("panicked")), "{log:#?}");
    });
}

/// Asserts that standard error has hints for syntax errors, and nothing else.
fn assert_only_hints(outcome: &Outcome) {
    let mistakes = ["syntax error", "value out of range"];
    let printed = |text: &str| outcome.stdout.matches(text).count();
    let expected: usize = mistakes.iter().map(|text| printed(text)).sum();
    let hints = outcome.stderr.lines().filter(|line| line.starts_with("balance: ")).count();
    assert_eq!((hints, outcome.stderr.lines().count()), (expected, expected), "{outcome:?}");
}

/// Generates the cases; panics with the smallest failing case.
fn for_all<S: Strategy>(strategy: S, check: impl Fn(S::Value)) {
    let seed = std::env::var("BALANCE_TEST_SEED").map_or(3, |text| text.parse().expect("a number"));
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 200,
        ..Config::default()
    });
    let result = runner.run(&strategy, |case| {
        check(case);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("seed {seed}: {why}\nthe case: {case:#?}"),
        Err(TestError::Abort(why)) => panic!("seed {seed}: {why}"),
    }
}

fn check_line(line: &Line) {
    let dir = RunDir::new();
    let _guard = DaemonGuard(&dir);
    let port = ReservedPort::new();
    let mut command = Command::new(binary());
    command.arg("--run-dir").arg(dir.path());
    command.args(line.words(port.port()));
    let outcome = run(&mut command, TIMEOUT);
    let Outcome { status, stdout, stderr } = &outcome;
    let (code, expected) = (status.code(), line.codes());
    assert!(code.is_some_and(|code| expected.contains(&code)), "not {expected:?}: {outcome:?}");
    assert!(!stderr.contains("panicked"), "{outcome:?}");
    match code {
        // The program serves in the background, which proves that the line had none of the mistakes
        // above.
        Some(0) if expected == [0] && line.serves() => {
            let outcome = dir.run(port.address(), "kill");
            assert_eq!(outcome.stdout, "shutdown complete, exiting.\n", "{outcome:?}");
            assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
        }
        Some(0) => assert!(!stdout.is_empty() && stderr.is_empty(), "{outcome:?}"),
        Some(lines::UNAVAILABLE) if line.is_command() => {
            assert_eq!(stdout, "no master process, exiting.\n", "{outcome:?}");
            assert_eq!(stderr, "", "{outcome:?}");
        }
        _ => {
            assert_eq!(stdout, "", "{outcome:?}");
            assert_eq!(stderr.lines().count(), 1, "{outcome:?}");
            assert!(stderr.starts_with("balance: "), "{outcome:?}");
        }
    }
}

/// The output of the shell for a script from a file.
fn shell(dir: &RunDir, port: u16, script: &[Vec<TypedCommand>]) -> Outcome {
    let text: String = script.iter().map(|line| commands::text(line) + "\n").collect();
    let file = dir.path().join("script");
    std::fs::write(&file, text).expect("writing the script");
    let input = Stdio::from(File::open(&file).expect("opening the script"));
    let mut command = Command::new(binary());
    command.arg("--run-dir").arg(dir.path());
    command.args(["-b", "127.0.0.1", "-i", &port.to_string()]);
    run_with_input(&mut command, input, TIMEOUT)
}

/// The output of `help`. The model repeats it, so its content is checked here.
fn help() -> String {
    let dir = RunDir::new();
    let balance = dir.use_in(Builder::new(Datapath::Relay).operand("127.0.0.1:9")).start();
    let text = dir.run_ok(balance.address(), "help");
    assert!(text.starts_with("available commands:\n  create <host> <port>"), "{text}");
    text
}

/// Connections, and bytes to clients, of each channel.
fn counts(rows: &[ChannelRow]) -> Vec<(u64, u64)> {
    rows.iter().map(|row| (row.total, row.rcvd)).collect()
}
