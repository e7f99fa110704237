//! Random scenarios, broken off in all ways, on each datapath: no byte is lost or invented, no side
//! hangs, and nothing leaks.
//!
//! Every run has the same scenarios; `cargo xtask soak` draws others.
//!
//! These tests run one at a time, because they measure the whole machine.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tests::{
    kernel_works, note,
    soak::{Limit, Run, Target},
};

const SEED: u64 = 3571;

/// Scenarios on each datapath.
const SCENARIOS: u64 = 500;

#[test]
fn on_relay() {
    run("relay");
}

#[test]
fn on_sockmap() {
    run("sockmap");
}

#[test]
fn on_handover() {
    run("handover");
}

#[test]
fn on_splice() {
    run("splice");
}

#[test]
fn on_splice_between_hosts() {
    run("splice-apart");
}

#[test]
fn on_splice_between_hosts_over_ipv6() {
    run("splice-apart-v6");
}

#[test]
fn on_sockmap_between_hosts_over_ipv6() {
    run("sockmap-apart-v6");
}

/// Includes failures that belong to no single scenario.
#[test]
fn a_failure_has_the_command_that_repeats_its_run() {
    let _alone = alone();
    let target: Target = "relay".parse().expect("a name of a target");
    for (limit, words) in [
        (Limit::Count(1), "--scenarios 1"),
        (Limit::Only(7, 2), "--only 7 --times 2"),
        (Limit::Time(Duration::from_secs(3)), "--seconds 3"),
    ] {
        let run = Run { target, seed: SEED, limit };
        let failures = run.execute(&|_| panic!("made to")).expect_err("a run that fails");
        let [failure] = &failures[..] else { panic!("not one failure: {failures:#?}") };
        let text = failure.to_string();
        assert!(text.starts_with("on relay, seed 3571: "), "{text}");
        let again = format!("again: cargo xtask soak --datapath relay --seed {SEED} {words}");
        assert_eq!(text.lines().last(), Some(&*again), "{text}");
    }
}

fn run(name: &str) {
    let _alone = alone();
    let target: Target = name.parse().expect("a name of a target");
    if target.needs_kernel() && !kernel_works() {
        return;
    }
    match (Run { target, seed: SEED, limit: Limit::Count(SCENARIOS) }).execute(&|_| {}) {
        Ok(Some(statistics)) => note(&format!("{target}, seed {SEED}: {statistics}")),
        Ok(None) => {}
        Err(failures) => {
            let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
            panic!("{}", failures.join("\n\n"));
        }
    }
}

/// Held by the running test.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A failed test must not fail the others by poisoning the lock.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
