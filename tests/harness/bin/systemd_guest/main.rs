//! Tests the package from install to purge under Debian's systemd, as a unit of a virtual machine
//! (`cargo xtask test --systemd`). Each step reads the journal and `systemctl status`.
//!
//! Arguments: names of steps to run instead of all.
//!
//! Invariants: the steps run in one sequence. After the first failure no step runs. The last line
//! is `guest: passed` only if every step has passed.

#![expect(clippy::print_stdout, reason = "standard output is the machine's console")]

mod load;
mod scenario;
mod steps;
mod unit;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use self::{scenario::Scenario, steps::STEPS, unit::Unit};

fn main() -> ExitCode {
    // The kernel leaves an unfinished line.
    println!();
    let selected: Vec<String> = env::args().skip(1).collect();
    let passed = run(&selected);
    println!("guest: {}", if passed { "passed" } else { "failed" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(selected: &[String]) -> bool {
    println!("guest: {}", unit::systemd_version());
    let mut scenario = Scenario::new();
    for (name, step) in STEPS {
        if !selected.is_empty() && !selected.iter().any(|word| word == name) {
            continue;
        }
        println!("guest: {name}");
        let started = Instant::now();
        // The message of the panic is on the console.
        if catch_unwind(AssertUnwindSafe(|| step(&mut scenario))).is_err() {
            println!("guest: {name} FAILED in {} s", started.elapsed().as_secs());
            Unit::BALANCE.print_state();
            return false;
        }
        println!("guest: {name} passed in {} s", started.elapsed().as_secs());
    }
    true
}
