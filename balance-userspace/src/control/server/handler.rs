//! The handler of an instance: carries out commands on the table.
//!
//! Invariants: a command makes its change whole, under the table's lock. Nothing here runs on a
//! worker, so no control client can slow a worker down.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{task::spawn_blocking, time::sleep};
use tracing::info;

use super::{Handler, client_limiter::ClientPermit, configure};
use crate::control::protocol::{
    ChannelRow, CounterRow, InstanceCommand, InstanceReply, ProcessRow, SessionRow, Stats,
};
use crate::{
    cli::operand,
    error::StartError,
    instance::{
        context::Context,
        table::{Inner, Session},
        totals::Counts,
    },
    io::{loops, resolve},
    logging,
    selection::{
        ChangeError, Channel, ChannelId, ChannelKey, ChannelRef, Effect, Method, ResolvedServer,
    },
};

/// Interval at which a drain checks its channel.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Handler for Arc<Context> {
    type Command = InstanceCommand;

    async fn handle(&self, permit: &mut ClientPermit, command: InstanceCommand) -> InstanceReply {
        handle(self, permit, command).await
    }

    fn name(&self) -> Option<String> {
        self.settings.borrow().name.clone()
    }

    fn has_readers(&self) -> bool {
        self.has_readers
    }

    async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

async fn handle(
    context: &Arc<Context>,
    permit: &mut ClientPermit,
    command: InstanceCommand,
) -> InstanceReply {
    match command {
        InstanceCommand::Show
        | InstanceCommand::Sessions
        | InstanceCommand::Stats
        | InstanceCommand::Channel(_) => {}
        // Logs its changes itself.
        InstanceCommand::Configure { .. } => {}
        _ => info!(%command, "control command"),
    }
    match command {
        InstanceCommand::Show => InstanceReply::Table(rows(&context.table.lock())),
        InstanceCommand::Sessions => InstanceReply::Sessions(sessions(context)),
        InstanceCommand::Stats => InstanceReply::Stats(stats(context)),
        InstanceCommand::Channel(named) => {
            at(context, &named, |inner, id| Ok(channel(inner, id))).unwrap_or_else(failure)
        }
        InstanceCommand::Enable(named) => {
            changed(at(context, &named, |inner, id| inner.selector.set_enabled(id, true)))
        }
        InstanceCommand::Disable(named) => {
            changed(at(context, &named, |inner, id| inner.selector.set_enabled(id, false)))
        }
        InstanceCommand::Reset(named) => done(at(context, &named, Inner::reset)),
        InstanceCommand::SetMax { id: named, max } => {
            done(at(context, &named, |inner, id| inner.selector.set_max(id, max)))
        }
        InstanceCommand::SetMethod { group, method } => {
            done(context.table.lock().selector.set_method(group, method))
        }
        InstanceCommand::Create { group, host, port } => {
            match resolve_server(context, host, port).await {
                Ok(server) => match context.table.lock().selector.create(group, server) {
                    Ok(id) => InstanceReply::Created(id),
                    Err(error) => failure(error),
                },
                Err(reason) => invalid_address(reason),
            }
        }
        InstanceCommand::Assign { id: named, host, port } => {
            // Check the channel first: its error matters more than one of the name.
            let found = at(context, &named, |inner, id| {
                inner.selector.channel(id).map(|channel| (channel.key, channel.enabled))
            });
            let channel = match found {
                Err(error) => return failure(error),
                Ok((_, true)) => return InstanceReply::NotDisabled,
                Ok((channel, false)) => channel,
            };
            match resolve_server(context, host, port).await {
                Ok(server) => {
                    let selector = &mut context.table.lock().selector;
                    // By key: other commands may have moved the channel meanwhile.
                    let id = selector.position(channel).ok_or(ChangeError::NoSuchChannel);
                    done(id.and_then(|id| selector.assign(id, server)))
                }
                Err(reason) => invalid_address(reason),
            }
        }
        InstanceCommand::Drain { id: named, seconds } => {
            let drained = permit.release_during(drain(context, named, seconds)).await;
            drained.unwrap_or(InstanceReply::TooManyDrains)
        }
        InstanceCommand::Drop(named) => {
            at(context, &named, |inner, id| Ok(drop_sessions(inner, id))).unwrap_or_else(failure)
        }
        InstanceCommand::Configure { words } => configure::configure(context, words).await,
        InstanceCommand::Kill => {
            context.stop.cancel();
            InstanceReply::Done
        }
    }
}

