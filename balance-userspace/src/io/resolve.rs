//! Resolves host names to addresses and service names to ports, through the system's resolver.
//!
//! Invariant: these functions block, so they run before the instance serves or on a thread of their
//! own, and never on a worker.

use std::net::{IpAddr, SocketAddr};

use dns_lookup::{AddrInfoHints, SockType, getaddrinfo};

use crate::{
    cli::operand::{ChannelSpec, GroupSpec},
    error::{StartError, one_line},
    selection::{ChannelConfig, GroupConfig, HostName, ResolvedServer},
};

/// All addresses of a host, without duplicates, in the resolver's order of preference.
///
/// # Errors
/// [`StartError::Unresolved`] when the host has no address.
pub fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, StartError> {
    let unresolved = |reason: String| StartError::Unresolved { name: one_line(host), reason };
    let mut found: Vec<SocketAddr> = Vec::new();
    for info in lookup(Some(host), None).map_err(unresolved)? {
        let mut address = info;
        address.set_port(port);
        if !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() { Err(unresolved("it has no address".to_owned())) } else { Ok(found) }
}

/// The addresses of a channel's server, its host name unless the operand is a literal address, and
/// the parts of its name.
///
/// # Errors
/// [`StartError::Unresolved`].
pub fn server(spec: &ChannelSpec) -> Result<ResolvedServer, StartError> {
    let addresses = addresses(&spec.host, spec.port)?;
    let literal = spec.host.parse::<IpAddr>().is_ok();
    let host_name = (!literal).then(|| HostName { host: spec.host.clone(), port: spec.port });
    Ok(ResolvedServer { addresses, host_name, name: spec.server_name() })
}

/// The groups of the command line, with the current addresses of their servers.
///
/// # Errors
/// [`StartError::Unresolved`].
pub fn groups(specs: &[GroupSpec]) -> Result<Vec<GroupConfig>, StartError> {
    let channel = |spec: &ChannelSpec| {
        Ok::<_, StartError>(ChannelConfig { server: server(spec)?, max: spec.max })
    };
    let group = |spec: &GroupSpec| {
        let channels = spec.channels.iter().map(channel).collect::<Result<_, _>>()?;
        Ok(GroupConfig { method: spec.method, channels })
    };
    specs.iter().map(group).collect()
}

/// The address to listen on: the first address of the host. With `ipv6`, the first IPv6 address if
/// the host has one.
///
/// # Errors
/// [`StartError::Listen`] when the host has no address.
pub fn listen_address(host: &str, ipv6: bool) -> Result<IpAddr, StartError> {
    let found = addresses(host, 0).map(|found| {
        let wanted = found.iter().find(|address| address.is_ipv6() || !ipv6);
        wanted.unwrap_or(&found[0]).ip()
    });
    found.map_err(|e| StartError::Listen {
        address: one_line(host),
        source: std::io::Error::other(e.to_string()),
    })
}

/// The port of a TCP service by name.
pub fn service(name: &str) -> Option<u16> {
    // The resolver resolves an empty name to port 0.
    lookup(None, Some(name)).ok()?.first().map(SocketAddr::port).filter(|&port| port != 0)
}

fn lookup(host: Option<&str>, service: Option<&str>) -> Result<Vec<SocketAddr>, String> {
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let found = getaddrinfo(host, service, Some(hints)).map_err(|e| {
        let text = std::io::Error::from(e).to_string();
        text.rsplit(": ").next().unwrap_or(&text).to_owned()
    })?;
    Ok(found.filter_map(Result::ok).map(|info| info.sockaddr).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_address_resolves_to_itself() {
        assert_eq!(addresses("127.0.0.1", 25).unwrap(), ["127.0.0.1:25".parse().unwrap()]);
        assert_eq!(addresses("::1", 25).unwrap(), ["[::1]:25".parse().unwrap()]);
    }

    #[test]
    fn an_empty_name_is_no_service() {
        assert_eq!(service(""), None);
        assert_eq!(service("nosuchservice"), None);
    }

    #[test]
    fn an_unresolved_name_is_in_a_one_line_error() {
        let e = addresses("nosuchhost.invalid", 25).unwrap_err();
        assert_eq!(e.exit_code(), 65);
        assert!(e.to_string().contains("nosuchhost.invalid"), "{e}");
        assert!(!e.to_string().contains('\n'), "{e}");
    }
}
