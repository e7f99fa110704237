//! Parser of the operands on the command line: the listen port, and groups of channels. A channel
//! is written `HOST[:PORT[:MAX]][,KEY=VALUE]...`. `!` or `%` ends a group.
//!
//! Pure: the caller passes a function that looks up service names. Invariants: every parsed group
//! has a channel, every port is from 1 to 65535, and no given name is the name of another channel.

use std::net::Ipv6Addr;

use super::{server_settings, usage_error::quoted};
use crate::{
    error::{StartError, one_line},
    selection::{Method, ServerName, names},
};

/// A channel as written: the server and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSpec {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Connections at a time; 0 means no limit.
    pub max: u32,
    /// The name of the server, if one is given.
    pub name: Option<String>,
}

impl ChannelSpec {
    /// The parts of the server's name.
    pub fn server_name(&self) -> ServerName {
        ServerName { host: self.host.clone(), port: self.port, given: self.name.clone() }
    }
}

/// A group as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// How the group selects a channel.
    pub method: Method,
    /// The channels, at least one.
    pub channels: Vec<ChannelSpec>,
}

/// Looks up the port number of a TCP service.
pub type Services<'a> = &'a dyn Fn(&str) -> Option<u16>;

/// Parses the port to listen on.
///
/// # Errors
/// [`StartError::Usage`] when the text is neither a number from 1 to 65535 nor a known service.
pub fn listen_port(text: &str, services: Services<'_>) -> Result<u16, StartError> {
    port(text, services).map_err(|why| usage(format!("port {}: {why}", quoted(text))))
}

/// Parses groups of channels. No channel at all is legal: balance then accepts and closes every
/// client.
///
/// # Errors
/// [`StartError::Usage`] for an invalid channel, [`StartError::EmptyGroup`].
pub fn groups(
    operands: &[String],
    default_port: u16,
    services: Services<'_>,
) -> Result<Vec<GroupSpec>, StartError> {
    let mut groups = Vec::new();
    let mut channels = Vec::new();
    for operand in operands {
        let method = match operand.as_str() {
            "!" => Method::RoundRobin,
            "%" => Method::Hash,
            _ => {
                channels.push(channel(operand, default_port, services)?);
                continue;
            }
        };
        if channels.is_empty() {
            return Err(StartError::EmptyGroup(groups.len()));
        }
        groups.push(GroupSpec { method, channels: std::mem::take(&mut channels) });
    }
    if !channels.is_empty() {
        groups.push(GroupSpec { method: Method::RoundRobin, channels });
    }
    let channels = groups.iter().flat_map(|group| &group.channels);
    let names: Vec<_> = channels.map(ChannelSpec::server_name).collect();
    match names::first_clash(&names) {
        Some(name) => Err(usage(format!("name={name}: another server has this name"))),
        None => Ok(groups),
    }
}

/// Parses one channel.
///
/// # Errors
/// [`StartError::Usage`].
pub fn channel(
    text: &str,
    default_port: u16,
    services: Services<'_>,
) -> Result<ChannelSpec, StartError> {
    let invalid = |why: String| usage(format!("server {}: {why}", quoted(text)));
    let (address, settings) = match text.split_once(',') {
        Some((address, settings)) => (address, Some(settings)),
        None => (text, None),
    };
    // A zone, as in fe80::1%eth0, is part of the address.
    let ipv6 = address.split('%').next().and_then(|ip| ip.parse::<Ipv6Addr>().ok());
    let in_brackets = || invalid(format!("[{address}] is how an IPv6 address is written here"));
    // HOST::MAX reads as an address too, so only the prefixes in use are taken for one.
    if ipv6.is_some_and(|ip| matches!(ip.segments()[0], 0x2000..=0x3fff | 0xfc00..=0xfebf)) {
        return Err(in_brackets());
    }
    let mut given = Vec::new();
    let mut spec = address_of(address, default_port, services, &mut given)
        .map_err(|why| if ipv6.is_some() { in_brackets() } else { invalid(why) })?;
    if let Some(settings) = settings {
        server_settings::apply(&mut spec, settings, &given).map_err(invalid)?;
    }
    Ok(spec)
}

/// Parses `HOST[:PORT[:MAX]]`, and records the settings in it.
fn address_of(
    text: &str,
    default_port: u16,
    services: Services<'_>,
    given: &mut Vec<&str>,
) -> Result<ChannelSpec, String> {
    let (host, rest) = split_host(text)?;
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    let mut fields = rest.splitn(3, ':');
    let port = match fields.next().unwrap_or_default() {
        "" => default_port,
        field => port(field, services).map_err(|why| format!("port {}: {why}", quoted(field)))?,
    };
    let max = match fields.next().unwrap_or_default() {
        "" => 0,
        field => {
            given.push(server_settings::MAX);
            server_settings::connections(field)
                .map_err(|why| format!("{}: {why}", quoted(field)))?
        }
    };
    match fields.next() {
        Some(field) => Err(format!("{}: unexpected field, expected HOST:PORT:MAX", quoted(field))),
        None => Ok(ChannelSpec { host: host.to_owned(), port, max, name: None }),
    }
}

