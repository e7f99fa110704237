//! Checks whether this host can run a configuration file: its lines, its names and its users.
//!
//! Invariant: a check binds no port, changes nothing and needs no privileges.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use super::{
    conf::{self, Conf, Line, Mistake},
    conf_files::{self, ConfFiles},
};
use crate::{
    cli::operand,
    error::StartError,
    instance::start,
    io::{listener, loops, resolve},
    sys::privileges,
};

/// Reads and parses a file, and the files that it includes.
///
/// # Errors
/// [`StartError::Unreadable`].
pub(super) fn read(file: &Path) -> Result<Conf, StartError> {
    let text = conf_files::text(file)
        .map_err(|source| StartError::Unreadable { path: file.to_owned(), source })?;
    Ok(conf::read(file, &text, &resolve::service, &ConfFiles))
}

/// Looks up the names in these lines, and host names only if `hosts` is set. Blocks.
pub(super) fn lines(lines: &[Line], hosts: bool) -> Vec<Mistake> {
    let wrong = lines.iter().flat_map(|line| {
        let wrong = wrong_on(line, hosts).into_iter();
        wrong.map(|what| Mistake { position: line.position.clone(), what })
    });
    wrong.collect()
}

/// The mistakes of the parser and of [`lines`], in the order of the text.
pub(super) fn all(conf: &Conf, hosts: bool) -> Vec<Mistake> {
    let mut mistakes = lines(&conf.lines, hosts);
    mistakes.extend_from_slice(&conf.mistakes);
    mistakes.sort_by_key(|mistake| mistake.position.ordinal);
    mistakes
}

/// Returns the problems of a line, each once.
fn wrong_on(line: &Line, hosts: bool) -> BTreeSet<String> {
    let Line { args, name, .. } = line;
    let mut wrong = BTreeSet::new();
    let mut collect = |result: Result<(), StartError>| {
        wrong.extend(result.err().map(|error| error.to_string()));
    };
    collect(args.user.as_deref().map_or(Ok(()), |user| privileges::find(user).map(drop)));
    let group = args.control_group.as_deref();
    collect(group.map_or(Ok(()), |group| privileges::find_group(group).map(drop)));
    let source = args.source.as_ref();
    if hosts || source.is_some_and(|source| source.parse::<IpAddr>().is_ok()) {
        collect(start::source_address(args).map(drop));
    }
    if !hosts {
        return wrong;
    }
    let listener = start::listen_address(args).map(|ip| listener::bind_address(ip, name.port));
    let own = listener.as_ref().ok().copied();
    collect(listener.map(drop));
    // The parser has accepted the channels already.
    let groups = operand::groups(&args.channels, name.port, &resolve::service).unwrap_or_default();
    for channel in groups.iter().flat_map(|group| &group.channels) {
        let found = resolve::server(channel);
        collect(found.and_then(|server| loops::check_servers(own, server.addresses.iter())));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(conf: &Conf) -> Vec<String> {
        all(conf, true).iter().map(Mistake::to_string).collect()
    }

    #[test]
    fn a_server_that_is_the_listener_is_reported_with_its_line() {
        for (line, server) in [
            ("25 127.0.0.1", "127.0.0.1:25"),
            ("-b 127.0.0.1 25 127.0.0.1:26 ! 127.0.0.1:25", "127.0.0.1:25"),
            ("-b 127.0.0.1 25 0.0.0.0", "0.0.0.0:25"),
            ("-B 127.0.0.2 25 127.0.0.3", "127.0.0.3:25"),
            ("-b 127.0.0.1 25 localhost", ":25"),
        ] {
            let conf = conf::read(Path::new("x"), line, &|_| None, &ConfFiles);
            let wrong = found(&conf);
            assert_eq!(wrong.len(), 1, "{line}: {wrong:?}");
            assert!(wrong[0].starts_with("x:1: server "), "{wrong:?}");
            assert!(wrong[0].contains(&format!("{server} is the listener ")), "{wrong:?}");
        }
    }

    #[test]
    fn an_unresolvable_name_is_reported_once_with_its_line() {
        let text = "25 127.0.0.1:26\n\n26 nosuchhost.invalid nosuchhost.invalid:7 ! [::1]:25\n";
        let conf = conf::read(Path::new("x/balance.conf"), text, &|_| None, &ConfFiles);
        let wrong = found(&conf);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(
            wrong[0].starts_with("x/balance.conf:3: cannot resolve [nosuchhost.invalid]"),
            "{wrong:?}"
        );
    }
}
