//! Observes the supervisor and the instances, within a limited time.
//!
//! Invariant: an observation ends at its deadline, whatever hangs. What has not replied by then
//! counts as not answering.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::verdict::{
    Figures, Listener, ListenerState, Load, Observation, Server, SupervisorState, Unusable,
};
use crate::{
    cli::{ServiceLocation, operand},
    control::{
        client::{
            connection::Connection,
            rpc::{ClientError, ControlClient},
        },
        protocol::{
            ChannelRow, InstanceCommand, InstanceReply, InstanceRow, InstanceState, Stats,
            SupervisorCommand, SupervisorReply, SupervisorStatus,
        },
        run_dir::{ALL_ADDRESSES, Paths, RunDir, RunDirError},
    },
    io::resolve,
    service::{conf::InstanceName, running::absolute},
};

/// The longest time for the supervisor.
const SUPERVISOR_TIME: Duration = Duration::from_millis(1_000);

/// The longest time for all replies. The program then has time to end within two seconds.
const WHOLE_TIME: Duration = Duration::from_millis(1_700);

/// Time for the last replies to be collected.
const MARGIN: Duration = Duration::from_millis(50);

/// Instances that are asked at the same time.
const THREADS: usize = 32;

/// Why nothing can be observed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ObserveError {
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// No listener is meant by this word.
    #[error("{0}: no listener has this port or name")]
    NoSuchListener(String),
}

/// An instance that is to be asked.
#[derive(Clone, Debug)]
struct Target {
    /// Port and address, as `status` shows them.
    place: String,
    port: Option<u16>,
    /// The name of the instance (`--name`), if the supervisor knows it.
    given_name: Option<String>,
    pid: Option<u32>,
    access: Access,
}

