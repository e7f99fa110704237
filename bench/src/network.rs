//! The network of a measurement: where client, peer and server are.
//!
//! Mostly that is loopback. Apart, each is in a network namespace of its own, the peer in the
//! middle, joined by two pairs of veth with the kernel's defaults:
//!
//! ```text
//! client 10.0.1.2 - 10.0.1.1 middle 10.0.2.1 - 10.0.2.2 server
//! ```
//!
//! Invariant: nothing of it outlives its guard and the processes in it, see [`Namespace`].

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use anyhow::{Context as _, Result};

use netns::Namespace;

use crate::{port, process::find};

/// Where the ends are when they are uses_namespaces; the middle is `.1` of the same subnet.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Where everybody is.
pub(crate) struct Network {
    /// The load comes from there.
    pub(crate) client: Host,
    /// Peers stand there; its address is the one that clients see.
    pub(crate) middle: Host,
    /// Backends are there.
    pub(crate) server: Host,
}

/// Where a process is.
pub(crate) struct Host {
    ip: Ipv4Addr,
    /// None for the namespace that we are in.
    namespace: Option<Namespace>,
}

impl Network {
    /// All on loopback.
    pub(crate) fn loopback() -> Self {
        let place = || Host { ip: Ipv4Addr::LOCALHOST, namespace: None };
        Self { client: place(), middle: place(), server: place() }
    }

    /// Each in a namespace of its own. The kernel passes packets on in the middle if it
    /// `forwards`: then the client reaches the server without any peer. An error if we are not
    /// root, or `ip` is missing.
    pub(crate) fn namespaces(forwards: bool) -> Result<Self> {
        let [client, server] = [namespace(false)?, namespace(false)?];
        let middle = namespace(forwards)?;
        for (name, ip, end) in [("client", CLIENT, &client), ("server", SERVER, &server)] {
            let (here, there) = link(name, ip, &end.path());
            middle.try_ip(&here).and_then(|()| end.try_ip(&there)).with_context(|| {
                format!("cannot join the namespaces of the middle and the {name}")
            })?;
        }
        let place = |ip, namespace| Host { ip, namespace: Some(namespace) };
        Ok(Self {
            client: place(CLIENT, client),
            middle: place(gateway(CLIENT), middle),
            server: place(SERVER, server),
        })
    }
}

impl Host {
    /// A free address to listen on.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        Ok((self.ip, port::next_free()?).into())
    }

    /// Lets the command run there.
    pub(crate) fn enter(&self, command: &mut Command) {
        if let Some(namespace) = &self.namespace {
            namespace.enter_command(command);
        }
    }
}

/// The Debian package that joining namespaces takes and that is not there.
pub(crate) fn missing_package() -> Option<&'static str> {
    find("ip").is_err().then_some("iproute2")
}

/// What `ip` is to do in the middle and in the end of that name. Interfaces are called by where
/// they lead to.
fn link(name: &str, ip: Ipv4Addr, namespace: &str) -> (String, String) {
    let gateway = gateway(ip);
    let here = format!(
        "link add {name} type veth peer name middle netns {namespace}\n\
         address add {gateway}/24 dev {name}\n\
         link set {name} up\n"
    );
    let there = format!(
        "address add {ip}/24 dev middle\n\
         link set middle up\n\
         route add default via {gateway}\n"
    );
    (here, there)
}

/// Creates a namespace in which the kernel forwards packets between interfaces if `forwards`: the
/// default depends on the machine.
fn namespace(forwards: bool) -> Result<Namespace> {
    let namespace = Namespace::new()
        .context("cannot make a network namespace, which needs root (CAP_SYS_ADMIN)")?;
    namespace.try_set("ipv4/ip_forward", if forwards { "1" } else { "0" })?;
    Ok(namespace)
}

/// The middle's address beside that of an end.
fn gateway(end: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = end.octets();
    [a, b, c, 1].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_reached_by_the_interface_of_its_name() {
        let (here, there) = link("server", SERVER, "/proc/1/fd/3");
        for line in [
            "link add server type veth peer name middle netns /proc/1/fd/3\n",
            "address add 10.0.2.1/24 dev server\n",
        ] {
            assert!(here.contains(line), "{here}");
        }
        for line in ["address add 10.0.2.2/24 dev middle\n", "route add default via 10.0.2.1\n"] {
            assert!(there.contains(line), "{there}");
        }
    }

    #[test]
    fn on_loopback_all_listen_on_ports_of_one_address() {
        let Network { middle, server, .. } = Network::loopback();
        let [middle, server] = [middle, server].map(|host| host.address().unwrap());
        assert!(middle.ip().is_loopback() && middle.ip() == server.ip());
        assert_ne!(middle.port(), server.port());
    }
}
