//! Detects servers that are this instance itself. A connection to such a server would come back as
//! a client, again and again, until one client holds all connections.
//!
//! Invariants: an address that is known to lead to the instance's own listener is not connected to.
//! An outgoing connection is registered, by its local address and its server's, while its socket is
//! open. So it is recognized when it is accepted, even if its addresses were translated on the way.
//! Both addresses must match, because a client on this host may have the address of an outgoing
//! connection to another server. A connection that comes back before it is registered is missed
//! once; the next one is recognized.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nix::ifaddrs::getifaddrs;
use tracing::warn;

use crate::{error::StartError, io::stream::Stream, throttle::Throttle};

/// The time for which an address is not connected to after a connection to it has come back.
const AVOID_TIME: Duration = Duration::from_secs(60);

/// The number of locks over the outgoing connections. Workers seldom need the same one.
const SHARDS: usize = 64;

static LOOP_WARNING: Throttle = Throttle::new(Duration::from_secs(10));

/// Refuses servers that are the listener itself, as far as their addresses show.
///
/// # Errors
/// [`StartError::OwnListener`].
pub(crate) fn check_servers<'a>(
    listener: Option<SocketAddr>,
    servers: impl IntoIterator<Item = &'a SocketAddr>,
) -> Result<(), StartError> {
    let Some(listener) = listener else { return Ok(()) };
    match servers.into_iter().find(|&&server| leads_to(listener, server, is_local)) {
        Some(&server) => Err(StartError::OwnListener { server, listener }),
        None => Ok(()),
    }
}

/// Whether a connection to `server` arrives at `listener`.
fn leads_to(listener: SocketAddr, server: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
    if listener.port() != server.port() {
        return false;
    }
    let (own, ip) = (listener.ip().to_canonical(), destination(server).ip());
    // A listener on [::] also accepts IPv4.
    let covers = own == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || own == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && ip.is_ipv4();
    own == ip || covers && (ip.is_loopback() || is_local(ip))
}

/// The address that the kernel connects to when it is asked for `server`: loopback in place of the
/// unspecified address.
fn destination(server: SocketAddr) -> SocketAddr {
    let ip = match server.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, server.port())
}

/// Whether an interface of this host has the address.
fn is_local(ip: IpAddr) -> bool {
    let Ok(interfaces) = getifaddrs() else { return false };
    interfaces.filter_map(|interface| interface.address).any(|address| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        v4.or(v6) == Some(ip)
    })
}

/// Detects connections of this instance to itself.
#[derive(Debug)]
pub(crate) struct LoopDetector {
    listener: Option<SocketAddr>,
    /// The servers of the outgoing connections, by the connection's local address.
    outgoing: [Mutex<HashMap<SocketAddr, Vec<SocketAddr>>>; SHARDS],
    /// Servers whose connections have come back, and when.
    avoided: Mutex<HashMap<SocketAddr, Instant>>,
    has_avoided: AtomicBool,
}

/// A registered outgoing connection. Its stream holds this object; dropping it ends the
/// registration.
#[derive(Debug)]
pub(crate) struct OutgoingConnection {
    detector: Arc<LoopDetector>,
    local: SocketAddr,
    server: SocketAddr,
}

impl LoopDetector {
    /// A detector for an instance that listens on `listener`.
    pub(crate) fn new(listener: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            listener,
            outgoing: std::array::from_fn(|_| Mutex::default()),
            avoided: Mutex::default(),
            has_avoided: AtomicBool::new(false),
        })
    }

    /// Checks a server before a connect(2).
    ///
    /// # Errors
    /// When the address is known to lead back to this instance.
    pub(crate) fn check(&self, server: SocketAddr) -> io::Result<()> {
        let server = destination(server);
        let avoided = self.has_avoided.load(Relaxed) && self.is_avoided(server);
        if avoided || self.listener.is_some_and(|own| leads_to(own, server, |_| false)) {
            return Err(report_loop(server));
        }
        Ok(())
    }

    /// Registers an outgoing connection as soon as connect(2) has given it a local address.
    ///
    /// # Errors
    /// When the connection leads back to this instance, or is a connection of a socket with itself,
    /// which TCP allows.
    pub(crate) fn register(
        self: &Arc<Self>,
        local: SocketAddr,
        server: SocketAddr,
    ) -> io::Result<OutgoingConnection> {
        let server = destination(server);
        if local == server {
            return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        }
        // A connection to an address of this host starts at the same address, unless a route or -B
        // says otherwise. A connection from loopback never leaves this host.
        let is_local = |ip| local.ip() == ip || local.ip().is_loopback();
        if self.listener.is_some_and(|listener| leads_to(listener, server, is_local)) {
            return Err(report_loop(server));
        }
        self.shard(local).entry(local).or_default().push(server);
        Ok(OutgoingConnection { detector: Arc::clone(self), local, server })
    }

    /// Whether an accepted client is an outgoing connection of this process. If so, its server is
    /// avoided for [`AVOID_TIME`].
    pub(crate) fn is_own(&self, client: &Stream, address: SocketAddr) -> bool {
        let servers = match self.shard(address).get(&address) {
            None => return false,
            Some(servers) => servers.clone(),
        };
        let destinations = [client.local().ok(), original_destination(client, address)];
        let found = servers.iter().find(|&&server| destinations.contains(&Some(server)));
        let Some(&server) = found else { return false };
        lock(&self.avoided).insert(server, Instant::now());
        self.has_avoided.store(true, Relaxed);
        let _ = report_loop(server);
        true
    }

    fn is_avoided(&self, server: SocketAddr) -> bool {
        let mut avoided = lock(&self.avoided);
        avoided.retain(|_, since| since.elapsed() < AVOID_TIME);
        self.has_avoided.store(!avoided.is_empty(), Relaxed);
        avoided.contains_key(&server)
    }

    fn shard(&self, local: SocketAddr) -> MutexGuard<'_, HashMap<SocketAddr, Vec<SocketAddr>>> {
        lock(&self.outgoing[usize::from(local.port()) % SHARDS])
    }
}