/// How the state of an instance is found.
#[derive(Clone, Debug)]
enum Access {
    /// The supervisor has named the socket.
    Socket(PathBuf),
    /// The run directory has a pid file.
    Files { paths: Paths, any_user: bool },
    /// The supervisor has said why the instance is not served.
    NotServed(&'static str, String),
}

/// The reply of an instance.
struct Reply {
    stats: Stats,
    channels: Vec<ChannelRow>,
}

/// Observes all listeners, or those that `name` means.
///
/// # Errors
/// When no listener is meant, or when the run directory cannot be used.
pub(super) fn observe(
    location: &ServiceLocation,
    name: Option<&str>,
) -> Result<Observation, ObserveError> {
    let deadline = Instant::now() + WHOLE_TIME;
    let (location, name) = (location.clone(), name.map(str::to_owned));
    let (sender, observation) = mpsc::channel();
    thread::spawn(move || {
        // The receiver may have given up.
        let _ = sender.send(collect(&location, name.as_deref(), deadline));
    });
    let left = deadline.saturating_duration_since(Instant::now()) + 2 * MARGIN;
    // A look-up of a name or the file system may hang.
    observation.recv_timeout(left).unwrap_or_else(|_| {
        let supervisor = SupervisorState::Unanswered("no reply within two seconds".to_owned());
        Ok(Observation { supervisor, mistakes: Vec::new(), listeners: Vec::new() })
    })
}

fn collect(
    location: &ServiceLocation,
    name: Option<&str>,
    deadline: Instant,
) -> Result<Observation, ObserveError> {
    let (supervisor, table) = ask_supervisor(location)?;
    let is_supervised = table.is_some();
    let (mut mistakes, mut targets) = (Vec::new(), Vec::new());
    if let Some(table) = table {
        targets = of_supervisor(table.instances);
        mistakes = table.wrong;
    }
    if let Some(name) = name {
        mistakes.clear();
        let port = operand::listen_port(name, &resolve::service).ok();
        let listeners = of_name(location, targets, name, port, deadline)?;
        return Ok(Observation { supervisor, mistakes, listeners });
    }
    if !is_supervised {
        targets = of_directories(location)?;
    }
    let config = absolute(&location.config);
    let replies = ask_all(&targets, deadline);
    let asked = targets.into_iter().zip(replies);
    // Another service may use the run directory.
    let own = asked.filter(|(_, reply)| is_supervised || !is_of_another_file(reply, &config));
    let listeners = own.map(|(target, reply)| listener(target, reply)).collect();
    Ok(Observation { supervisor, mistakes, listeners })
}

/// Observes the listeners that a port, a service or a name means. As for other commands, a port or a
/// service that has an instance goes before a name.
fn of_name(
    location: &ServiceLocation,
    mut targets: Vec<Target>,
    name: &str,
    port: Option<u16>,
    deadline: Instant,
) -> Result<Vec<Listener>, ObserveError> {
    let is_known = |target: &Target| target.given_name.as_deref() == Some(name);
    let is_at = |target: &Target| target.port == port && port.is_some() || target.place == name;
    if !targets.iter().any(|target| is_at(target) || is_known(target)) {
        targets = of_directories(location)?;
    }
    let is_on_port = targets.iter().any(is_at);
    if is_on_port {
        targets.retain(is_at);
    } else if targets.iter().any(is_known) {
        targets.retain(is_known);
    }
    let is_found = is_on_port || targets.iter().any(is_known);
    let replies = ask_all(&targets, deadline);
    let mut asked: Vec<_> = targets.into_iter().zip(replies).collect();
    let has_name = |(_, reply): &(Target, Result<Reply, ClientError>)| {
        reply.as_ref().is_ok_and(|reply| reply.stats.name.as_deref() == Some(name))
    };
    if !is_found {
        match asked.iter().any(has_name) {
            true => asked.retain(has_name),
            // An instance that does not answer may have the name.
            false => asked.retain(|(_, reply)| reply.is_err()),
        }
    }
    if asked.is_empty() {
        return Err(ObserveError::NoSuchListener(name.to_owned()));
    }
    Ok(asked.into_iter().map(|(target, reply)| listener(target, reply)).collect())
}

fn is_of_another_file(reply: &Result<Reply, ClientError>, config: &Path) -> bool {
    let process = reply.as_ref().ok().and_then(|reply| reply.stats.process.as_ref());
    process.and_then(|process| process.config.as_ref()).is_some_and(|file| file != config)
}

fn ask_supervisor(
    location: &ServiceLocation,
) -> Result<(SupervisorState, Option<SupervisorStatus>), RunDirError> {
    let deadline = Some(Instant::now() + SUPERVISOR_TIME);
    let (run_dir, config) = (location.run_dir.as_deref(), absolute(&location.config));
    let asked = Connection::supervisor(run_dir, &config, deadline)
        .and_then(|mut connection| connection.request(SupervisorCommand::Instances));
    Ok(match asked {
        Ok(SupervisorReply::Instances(table)) if table.stopping => {
            (SupervisorState::Stopping, Some(table))
        }
        Ok(SupervisorReply::Instances(table)) => (SupervisorState::Running, Some(table)),
        Ok(SupervisorReply::Refused(why)) => (SupervisorState::Unanswered(why), None),
        Ok(_) => (SupervisorState::Unanswered(ClientError::Unreadable.to_string()), None),
        Err(ClientError::NoMaster) => (SupervisorState::Absent, None),
        Err(ClientError::RunDir(error)) => return Err(error),
        Err(error) if is_denied(&error) => (SupervisorState::Unreadable(error.to_string()), None),
        Err(error) => (SupervisorState::Unanswered(why(&error, None)), None),
    })
}

/// The instances that a supervisor has, without those that drain after their line was removed.
fn of_supervisor(rows: Vec<InstanceRow>) -> Vec<Target> {
    let is_wanted = |row: &InstanceRow| row.socket.is_some();
    rows.into_iter().filter(is_wanted).map(of_row).collect()
}

fn of_row(row: InstanceRow) -> Target {
    let reason = |otherwise: &str| match row.status.as_str() {
        "" => otherwise.to_owned(),
        status => status.to_owned(),
    };
    let access = match (row.state, row.socket) {
        (InstanceState::Running, Some(socket)) => Access::Socket(socket),
        (InstanceState::Hung, _) => Access::NotServed("unanswered", reason("hung")),
        (InstanceState::Failed, _) => Access::NotServed("failed", reason("failed")),
        (InstanceState::Starting, _) => Access::NotServed("starting", "starting".to_owned()),
        _ => Access::NotServed("stopped", reason("stopped")),
    };
    let port = row.name.rsplit(':').next().and_then(|port| port.parse().ok());
    Target { place: row.name, port, given_name: row.given_name, pid: row.pid, access }
}

/// The instances that have a pid file in a run directory.
fn of_directories(location: &ServiceLocation) -> Result<Vec<Target>, RunDirError> {
    let mut targets = Vec::new();
    for dir in RunDir::to_search(location.run_dir.as_deref())? {
        for (port, bind) in dir.instances() {
            let paths = dir.instance(Some(&bind), port)?;
            let bind = Some(bind).filter(|bind| bind != ALL_ADDRESSES);
            targets.push(Target {
                place: InstanceName { port, bind }.to_string(),
                port: Some(port),
                given_name: None,
                pid: None,
                access: Access::Files { paths, any_user: location.run_dir.is_some() },
            });
        }
    }
    Ok(targets)
}

/// Asks all instances. The results are in the order of the targets.
fn ask_all(targets: &[Target], deadline: Instant) -> Vec<Result<Reply, ClientError>> {
    let queue: VecDeque<_> = targets.iter().cloned().enumerate().collect();
    let queue = Arc::new(Mutex::new(queue));
    let (sender, receiver) = mpsc::channel();
    for _ in 0..targets.len().min(THREADS) {
        let (queue, sender) = (Arc::clone(&queue), sender.clone());
        thread::spawn(move || {
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            while let Some((number, target)) = next() {
                // The receiver may have given up.
                let _ = sender.send((number, ask(&target.access, deadline)));
            }
        });
    }
    drop(sender);
    let mut replies: Vec<_> = targets.iter().map(|_| Err(ClientError::Timeout)).collect();
    let left = || deadline.saturating_duration_since(Instant::now()) + MARGIN;
    // The threads drop their senders after the last reply.
    while let Ok((number, reply)) = receiver.recv_timeout(left()) {
        replies[number] = reply;
    }
    replies
}

fn ask(access: &Access, deadline: Instant) -> Result<Reply, ClientError> {
    let deadline = Some(deadline);
    let ask_both = |mut ask: Box<
        dyn FnMut(InstanceCommand) -> Result<InstanceReply, ClientError>,
    >| {
        match (ask(InstanceCommand::Stats)?, ask(InstanceCommand::Show)?) {
            (InstanceReply::Stats(stats), InstanceReply::Table(channels)) => {
                Ok(Reply { stats, channels })
            }
            (InstanceReply::Refused(why), _) | (_, InstanceReply::Refused(why)) => {
                Err(ClientError::Refused(why))
            }
            _ => Err(ClientError::Unreadable),
        }
    };
    match access {
        Access::Socket(path) => {
            let mut client = ControlClient::connect_until(path, deadline)?;
            ask_both(Box::new(move |command| client.ask(command)))
        }
        Access::Files { paths, any_user } => {
            let mut connection = Connection::until(deadline, paths.clone(), *any_user)?;
            ask_both(Box::new(move |command| connection.request(command)))
        }
        // Nothing is asked.
        Access::NotServed(..) => Err(ClientError::NoMaster),
    }
}

fn listener(target: Target, reply: Result<Reply, ClientError>) -> Listener {
    let Target { place, given_name, pid, access, .. } = target;
    let given = reply.as_ref().ok().and_then(|reply| reply.stats.name.clone());
    let name = given.or(given_name).unwrap_or(place);
    let (state, figures) = match (access, reply) {
        (Access::NotServed(state, why), _) => (ListenerState::NotServed(state, why), None),
        (_, Ok(reply)) => (ListenerState::Running, Some(figures(reply))),
        (_, Err(error)) if is_denied(&error) => {
            (ListenerState::Unreadable(error.to_string()), None)
        }
        (_, Err(error)) => (ListenerState::NotServed("unanswered", why(&error, pid)), None),
    };
    Listener { name, state, figures }
}

fn figures(reply: Reply) -> Figures {
    let Reply { stats, channels } = reply;
    Figures {
        address: stats.address.map(|address| address.to_string()),
        servers: channels.into_iter().map(server).collect(),
        load: Load { open: stats.open, limit: stats.limit },
        process: stats
            .process
            .map(|process| (process.pid, Load { open: process.open, limit: process.limit })),
    }
}

fn server(row: ChannelRow) -> Server {
    let unusable = match row.enabled {
        false => Some(Unusable::Disabled),
        true if row.max > 0 && row.current >= row.max => Some(Unusable::Full),
        true => None,
    };
    Server {
        name: row.name,
        group: row.group,
        channel: row.channel,
        unusable,
        connections: row.current,
        max: row.max,
    }
}

fn is_denied(error: &ClientError) -> bool {
    use ClientError::{Denied, ForeignUser, NoAccess};
    matches!(error, NoAccess(_) | Denied { .. } | ForeignUser(_))
}

/// Why a process has not replied.
fn why(error: &ClientError, pid: Option<u32>) -> String {
    match (error, pid) {
        (ClientError::Gone(pid), _) => format!("no process, pid {pid} is gone"),
        (ClientError::NoMaster, _) => "no process".to_owned(),
        (ClientError::Timeout, Some(pid)) => format!("pid {pid} does not answer"),
        (ClientError::Timeout, None) => "the process does not answer".to_owned(),
        (error, _) => error.to_string(),
    }
}
