//! Names of servers: given ones, and default names made of the host.
//!
//! Pure. Invariants: no default name reads as a number or as `G.N`, so a word of a control command
//! means a position or a name and never both.

use std::collections::HashMap;

/// The parts of a server's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerName {
    /// The host as typed.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The given name; `None` for the default name.
    pub given: Option<String>,
}

impl ServerName {
    /// Host and port.
    pub(super) fn with_port(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// The names of all servers of an instance: the given name, or the host. A host that occurs several
/// times, or that reads as a position, gets its port.
pub fn all<'a>(servers: impl IntoIterator<Item = &'a ServerName> + Clone) -> Vec<String> {
    let mut hosts: HashMap<&str, usize> = HashMap::new();
    for server in servers.clone() {
        *hosts.entry(&server.host).or_default() += 1;
    }
    let name = |server: &ServerName| match &server.given {
        Some(given) => given.clone(),
        None if hosts[&*server.host] > 1 || is_position(&server.host) => server.with_port(),
        None => server.host.clone(),
    };
    servers.into_iter().map(name).collect()
}

/// The first given name that another server has too.
pub fn first_clash<'a>(
    servers: impl IntoIterator<Item = &'a ServerName> + Clone,
) -> Option<String> {
    let mut names: HashMap<String, bool> = HashMap::new();
    let all = all(servers.clone());
    for (server, name) in servers.into_iter().zip(all) {
        let is_given = server.given.is_some();
        match names.get_mut(&name) {
            Some(other_is_given) if is_given || *other_is_given => return Some(name),
            Some(_) => {}
            None => drop(names.insert(name, is_given)),
        }
    }
    None
}

/// Whether a word is the position of a channel: a number, or `G.N`.
pub fn is_position(word: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let word = word.strip_prefix(['-', '+']).unwrap_or(word);
    match word.split_once('.') {
        Some((group, channel)) => is_number(group) && is_number(channel),
        None => is_number(word),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A server `HOST`, `HOST/PORT` or either with `=NAME`.
    fn server(text: &str) -> ServerName {
        let (address, given) = text.split_once('=').unzip();
        let address = address.unwrap_or(text);
        let (host, port) = address.split_once('/').unwrap_or((address, "25"));
        let (host, port) = (host.to_owned(), port.parse().unwrap());
        ServerName { host, port, given: given.map(str::to_owned) }
    }

    fn servers(texts: &str) -> Vec<ServerName> {
        texts.split(' ').map(server).collect()
    }

    #[test]
    fn the_default_name_is_the_host_and_has_the_port_where_the_host_repeats() {
        for (texts, expected) in [
            ("a b", "a b"),
            ("a/1 a/2 b", "a:1 a:2 b"),
            ("a/1 a/2=x", "a:1 x"),
            ("::1 b", "::1 b"),
            ("::1/1 ::1/2", "[::1]:1 [::1]:2"),
            ("127.0.0.1 127.1 7", "127.0.0.1 127.1:25 7:25"),
            ("a/1 a/1", "a:1 a:1"),
        ] {
            assert_eq!(all(&servers(texts)).join(" "), expected);
        }
    }

    #[test]
    fn only_a_given_name_clashes() {
        for (texts, clash) in [
            ("a a", None),
            ("a=x b=y", None),
            ("a=x b=x", Some("x")),
            ("a b=a", Some("a")),
            ("b=a a", Some("a")),
        ] {
            assert_eq!(first_clash(&servers(texts)).as_deref(), clash, "{texts}");
        }
    }

    proptest! {
        #[test]
        fn no_default_name_is_a_position(hosts in prop::collection::vec("[-+0-9.a:]{1,4}", 0..5)) {
            let server = |host: &String| ServerName { host: host.clone(), port: 25, given: None };
            let servers: Vec<_> = hosts.iter().map(server).collect();
            let names = all(&servers);
            prop_assert!(names.iter().all(|name| !is_position(name)), "{names:?}");
        }
    }
}
