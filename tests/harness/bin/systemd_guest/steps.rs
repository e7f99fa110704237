//! The steps of the scenario, in their order.
//!
//! Invariant: a step leaves the service as the next step expects it; each step says how.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::eventually;

use crate::{
    load::Load,
    scenario::{Listener, Scenario, ends_with, wait_until_served},
    unit::{STATE_TIMEOUT, Unit},
};

/// A step panics if an assertion fails.
type Step = fn(&mut Scenario);

/// The steps with their names.
pub(crate) const STEPS: [(&str, Step); 8] = [
    ("install", install),
    ("start", start),
    ("reload", reload),
    ("wrong-file", wrong_file),
    ("crash", crash),
    ("upgrade", upgrade),
    ("stop", stop),
    ("purge", purge),
];

/// The package under test and the same with a higher version.
const PACKAGE: &str = "/packages/balance.deb";
const NEXT_PACKAGE: &str = "/packages/balance-next.deb";

/// Exit codes of `systemctl status`.
const RUNS: i32 = 0;
const STOPPED: i32 = 3;
const UNKNOWN: i32 = 4;

/// Exit code of `systemctl reload` for a failed reload.
const RELOAD_FAILED: i32 = 1;

const UNIT: Unit = Unit::BALANCE;

/// The listeners of the first file and of the second.
const FIRST: [Listener; 2] = [Listener::SMTP, Listener::SUBMISSION];
const SECOND: [Listener; 2] = [Listener::SMTP, Listener::IMAP];

/// Installs the package. The service is enabled and does not run, because its file has no instance.
fn install(_: &mut Scenario) {
    ends_with(0, &format!("dpkg --install {PACKAGE}"));
    assert_eq!(UNIT.property("UnitFileState"), "enabled");
    UNIT.assert_status(STOPPED, &["Active: inactive (dead)", "TCP load balancer"]);
}

/// Starts the service with the first file.
fn start(scenario: &mut Scenario) {
    scenario.write_file(&FIRST, "");
    UNIT.succeeds("start");
    // Type=notify: the service passes connections on when `start` returns.
    assert!(FIRST.iter().all(|listener| listener.serves()), "started, but does not serve");
    UNIT.assert_status(RUNS, &["Active: active (running)", "/usr/sbin/balance start --foreground"]);
    UNIT.wait_for_journal(&["supervisor started", "datapath=", "Started balance.service"]);
    for pid in UNIT.processes() {
        assert_eq!(ends_with(0, &format!("stat --format %U /proc/{pid}")), "balance\n");
    }
    ends_with(0, "balance status");
}

/// Reloads the service with the second file. A connection of the listener that stays is kept.
fn reload(scenario: &mut Scenario) {
    let pid = UNIT.main_pid();
    let load = Load::start(Listener::SMTP.address());
    scenario.write_file(&SECOND, "");
    UNIT.succeeds("reload");
    assert!(SECOND.iter().all(|listener| listener.serves()), "reloaded, but does not serve");
    assert!(!Listener::SUBMISSION.serves(), "the removed listener still serves");
    let counts = load.finish();
    println!("guest: reload: {counts}");
    assert_eq!((counts.refused, counts.broken, counts.cut), (0, 0, 0), "{counts}");
    assert_eq!(UNIT.main_pid(), pid);
    UNIT.assert_status(RUNS, &["Active: active (running)"]);
    UNIT.wait_for_journal(&["reloaded", "Reloaded balance.service"]);
}

/// Reloads a file with a mistake. The reload fails, and the service continues unchanged.
fn wrong_file(scenario: &mut Scenario) {
    let pid = UNIT.main_pid();
    scenario.write_file(&FIRST, "nosuchport\n");
    assert_eq!(UNIT.systemctl("reload").status.code(), Some(RELOAD_FAILED));
    assert!(SECOND.iter().all(|listener| listener.serves()), "no longer serves");
    assert_eq!(UNIT.main_pid(), pid);
    UNIT.assert_status(RUNS, &["Active: active (running)"]);
    UNIT.wait_for_journal(&["balance.conf:3: ", "Reload failed for balance.service"]);
    scenario.write_file(&SECOND, "");
}