/// Finds a channel and acts on it, under one lock.
fn at<T>(
    context: &Context,
    channel: &ChannelRef,
    act: impl FnOnce(&mut Inner, ChannelId) -> Result<T, ChangeError>,
) -> Result<T, ChangeError> {
    let mut inner = context.table.lock();
    let id = inner.selector.find(channel)?;
    act(&mut inner, id)
}

/// Logs the reason and returns it. The client prints the classic's bare "invalid address".
pub(super) fn invalid_address(reason: String) -> InstanceReply {
    info!(reason, "server address rejected");
    InstanceReply::InvalidAddress(reason)
}

/// Resolves a server from host and port, on a thread that may block.
async fn resolve_server(
    context: &Context,
    host: String,
    port: String,
) -> Result<ResolvedServer, String> {
    let listener = context.address;
    let resolve = move || {
        let spec = operand::host_and_port(&host, &port, &resolve::service)?;
        let server = resolve::server(&spec)?;
        loops::check_servers(listener, &server.addresses)?;
        Ok::<_, StartError>(server)
    };
    match spawn_blocking(resolve).await {
        Ok(resolved) => resolved.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

async fn drain(context: &Arc<Context>, named: ChannelRef, seconds: Option<u64>) -> InstanceReply {
    let found = at(context, &named, |inner, id| {
        inner.selector.set_enabled(id, false)?;
        inner.selector.channel(id).map(|channel| channel.key)
    });
    let channel = match found {
        Ok(channel) => channel,
        Err(error) => return failure(error),
    };
    let end = seconds.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
    loop {
        // By key: other commands may have moved the channel meanwhile.
        let left = context.table.lock().selector.current(channel);
        if left == 0 || end.is_some_and(|end| Instant::now() >= end) {
            return InstanceReply::Connections(left);
        }
        tokio::select! {
            () = sleep(DRAIN_POLL_INTERVAL) => {}
            () = context.stop.cancelled() => return InstanceReply::Connections(left),
        }
    }
}

fn drop_sessions(inner: &Inner, id: ChannelId) -> InstanceReply {
    let channel = match inner.selector.channel(id) {
        Ok(channel) => channel.key,
        Err(error) => return failure(error),
    };
    let mut dropped = 0;
    for session in inner.sessions_of(channel) {
        session.abort.reset();
        dropped += 1;
    }
    InstanceReply::Connections(dropped)
}

/// Returns every channel, the bytes of its live connections included.
fn rows(inner: &Inner) -> Vec<ChannelRow> {
    let mut live: HashMap<ChannelKey, (u64, u64)> = HashMap::new();
    for session in inner.sessions() {
        let (sent, rcvd) = session.traffic.read();
        let sum = live.entry(session.target().channel).or_default();
        *sum = (sum.0 + sent, sum.1 + rcvd);
    }
    let groups = inner.selector.groups().iter().enumerate();
    groups
        .flat_map(|(number, group)| {
            let live = &live;
            group.channels.iter().enumerate().map(move |(i, channel)| {
                let id = ChannelId { group: number, channel: i };
                row(id, group.method, channel, live.get(&channel.key).copied().unwrap_or_default())
            })
        })
        .collect()
}

fn channel(inner: &Inner, id: ChannelId) -> InstanceReply {
    let channel = match inner.selector.channel(id) {
        Ok(channel) => channel,
        Err(error) => return failure(error),
    };
    let live = inner.sessions_of(channel.key).map(|session| session.traffic.read());
    let sum = live.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    InstanceReply::Channel(row(id, inner.selector.groups()[id.group].method, channel, sum))
}

fn row(id: ChannelId, method: Method, channel: &Channel, (sent, rcvd): (u64, u64)) -> ChannelRow {
    ChannelRow {
        group: id.group,
        method,
        channel: id.channel,
        enabled: channel.enabled,
        name: channel.name.to_string(),
        address: channel.addresses[0],
        unresolved_since: channel.unresolved_since.map(|since| {
            since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
        }),
        current: channel.current,
        total: channel.total,
        max: channel.max,
        sent: channel.sent.wrapping_add(sent),
        rcvd: channel.rcvd.wrapping_add(rcvd),
    }
}

fn stats(context: &Context) -> Stats {
    let counters = context.datapath.counters().into_iter().map(|counter| CounterRow {
        name: counter.name.to_owned(),
        value: counter.value,
        reason: counter.reason,
    });
    let Counts { accepted, open, clean, broken, unserved, left, .. } = context.totals.counts();
    let datapath = context.datapath.name().to_string();
    let (address, log_lines_lost) = (context.address, logging::lost());
    Stats {
        name: context.settings.borrow().name.clone(),
        datapath,
        address,
        open,
        accepted,
        clean,
        broken,
        unserved,
        left,
        log_lines_lost,
        limit: context.max_connections as u64,
        process: Some(process(context)),
        counters: counters.collect(),
        differences: context.table.lock().selector.differences(),
    }
}

fn process(context: &Context) -> ProcessRow {
    let shared = &context.shared;
    ProcessRow {
        pid: std::process::id(),
        open: shared.open() as u64,
        limit: shared.max_connections as u64,
        config: shared.config.clone(),
    }
}

fn sessions(context: &Context) -> Vec<SessionRow> {
    let mut live: Vec<_> = {
        let inner = context.table.lock();
        let found = |session: &Arc<Session>| {
            let key = session.target().channel;
            let name = inner.selector.by_key(key).map(|channel| Arc::clone(&channel.name));
            (Arc::clone(session), inner.selector.position(key), name)
        };
        inner.sessions().map(found).collect()
    };
    live.sort_by_key(|(session, ..)| session.since);
    live.iter()
        .map(|(session, id, name)| {
            let (target, (sent, rcvd)) = (session.target(), session.traffic.read());
            let datapath = session.traffic.datapath();
            SessionRow {
                client: session.client,
                id: *id,
                server: name.as_ref().map(ToString::to_string),
                source: target.source,
                backend: target.backend,
                age_ms: u64::try_from(session.since.elapsed().as_millis()).unwrap_or(u64::MAX),
                sent,
                rcvd,
                datapath: target.backend.map(|_| datapath.to_string()),
            }
        })
        .collect()
}

fn changed(result: Result<Effect, ChangeError>) -> InstanceReply {
    match result {
        Ok(Effect::Changed) => InstanceReply::Done,
        Ok(Effect::Unchanged) => InstanceReply::Already,
        Err(error) => failure(error),
    }
}

fn done(result: Result<(), ChangeError>) -> InstanceReply {
    result.map_or_else(failure, |()| InstanceReply::Done)
}

fn failure(error: ChangeError) -> InstanceReply {
    match error {
        ChangeError::NoSuchGroup | ChangeError::TooManyGroups => InstanceReply::NoSuchGroup,
        ChangeError::NoSuchChannel => InstanceReply::NoSuchChannel,
        ChangeError::NotDisabled => InstanceReply::NotDisabled,
        ChangeError::AmbiguousName => InstanceReply::AmbiguousName,
        ChangeError::NameInUse => InstanceReply::NameInUse,
    }
}
