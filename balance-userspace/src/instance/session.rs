//! One client, from accept to its end: find a backend, hand both to the datapath, report.
//!
//! Invariant: the client's lease on a channel lasts as long as its session, see
//! [`table`](crate::instance::table).

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tracing::{debug, warn};

use crate::{
    datapath::{BufferPool, Pair},
    instance::{context::Context, shortage::BACK_OFF, table::ChannelLease, totals::Outcome},
    io::{connect::ConnectError, stream::Stream},
    logging::NOTICE,
    sys,
    throttle::Throttle,
};

/// Serves a client whose first channel is `first`, and returns how the connection ended.
pub(crate) async fn serve(
    context: &Arc<Context>,
    pool: &BufferPool,
    client: Rc<Stream>,
    address: SocketAddr,
    first: Option<ChannelLease>,
) -> Outcome {
    let found = match first {
        Some(lease) => tokio::select! {
            found = find_backend(context, lease, &client) => found,
            () = context.abort.cancelled() => return Outcome::Left,
        },
        None => Err(Outcome::Unserved),
    };
    let (lease, backend, server) = match found {
        Ok(found) => found,
        Err(outcome) => {
            if outcome == Outcome::Unserved {
                debug!(client = %address, "no usable channel");
            }
            // As the classic did: an orderly close without a byte.
            let _ = client.close_cleanly();
            return outcome;
        }
    };
    lease.connected(server);
    let session = &lease.session;
    let (traffic, abort) = (Arc::clone(&session.traffic), Arc::clone(&session.abort));
    let report = context.datapath.carry(Pair { client, backend, traffic, abort }, pool).await;
    let (sent, rcvd) = session.traffic.read();
    debug!(
        client = %address, server = %server, datapath = %report.datapath,
        sent, rcvd, offloaded = session.traffic.offloaded(), end = %report.end, "session"
    );
    Outcome::Served { sent, rcvd, clean: report.end.is_in_order() }
}

static SHORTAGE: Throttle = Throttle::new(Duration::from_secs(10));

static PORTLESS: Throttle = Throttle::new(Duration::from_secs(10));

/// Tries channels in the selector's order until one takes the connection. On a shortage it waits, as
/// long as the client does. If there is no local port for any channel that is left it waits as long as a
/// connect may take.
async fn find_backend(
    context: &Arc<Context>,
    mut lease: ChannelLease,
    client: &Rc<Stream>,
) -> Result<(ChannelLease, Rc<Stream>, SocketAddr), Outcome> {
    let mss = context.datapath.mss_for_server(client);
    let (mut portless, mut waiting) = (None, None);
    loop {
        let (channel, addresses) = (lease.attempt().key, Arc::clone(&lease.attempt().addresses));
        let limit = context.settings.borrow().connect_limit;
        match context.connector.connect(&addresses, limit, mss).await {
            Ok((stream, server)) => return Ok((lease, stream, server)),
            Err(error) if error.is_shortage() => {
                waiting.get_or_insert_with(|| context.shortage.enter());
                if !wait(client, &error).await {
                    return Err(Outcome::Left);
                }
            }
            Err(error) if error.is_port_exhaustion() => {
                if !lease.pass() {
                    return Err(Outcome::Unserved);
                }
                if !lease.attempt().is_retry() {
                    if let Some(suppressed) = PORTLESS.pass(Instant::now()) {
                        let server = error.address;
                        warn!(%server, %error, suppressed, "no local port available, trying the next channel");
                    }
                } else if portless.get_or_insert_with(Instant::now).elapsed() >= limit {
                    return Err(Outcome::Unserved);
                } else if !wait(client, &error).await {
                    return Err(Outcome::Left);
                }
            }
            Err(error) => {
                let client = lease.session.client;
                let (place, policy) = context.table.find(channel);
                let (group, channel) = place.map(|id| (id.group, id.channel)).unzip();
                let server = error.address;
                debug!(%client, group, channel, %server, %error, "connect failed");
                context.re_resolve.notify_one();
                if let Some(id) = place.filter(|_| policy.autodisable) {
                    warn!(target: NOTICE, "connection failed group {} channel {}", id.group, id.channel);
                    warn!(
                        target: NOTICE,
                        "{} needs to be enabled manually using balance -i after the problem is solved",
                        addresses[0]
                    );
                }
                if !lease.next() {
                    return Err(Outcome::Unserved);
                }
            }
        }
    }
}

/// Waits before another attempt. False if the client has left.
async fn wait(client: &Rc<Stream>, error: &ConnectError) -> bool {
    if let Some(suppressed) = SHORTAGE.pass(Instant::now()) {
        warn!(%error, suppressed, "cannot connect, retrying");
    }
    sleep(BACK_OFF).await;
    sys::poll_now(&**client, 0).is_ok_and(|events| events == 0)
}
