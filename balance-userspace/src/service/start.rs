//! The verb `start`, and what the supervisor's process is made of.
//!
//! Invariant: there is one supervisor of a file, whose lock says so; in the background the process
//! that the user started ends when every instance has been tried, and says which do not serve.

use std::os::unix::process::CommandExt as _;

use tokio::{
    select,
    sync::{mpsc::UnboundedSender, oneshot},
};
use tracing::error;

use super::{
    Running, absolute, check, complain,
    conf::Conf,
    counted,
    inbox::Inbox,
    is_absence, manager, say,
    supervisor::{After, Event, Settings, Supervisor, WRONG},
};
use crate::{
    args::LogFormat,
    background::{self, Detached, Side},
    cli::Place,
    control::{
        instance::{Instance, InstanceError},
        protocol::{Command, Reply},
        rundir::RunDir,
        seats::Seat,
        server::{self, Answer},
    },
    error::StartError,
    handed::Handed,
    logging::{self, Sink},
    notify,
    signals::Signals,
};

/// Starts all instances of a file.
pub(super) fn start(place: &Place, foreground: bool, form: LogFormat) -> Result<u8, StartError> {
    let foreground = foreground || notify::is_awaited();
    // Before anything else is opened.
    let handed = if foreground { Handed::by_manager()? } else { Handed::default() };
    let Some(conf) = to_start(place)? else { return Ok(0) };
    if !foreground && manager::is_in_charge(place) {
        return manager::start(place);
    }
    if foreground {
        logging::init(Sink::Foreground, form, false);
        return supervise(place, conf, handed, form, None);
    }
    detached(place, conf)
}

/// The same in the background.
pub(super) fn in_background(place: &Place) -> Result<u8, StartError> {
    let Some(conf) = to_start(place)? else { return Ok(0) };
    detached(place, conf)
}

/// What is to be started; nothing if it runs already.
fn to_start(place: &Place) -> Result<Option<Conf>, StartError> {
    match Running::find(place) {
        Ok(running) => {
            let pid = running.pid();
            say(&format!("balance is already running (pid {pid}); reload reads its file again"));
            return Ok(None);
        }
        Err(error) if is_absence(&error) => {}
        Err(error) => return Err(StartError::Running(Box::new(error))),
    }
    check::read(&place.config).map(Some)
}

fn detached(place: &Place, conf: Conf) -> Result<u8, StartError> {
    conf.wrong(&place.config).iter().for_each(|wrong| complain(wrong));
    if conf.lines.is_empty() && !conf.mistakes.is_empty() {
        return Ok(WRONG);
    }
    // The daemon's directory is another one.
    let place = Place { config: absolute(&place.config), run_dir: place.run_dir.clone() };
    let place = &place;
    let instances = counted(conf.lines.len(), "instance");
    match background::detach()? {
        Side::Starter(code) => {
            if code == 0 {
                say(&format!("balance is started: {instances}"));
            }
            Ok(code)
        }
        Side::Daemon(detached) => {
            logging::init(Sink::Background, LogFormat::Text, false);
            supervise(place, conf, Handed::default(), LogFormat::Text, Some(detached))
        }
    }
}

/// Is the supervisor, to its end.
fn supervise(
    place: &Place,
    conf: Conf,
    handed: Handed,
    form: LogFormat,
    detached: Option<Detached>,
) -> Result<u8, StartError> {
    let refused = |act| move |source| StartError::System { act, source };
    let dir = RunDir::locate(place.run_dir.as_deref()).map_err(InstanceError::from);
    let dir = dir.map_err(StartError::Control)?;
    let file = absolute(&place.config);
    let paths = dir.supervisor(&file).map_err(InstanceError::from).map_err(StartError::Control)?;
    let inbox_path = paths.socket.with_extension("notify");
    let mut claim = Instance::claim(&dir, paths).map_err(StartError::Control)?;
    claim.write_pid().map_err(StartError::Control)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let after = runtime.map_err(refused("make a runtime"))?.block_on(async {
        let inbox = Inbox::bind(&inbox_path).map_err(refused("make the inbox"))?;
        let mut signals = Signals::catch().map_err(refused("wait for signals"))?;
        let json = form == LogFormat::Json;
        let settings = Settings { file, dir, background: detached.is_some(), json };
        let supervisor = Supervisor::new(settings, conf, handed, &inbox, detached)
            .map_err(refused("make a pipe"))?;
        let sender = supervisor.sender();
        let control = claim.take_listener().map(|listener| {
            let answers = Answers(sender.clone());
            async move { server::serve(listener, answers).await }
        });
        let listen = async {
            if let Some(control) = control
                && let Err(error) = control.await
            {
                error!(%error, "the control socket cannot be served");
            }
            std::future::pending::<()>().await;
        };
        select! {
            after = supervisor.run(&mut signals) => after,
            () = hear(&inbox, &sender) => unreachable!("it goes on for ever"),
            () = listen => unreachable!("it goes on for ever"),
        }
    })?;
    drop(claim);
    match after {
        After::Exit(code) => Ok(code),
        After::Restart => Err(again()),
    }
}

/// Passes on what instances say of themselves, for ever.
async fn hear(inbox: &Inbox, sender: &UnboundedSender<Event>) {
    loop {
        match inbox.next().await {
            Ok((pid, said)) => drop(sender.send(Event::Said(pid, said))),
            Err(error) => {
                error!(%error, "what instances say cannot be heard");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

/// Begins anew in this process, with the program as it is on the disk now; returns why not.
fn again() -> StartError {
    let failed = |source| StartError::System { act: "begin anew", source };
    let program = match std::env::current_exe() {
        Ok(path) => path,
        Err(error) => return failed(error),
    };
    // What an upgrade has put in its place.
    let name = program.to_string_lossy();
    let program = name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned();
    failed(std::process::Command::new(program).args(std::env::args_os().skip(1)).exec())
}

/// The control socket's side of the supervisor: orders go to it one by one.
#[derive(Clone)]
struct Answers(UnboundedSender<Event>);

impl Answer for Answers {
    async fn answer(&self, _: &mut Seat, command: Command) -> Reply {
        let (reply, answer) = oneshot::channel();
        let gone = || Reply::Refused("balance is on its way out".to_owned());
        if self.0.send(Event::Asked(command, reply)).is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }

    async fn stopped(&self) {
        // It answers to its last moment.
        std::future::pending::<()>().await;
    }
}
