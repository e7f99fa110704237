//! The verb `stop`, and `restart` of a supervisor in the foreground.
//!
//! Invariant: it returns when the supervisor has ended, or begun anew, and says what it has waited for;
//! on a terminal it shows that all along.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    output::{UNAVAILABLE, plural, print, print_error, print_failures, report},
    running::{RunningSupervisor, is_absence},
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

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long a supervisor may be gone while it begins anew.
const RESTART_TIMEOUT: Duration = Duration::from_secs(10);

/// Stops the instances of a file, and their supervisor.
pub(super) fn stop(place: &ServiceLocation) -> u8 {
    let begun = Instant::now();
    let stopped = RunningSupervisor::find(place).and_then(|mut running| {
        // What they say of themselves is up to a second old.
        let open: u64 = running.table()?.instances.iter().map(connections_now).sum();
        match running.ask(SupervisorCommand::Stop) {
            // It may be gone before its reply is.
            Ok(_) => {}
            Err(error) if is_absence(&error) => {}
            Err(error) => return Err(error),
        }
        wait_for_end(running, open)
    });
    match stopped {
        Ok(open) => {
            print(&format!("balance is stopped{}", waited(open, begun)));
            0
        }
        Err(error) if is_absence(&error) => {
            print("balance is not running");
            0
        }
        Err(error) => report(&error),
    }
}

/// Waits until a supervisor that was told to stop has ended; returns how many connections that was for,
/// of `open` that are known of.
pub(super) fn wait_for_end(mut running: RunningSupervisor, open: u64) -> Result<u64, ClientError> {
    let progress = Progress::begin();
    let mut most = open;
    loop {
        match running.table() {
            Ok(table) => {
                most = most.max(self::open(&table));
                progress.show(&table);
            }
            Err(error) if is_absence(&error) => break,
            // It answers no more.
            Err(ClientError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        sleep(POLL_INTERVAL);
    }
    running.wait_for_end();
    Ok(most)
}

/// Has a supervisor in the foreground begin anew; it stays the same process, as whoever runs it
/// expects.
pub(super) fn restart_in_place(
    place: &ServiceLocation,
    mut running: RunningSupervisor,
    before: &SupervisorStatus,
) -> u8 {
    let begun = Instant::now();
    let mut most: u64 = before.instances.iter().map(connections_now).sum();
    match running.ask(SupervisorCommand::Restart) {
        Err(error) if !is_absence(&error) => return report(&error),
        // It may be gone before its reply is.
        _ => {}
    }
    let progress = Progress::begin();
    let mut seen = Instant::now();
    let table = loop {
        // Each time anew: the one that answered may have another in its place.
        match RunningSupervisor::find(place).and_then(|mut running| running.table()) {
            Ok(table) if table.began != before.began && table.settled => break table,
            Ok(table) => {
                most = most.max(open(&table));
                progress.show(&table);
                seen = Instant::now();
            }
            Err(error) if is_absence(&error) && seen.elapsed() > RESTART_TIMEOUT => {
                print_error("balance has stopped and does not come back: its log says why");
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
        _ => print("balance is restarted, but not all of it serves"),
    }
    code
}

/// Connections of an instance that still answers, otherwise what it said last.
fn connections_now(row: &InstanceRow) -> u64 {
    let asked = row
        .socket
        .as_ref()
        .map(|socket| ControlClient::connect(socket)?.ask(InstanceCommand::Stats));
    match asked {
        Some(Ok(InstanceReply::Stats(stats))) => stats.open,
        _ => row.connections,
    }
}

fn open(table: &SupervisorStatus) -> u64 {
    table.instances.iter().map(|row| row.connections).sum()
}

/// What was waited for, in words.
fn waited(open: u64, since: Instant) -> String {
    match open {
        0 => String::new(),
        _ => format!(": waited {:.1} s for {}", since.elapsed().as_secs_f32(), connections(open)),
    }
}

fn connections(open: u64) -> String {
    plural(usize::try_from(open).unwrap_or(usize::MAX), "connection")
}

/// What is waited for, shown on a terminal only.
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
