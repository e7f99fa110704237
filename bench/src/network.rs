//! The network of a measurement: where client, proxy and server run.
//!
//! Most cases use loopback. The namespace cases put each into a network namespace of its own, with
//! the proxy in the middle. Two veth pairs with the kernel's defaults connect the namespaces:
//!
//! ```text
//! client 10.0.1.2 - 10.0.1.1 middle 10.0.2.1 - 10.0.2.2 server
//! ```
//!
//! Invariant: the namespaces end with their guards and the processes in them, see [`Namespace`].

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use anyhow::{Context as _, Result};

use netns::Namespace;

use crate::{port, process::find};

/// Addresses of client and server in the namespace cases. The middle is `.1` of the same subnet.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// The hosts of a measurement.
pub(crate) struct Network {
    /// The host of the client.
    pub(crate) client: Host,
    /// The host of the proxy; its address is the one that clients connect to.
    pub(crate) middle: Host,
    /// The host of the servers.
    pub(crate) server: Host,
}

/// Where a process runs.
pub(crate) struct Host {
    ip: Ipv4Addr,
    /// `None` for the namespace of this process.
    namespace: Option<Namespace>,
}

impl Network {
    /// Puts everything on loopback.
    pub(crate) fn loopback() -> Self {
        let host = || Host { ip: Ipv4Addr::LOCALHOST, namespace: None };
        Self { client: host(), middle: host(), server: host() }
    }

    /// Makes a namespace for each host. If `forwards`, the kernel forwards packets in the middle,
    /// and the client reaches the server without a proxy.
    ///
    /// # Errors
    ///
    /// The process is not root, or `ip` is missing.
    pub(crate) fn namespaces(forwards: bool) -> Result<Self> {
        let [client, server] = [namespace(false)?, namespace(false)?];
        let middle = namespace(forwards)?;
        for (name, ip, end) in [("client", CLIENT, &client), ("server", SERVER, &server)] {
            let (middle_commands, end_commands) = link(name, ip, &end.path());
            middle.try_ip(&middle_commands).and_then(|()| end.try_ip(&end_commands)).with_context(
                || format!("cannot connect the namespaces of the middle and the {name}"),
            )?;
        }
        let host = |ip, namespace| Host { ip, namespace: Some(namespace) };
        Ok(Self {
            client: host(CLIENT, client),
            middle: host(gateway(CLIENT), middle),
            server: host(SERVER, server),
        })
    }
}

impl Host {
    /// Returns a free address to listen on.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        Ok((self.ip, port::next_free()?).into())
    }

    /// Makes the command run on this host.
    pub(crate) fn enter(&self, command: &mut Command) {
        if let Some(namespace) = &self.namespace {
            namespace.enter_command(command);
        }
    }
}

/// Returns the Debian package that namespaces need, if the package is missing.
pub(crate) fn missing_package() -> Option<&'static str> {
    find("ip").is_err().then_some("iproute2")
}

/// Returns the `ip` commands for the middle and for the end with this name. Each interface has the
/// name of the host that it leads to.
fn link(name: &str, ip: Ipv4Addr, namespace: &str) -> (String, String) {
    let gateway = gateway(ip);
    let middle_commands = format!(
        "link add {name} type veth peer name middle netns {namespace}\n\
         address add {gateway}/24 dev {name}\n\
         link set {name} up\n"
    );
    let end_commands = format!(
        "address add {ip}/24 dev middle\n\
         link set middle up\n\
         route add default via {gateway}\n"
    );
    (middle_commands, end_commands)
}

/// Makes a namespace with IP forwarding on or off. The default would depend on the machine.
fn namespace(forwards: bool) -> Result<Namespace> {
    let namespace = Namespace::new()
        .context("cannot make a network namespace, which needs root (CAP_SYS_ADMIN)")?;
    namespace.try_set("ipv4/ip_forward", if forwards { "1" } else { "0" })?;
    Ok(namespace)
}

/// Returns the middle's address in the subnet of an end.
fn gateway(end: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = end.octets();
    [a, b, c, 1].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_after_the_host_it_leads_to() {
        let (middle_commands, end_commands) = link("server", SERVER, "/proc/1/fd/3");
        for line in [
            "link add server type veth peer name middle netns /proc/1/fd/3\n",
            "address add 10.0.2.1/24 dev server\n",
        ] {
            assert!(middle_commands.contains(line), "{middle_commands}");
        }
        for line in ["address add 10.0.2.2/24 dev middle\n", "route add default via 10.0.2.1\n"] {
            assert!(end_commands.contains(line), "{end_commands}");
        }
    }

    #[test]
    fn loopback_hosts_differ_by_port() {
        let Network { middle, server, .. } = Network::loopback();
        let [middle, server] = [middle, server].map(|host| host.address().unwrap());
        assert!(middle.ip().is_loopback() && middle.ip() == server.ip());
        assert_ne!(middle.port(), server.port());
    }
}
