//! systemd: `start` delegates to it if it runs and has the packaged unit, and a supervisor asks it
//! whether it restarts the service.
//!
//! Invariants: without systemd a supervisor is stopped, never restarted. systemd starts the packaged
//! file in the default run directory only. Other files start without systemd.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    check,
    output::{UNAVAILABLE, WRONG, plural, print, print_error, print_failures},
    running::RunningSupervisor,
};
use crate::{
    cli::{CONFIG, ServiceLocation},
    error::StartError,
    notify, sys,
};

/// The packaged unit.
const UNIT: &str = "balance.service";

/// Whether systemd is to start the instances of this file.
pub(super) fn is_in_charge(location: &ServiceLocation) -> bool {
    let is_packaged = location.config == Path::new(CONFIG) && location.run_dir.is_none();
    let may_ask = is_packaged && sys::effective_user() == 0;
    may_ask && sd_notify::booted().unwrap_or(false) && has_unit()
}

fn has_unit() -> bool {
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["cat", UNIT]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    systemctl.status().is_ok_and(|status| status.success())
}

/// Starts the unit. systemctl prints its own errors.
pub(super) fn start(location: &ServiceLocation) -> Result<u8, StartError> {
    let conf = check::read(&location.config)?;
    let wrong = conf.wrong();
    let mut systemctl = Command::new("systemctl");
    let status = systemctl.args(["start", UNIT]).stdin(Stdio::null()).status();
    let started = status.map_err(|source| StartError::System { act: "run systemctl", source })?;
    if !started.success() {
        wrong.iter().for_each(|line| print_error(line));
        return Ok(if wrong.is_empty() { UNAVAILABLE } else { WRONG });
    }
    let table = RunningSupervisor::find(location).and_then(|mut running| running.table());
    let code = table.map_or(UNAVAILABLE, |table| print_failures(&table));
    if code != 0 {
        return Ok(code);
    }
    print(&format!("balance is started by systemd: {}", plural(conf.lines.len(), "instance")));
    Ok(0)
}

/// The longest wait for the jobs of systemd.
const JOBS_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the service manager may be about to restart this service.
pub(super) fn may_restart() -> bool {
    notify::is_enabled() && sd_notify::booted().unwrap_or(false)
}

/// Whether systemd has a job to restart the unit of this process.
pub(super) async fn restarts() -> bool {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(unit) = unit(&groups) else { return false };
    let mut systemctl = tokio::process::Command::new("systemctl");
    systemctl.args(["list-jobs", "--no-legend", "--plain", unit]).stdin(Stdio::null());
    let output = timeout(JOBS_TIMEOUT, systemctl.kill_on_drop(true).output()).await;
    match output {
        Ok(Ok(output)) => has_restart(&String::from_utf8_lossy(&output.stdout), unit),
        _ => false,
    }
}

/// The service in the control groups of a process (cgroups(7), /proc/PID/cgroup).
fn unit(groups: &str) -> Option<&str> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.rsplit('/').find(|name| name.ends_with(".service"))
}

/// Whether there is a job to restart a unit. A line has the number, the unit, the type and the state
/// of a job.
fn has_restart(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(unit) && words.next().is_some_and(|kind| kind.ends_with("restart"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_a_job_of_the_unit() {
        let groups = "0::/system.slice/system-balance.slice/balance@x.service\n";
        assert_eq!(unit(groups), Some("balance@x.service"));
        assert_eq!(unit("0::/user.slice/session-1.scope\n"), None);
        let jobs = "  12 a.service       stop    running\n 13 b.service restart waiting\n";
        assert!(has_restart(jobs, "b.service"));
        assert!(!has_restart(jobs, "a.service") && !has_restart("", "b.service"));
        assert!(has_restart("1 b.service try-restart running", "b.service"));
    }
}