/// Kills each process of the service, the main process last. Each time the service runs again
/// without a command.
fn crash(_: &mut Scenario) {
    let (main, processes) = (UNIT.main_pid(), UNIT.processes());
    assert!(processes.contains(&main), "{main} is not in {processes:?}");
    for &pid in processes.iter().filter(|pid| **pid != main) {
        kill_and_wait(pid, processes.len());
        assert_eq!((UNIT.main_pid(), &*UNIT.property("NRestarts")), (main, "0"));
        UNIT.assert_status(RUNS, &["Active: active (running)"]);
        UNIT.wait_for_journal(&["instance started"]);
    }
    kill_and_wait(main, processes.len());
    assert_eq!(UNIT.property("NRestarts"), "1");
    assert_ne!(UNIT.main_pid(), main);
    UNIT.assert_status(RUNS, &["Active: active (running)"]);
    UNIT.wait_for_journal(&["code=killed", "Scheduled restart job", "Started balance.service"]);
}

/// Kills a process and waits until as many processes as before run and serve.
fn kill_and_wait(pid: i32, number: usize) {
    let load = Load::start(Listener::SMTP.address());
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killing a process");
    eventually(STATE_TIMEOUT, "the service has its processes again", || {
        let processes = UNIT.processes();
        let is_whole = processes.len() == number && !processes.contains(&pid);
        let state = UNIT.property("ActiveState");
        match is_whole && state == "active" {
            true => Ok(()),
            false => Err(format!("{state} with the processes {processes:?}")),
        }
    });
    wait_until_served(&SECOND);
    println!("guest: kill -9 of {pid}: {}", load.finish());
}

/// Installs a package with a higher version while clients connect and hold connections.
fn upgrade(_: &mut Scenario) {
    let load = Load::start(Listener::SMTP.address());
    ends_with(0, &format!("dpkg --install {NEXT_PACKAGE}"));
    wait_until_served(&SECOND);
    println!("guest: upgrade: {}", load.finish());
    let version = ends_with(0, "dpkg-query --show --showformat '${Version}' balance");
    assert!(version.ends_with("+next"), "{version}");
    UNIT.assert_status(RUNS, &["Active: active (running)"]);
    UNIT.wait_for_journal(&["supervisor started"]);
}

/// Stops the service.
fn stop(_: &mut Scenario) {
    UNIT.succeeds("stop");
    assert_eq!(UNIT.processes(), [0; 0]);
    assert!(!SECOND.iter().any(|listener| listener.serves()), "stopped, but serves");
    UNIT.assert_status(STOPPED, &["Active: inactive (dead)", "status=0/SUCCESS"]);
    UNIT.wait_for_journal(&["stopping", "Stopped balance.service"]);
}

/// Purges the package while the service runs.
fn purge(_: &mut Scenario) {
    UNIT.succeeds("start");
    assert!(SECOND.iter().all(|listener| listener.serves()), "started, but does not serve");
    ends_with(0, "dpkg --purge balance");
    assert!(!SECOND.iter().any(|listener| listener.serves()), "purged, but serves");
    UNIT.assert_status(UNKNOWN, &[]);
    UNIT.wait_for_journal(&["stopping", "Stopped balance.service"]);
    ends_with(0, "systemctl --failed --no-legend --plain");
    ends_with(2, "getent passwd balance");
    let left = "find / -xdev '(' -name '*balance*' -o -path '/etc/systemd/system/*balance*' ')' \
                ! -path '/packages*' ! -path '/proc/*' ! -path '/sys/*'";
    assert_eq!(ends_with(0, left), "");
}
