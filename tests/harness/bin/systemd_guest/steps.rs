//! The steps of the scenario, in their order.
//!
//! Invariant: a step leaves the service as the next step expects it; each step says how.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::eventually;

use crate::{
    load::{Load, echoes, open},
    scenario::{Listener, Scenario, ends_with, wait_until_served},
    unit::{STATE_TIMEOUT, Unit},
};

/// A step panics if an assertion fails.
type Step = fn(&mut Scenario);

/// The steps with their names.
pub(crate) const STEPS: [(&str, Step); 11] = [
    ("install", install),
    ("start", start),
    ("reload", reload),
    ("wrong-file", wrong_file),
    ("kill-server-process", kill_server_process),
    ("kill-supervisor", kill_supervisor),
    ("kill-both", kill_both),
    ("upgrade", upgrade),
    ("restart", restart),
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

/// The supervisor and its server process.
const PROCESSES: usize = 2;

/// EX_NOPERM of sysexits(3).
const DENIED: i32 = 77;

/// Exit code of `systemctl reload` for a failed reload.
const RELOAD_FAILED: i32 = 1;

const UNIT: Unit = Unit::BALANCE;
const OTHER: Unit = Unit::OTHER;

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
    // Another user may read as a member of the group, and may not change anything.
    let member = "setpriv --reuid nobody --regid nogroup --groups balance balance";
    ends_with(0, &format!("{member} status"));
    ends_with(DENIED, &format!("{member} stop"));
}

/// Reloads the service with the second file. A connection of the listener that stays is kept.
fn reload(scenario: &mut Scenario) {
    let pid = UNIT.main_pid();
    let load = Load::start(Listener::SMTP.address());
    scenario.write_file(&SECOND, "");
    UNIT.succeeds("reload");
    assert!(SECOND.iter().all(|listener| listener.serves()), "reloaded, but does not serve");
    assert!(!Listener::SUBMISSION.serves(), "the removed listener still serves");
    finish_unharmed("reload", load);
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
    UNIT.wait_for_journal(&["balance.conf:4: ", "Reload failed for balance.service"]);
    scenario.write_file(&SECOND, "");
}

/// Kills the server process. The supervisor starts another one, and no client is refused.
fn kill_server_process(_: &mut Scenario) {
    let (main, processes) = (UNIT.main_pid(), UNIT.processes());
    assert!(processes.contains(&main), "{main} is not in {processes:?}");
    let server = processes.into_iter().find(|pid| *pid != main).expect("a server process");
    let load = Load::start(Listener::SMTP.address());
    kill_process(server);
    wait_for_processes("another process serves", |pids| {
        pids.len() == PROCESSES && !pids.contains(&server)
    });
    wait_until_served(&SECOND);
    let counts = load.finish();
    println!("guest: kill -9 of the server process {server}: {counts}");
    assert_eq!(counts.refused, 0, "{counts}");
    assert_eq!((UNIT.main_pid(), &*UNIT.property("NRestarts")), (main, "0"));
    UNIT.assert_status(RUNS, &["Active: active (running)"]);
    UNIT.wait_for_journal(&["server process ended, starting another", "instance started"]);
}

/// Kills the supervisor. The server process serves on, and the supervisor that systemd starts takes
/// it over. No client is refused or cut.
fn kill_supervisor(_: &mut Scenario) {
    let (main, before) = (UNIT.main_pid(), UNIT.processes());
    let load = Load::start(Listener::SMTP.address());
    kill_process(main);
    wait_for_restart("1");
    assert_ne!(UNIT.main_pid(), main);
    UNIT.assert_status(RUNS, &["Active: active (running)"]);
    finish_unharmed(&format!("kill -9 of the supervisor {main}"), load);
    wait_for_successor(&before);
    UNIT.wait_for_journal(&[
        "code=killed",
        "Scheduled restart job",
        "server process taken over",
        "Started balance.service",
    ]);
}

/// Kills both processes. systemd holds the listeners for the supervisor that it starts, so no client
/// is refused.
fn kill_both(_: &mut Scenario) {
    let before = UNIT.processes();
    let load = Load::start(Listener::SMTP.address());
    ends_with(0, "systemctl kill --signal KILL balance.service");
    wait_for_restart("2");
    wait_until_served(&SECOND);
    let counts = load.finish();
    println!("guest: kill -9 of both processes: {counts}");
    assert_eq!(counts.refused, 0, "{counts}");
    wait_for_processes("other processes serve", |pids| {
        pids.len() == PROCESSES && !pids.iter().any(|pid| before.contains(pid))
    });
    UNIT.assert_status(RUNS, &["Active: active (running)"]);
    UNIT.wait_for_journal(&["code=killed", "server process started", "Started balance.service"]);
}

