//! All instances of a configuration file as one service: the verbs, and the supervisor that they
//! act on.
//!
//! Invariant: a verb finds what runs through control sockets and locks, never by a process's name.

pub mod conf;
pub mod orders;

mod backoff;
mod check;
mod exchange;
pub(crate) mod inbox;
mod manager;
mod member;
pub(crate) mod plan;
mod process;
mod reload;
mod start;
mod status;
mod stop;
mod supervisor;

use std::{
    io::{Write as _, stderr, stdout},
    path::{Path, PathBuf},
};

use supervisor::WRONG;

use crate::{
    cli::{Place, Verb},
    control::{
        client::ClientError,
        line::Asked as _,
        master::Master,
        protocol::{Command, InstanceState, Reply, Supervised},
    },
    error::{StartError, one_line},
};

/// Exit code of a verb that needs what does not run, as LSB has it for init scripts.
const NOT_RUNNING: u8 = 7;

/// EX_UNAVAILABLE of sysexits(3): something does not serve.
const UNAVAILABLE: u8 = 69;

/// Carries out a verb, and returns the exit code.
///
/// # Errors
/// What keeps it from being carried out at all.
pub fn run(verb: &Verb) -> Result<u8, StartError> {
    match verb {
        Verb::Start { place, foreground, log_format } => {
            start::start(place, *foreground, *log_format)
        }
        Verb::Stop { place } => Ok(stop::stop(place)),
        Verb::Restart { place } => restart(place),
        Verb::Reload { place } => Ok(reload(place)),
        Verb::Status { place, json } => Ok(status::status(place, *json)),
        Verb::Check { file, config, no_dns } => {
            check_file(file.as_deref().unwrap_or(config), *no_dns)
        }
    }
}

fn check_file(file: &Path, no_dns: bool) -> Result<u8, StartError> {
    let conf = check::read(file)?;
    let mut wrong = conf.wrong(file);
    wrong.extend(check::lines(&conf.lines, file, !no_dns));
    wrong.iter().for_each(|wrong| complain(wrong));
    if !wrong.is_empty() {
        return Ok(WRONG);
    }
    say(&format!("{}: {}, nothing wrong", file.display(), counted(conf.lines.len(), "instance")));
    Ok(0)
}

fn restart(place: &Place) -> Result<u8, StartError> {
    // What cannot be started again is not stopped.
    let conf = check::read(&place.config)?;
    let mut wrong = conf.wrong(&place.config);
    wrong.extend(check::lines(&conf.lines, &place.config, true));
    if !wrong.is_empty() {
        wrong.iter().for_each(|wrong| complain(wrong));
        say("balance is not restarted");
        return Ok(WRONG);
    }
    match Running::find(place) {
        Ok(mut running) => match running.table() {
            Ok(table) if table.foreground => Ok(stop::restart_in_place(place, running, &table)),
            Ok(_) => match stop::stop(place) {
                0 => start::in_background(place),
                code => Ok(code),
            },
            Err(error) => Ok(report(&error)),
        },
        Err(error) if is_absence(&error) => start::in_background(place),
        Err(error) => Ok(report(&error)),
    }
}

fn reload(place: &Place) -> u8 {
    let asked = Running::find(place).and_then(|mut running| running.ask(Command::Reload));
    match asked {
        Ok(Reply::Changed(changed)) if changed.is_empty() => {
            say("balance is reloaded: nothing has changed");
            0
        }
        Ok(Reply::Changed(changed)) => {
            changed.iter().for_each(|line| say(line));
            say("balance is reloaded");
            0
        }
        Ok(Reply::Partly { changed, failed, code }) => {
            changed.iter().for_each(|line| say(line));
            failed.iter().for_each(|line| complain(line));
            let how = if changed.is_empty() { "not reloaded" } else { "reloaded in part" };
            complain(&format!("balance is {how}"));
            code
        }
        Ok(Reply::Wrong(wrong)) => {
            wrong.iter().for_each(|wrong| complain(wrong));
            complain("balance is not reloaded");
            WRONG
        }
        Ok(_) => report(&ClientError::Unreadable),
        Err(error) if is_absence(&error) => {
            say("balance is not running");
            NOT_RUNNING
        }
        Err(error) => report(&error),
    }
}

/// A supervisor that runs.
struct Running(Master);

impl Running {
    fn find(place: &Place) -> Result<Self, ClientError> {
        Master::supervisor(place.run_dir.as_deref(), &absolute(&place.config)).map(Self)
    }

    fn pid(&self) -> u32 {
        self.0.pid()
    }

    fn wait_for_end(&mut self) {
        // One that does not end within seconds after its last word is told of by the next verb.
        let _ = self.0.wait_for_end();
    }

    fn ask(&mut self, command: Command) -> Result<Reply, ClientError> {
        match self.0.ask(command)? {
            Reply::Refused(why) => Err(ClientError::Refused(why)),
            reply => Ok(reply),
        }
    }

    fn table(&mut self) -> Result<Supervised, ClientError> {
        match self.ask(Command::Instances)? {
            Reply::Instances(table) => Ok(table),
            _ => Err(ClientError::Unreadable),
        }
    }
}

/// Whether an error says that there is none.
fn is_absence(error: &ClientError) -> bool {
    matches!(error, ClientError::NoMaster | ClientError::Gone(_))
}

/// The same path for everybody who means the same file, also when it is a link that leads elsewhere now,
/// or is gone.
fn absolute(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let parent = absolute.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

/// Says what does not serve, and returns the exit code that goes with it.
fn complain_of(table: &Supervised) -> u8 {
    let failed = table.instances.iter().filter(|row| row.state == InstanceState::Failed);
    let failed: Vec<_> = failed.collect();
    failed.iter().for_each(|row| complain(&row.status));
    table.wrong.iter().for_each(|line| complain(line));
    match (table.wrong.is_empty(), failed.is_empty()) {
        (true, true) => 0,
        (false, _) => WRONG,
        (true, false) => UNAVAILABLE,
    }
}

fn report(error: &ClientError) -> u8 {
    error.report(&mut stdout(), &mut stderr())
}

/// Lines for who has given the verb; nobody may be listening.
fn say(lines: &str) {
    let text: String = lines.lines().map(|line| one_line(line) + "\n").collect();
    let _ = stdout().write_all(text.as_bytes());
}

/// The same about something that is wrong, which may be told in the words of whoever did it.
fn complain(line: &str) {
    let _ = stderr().write_all(format!("{}\n", one_line(line)).as_bytes());
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
