//! Lives of connections at random, broken off in all ways, through each datapath: nothing is lost,
//! nothing is made up, nothing hangs, nothing is left.
//!
//! The lives are the same in every run; `cargo xtask soak` draws others, for as long as one likes.
//! The tests of this file run one at a time: they look at the whole machine.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tests::{
    kernel_works, note,
    soak::{Limit, Run, Setting},
};

const SEED: u64 = 3571;

/// On each datapath.
const LIVES: u64 = 500;

#[test]
fn on_relay() {
    live("relay");
}

#[test]
fn on_sockmap() {
    live("sockmap");
}

#[test]
fn on_handover() {
    live("handover");
}

#[test]
fn on_splice() {
    live("splice");
}

#[test]
fn on_splice_between_hosts() {
    live("splice-apart");
}

#[test]
fn on_splice_between_hosts_over_ipv6() {
    live("splice-apart-v6");
}

#[test]
fn on_sockmap_between_hosts_over_ipv6() {
    live("sockmap-apart-v6");
}

/// Also one in which no single life is at fault.
#[test]
fn what_goes_wrong_in_a_run_names_it() {
    let _alone = alone();
    let setting: Setting = "relay".parse().expect("a name of a setting");
    for (limit, words) in [
        (Limit::Lives(1), "--lives 1"),
        (Limit::Only(7, 2), "--only 7 --times 2"),
        (Limit::Time(Duration::from_secs(3)), "--seconds 3"),
    ] {
        let run = Run { setting, seed: SEED, limit };
        let failures = run.go(&|_| panic!("made to")).expect_err("a run that fails");
        let [failure] = &failures[..] else { panic!("not one failure: {failures:#?}") };
        let said = failure.to_string();
        assert!(said.starts_with("on relay, seed 3571: "), "{said}");
        let again = format!("again: cargo xtask soak --datapath relay --seed {SEED} {words}");
        assert_eq!(said.lines().last(), Some(&*again), "{said}");
    }
}

fn live(name: &str) {
    let _alone = alone();
    let setting: Setting = name.parse().expect("a name of a setting");
    if setting.needs_kernel() && !kernel_works() {
        return;
    }
    match (Run { setting, seed: SEED, limit: Limit::Lives(LIVES) }).go(&|_| {}) {
        Ok(Some(figures)) => note(&format!("{setting}, seed {SEED}: {figures}")),
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