/// Installs a package with a higher version. The program of this unit and of another one are
/// replaced. No client is refused or cut.
fn upgrade(scenario: &mut Scenario) {
    scenario.write_other_file(&[Listener::OTHER]);
    OTHER.succeeds("start");
    let units = [UNIT, OTHER].map(|unit| (unit, unit.main_pid()));
    let (before, restarts) = (UNIT.processes(), UNIT.property("NRestarts"));
    let load = Load::start(Listener::SMTP.address());
    let mut held = open(Listener::OTHER.address());
    let output = ends_with(0, &format!("dpkg --install {NEXT_PACKAGE}"));
    println!("guest: {output}");
    assert_eq!(output.matches("balance is upgraded: version ").count(), units.len(), "{output}");
    for (unit, pid) in units {
        assert_eq!(unit.main_pid(), pid, "the supervisor keeps its pid");
        // A program that was replaced on the disk has another inode.
        ends_with(0, &format!("test /proc/{pid}/exe -ef /usr/sbin/balance"));
    }
    assert_eq!(UNIT.property("NRestarts"), restarts);
    finish_unharmed("upgrade", load);
    assert!(echoes(&mut held), "the connection of the other unit was cut");
    drop(held);
    for pid in wait_for_successor(&before) {
        ends_with(0, &format!("test /proc/{pid}/exe -ef /usr/sbin/balance"));
    }
    let version = ends_with(0, "dpkg-query --show --showformat '${Version}' balance");
    assert!(version.ends_with("+next"), "{version}");
    ends_with(0, "balance status");
    UNIT.assert_status(RUNS, &["Active: active (running)"]);
    UNIT.wait_for_journal(&["upgrading", "server process taken over", "drained process ended"]);
    OTHER.succeeds("stop");
    assert!(!Listener::OTHER.serves(), "stopped, but serves");
}

/// Restarts the service. The next supervisor takes the server process over. No client is refused or
/// cut.
fn restart(_: &mut Scenario) {
    let (main, before) = (UNIT.main_pid(), UNIT.processes());
    let load = Load::start(Listener::SMTP.address());
    UNIT.succeeds("restart");
    assert_ne!(UNIT.main_pid(), main);
    finish_unharmed("restart", load);
    wait_for_successor(&before);
    UNIT.assert_status(RUNS, &["Active: active (running)"]);
    UNIT.wait_for_journal(&["server process taken over", "Started balance.service"]);
}

/// Stops the service while a connection is open. New clients are refused at once.
fn stop(_: &mut Scenario) {
    let mut held = open(Listener::SMTP.address());
    ends_with(0, "systemctl --no-block stop balance.service");
    eventually(STATE_TIMEOUT, "clients are refused", || {
        match SECOND.iter().all(|listener| listener.refuses()) {
            true => Ok(()),
            false => Err("a listener accepts".to_owned()),
        }
    });
    assert!(echoes(&mut held), "the connection was cut");
    assert_eq!(UNIT.property("ActiveState"), "deactivating");
    drop(held);
    UNIT.succeeds("stop");
    assert_eq!(UNIT.processes(), [0; 0]);
    UNIT.assert_status(STOPPED, &["Active: inactive (dead)", "status=0/SUCCESS"]);
    UNIT.wait_for_journal(&["stopping", "Stopped balance.service"]);
}

fn kill_process(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killing a process");
}

/// Waits until systemd has started the service again for the `count`th time.
fn wait_for_restart(count: &str) {
    eventually(STATE_TIMEOUT, "systemd has started the service again", || {
        let (restarts, state) = (UNIT.property("NRestarts"), UNIT.property("ActiveState"));
        match restarts == count && state == "active" {
            true => Ok(()),
            false => Err(format!("{state}, {restarts} restarts")),
        }
    });
}

/// Ends a load, which must have seen no failure.
fn finish_unharmed(what: &str, load: Load) {
    let counts = load.finish();
    println!("guest: {what}: {counts}");
    assert!(counts.connects > 0);
    assert_eq!((counts.refused, counts.broken, counts.cut), (0, 0, 0), "{counts}");
}

/// Waits until a process that is not among these serves, and the others have ended. Returns all
/// processes.
fn wait_for_successor(before: &[i32]) -> Vec<i32> {
    let main = UNIT.main_pid();
    wait_for_processes("the old process has ended", |pids| {
        let is_old = |pid: &i32| *pid != main && before.contains(pid);
        pids.len() == PROCESSES && !pids.iter().any(is_old)
    })
}

fn wait_for_processes(what: &str, are_so: impl Fn(&[i32]) -> bool) -> Vec<i32> {
    eventually(STATE_TIMEOUT, what, || {
        let processes = UNIT.processes();
        if are_so(&processes) { Ok(processes) } else { Err(format!("{processes:?}")) }
    })
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
