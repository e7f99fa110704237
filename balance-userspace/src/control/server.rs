//! The control socket of a running balance: requests in, changes to the table, replies out.
//!
//! Invariants: only root and the owner of the process are heard; a change is made whole under the
//! table's lock; nothing here runs on a worker, so no client of ours can slow one down.

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixListener as StdListener,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    protocol::{
        ChannelRow, Command, LINE, Preamble, Reply, Request, SessionRow, SpliceStats, Stats,
        VERSION,
    },
    seats::{Seat, Seats},
};
use crate::{
    operand, resolve,
    selection::{Changed, ChannelId, Group, Location, Refused},
    server::Shared,
    sys,
    table::Inner,
};

/// How long a client may take to send a line or to read its reply. Short, so that silent clients
/// cannot keep others out for longer than these wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks at a channel that is drained.
const LOOK: Duration = Duration::from_millis(50);

/// Serves the socket until the program stops accepting.
pub(crate) async fn serve(listener: StdListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let seats = Seats::new();
    loop {
        let seat = seats.take().await;
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, most likely: the workers say so.
                    sleep(LOOK).await;
                    continue;
                }
            },
            () = shared.stop.cancelled() => return Ok(()),
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A client that breaks off is no concern of ours.
            let _ = converse(stream, &shared, seat).await;
        });
    }
}

/// One client's requests, to its end.
async fn converse(stream: UnixStream, shared: &Arc<Shared>, mut seat: Seat) -> io::Result<()> {
    let user = stream.peer_cred()?.uid();
    let heard = user == 0 || user == sys::effective_user();
    if !heard {
        warn!(user, "refused a control client");
    }
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut lines).take(LINE as u64);
        let read = timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
        if read == 0 {
            return Ok(());
        }
        let reply = if !heard {
            Reply::Refused("only root and the owner of balance may control it".to_owned())
        } else if line.last() != Some(&b'\n') {
            Reply::Refused("the request is too long or was cut off".to_owned())
        } else {
            match read_request(&line) {
                Ok(command) => tokio::select! {
                    reply = answer(shared, &mut seat, command) => reply,
                    // Nobody waits for the end of its drain any more.
                    () = gone(&mut lines) => return Ok(()),
                },
                Err(reply) => reply,
            }
        };
        let refused = matches!(reply, Reply::Refused(_) | Reply::Mismatch { .. });
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        timeout(PATIENCE, write.write_all(&text)).await??;
        if refused {
            return Ok(());
        }
    }
}

/// What a line asks for. Its version is looked at first: another version may well ask for
/// something that cannot be read here.
fn read_request(line: &[u8]) -> Result<Command, Reply> {
    let unreadable = |e| Reply::Refused(format!("the request cannot be read: {e}"));
    let Preamble { version } = serde_json::from_slice(line).map_err(unreadable)?;
    if version != VERSION {
        return Err(Reply::Mismatch { version: VERSION });
    }
    serde_json::from_slice(line).map(|Request { command, .. }| command).map_err(unreadable)
}

/// Waits until the client has closed its side.
async fn gone(lines: &mut (impl tokio::io::AsyncBufRead + Unpin)) {
    // A request sent ahead is read when its turn comes.
    if lines.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty()) {
        std::future::pending::<()>().await;
    }
}

async fn answer(shared: &Arc<Shared>, seat: &mut Seat, command: Command) -> Reply {
    if !matches!(
        command,
        Command::Hello | Command::Show | Command::Sessions | Command::Stats | Command::Channel(_)
    ) {
        info!(?command, "control");
    }
    match command {
        Command::Hello => {
            Reply::Hello { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() }
        }
        Command::Show => Reply::Table(rows(&shared.table.lock())),
        Command::Sessions => Reply::Sessions(sessions(shared)),
        Command::Stats => Reply::Stats(stats(shared)),
        Command::Channel(id) => channel(&shared.table.lock(), id),
        Command::Enable(id) => changed(shared.table.lock().selector.set_enabled(id, true)),
        Command::Disable(id) => changed(shared.table.lock().selector.set_enabled(id, false)),
        Command::Reset(id) => done(shared.table.lock().reset(id)),
        Command::SetMax { id, max } => done(shared.table.lock().selector.set_max(id, max)),
        Command::SetMethod { group, method } => {
            done(shared.table.lock().selector.set_method(group, method))
        }
        Command::Create { group, host, port } => match location(host, port).await {
            Ok(found) => match shared.table.lock().selector.create(group, found) {
                Ok(id) => Reply::Created(id),
                Err(refused) => refusal(refused),
            },
            Err(why) => invalid(why),
        },
        Command::Assign { id, host, port } => {
            // Whether it may be is the better answer than whether the name can be resolved.
            match shared.table.lock().selector.channel(id) {
                Err(refused) => return refusal(refused),
                Ok(channel) if channel.enabled => return Reply::NotDisabled,
                Ok(_) => {}
            }
            match location(host, port).await {
                Ok(found) => done(shared.table.lock().selector.assign(id, found)),
                Err(why) => invalid(why),
            }
        }
        Command::Drain { id, seconds } => {
            let drained = seat.leave_for(drain(shared, id, seconds)).await;
            drained.unwrap_or(Reply::TooManyDrains)
        }
        Command::Drop(id) => drop_sessions(&shared.table.lock(), id),
        Command::Kill => {
            shared.stop.cancel();
            Reply::Done
        }
    }
}

/// The client shows the classic's bare words; why is for the log.
fn invalid(why: String) -> Reply {
    info!(why, "control: the address cannot be used");
    Reply::InvalidAddress(why)
}

