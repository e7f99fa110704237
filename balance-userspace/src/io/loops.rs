//! Servers that are this instance itself: a connection to one would fill all seats with one client.
//!
//! Invariants: an address that is known to lead to the own listener is not connected to; an outgoing
//! connection is known by both of its addresses for as long as its socket is open, so that it is
//! recognized where it is accepted, whatever has translated its addresses on the way. Both addresses
//! count, because a client on this host may have the same one as an outgoing connection elsewhere. A
//! connection that comes back before it is entered is missed once; the next one is recognized.

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

/// For how long an address is not connected to after a connection to it has come back.
const AVOIDED: Duration = Duration::from_secs(60);

/// Locks, so that workers seldom meet.
const SHARDS: usize = 64;

static TOLD: Throttle = Throttle::new(Duration::from_secs(10));

/// Refuses servers that are the listener itself, as far as can be seen before connecting.
///
/// # Errors
/// [`StartError::OwnListener`].
pub(crate) fn refuse<'a>(
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
    // A listener on all addresses of IPv6 has those of IPv4 as well.
    let covers = own == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || own == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && ip.is_ipv4();
    own == ip || covers && (ip.is_loopback() || is_local(ip))
}

/// Where the kernel connects to when it is asked for an address.
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

/// What is known of connections that could come back.
#[derive(Debug)]
pub(crate) struct Loops {
    listener: Option<SocketAddr>,
    /// Outgoing connections: from our addresses to those that were asked for.
    outgoing: [Mutex<HashMap<SocketAddr, Vec<SocketAddr>>>; SHARDS],
    /// Addresses that have led back, and when.
    avoided: Mutex<HashMap<SocketAddr, Instant>>,
    has_avoided: AtomicBool,
}

/// An outgoing connection that is known. Kept with its socket.
#[derive(Debug)]
pub(crate) struct Known {
    loops: Arc<Loops>,
    own: SocketAddr,
    server: SocketAddr,
}

impl Loops {
    /// Of an instance that listens there.
    pub(crate) fn new(listener: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            listener,
            outgoing: std::array::from_fn(|_| Mutex::default()),
            avoided: Mutex::default(),
            has_avoided: AtomicBool::new(false),
        })
    }

    /// To be asked before a server is connected to.
    ///
    /// # Errors
    /// When the address is known to lead back.
    pub(crate) fn before(&self, server: SocketAddr) -> io::Result<()> {
        let server = destination(server);
        let avoided = self.has_avoided.load(Relaxed) && self.is_avoided(server);
        if avoided || self.listener.is_some_and(|own| leads_to(own, server, |_| false)) {
            return Err(leads_back(server));
        }
        Ok(())
    }

    /// To be asked when it has its own address: as soon as connect(2) has returned.
    ///
    /// # Errors
    /// When it leads back, or is a connection with itself, which TCP allows.
    pub(crate) fn after(
        self: &Arc<Self>,
        own: SocketAddr,
        server: SocketAddr,
    ) -> io::Result<Known> {
        let server = destination(server);
        if own == server {
            return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        }
        // The kernel connects to an address of this host from that address, unless a route or -B says
        // otherwise, and from loopback to no other host.
        let is_local = |ip| own.ip() == ip || own.ip().is_loopback();
        if self.listener.is_some_and(|listener| leads_to(listener, server, is_local)) {
            return Err(leads_back(server));
        }
        self.shard(own).entry(own).or_default().push(server);
        Ok(Known { loops: Arc::clone(self), own, server })
    }

    /// Whether a client that was accepted is an outgoing connection of this process. Its server is then
    /// not connected to for a while.
    pub(crate) fn is_own(&self, client: &Stream, address: SocketAddr) -> bool {
        let servers = match self.shard(address).get(&address) {
            None => return false,
            Some(servers) => servers.clone(),
        };
        let destinations = [client.own().ok(), asked_for(client, address)];
        let found = servers.iter().find(|&&server| destinations.contains(&Some(server)));
        let Some(&server) = found else { return false };
        lock(&self.avoided).insert(server, Instant::now());
        self.has_avoided.store(true, Relaxed);
        let _ = leads_back(server);
        true
    }

    fn is_avoided(&self, server: SocketAddr) -> bool {
        let mut avoided = lock(&self.avoided);
        avoided.retain(|_, since| since.elapsed() < AVOIDED);
        self.has_avoided.store(!avoided.is_empty(), Relaxed);
        avoided.contains_key(&server)
    }

    fn shard(&self, own: SocketAddr) -> MutexGuard<'_, HashMap<SocketAddr, Vec<SocketAddr>>> {
        lock(&self.outgoing[usize::from(own.port()) % SHARDS])
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        let mut shard = self.loops.shard(self.own);
        if let Some(servers) = shard.get_mut(&self.own) {
            if let Some(i) = servers.iter().position(|server| *server == self.server) {
                servers.swap_remove(i);
            }
            if servers.is_empty() {
                shard.remove(&self.own);
            }
        }
    }
}

/// Where a client wanted to connect before a rule of netfilter led it here, if the kernel knows. It does
/// not for a client of IPv4 at a listener for both families.
fn asked_for(client: &Stream, address: SocketAddr) -> Option<SocketAddr> {
    let found = match address {
        SocketAddr::V4(_) => client.original_dst_v4(),
        SocketAddr::V6(_) => client.original_dst_v6(),
    };
    found.ok()?.as_socket()
}

/// Says so, and is the error of the connect.
fn leads_back(server: SocketAddr) -> io::Error {
    if let Some(suppressed) = TOLD.pass(Instant::now()) {
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
    fn a_server_that_is_the_listener_is_seen() {
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
    fn addresses_of_interfaces_are_local() {
        assert!(is_local(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_local("192.0.2.77".parse().unwrap()));
    }

    #[test]
    fn a_connection_is_known_as_long_as_it_is_kept() {
        let loops = Loops::new(Some(at("0.0.0.0:25")));
        let (own, a, b) = (at("192.0.2.7:4000"), at("192.0.2.8:25"), at("192.0.2.9:25"));
        assert!(loops.after(own, own).is_err(), "a connection with itself");
        assert!(loops.after(own, at("192.0.2.7:25")).is_err());
        let first = loops.after(own, a).unwrap();
        let second = loops.after(own, b).unwrap();
        assert_eq!(loops.shard(own)[&own], [a, b]);
        drop(first);
        assert_eq!(loops.shard(own)[&own], [b]);
        drop(second);
        assert!(loops.shard(own).is_empty());
    }
}