impl Drop for OutgoingConnection {
    fn drop(&mut self) {
        let mut shard = self.detector.shard(self.local);
        if let Some(servers) = shard.get_mut(&self.local) {
            if let Some(i) = servers.iter().position(|server| *server == self.server) {
                servers.swap_remove(i);
            }
            if servers.is_empty() {
                shard.remove(&self.local);
            }
        }
    }
}

/// The destination of a client before a netfilter rule redirected it here, if the kernel knows it.
/// It does not for an IPv4 client of a dual-stack listener.
fn original_destination(client: &Stream, address: SocketAddr) -> Option<SocketAddr> {
    let found = match address {
        SocketAddr::V4(_) => client.original_dst_v4(),
        SocketAddr::V6(_) => client.original_dst_v6(),
    };
    found.ok()?.as_socket()
}

/// Logs that a server is this instance, and returns the error of the connect.
fn report_loop(server: SocketAddr) -> io::Error {
    if let Some(suppressed) = LOOP_WARNING.pass(Instant::now()) {
        warn!(%server, suppressed, "server address leads back to this instance, not connecting");
    }
    io::Error::other("the address leads back to this instance")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_server_that_is_the_listener_is_detected() {
        let ours: IpAddr = "192.0.2.7".parse().unwrap();
        let leads = |listener, server| leads_to(at(listener), at(server), |ip| ip == ours);
        for (listener, server) in [
            ("127.0.0.1:25", "127.0.0.1:25"),
            ("127.0.0.1:25", "0.0.0.0:25"),
            ("127.0.0.1:25", "[::ffff:127.0.0.1]:25"),
            ("[::ffff:127.0.0.1]:25", "127.0.0.1:25"),
            ("192.0.2.7:25", "192.0.2.7:25"),
            ("[::1]:25", "[::1]:25"),
            ("[::1]:25", "[::]:25"),
            ("0.0.0.0:25", "127.0.0.9:25"),
            ("0.0.0.0:25", "0.0.0.0:25"),
            ("0.0.0.0:25", "192.0.2.7:25"),
            ("[::]:25", "127.0.0.1:25"),
            ("[::]:25", "192.0.2.7:25"),
            ("[::]:25", "[::1]:25"),
            ("[::]:25", "[::]:25"),
        ] {
            assert!(leads(listener, server), "{listener} {server}");
        }
        for (listener, server) in [
            ("127.0.0.1:25", "127.0.0.1:26"),
            ("127.0.0.1:25", "127.0.0.2:25"),
            ("127.0.0.1:25", "[::1]:25"),
            ("127.0.0.2:25", "0.0.0.0:25"),
            ("0.0.0.0:25", "[::1]:25"),
            ("0.0.0.0:25", "192.0.2.8:25"),
            ("[::]:25", "192.0.2.8:25"),
            ("192.0.2.7:25", "192.0.2.8:25"),
        ] {
            assert!(!leads(listener, server), "{listener} {server}");
        }
    }

    #[test]
    fn an_address_of_an_interface_is_local() {
        assert!(is_local(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_local("192.0.2.77".parse().unwrap()));
    }

    #[test]
    fn a_connection_stays_registered_until_its_socket_is_closed() {
        let loops = LoopDetector::new(Some(at("0.0.0.0:25")));
        let (local, a, b) = (at("192.0.2.7:4000"), at("192.0.2.8:25"), at("192.0.2.9:25"));
        assert!(loops.register(local, local).is_err(), "a connection with itself");
        assert!(loops.register(local, at("192.0.2.7:25")).is_err());
        let first = loops.register(local, a).unwrap();
        let second = loops.register(local, b).unwrap();
        assert_eq!(loops.shard(local)[&local], [a, b]);
        drop(first);
        assert_eq!(loops.shard(local)[&local], [b]);
        drop(second);
        assert!(loops.shard(local).is_empty());
    }
}