/// Where a server is that is given as in a channel operand, or as host and port. Blocks no one.
async fn location(host: String, port: String) -> Result<Location, String> {
    let look_up =
        move || resolve::location(&operand::host_and_port(&host, &port, &resolve::service)?);
    match spawn_blocking(look_up).await {
        Ok(found) => found.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

async fn drain(shared: &Arc<Shared>, id: ChannelId, seconds: Option<u64>) -> Reply {
    if let Err(refused) = shared.table.lock().selector.set_enabled(id, false) {
        return refusal(refused);
    }
    let end = seconds.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
    loop {
        let left = match shared.table.lock().selector.channel(id) {
            Ok(channel) => channel.current,
            Err(refused) => return refusal(refused),
        };
        if left == 0 || end.is_some_and(|end| Instant::now() >= end) {
            return Reply::Left(left);
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = shared.stop.cancelled() => return Reply::Left(left),
        }
    }
}

fn drop_sessions(inner: &Inner, id: ChannelId) -> Reply {
    if let Err(refused) = inner.selector.channel(id) {
        return refusal(refused);
    }
    let mut dropped = 0;
    for session in inner.sessions_of(id) {
        session.cut.reset();
        dropped += 1;
    }
    Reply::Left(dropped)
}

/// Every channel, with what its live connections have moved so far.
fn rows(inner: &Inner) -> Vec<ChannelRow> {
    let mut live: HashMap<ChannelId, (u64, u64)> = HashMap::new();
    for session in inner.sessions() {
        let (sent, rcvd) = session.traffic.read();
        let sum = live.entry(session.place().id).or_default();
        *sum = (sum.0 + sent, sum.1 + rcvd);
    }
    let groups = inner.selector.groups().iter().enumerate();
    groups
        .flat_map(|(number, group)| {
            let live = &live;
            (0..group.channels.len()).map(move |channel| {
                let id = ChannelId { group: number, channel };
                row(group, id, live.get(&id).copied().unwrap_or_default())
            })
        })
        .collect()
}

fn channel(inner: &Inner, id: ChannelId) -> Reply {
    if let Err(refused) = inner.selector.channel(id) {
        return refusal(refused);
    }
    let live = inner.sessions_of(id).map(|session| session.traffic.read());
    let sum = live.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    Reply::Channel(row(&inner.selector.groups()[id.group], id, sum))
}

fn row(group: &Group, id: ChannelId, (sent, rcvd): (u64, u64)) -> ChannelRow {
    let channel = &group.channels[id.channel];
    ChannelRow {
        group: id.group,
        method: group.method,
        channel: id.channel,
        enabled: channel.enabled,
        address: channel.addresses[0],
        current: channel.current,
        total: channel.total,
        max: channel.max,
        sent: channel.sent.wrapping_add(sent),
        rcvd: channel.rcvd.wrapping_add(rcvd),
    }
}

fn stats(shared: &Shared) -> Stats {
    let totals = &shared.totals;
    let splice = shared.datapath.splice_figures().map(|figures| SpliceStats {
        current: figures.current,
        total: figures.total,
        refused: figures.refused,
        packets: figures.packets,
        sacks: figures.sacks,
        clamped: figures.clamped,
        dropped: figures.dropped,
    });
    let [accepted, unserved, broken] = totals.counts();
    let datapath = shared.datapath.name().to_string();
    Stats { datapath, accepted, unserved, broken, splice }
}

fn sessions(shared: &Shared) -> Vec<SessionRow> {
    let mut live: Vec<_> = shared.table.lock().sessions().map(Arc::clone).collect();
    live.sort_by_key(|session| session.since);
    live.iter()
        .map(|session| {
            let (place, (sent, rcvd)) = (session.place(), session.traffic.read());
            let name = session.traffic.datapath();
            SessionRow {
                client: session.client,
                id: place.id,
                backend: place.backend,
                age_ms: u64::try_from(session.since.elapsed().as_millis()).unwrap_or(u64::MAX),
                sent,
                rcvd,
                datapath: place.backend.map(|_| name.to_string()),
            }
        })
        .collect()
}

fn changed(result: Result<Changed, Refused>) -> Reply {
    match result {
        Ok(Changed::Yes) => Reply::Done,
        Ok(Changed::Already) => Reply::Already,
        Err(refused) => refusal(refused),
    }
}

fn done(result: Result<(), Refused>) -> Reply {
    result.map_or_else(refusal, |()| Reply::Done)
}

fn refusal(refused: Refused) -> Reply {
    match refused {
        Refused::NoSuchGroup | Refused::TooManyGroups => Reply::NoSuchGroup,
        Refused::NoSuchChannel => Reply::NoSuchChannel,
        Refused::NotDisabled => Reply::NotDisabled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_told_ours_whatever_it_asks_for() {
        for version in ["0", "2", "4294967295"] {
            for command in ["\"show\"", "{\"weight\":{\"id\":[0,1]}}", "7", "null"] {
                let line = format!("{{\"version\":{version},\"command\":{command},\"more\":[]}}\n");
                let reply = read_request(line.as_bytes()).unwrap_err();
                assert_eq!(reply, Reply::Mismatch { version: VERSION }, "{line}");
            }
        }
        let line = format!("{{\"version\":{VERSION},\"command\":\"show\"}}");
        assert_eq!(read_request(line.as_bytes()), Ok(Command::Show));
    }

    #[test]
    fn what_has_no_version_or_an_unknown_command_of_ours_is_refused() {
        let unknown = format!("{{\"version\":{VERSION},\"command\":\"weight\"}}");
        for line in ["", "{}", "show", "{\"version\":\"1\"}", "{\"version\":-1}", &unknown] {
            let reply = read_request(line.as_bytes()).unwrap_err();
            assert!(matches!(reply, Reply::Refused(_)), "{line}: {reply:?}");
        }
    }
}