/// Parses a channel from a host and a port. A port behind the host, as in `HOST:PORT`, overrides
/// the other one, as in the classic; the other one may then be anything.
///
/// # Errors
/// [`StartError::Usage`].
pub fn host_and_port(
    host: &str,
    port: &str,
    services: Services<'_>,
) -> Result<ChannelSpec, StartError> {
    let separate = listen_port(port, services);
    // A parsed port is never 0, so 0 stands for an invalid separate port.
    let spec = channel(host, separate.as_ref().map_or(0, |&port| port), services)?;
    if spec.port == 0 { separate.map(|_| spec) } else { Ok(spec) }
}

/// Splits off the host: the text up to the first colon, or the text in brackets.
fn split_host(text: &str) -> Result<(&str, &str), &'static str> {
    if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or("the closing bracket is missing")?;
        return match rest.strip_prefix(':') {
            Some(rest) => Ok((host, rest)),
            None if rest.is_empty() => Ok((host, "")),
            None => Err("expected a colon after the closing bracket"),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

fn port(text: &str, services: Services<'_>) -> Result<u16, &'static str> {
    let port = if text.starts_with(|c: char| c.is_ascii_digit()) {
        decimal(text).and_then(|n| u16::try_from(n).ok()).filter(|&port| port != 0)
    } else {
        services(text)
    };
    port.ok_or("expected a number from 1 to 65535 or the name of a service")
}

/// Parses digits, without a sign or blanks.
fn decimal(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn usage(what: String) -> StartError {
    StartError::Usage(one_line(&what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn services(name: &str) -> Option<u16> {
        (name == "smtp").then_some(25)
    }

    fn parse(line: &str) -> Result<Vec<GroupSpec>, StartError> {
        let operands: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        groups(&operands, 2500, &services)
    }

    fn one(text: &str) -> ChannelSpec {
        parse(text).unwrap().remove(0).channels.remove(0)
    }

    fn spec(host: &str, port: u16, max: u32) -> ChannelSpec {
        ChannelSpec { host: host.to_owned(), port, max, name: None }
    }

    #[test]
    fn a_channel_is_parsed_as_in_the_classic() {
        assert_eq!(one("mx"), spec("mx", 2500, 0));
        assert_eq!(one("mx:"), spec("mx", 2500, 0));
        assert_eq!(one("mx:25"), spec("mx", 25, 0));
        assert_eq!(one("mx:smtp"), spec("mx", 25, 0));
        assert_eq!(one("mx::16"), spec("mx", 2500, 16));
        assert_eq!(one("cafe::16"), spec("cafe", 2500, 16));
        assert_eq!(one("mx:25:"), spec("mx", 25, 0));
        assert_eq!(one("[::1]"), spec("::1", 2500, 0));
        assert_eq!(one("[::1]:25:3"), spec("::1", 25, 3));
    }

    #[test]
    fn settings_follow_the_address() {
        let named = |spec, name: &str| ChannelSpec { name: Some(name.to_owned()), ..spec };
        assert_eq!(one("mx,max=7"), spec("mx", 2500, 7));
        assert_eq!(one("mx:25,max=7,name=a"), named(spec("mx", 25, 7), "a"));
        assert_eq!(one("mx:25:3,name=a.b"), named(spec("mx", 25, 3), "a.b"));
        assert_eq!(one("[::1],name=a"), named(spec("::1", 2500, 0), "a"));
        assert_eq!(one("[::1]:25:,max=0"), spec("::1", 25, 0));
    }

    #[test]
    fn a_given_name_is_the_name_of_one_server() {
        for line in ["a,name=x b,name=x", "a,name=x ! b,name=x", "a b,name=a"] {
            let e = parse(line).unwrap_err();
            assert_eq!(e.exit_code(), 64, "{line}");
            assert!(e.to_string().ends_with(": another server has this name"), "{e}");
        }
        for line in
            ["a a", "a:1 a:2 ! a:1", "a,name=x b,name=y", "a,name=b b,name=a", "a:1 a:2,name=a"]
        {
            parse(line).unwrap();
        }
    }

    #[test]
    fn a_separator_ends_a_group_and_may_come_last() {
        use Method::{Hash, RoundRobin};
        let methods = |line| parse(line).unwrap().iter().map(|g| g.method).collect::<Vec<_>>();
        assert_eq!(methods("a b ! c"), [RoundRobin, RoundRobin]);
        assert_eq!(methods("a b % c !"), [Hash, RoundRobin]);
        assert_eq!(methods("a %"), [Hash]);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn an_empty_group_is_named_by_its_number() {
        assert!(matches!(parse("! a"), Err(StartError::EmptyGroup(0))));
        assert!(matches!(parse("a ! % b"), Err(StartError::EmptyGroup(1))));
    }

    #[test]
    fn an_invalid_operand_is_a_usage_error_that_names_it() {
        for text in [
            ":25",
            "::1",
            "[]:25",
            "[::1",
            "[::1]25",
            "mx:0",
            "mx:65536",
            "mx:foo",
            "mx:25abc",
            "mx:-1",
            "mx:25:-1",
            "mx:25:x",
            "mx:25:99999999999",
            "mx:25:1:3",
            "mx:25:1:",
            "mx::::",
            "mx,",
            "mx,max",
            "mx,max=",
            "mx,max=-1",
            "mx,max=+1",
            "mx,Max=1",
            "mx,weight=1",
            "mx,name=",
            "mx,name=1.2",
            "mx,max=1,max=1",
            "mx:25:1,max=1",
            "mx,name=a,name=b",
            ",name=a",
        ] {
            let e = parse(text).unwrap_err();
            assert_eq!(e.exit_code(), 64, "{text}");
            assert!(e.to_string().contains(text), "{e}");
        }
        for text in ["0", "65536", "nosuch", "25abc", "", "-1"] {
            assert_eq!(listen_port(text, &services).unwrap_err().exit_code(), 64, "{text}");
        }
        assert_eq!(listen_port("smtp", &services).unwrap(), 25);
        assert_eq!(listen_port("65535", &services).unwrap(), 65535);
    }

    #[test]
    fn an_error_says_what_is_expected() {
        for (text, expected) in [
            ("", "server '': the host is missing"),
            (":25", "server :25: the host is missing"),
            ("::1", "server ::1: [::1] is how an IPv6 address is written here"),
            (
                "2001:db8::1",
                "server 2001:db8::1: [2001:db8::1] is how an IPv6 address is written here",
            ),
            ("[::1", "server [::1: the closing bracket is missing"),
            ("[::1]25", "server [::1]25: expected a colon after the closing bracket"),
            (
                "mx:25a",
                "server mx:25a: port 25a: expected a number from 1 to 65535 or the name of a service",
            ),
            (
                "mx:nosuch",
                "server mx:nosuch: port nosuch: expected a number from 1 to 65535 or the name of a \
                 service",
            ),
            ("mx:25:x", "server mx:25:x: x: expected a number of connections"),
            ("a:25:1:3", "server a:25:1:3: 3: unexpected field, expected HOST:PORT:MAX"),
            (
                "2001:db8::1:25:9,name=a",
                "server 2001:db8::1:25:9,name=a: [2001:db8::1:25:9] is how an IPv6 address is \
                 written here",
            ),
            (
                "fe80::1%eth0",
                "server fe80::1%eth0: [fe80::1%eth0] is how an IPv6 address is written here",
            ),
            ("fd00::16", "server fd00::16: [fd00::16] is how an IPv6 address is written here"),
            ("2001:25::", "server 2001:25::: [2001:25::] is how an IPv6 address is written here"),
            ("mx,max", "server mx,max: max: expected KEY=VALUE"),
            ("mx,max=x", "server mx,max=x: max=x: expected a number of connections"),
            ("mx,weight=2", "server mx,weight=2: unknown key weight, known are name, max"),
            ("mx:25:1,max=2", "server mx:25:1,max=2: max is given twice"),
        ] {
            assert_eq!(channel(text, 25, &services).unwrap_err().to_string(), expected);
        }
        let e = channel("mx,name=7", 25, &services).unwrap_err().to_string();
        assert!(e.starts_with("server mx,name=7: name=7: expected a name of letters, "), "{e}");
        for (text, quoted) in [("0", "0"), ("nosuch", "nosuch"), ("", "''"), ("2 5", "'2 5'")] {
            let expected = format!(
                "port {quoted}: expected a number from 1 to 65535 or the name of a service"
            );
            assert_eq!(listen_port(text, &services).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_port_behind_the_host_overrides_the_separate_one() {
        let read = |host, port| {
            host_and_port(host, port, &services).map(|spec| (spec.host, spec.port)).ok()
        };
        let some = |host: &str, port| Some((host.to_owned(), port));
        for (host, bare) in
            [("h", "h"), ("h:", "h"), ("h::5", "h"), ("[::1]", "::1"), ("[::1]:", "::1")]
        {
            assert_eq!(read(host, "99"), some(bare, 99), "{host}");
            assert_eq!(read(host, "smtp"), some(bare, 25), "{host}");
            for port in ["0", "nosuch", "25abc", "65536"] {
                assert_eq!(read(host, port), None, "{host} {port}");
            }
        }
        assert_eq!(read("h:55", "99"), some("h", 55));
        assert_eq!(read("[::1]:55:7", "nosuch"), some("::1", 55));
        assert_eq!(read("::1", "99"), None);
        assert_eq!(read("h:nosuch", "99"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_rejected_without_a_crash(operands in prop::collection::vec(".{0,12}", 0..6)) {
            if let Ok(groups) = groups(&operands, 25, &services) {
                prop_assert!(groups.iter().all(|g| !g.channels.is_empty()));
                prop_assert!(groups.iter().flat_map(|g| &g.channels).all(|c| c.port != 0 && !c.host.is_empty()));
            }
        }
    }
}
