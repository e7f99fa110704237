//! Delegates `start` to systemd if systemd runs and has the packaged unit.
//!
//! Invariant: systemd starts the packaged file in the default run directory only. Other files start
//! without systemd.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use super::{
    check,
    output::{UNAVAILABLE, WRONG, plural, print, print_error, print_failures},
    running::RunningSupervisor,
};
use crate::{
    cli::{CONFIG, ServiceLocation},
    error::StartError,
    sys,
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
