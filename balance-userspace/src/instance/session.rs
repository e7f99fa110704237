//! One client from accept to end: connects to a server, gives both connections to the datapath,
//! logs the session.
//!
//! Invariant: the client holds its lease on a channel as long as its session lasts, see
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

/// Serves a client and returns the outcome. `first` is the lease on its first channel, `None` if no
/// channel is usable.
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
            // The classic also closes in order and sends nothing.
            let _ = client.close_cleanly();
            return outcome;
        }
    };
    // Before the datapath takes the socket. Fails only if the connection has ended.
    lease.connected(server, backend.local().ok());
    let session = &lease.session;
    let (traffic, abort) = (Arc::clone(&session.traffic), Arc::clone(&session.abort));
    let report = context.datapath.carry(Pair { client, backend, traffic, abort }, pool).await;
    let (sent, rcvd) = session.traffic.read();
    let channel = lease.attempt().key;
    debug!(
        client = %address, server = %server,
        server_name = context.table.server_name(channel).as_deref(),
        source = session.target().source.map(tracing::field::display), datapath = %report.datapath,
        sent, rcvd, offloaded = session.traffic.offloaded(), end = %report.end, "session"
    );
    Outcome::Served { sent, rcvd, clean: report.end.is_in_order() }
}

static SHORTAGE: Throttle = Throttle::new(Duration::from_secs(10));
static NO_LOCAL_PORT: Throttle = Throttle::new(Duration::from_secs(10));

/// Tries channels in the selector's order until a server accepts.
///
/// On a shortage of descriptors or memory the function retries while the client stays connected. If
/// no remaining channel has a free local port, it retries for the connect timeout at most.
async fn find_backend(
    context: &Arc<Context>,
    mut lease: ChannelLease,
    client: &Rc<Stream>,
) -> Result<(ChannelLease, Rc<Stream>, SocketAddr), Outcome> {
    let mss = context.datapath.mss_for_server(client);
    let (mut no_port_since, mut waiting) = (None, None);
    loop {
        let (channel, addresses) = (lease.attempt().key, Arc::clone(&lease.attempt().addresses));
        let limit = context.settings.borrow().connect_limit;
        match context.connector.connect(&addresses, limit, mss).await {
            Ok((stream, server)) => return Ok((lease, stream, server)),
            Err(error) if error.is_shortage() => {
                waiting.get_or_insert_with(|| context.shared.shortage.enter());
                if !wait(client, &error).await {
                    return Err(Outcome::Left);
                }
            }
            Err(error) if error.is_port_exhaustion() => {
                if !lease.no_local_port() {
                    return Err(Outcome::Unserved);
                }
                if !lease.attempt().is_retry() {
                    if let Some(suppressed) = NO_LOCAL_PORT.pass(Instant::now()) {
                        let server = error.address;
                        warn!(%server, %error, suppressed, "no local port available, trying the next channel");
                    }
                } else if no_port_since.get_or_insert_with(Instant::now).elapsed() >= limit {
                    return Err(Outcome::Unserved);
                } else if !wait(client, &error).await {
                    return Err(Outcome::Left);
                }
            }
            Err(error) => {
                let client = lease.session.client;
                let (position, policy) = context.table.find(channel);
                let server_name = context.table.server_name(channel);
                let server_name = server_name.as_deref();
                let (group, channel) = position.map(|id| (id.group, id.channel)).unzip();
                let server = error.address;
                debug!(%client, group, channel, %server, server_name, %error, "connect failed");
                context.re_resolve.notify_one();
                if let Some(id) = position.filter(|_| policy.autodisable) {
                    warn!(target: NOTICE, "connection failed group {} channel {}", id.group, id.channel);
                    warn!(
                        target: NOTICE,
                        "{} needs to be enabled manually using balance -i after the problem is solved",
                        addresses[0]
                    );
                }
                if !lease.connect_failed() {
                    return Err(Outcome::Unserved);
                }
            }
        }
    }
}

/// Waits before the next attempt; false if the client has disconnected.
async fn wait(client: &Rc<Stream>, error: &ConnectError) -> bool {
    if let Some(suppressed) = SHORTAGE.pass(Instant::now()) {
        warn!(%error, suppressed, "cannot connect, retrying");
    }
    sleep(BACK_OFF).await;
    sys::poll_now(&**client, 0).is_ok_and(|events| events == 0)
}
