//! Scenarios of connections at random, broken off in all ways, through each datapath: nothing is lost,
//! nothing is made up, nothing hangs, nothing is left.
//!
//! The scenarios are the same in every run; `cargo xtask soak` draws others, for as long as one likes.
//! The tests of this file run one at a time: they look at the whole machine.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tests::{
    kernel_works, note,
    soak::{Limit, Run, Target},
};

const SEED: u64 = 3571;

/// On each datapath.
const SCENARIOS: u64 = 500;

#[test]
fn on_relay() {
    run_scenario("relay");
}

#[test]
fn on_sockmap() {
    run_scenario("sockmap");
}

#[test]
fn on_handover() {
    run_scenario("handover");
}

#[test]
fn on_splice() {
    run_scenario("splice");
}

#[test]
fn on_splice_between_hosts() {
    run_scenario("splice-apart");
}

#[test]
fn on_splice_between_hosts_over_ipv6() {
    run_scenario("splice-apart-v6");
}

#[test]
fn on_sockmap_between_hosts_over_ipv6() {
    run_scenario("sockmap-apart-v6");
}

/// Also one in which no single scenario is at fault.
#[test]
fn what_goes_wrong_in_a_run_names_it() {
    let _alone = alone();
    let target: Target = "relay".parse().expect("a name of a target");
    for (limit, words) in [
        (Limit::Count(1), "--scenarios 1"),
        (Limit::Only(7, 2), "--only 7 --times 2"),
        (Limit::Time(Duration::from_secs(3)), "--seconds 3"),
    ] {
        let run = Run { target, seed: SEED, limit };
        let failures = run.go(&|_| panic!("made to")).expect_err("a run that fails");
        let [failure] = &failures[..] else { panic!("not one failure: {failures:#?}") };
        let sent = failure.to_string();
        assert!(sent.starts_with("on relay, seed 3571: "), "{sent}");
        let again = format!("again: cargo xtask soak --datapath relay --seed {SEED} {words}");
        assert_eq!(sent.lines().last(), Some(&*again), "{sent}");
    }
}

fn run_scenario(name: &str) {
    let _alone = alone();
    let target: Target = name.parse().expect("a name of a target");
    if target.needs_kernel() && !kernel_works() {
        return;
    }
    match (Run { target, seed: SEED, limit: Limit::Count(SCENARIOS) }).go(&|_| {}) {
        Ok(Some(statistics)) => note(&format!("{target}, seed {SEED}: {statistics}")),
        Ok(None) => {}
        Err(failures) => {
            let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
            panic!("{}", failures.join("\n\n"));
        }
    }
}

/// Held by the one run that takes place.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed while it held the lock is no reason for the others to fail.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
