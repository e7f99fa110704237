//! One client, from accept to its end: find a backend, hand both to the datapath, report.
//!
//! Invariant: the client's turn on a channel lasts as long as its session, see
//! [`table`](crate::table).

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tracing::{debug, field::display, warn};

use crate::{
    connect::connect,
    datapath::{Cut, End, Pair, Pool},
    logging::NOTICE,
    server::Shared,
    stream::Stream,
    sys,
    table::Turn,
    throttle::Throttle,
    totals::Outcome,
    worker::BACK_OFF,
};

/// Serves a client, and returns how it ended.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    pool: &Pool,
    client: Rc<Stream>,
    address: SocketAddr,
) -> Outcome {
    let found = match shared.table.first(address, Cut::below(&shared.abort)) {
        Some(turn) => tokio::select! {
            found = find_backend(shared, turn, &client) => found,
            () = shared.abort.cancelled() => return Outcome::Left,
        },
        None => Err(Outcome::Unserved),
    };
    let (turn, backend, server) = match found {
        Ok(found) => found,
        Err(outcome) => {
            if outcome == Outcome::Unserved {
                debug!(client = %address, "no channel takes the connection");
            }
            // As the classic did: an orderly close without a byte.
            let _ = client.close_cleanly();
            return outcome;
        }
    };
    turn.connected(server);
    let session = &turn.session;
    let (traffic, cut) = (Arc::clone(&session.traffic), Arc::clone(&session.cut));
    let report = shared.datapath.carry(Pair { client, backend, traffic, cut }, pool).await;
    let (sent, rcvd) = session.traffic.read();
    debug!(
        client = %address, backend = %server, datapath = %report.datapath,
        sent, rcvd, offloaded = session.traffic.offloaded(), end = %report.end, "session"
    );
    Outcome::Served { sent, rcvd, clean: matches!(report.end, End::Clean) }
}

static SHORTAGE: Throttle = Throttle::new(Duration::from_secs(10));

/// Whether we, and not the backend, are to blame for a connect that failed.
fn is_shortage(error: &io::Error) -> bool {
    let ours = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|number| ours.contains(&number))
}

/// Whether there is no port left for another connection from our address to the backend's. That may be
/// so for good, as where we have no address that leads there.
fn is_portless(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
}

/// Tries channels in the selector's order until one takes the connection. For want of something
/// it waits, as long as the client does; for want of a port as long as a connect may take.
async fn find_backend(
    shared: &Arc<Shared>,
    mut turn: Turn,
    client: &Rc<Stream>,
) -> Result<(Turn, Rc<Stream>, SocketAddr), Outcome> {
    let segment = shared.datapath.segment(client);
    let mut portless = None;
    loop {
        let (channel, addresses) = (turn.attempt().key, Arc::clone(&turn.attempt().addresses));
        let limit = shared.settings.borrow().connect_limit;
        match connect(&addresses, limit, segment, &shared.outgoing).await {
            Ok((stream, server)) => return Ok((turn, stream, server)),
            Err(error)
                if is_shortage(&error)
                    || is_portless(&error)
                        && portless.get_or_insert_with(Instant::now).elapsed() < limit =>
            {
                if let Some(held) = SHORTAGE.pass(Instant::now()) {
                    warn!(%error, held, "cannot connect, waiting");
                }
                sleep(BACK_OFF).await;
                if sys::poll_now(&**client, 0).is_ok_and(|events| events != 0) {
                    return Err(Outcome::Left);
                }
            }
            Err(error) if is_portless(&error) => {
                debug!(client = %turn.session.client, %error, "no port is left, going on");
                portless = None;
                if !turn.pass() {
                    return Err(Outcome::Unserved);
                }
            }
            Err(error) => {
                let client = turn.session.client;
                let (place, policy) = shared.table.look(channel);
                let (group, channel) = place.map(|id| (id.group, id.channel)).unzip();
                let server = addresses.first().map(display);
                debug!(%client, group, channel, server, %error, "connect failed");
                shared.failed.notify_one();
                if let Some(id) = place.filter(|_| policy.autodisable) {
                    warn!(target: NOTICE, "connection failed group {} channel {}", id.group, id.channel);
                    warn!(
                        target: NOTICE,
                        "{} needs to be enabled manually using balance -i after the problem is solved",
                        addresses[0]
                    );
                }
                if !turn.next() {
                    return Err(Outcome::Unserved);
                }
            }
        }
    }
}
