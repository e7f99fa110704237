//! A running instance takes other arguments.
//!
//! Invariants: all that can be refused is looked at before anything changes, and nothing is waited
//! for from the first change to the last, so a client that breaks off leaves nothing half-done; one
//! at a time, so the arguments in force are those that table and settings were made from.

use std::{net::SocketAddr, sync::Arc};

use tokio::task::spawn_blocking;
use tracing::info;

use super::handler::invalid;
use crate::control::protocol::InstanceReply;
use crate::{
    cli::{self, Invocation, args::Args, operand},
    error::StartError,
    instance::{
        context::Context,
        settings::{self, Settings},
    },
    io::{loops, resolve},
    selection::{self, ChannelDiff, GroupConfig, ServerIdentity},
};

/// Takes the arguments that these words are, whole or not at all.
pub(super) async fn configure(context: &Arc<Context>, words: Vec<String>) -> InstanceReply {
    let mut active_args = context.active_args.lock().await;
    let args = match read(words) {
        Ok(args) => args,
        Err(why) => return unfit(why),
    };
    if args == *active_args {
        return InstanceReply::Already;
    }
    if !active_args.can_reload_to(&args) {
        return unfit("an option differs that cannot change while the instance runs".to_owned());
    }
    let (wanted, listener) = (args.clone(), context.address);
    let groups = match spawn_blocking(move || groups(&wanted, listener)).await {
        Ok(Ok(groups)) => groups,
        Ok(Err(error @ StartError::Unresolved { .. })) => return invalid(error.to_string()),
        Ok(Err(error)) => return unfit(error.to_string()),
        Err(error) => return unfit(error.to_string()),
    };

    let replaced = context.table.lock().selector.replace(groups, settings::policy(&args));
    context.settings.send_replace(Settings::of(&args));
    info!(changes = changes(&active_args, &args, &replaced), "configured");
    *active_args = args;
    InstanceReply::Done
}

fn unfit(why: String) -> InstanceReply {
    info!(reason = why, "configuration rejected");
    InstanceReply::Incompatible(why)
}

fn read(words: Vec<String>) -> Result<Args, String> {
    match cli::parse(std::iter::once("balance".to_owned()).chain(words).map(Into::into)) {
        Ok(Invocation::Instance(args)) => Ok(*args),
        Ok(Invocation::Verb(_) | Invocation::Print(_)) => {
            Err("these are not the arguments of an instance".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The groups of a command line, as at a start. Blocks.
fn groups(args: &Args, listener: Option<SocketAddr>) -> Result<Vec<GroupConfig>, StartError> {
    let port = operand::listen_port(&args.port, &resolve::service)?;
    let groups = resolve::groups(&operand::groups(&args.channels, port, &resolve::service)?)?;
    loops::check_servers(listener, selection::addresses(&groups))?;
    Ok(groups)
}

/// What is other than before, for the log.
fn changes(old: &Args, new: &Args, replaced: &ChannelDiff) -> String {
    let mut texts = Vec::new();
    let mut option = |name: &str, [old, new]: [String; 2]| {
        if old != new {
            texts.push(format!("{name} {new} (was {old})"));
        }
    };
    let both = [old, new];
    option("-H", both.map(|args| on(args.hash_failover)));
    option("-a", both.map(|args| on(args.autodisable)));
    option("-t", both.map(|args| args.connect_timeout.to_string()));
    option("-T", both.map(|args| args.idle_timeout.map_or("never".to_owned(), |n| n.to_string())));
    option("--half-close-timeout", both.map(|args| args.half_close_timeout.to_string()));
    option("--grace", both.map(|args| args.grace.to_string()));
    option("--resolve-interval", both.map(|args| args.resolve_interval.to_string()));
    option("-M", both.map(|args| on(args.mmap)));
    option("-f", both.map(|args| on(args.foreground)));
    let mut servers = |what: &str, servers: &[(usize, ServerIdentity)]| {
        texts.extend(
            servers.iter().map(|(group, server)| format!("{what} {server} in group {group}")),
        );
    };
    servers("added", &replaced.added);
    servers("removed", &replaced.removed);
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
    use crate::selection::ServerName;

    fn args(words: &str) -> Args {
        read(words.split(' ').map(str::to_owned).collect()).unwrap()
    }

    #[test]
    fn words_that_are_no_instance_are_refused() {
        for words in
            ["-t", "25 -t", "25 -t 0", "--help", "--version", "start", "25 -x", "-t 5 check"]
        {
            let words = words.split(' ').map(str::to_owned).collect();
            assert!(!read(words).unwrap_err().contains('\n'));
        }
    }

    #[test]
    fn every_option_that_changes_is_told() {
        let old = args("25 a");
        for (words, told) in [
            ("25 a", ""),
            ("25 a -H", "-H on (was off)"),
            ("25 a -a", "-a on (was off)"),
            ("25 a -t 7", "-t 7 (was 5)"),
            ("25 a -T 7", "-T 7 (was never)"),
            ("25 a --half-close-timeout 7", "--half-close-timeout 7 (was 3600)"),
            ("25 a --grace 7", "--grace 7 (was 30)"),
            ("25 a --resolve-interval 7", "--resolve-interval 7 (was 300)"),
            ("25 a -M", "-M on (was off)"),
            ("25 a -f", "-f on (was off)"),
            ("25 a ! b %", "servers a ! b %"),
            ("25 b -Ha", "-H on (was off), -a on (was off), servers b"),
        ] {
            let new = args(words);
            assert!(old.can_reload_to(&new), "{words}");
            assert_eq!(changes(&old, &new, &ChannelDiff::default()), told);
        }
    }

    #[test]
    fn servers_that_come_and_go_are_told() {
        let (old, new) = (args("25 a"), args("25 127.0.0.1"));
        let name = ServerName { host: "a".to_owned(), port: 25 };
        let replaced = ChannelDiff {
            added: vec![(0, ServerIdentity::Addresses(vec![([127, 0, 0, 1], 25).into()]))],
            removed: vec![(1, ServerIdentity::Name(name))],
        };
        let told = "added 127.0.0.1:25 in group 0, removed a:25 in group 1, servers 127.0.0.1";
        assert_eq!(changes(&old, &new, &replaced), told);
    }
}
