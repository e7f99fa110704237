//! Reconfiguration: a running instance takes other arguments.
//!
//! Invariants: every check comes before the first change, and nothing waits between the first and
//! the last change. So a client that disconnects leaves no change half done. One reconfiguration
//! runs at a time, so the table and the settings always match the active arguments.

use std::{net::SocketAddr, sync::Arc};

use tokio::task::spawn_blocking;
use tracing::info;

use super::handler::invalid_address;
use crate::control::protocol::InstanceReply;
use crate::{
    cli::{self, args::Args, operand},
    error::StartError,
    instance::{
        context::Context,
        settings::{self, Settings},
    },
    io::{loops, resolve},
    selection::{self, ChannelDiff, GroupConfig, ServerIdentity},
};

/// Parses the arguments, checks them, and applies all of their changes or none.
pub(crate) async fn configure(context: &Arc<Context>, words: Vec<String>) -> InstanceReply {
    let mut active_args = context.active_args.lock().await;
    let args = match cli::parse_instance(words) {
        Ok(args) => args,
        Err(error) => return incompatible(error.to_string()),
    };
    if args == *active_args {
        return InstanceReply::Already;
    }
    if !active_args.can_reload_to(&args) {
        let reason = "a changed option cannot change while the instance runs";
        return incompatible(reason.to_owned());
    }
    let (wanted, listener) = (args.clone(), context.address);
    let groups = match spawn_blocking(move || groups(&wanted, listener)).await {
        Ok(Ok(groups)) => groups,
        Ok(Err(error @ StartError::Unresolved { .. })) => {
            return invalid_address(error.to_string());
        }
        Ok(Err(error)) => return incompatible(error.to_string()),
        Err(error) => return incompatible(error.to_string()),
    };

    let diff = context.table.lock().selector.replace(groups, settings::policy(&args));
    context.settings.send_replace(Settings::of(&args));
    info!(changes = changes(&active_args, &args, &diff), "configured");
    *active_args = args;
    InstanceReply::Done
}

fn incompatible(reason: String) -> InstanceReply {
    info!(reason, "configuration rejected");
    InstanceReply::Incompatible(reason)
}

/// Resolves the groups of a command line, as at the start. Blocks.
fn groups(args: &Args, listener: Option<SocketAddr>) -> Result<Vec<GroupConfig>, StartError> {
    let port = operand::listen_port(&args.port, &resolve::service)?;
    let groups = resolve::groups(&operand::groups(&args.channels, port, &resolve::service)?)?;
    loops::check_servers(listener, selection::addresses(&groups))?;
    Ok(groups)
}

/// Describes the changes, for the log.
fn changes(old: &Args, new: &Args, diff: &ChannelDiff) -> String {
    let mut texts = Vec::new();
    let mut option = |name: &str, [old, new]: [String; 2]| {
        if old != new {
            texts.push(format!("{name} {new} (was {old})"));
        }
    };
    let both = [old, new];
    option("--name", both.map(|args| args.name.clone().unwrap_or_else(|| "none".to_owned())));
    option("-H", both.map(|args| on(args.hash_failover)));
    option("-a", both.map(|args| on(args.autodisable)));
    option("-t", both.map(|args| args.connect_timeout.to_string()));
    option("-T", both.map(|args| args.idle_timeout.map_or("never".to_owned(), |n| n.to_string())));
    option("--half-close-timeout", both.map(|args| args.half_close_timeout.to_string()));
    option("--grace", both.map(|args| args.grace.to_string()));
    option("--drain-timeout", both.map(|args| args.drain_timeout.to_string()));
    option("--resolve-interval", both.map(|args| args.resolve_interval.to_string()));
    option("-M", both.map(|args| on(args.mmap)));
    option("-f", both.map(|args| on(args.foreground)));
    let mut servers = |what: &str, servers: &[(usize, ServerIdentity)]| {
        texts.extend(
            servers.iter().map(|(group, server)| format!("{what} {server} in group {group}")),
        );
    };
    servers("added", &diff.added);
    servers("removed", &diff.removed);
    if old.channels != new.channels {
        texts.push(format!("servers {}", new.channels.join(" ")));
    }
    texts.join(", ")
}

fn on(flag: bool) -> String {
    if flag { "on" } else { "off" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::HostName;

    fn args(words: &str) -> Args {
        cli::parse_instance(words.split(' ').map(str::to_owned).collect()).unwrap()
    }

    #[test]
    fn arguments_that_are_not_of_an_instance_are_rejected() {
        for words in
            ["-t", "25 -t", "25 -t 0", "--help", "--version", "start", "25 -x", "-t 5 check"]
        {
            let words = words.split(' ').map(str::to_owned).collect();
            assert!(!cli::parse_instance(words).unwrap_err().to_string().contains('\n'));
        }
    }

    #[test]
    fn every_changed_option_is_logged() {
        let old = args("25 a");
        for (words, expected) in [
            ("25 a", ""),
            ("25 a --name smtp", "--name smtp (was none)"),
            ("25 a -H", "-H on (was off)"),
            ("25 a -a", "-a on (was off)"),
            ("25 a -t 7", "-t 7 (was 5)"),
            ("25 a -T 7", "-T 7 (was never)"),
            ("25 a --half-close-timeout 7", "--half-close-timeout 7 (was 3600)"),
            ("25 a --grace 7", "--grace 7 (was 30)"),
            ("25 a --drain-timeout 7", "--drain-timeout 7 (was 0)"),
            ("25 a --resolve-interval 7", "--resolve-interval 7 (was 300)"),
            ("25 a -M", "-M on (was off)"),
            ("25 a -f", "-f on (was off)"),
            ("25 a ! b %", "servers a ! b %"),
            ("25 b -Ha", "-H on (was off), -a on (was off), servers b"),
        ] {
            let new = args(words);
            assert!(old.can_reload_to(&new), "{words}");
            assert_eq!(changes(&old, &new, &ChannelDiff::default()), expected);
        }
    }

    #[test]
    fn added_and_removed_servers_are_logged() {
        let (old, new) = (args("25 a"), args("25 127.0.0.1"));
        let name = HostName { host: "a".to_owned(), port: 25 };
        let diff = ChannelDiff {
            added: vec![(0, ServerIdentity::Addresses(vec![([127, 0, 0, 1], 25).into()]))],
            removed: vec![(1, ServerIdentity::Name(name))],
        };
        let expected = "added 127.0.0.1:25 in group 0, removed a:25 in group 1, servers 127.0.0.1";
        assert_eq!(changes(&old, &new, &diff), expected);
    }
}
