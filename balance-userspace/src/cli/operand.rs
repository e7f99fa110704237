//! Operands of the command line: the listen port, and channels in groups, `HOST[:PORT[:MAXC]]`
//! with `!` or `%` after each group.
//!
//! Pure: service names are looked up by a function that the caller gives. Invariant: every
//! group that comes out has a channel and every port is usable.

use crate::{
    error::{StartError, one_line},
    selection::Method,
};

/// A channel as written: where to connect, and how many connections at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSpec {
    /// Name or literal address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Connections at a time; 0 means no limit.
    pub max: u32,
}

/// A group as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// How it picks.
    pub method: Method,
    /// At least one.
    pub channels: Vec<ChannelSpec>,
}

/// Finds the port number of a TCP service by name.
pub type Services<'a> = &'a dyn Fn(&str) -> Option<u16>;

/// The port to listen on.
///
/// # Errors
/// [`StartError::Usage`] when it is neither a number from 1 to 65535 nor a known service.
pub fn listen_port(text: &str, services: Services<'_>) -> Result<u16, StartError> {
    port(text, services).map_err(|why| usage(format!("invalid port [{text}]: {why}")))
}

/// Channels in groups. None at all is legal: clients are then accepted and closed.
///
/// # Errors
/// [`StartError::Usage`] for a channel that cannot be read, [`StartError::EmptyGroup`].
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
    Ok(groups)
}

/// One channel.
///
/// # Errors
/// [`StartError::Usage`].
pub fn channel(
    text: &str,
    default_port: u16,
    services: Services<'_>,
) -> Result<ChannelSpec, StartError> {
    let invalid = |why: String| usage(format!("invalid channel [{text}]: {why}"));
    let (host, rest) = split_host(text).map_err(|why| invalid(why.to_owned()))?;
    if host.is_empty() {
        return Err(invalid("the host is empty (IPv6 goes in brackets: [::1]:25)".to_owned()));
    }
    // Text after a third colon is ignored, as it always was.
    let mut fields = rest.split(':');
    let port = match fields.next().unwrap_or_default() {
        "" => default_port,
        field => port(field, services).map_err(|why| invalid(format!("port [{field}] {why}")))?,
    };
    let max = match fields.next().unwrap_or_default() {
        "" => 0,
        field => decimal(field)
            .ok_or_else(|| invalid(format!("[{field}] is no number of connections")))?,
    };
    Ok(ChannelSpec { host: host.to_owned(), port, max })
}

/// One channel whose host and port are apart. A port that the host carries wins, as it always
/// did; the other one is then not looked at.
///
/// # Errors
/// [`StartError::Usage`].
pub fn host_and_port(
    host: &str,
    port: &str,
    services: Services<'_>,
) -> Result<ChannelSpec, StartError> {
    let apart = listen_port(port, services);
    // No port is 0, so that one is told from a port that the host carries.
    let spec = channel(host, apart.as_ref().map_or(0, |&port| port), services)?;
    if spec.port == 0 { apart.map(|_| spec) } else { Ok(spec) }
}

/// Splits the host off: up to the first colon, or what is between brackets.
fn split_host(text: &str) -> Result<(&str, &str), &'static str> {
    if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or("a closing bracket is missing")?;
        return match rest.strip_prefix(':') {
            Some(rest) => Ok((host, rest)),
            None if rest.is_empty() => Ok((host, "")),
            None => Err("a colon must follow the closing bracket"),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

fn port(text: &str, services: Services<'_>) -> Result<u16, String> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return match decimal(text).and_then(|n| u16::try_from(n).ok()) {
            Some(0) | None => Err("must be from 1 to 65535".to_owned()),
            Some(port) => Ok(port),
        };
    }
    services(text).ok_or_else(|| "is not a known service".to_owned())
}

/// Digits only: no sign, no blanks.
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
        ChannelSpec { host: host.to_owned(), port, max }
    }

    #[test]
    fn a_channel_is_read_as_the_classic_read_it() {
        assert_eq!(one("mx"), spec("mx", 2500, 0));
        assert_eq!(one("mx:"), spec("mx", 2500, 0));
        assert_eq!(one("mx:25"), spec("mx", 25, 0));
        assert_eq!(one("mx:smtp"), spec("mx", 25, 0));
        assert_eq!(one("mx::16"), spec("mx", 2500, 16));
        assert_eq!(one("mx:25:"), spec("mx", 25, 0));
        assert_eq!(one("mx:25:2:9"), spec("mx", 25, 2));
        assert_eq!(one("[::1]"), spec("::1", 2500, 0));
        assert_eq!(one("[::1]:25:3"), spec("::1", 25, 3));
    }

    #[test]
    fn separators_end_groups_and_a_trailing_one_is_fine() {
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
    fn what_cannot_be_meant_is_refused() {
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
    fn the_port_beside_the_host_counts_unless_the_host_carries_one() {
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
        fn any_text_is_read_or_refused_and_never_crashes(operands in prop::collection::vec(".{0,12}", 0..6)) {
            if let Ok(groups) = groups(&operands, 25, &services) {
                prop_assert!(groups.iter().all(|g| !g.channels.is_empty()));
                prop_assert!(groups.iter().flat_map(|g| &g.channels).all(|c| c.port != 0 && !c.host.is_empty()));
            }
        }
    }
}
