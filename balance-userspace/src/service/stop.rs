//! The verb `stop`, and `restart` of a supervisor in the foreground.
//!
//! Invariant: a verb returns after the supervisor has ended or restarted. It prints how long it
//! waited and for how many connections. On a terminal it shows the progress.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    output::{UNAVAILABLE, plural, print, print_error, print_failures, report},
    running::{RunningSupervisor, is_absence},
    unsupervised,
};
use crate::{
    cli::ServiceLocation,
    control::{
        client::rpc::{ClientError, ControlClient},
        protocol::{
            InstanceCommand, InstanceReply, InstanceRow, SupervisorCommand, SupervisorStatus,
        },
    },
};

/// Interval of the status requests while a verb waits.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Maximum time without a reply while the supervisor restarts.
const RESTART_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest wait for the numbers of connections.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a supervisor is asked to stop that does not end and no longer replies.
const STOP_ATTEMPTS: usize = 3;

/// Stops the instances of a file and their supervisor.
pub(super) fn stop(location: &ServiceLocation) -> u8 {
    let begun = Instant::now();
    match RunningSupervisor::find(location).and_then(|running| stop_running(location, running)) {
        Ok(open) => {
            print(&format!("balance is stopped{}", waited(open, begun)));
            0
        }
        Err(error) if is_absence(&error) && unsupervised::exists(location) => {
            stop_unsupervised(location, begun)
        }
        Err(error) if is_absence(&error) => {
            print("balance is not running");
            0
        }
        Err(error) => report(&error),
    }
}

/// Stops a supervisor, and returns how many connections were open.
fn stop_running(
    location: &ServiceLocation,
    mut running: RunningSupervisor,
) -> Result<u64, ClientError> {
    let pid = running.pid();
    // The counts in the status are up to one second old, so ask the instances.
    let deadline = Instant::now() + COUNT_TIMEOUT;
    let rows = running.table()?.instances;
    let most: u64 = rows.iter().map(|row| connections_now(row, Some(deadline))).sum();
    // The supervisor closes an idle connection.
    let mut running = RunningSupervisor::find(location)?;
    for _ in 0..STOP_ATTEMPTS {
        match running.ask(SupervisorCommand::Stop) {
            // The supervisor may end, or execute another program, before it replies.
            Ok(_) => {}
            Err(error) if is_absence(&error) => {}
            Err(error) => return Err(error),
        }
        if wait_for_end(running)? {
            return Ok(most);
        }
        running = match RunningSupervisor::find(location) {
            Ok(running) if running.pid() == pid => running,
            // Another supervisor has started meanwhile.
            Ok(_) => return Ok(most),
            Err(error) if is_absence(&error) => return Ok(most),
            Err(error) => return Err(error),
        };
    }
    Err(ClientError::Timeout)
}

/// Stops server processes whose supervisor has ended.
fn stop_unsupervised(location: &ServiceLocation, begun: Instant) -> u8 {
    match unsupervised::stop(location) {
        Ok(_) => {
            let seconds = begun.elapsed().as_secs_f32();
            print(&format!("balance is stopped: its supervisor had ended, waited {seconds:.1} s"));
            0
        }
        Err(error) => {
            print_error(&error.to_string());
            error.exit_code()
        }
    }
}

/// Waits until a stopping supervisor has ended, and shows the progress. Returns false if the
/// supervisor no longer replies and has not ended.
pub(super) fn wait_for_end(mut running: RunningSupervisor) -> Result<bool, ClientError> {
    let progress = Progress::begin();
    loop {
        match running.table() {
            Ok(table) => progress.show(&table),
            Err(error) if is_absence(&error) => break,
            // The supervisor accepts no more requests.
            Err(ClientError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        sleep(POLL_INTERVAL);
    }
    Ok(running.wait_for_end())
}

/// Restarts a supervisor in the foreground. The process stays the same, as its service manager
/// expects.
pub(super) fn restart_in_place(
    location: &ServiceLocation,
    mut running: RunningSupervisor,
    before: &SupervisorStatus,
) -> u8 {
    let begun = Instant::now();
    let mut most: u64 = before.instances.iter().map(|row| connections_now(row, None)).sum();
    match running.ask(SupervisorCommand::Restart) {
        Err(error) if !is_absence(&error) => return report(&error),
        // The supervisor may end before it replies.
        _ => {}
    }
    let progress = Progress::begin();
    let mut seen = Instant::now();
    let table = loop {
        // Connect again each time, because the supervisor replaces its control socket.
        match RunningSupervisor::find(location).and_then(|mut running| running.table()) {
            Ok(table) if table.began != before.began && table.settled => break table,
            Ok(table) => {
                most = most.max(open(&table));
                progress.show(&table);
                seen = Instant::now();
            }
            Err(error) if is_absence(&error) && seen.elapsed() > RESTART_TIMEOUT => {
                print_error("balance has stopped and has not started again: see its log");
                return UNAVAILABLE;
            }
            Err(_) => {}
        }
        sleep(POLL_INTERVAL);
    };
    drop(progress);
    let code = print_failures(&table);
    match code {
        0 => print(&format!("balance is restarted{}", waited(most, begun))),
        _ => print("balance is restarted, but not all instances serve"),
    }
    code
}

/// Asks an instance for its open connections; falls back to its last reported number.
fn connections_now(row: &InstanceRow, deadline: Option<Instant>) -> u64 {
    let asked = row
        .socket
        .as_ref()
        .map(|socket| ControlClient::connect_until(socket, deadline)?.ask(InstanceCommand::Stats));
    match asked {
        Some(Ok(InstanceReply::Stats(stats))) => stats.open,
        _ => row.connections,
    }
}

/// Sums up the open connections of all instances.
fn open(table: &SupervisorStatus) -> u64 {
    table.instances.iter().map(|row| row.connections).sum()
}

/// Formats the time of waiting; empty if there were no connections.
fn waited(open: u64, since: Instant) -> String {
    match open {
        0 => String::new(),
        _ => format!(": waited {:.1} s for {}", since.elapsed().as_secs_f32(), connections(open)),
    }
}

fn connections(open: u64) -> String {
    plural(usize::try_from(open).unwrap_or(usize::MAX), "connection")
}

/// A progress line on the terminal. Invisible elsewhere.
struct Progress(ProgressBar);

impl Progress {
    fn begin() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn show(&self, table: &SupervisorStatus) {
        let ending = table.instances.iter().filter(|row| row.pid.is_some()).count();
        let open = connections(open(table));
        self.0.set_message(format!("waiting for {open} of {}", plural(ending, "instance")));
        self.0.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
