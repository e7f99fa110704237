//! Runs test executables, a few at a time, because most of them wait more than they compute.
//!
//! Invariants: the output of an executable is shown as one block when the executable ends. After
//! the first failure no executable is started, and the failures are shown last.

use std::{
    collections::VecDeque,
    fs::{self, File},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// Executables at a time. Each runs as many tests at a time as there are processors.
const LANES: usize = 2;

/// A test executable.
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) command: Command,
}

/// The state that the lanes share.
#[derive(Default)]
struct Shared {
    waiting: VecDeque<Test>,
    passed: Vec<(Duration, String)>,
    failed: Vec<String>,
}

/// Runs the executables in their order. Returns the time of each, the longest first.
pub(crate) fn run(tests: Vec<Test>) -> Result<Vec<(Duration, String)>> {
    let shared = Mutex::new(Shared { waiting: tests.into(), ..Shared::default() });
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(mut test) = next(lock()) {
                    let started = Instant::now();
                    let (output, passed) = run_one(&mut test);
                    let mut shared = lock();
                    eprintln!("{output}");
                    match passed {
                        true => shared.passed.push((started.elapsed(), test.name)),
                        false => shared.failed.push(output),
                    }
                }
            });
        }
    });
    let Shared { mut passed, failed, .. } =
        shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("failed:\n{}", failed.join("\n"));
    }
    passed.sort();
    passed.reverse();
    Ok(passed)
}

fn next(mut shared: MutexGuard<'_, Shared>) -> Option<Test> {
    shared.failed.is_empty().then(|| shared.waiting.pop_front())?
}

/// Runs an executable. Returns its output and whether it has succeeded.
fn run_one(Test { name, command }: &mut Test) -> (String, bool) {
    let (output, status, passed) = match logged(name, command) {
        Ok((output, status)) if status.success() => (output, "passed".to_owned(), true),
        Ok((output, status)) => (output, format!("FAILED: {status}"), false),
        Err(error) => (String::new(), format!("FAILED: {error:#}"), false),
    };
    (format!("-- {name}\n{}\n-- {name} {status}", output.trim()), passed)
}

/// Runs a command with a log file as output. A process that a test leaves behind would keep a pipe
/// open and block the reader.
fn logged(name: &str, command: &mut Command) -> Result<(String, ExitStatus)> {
    let log = workspace::log(name)?;
    let file = File::create(&log).with_context(|| log.display().to_string())?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    let output = fs::read(&log).with_context(|| log.display().to_string())?;
    Ok((String::from_utf8_lossy(&output).into_owned(), status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Test {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Test { name: name.to_owned(), command }
    }

    #[test]
    fn passed_executables_are_returned_with_their_times() {
        let tests = (0..7).map(|i| shell(&format!("test-lanes-{i}"), "true")).collect();
        let mut names: Vec<_> = run(tests).unwrap().into_iter().map(|(_, name)| name).collect();
        names.sort();
        assert_eq!(names, (0..7).map(|i| format!("test-lanes-{i}")).collect::<Vec<_>>());
    }

    #[test]
    fn after_a_failure_nothing_is_started_and_the_error_contains_the_output() {
        let failing = (0..LANES).map(|i| shell(&format!("test-lanes-f{i}"), "echo why; exit 1"));
        let later = shell("test-lanes-later", "echo must not run");
        let error = run(failing.chain([later]).collect()).unwrap_err().to_string();
        assert!(error.contains("why\n-- test-lanes-f0 FAILED: exit status: 1"), "{error}");
        assert!(!error.contains("must not run"), "{error}");
    }
}
