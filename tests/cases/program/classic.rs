//! Compares the program with recordings of balance 3.57.
//!
//! `oracle/run.py` replays the recordings. `oracle/differences.txt` lists the cases that differ on
//! purpose. Any other difference fails, and so does a listed case that no longer differs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::{binary, note, run, skip};

/// Longer than the runner's own limit.
const DEADLINE: Duration = Duration::from_secs(270);

#[test]
fn differs_from_the_classic_only_on_purpose() {
    if !python_works() {
        return skip("the oracle needs python3");
    }
    if !nix::unistd::Uid::effective().is_root() {
        return skip("the oracle needs root, to give each case a network of its own");
    }

    let path = oracle("differences.txt");
    let list = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (listed, mut offenders) = differences(&list);

    let mut names = runner();
    names.arg("--list");
    let names = run(&mut names, DEADLINE);
    assert!(names.status.success(), "{names:?}");
    let names: BTreeSet<_> = names.stdout.lines().collect();

    let outcome = run(&mut runner(), DEADLINE);
    let results = results(&outcome.stdout);
    for name in &names {
        let result = results.get(name);
        match (result, listed.contains(name)) {
            (Some(Result::Pass), false) | (Some(Result::Fail(_)), true) => {}
            (Some(Result::Fail(difference)), false) => {
                offenders.push(format!("{name} differs and is not listed:\n{difference}"));
            }
            (Some(Result::Pass), true) => {
                offenders.push(format!("{name} is listed, but does not differ"));
            }
            (Some(Result::Skip(why)), _) => offenders.push(format!("{name} was skipped {why}")),
            (None, _) => offenders.push(format!("{name} was not run")),
        }
    }
    for name in listed.iter().filter(|name| !names.contains(*name)) {
        offenders.push(format!("{name} is listed, but there is no such case"));
    }

    note(outcome.stdout.lines().last().unwrap_or("the runner printed nothing"));
    assert!(
        offenders.is_empty() && !names.is_empty(),
        "{} offenders, {} cases; the list is {}\n\n{}\n\nend of the runner's output: {}{}",
        offenders.len(),
        names.len(),
        path.display(),
        offenders.join("\n"),
        outcome.stdout.lines().last().unwrap_or_default(),
        outcome.stderr,
    );
}

/// The runner's result for a case.
#[derive(Debug)]
enum Result {
    Pass,
    /// The difference, as the runner prints it.
    Fail(String),
    /// The reason.
    Skip(String),
}

/// Parses the list of `name: reason` lines and comments; also returns the mistakes in it.
fn differences(list: &str) -> (BTreeSet<&str>, Vec<String>) {
    let mut listed = BTreeSet::new();
    let mut wrong = Vec::new();
    for line in list.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (name, reason) = line.split_once(':').unwrap_or((line, ""));
        if reason.trim().is_empty() {
            wrong.push(format!("{name} is listed without a reason"));
        }
        if !listed.insert(name) {
            wrong.push(format!("{name} is listed twice"));
        }
    }
    (listed, wrong)
}

/// Parses the runner's output: a line for each case, followed by its difference, indented.
fn results(output: &str) -> BTreeMap<&str, Result> {
    let mut results = BTreeMap::new();
    let mut last = None;
    for line in output.lines() {
        let (verdict, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, why) = rest.split_once(' ').unwrap_or((rest, ""));
        let result = match verdict {
            "PASS" => Result::Pass,
            "FAIL" => Result::Fail(String::new()),
            "SKIP" => Result::Skip(why.to_owned()),
            _ => {
                if let Some(Result::Fail(difference)) =
                    last.and_then(|name| results.get_mut(name)).filter(|_| line.starts_with(' '))
                {
                    difference.push_str(line);
                    difference.push('\n');
                }
                continue;
            }
        };
        last = Some(name);
        results.insert(name, result);
    }
    results
}

/// The runner for the program under test, with logging off: the classic logged nothing.
fn runner() -> Command {
    let mut command = Command::new("python3");
    command
        .arg("-B")
        .arg(oracle("run.py"))
        .arg("--program")
        .arg(binary())
        .env("BALANCE_LOG", "off")
        .env("PYTHONUNBUFFERED", "1");
    command
}

fn python_works() -> bool {
    Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn oracle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle").join(name)
}
