//! The verb `stop`, and `restart` of a supervisor in the foreground.
//!
//! Invariant: it returns when the supervisor has ended, or begun anew, and says what it has waited for;
//! on a terminal it shows that all along.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Running, complain, counted, is_absence, report, say};
use crate::{
    cli::Place,
    control::{
        client::{Client, ClientError},
        protocol::{Command, InstanceRow, Reply, Supervised},
    },
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// How long a supervisor may be gone while it begins anew.
const AWAY: Duration = Duration::from_secs(10);

/// EX_UNAVAILABLE of sysexits(3): it did not come back.
const UNAVAILABLE: u8 = 69;

/// Stops the instances of a file, and their supervisor.
pub(super) fn stop(place: &Place) -> u8 {
    let begun = Instant::now();
    let asked = Running::find(place).and_then(|mut running| {
        // What they say of themselves is up to a second old.
        let mut most: u64 = running.table()?.instances.iter().map(connections_now).sum();
        running.ask(Command::Stop)?;
        let progress = Progress::begin();
        loop {
            match running.table() {
                Ok(table) => {
                    most = most.max(open(&table));
                    progress.show(&table);
                }
                Err(error) if is_absence(&error) => break,
                // It answers no more.
                Err(ClientError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
            sleep(LOOK);
        }
        running.wait_for_end();
        Ok(most)
    });
    match asked {
        Ok(open) => {
            say(&format!("balance is stopped{}", waited(open, begun)));
            0
        }
        Err(error) if is_absence(&error) => {
            say("balance is not running");
            0
        }
        Err(error) => report(&error),
    }
}

/// Has a supervisor in the foreground begin anew; it stays the same process, as whoever runs it
/// expects.
pub(super) fn restart_in_place(place: &Place, mut running: Running, before: &Supervised) -> u8 {
    let begun = Instant::now();
    let mut most: u64 = before.instances.iter().map(connections_now).sum();
    if let Err(error) = running.ask(Command::Restart) {
        return report(&error);
    }
    let progress = Progress::begin();
    let mut seen = Instant::now();
    loop {
        // Each time anew: the one that answered may have another in its place.
        match Running::find(place).and_then(|mut running| running.table()) {
            Ok(table) if table.began != before.began && table.settled => break,
            Ok(table) => {
                most = most.max(open(&table));
                progress.show(&table);
                seen = Instant::now();
            }
            Err(error) if is_absence(&error) && seen.elapsed() > AWAY => {
                complain("balance has stopped and does not come back: its log says why");
                return UNAVAILABLE;
            }
            Err(_) => {}
        }
        sleep(LOOK);
    }
    say(&format!("balance is restarted{}", waited(most, begun)));
    0
}

/// Connections of an instance that still answers, otherwise what it said last.
fn connections_now(row: &InstanceRow) -> u64 {
    let asked = row.socket.as_ref().map(|socket| Client::connect(socket)?.ask(Command::Stats));
    match asked {
        Some(Ok(Reply::Stats(stats))) => stats.open,
        _ => row.connections,
    }
}

fn open(table: &Supervised) -> u64 {
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
    counted(usize::try_from(open).unwrap_or(usize::MAX), "connection")
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

    fn show(&self, table: &Supervised) {
        let ending = table.instances.iter().filter(|row| row.pid.is_some()).count();
        let open = connections(open(table));
        self.0.set_message(format!("waiting for {open} of {}", counted(ending, "instance")));
        self.0.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
