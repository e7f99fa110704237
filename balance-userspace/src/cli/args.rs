//! The command line of an instance. clap parses the options; [`operand`](crate::cli::operand)
//! parses the operands later.
//!
//! Invariant: parsing looks up no name and opens no file.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Parser, ValueEnum};

use super::values;
use crate::error::StartError;

/// The most worker threads. Each has an io_uring and at least one listener.
const MAX_WORKERS: u16 = 1024;

/// TCP load balancer and failover proxy: connects each client to a working server, in turn, and
/// moves the bytes inside the kernel
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "balance", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(args_override_self = true)]
#[command(override_usage = "balance [OPTIONS] PORT [SERVER | ! | %]...\n       \
    balance [-b HOST] -c COMMAND PORT\n       balance [-b HOST] -i PORT\n       \
    balance VERB [--config FILE]")]
pub struct Args {
    /// Listen on this address or host name [default: all addresses, IPv4 and IPv6]
    #[arg(short = 'b', long = "bind", value_name = "HOST", value_parser = values::host)]
    pub bind: Option<String>,

    /// Listen on IPv6; without -b also on IPv4
    #[arg(short = '6', long = "ipv6")]
    pub ipv6: bool,

    /// Name of this instance, for -c, -i, the log and JSON
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    pub name: Option<String>,

    /// Connect to servers from this source address
    #[arg(short = 'B', long = "source", value_name = "HOST", value_parser = values::host)]
    pub source: Option<String>,

    /// Stay in the foreground
    #[arg(short = 'f', long = "foreground")]
    pub foreground: bool,

    /// Give up a connect to a server after this time
    #[arg(short = 't', long = "connect-timeout", value_name = "TIME", default_value = "5",
          allow_negative_numbers = true,
          value_parser = values::seconds(1..=86_400))]
    pub connect_timeout: u32,

    /// Close a connection on which no byte has moved for this time [default: never]
    #[arg(short = 'T', long = "idle-timeout", value_name = "TIME",
          allow_negative_numbers = true,
          value_parser = values::seconds(1..=u32::MAX))]
    pub idle_timeout: Option<u32>,

    /// Close a half-closed connection on which no byte has moved for this time; 0 means never
    #[arg(long, value_name = "TIME", default_value = "3600",
          allow_negative_numbers = true,
          value_parser = values::seconds(0..=values::MAX_SECONDS))]
    pub half_close_timeout: u32,

    /// Disable a server when a connect to it fails; the command `enable` enables it again
    #[arg(short = 'a', long = "autodisable")]
    pub autodisable: bool,

    /// In a hash group, use the next server when the chosen server is down
    #[arg(short = 'H', long = "hash-failover")]
    pub hash_failover: bool,

    /// Has no effect; accepted for compatibility with the classic balance
    #[arg(short = 'M', long = "mmap")]
    pub mmap: bool,

    /// Print all bytes on standard output as they pass; this needs -f and forces the relay
    #[arg(short = 'p', long = "packetdump")]
    pub dump: bool,

    /// Log every session, every failed connect and the messages of the BPF program
    #[arg(short = 'd', long = "debug")]
    pub debug: bool,

    /// Send a command, or several as `A; B`, to the balance that runs on PORT; `help` lists them
    #[arg(short = 'c', long = "command", value_name = "COMMAND")]
    pub command: Option<String>,

    /// Open an interactive shell to the balance that runs on PORT
    #[arg(short = 'i', long = "interactive")]
    pub interactive: bool,

    /// With -c: exit with code 1 when a command fails
    #[arg(long)]
    pub strict: bool,

    /// Move the bytes of connections by this datapath
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Datapath::Auto)]
    pub datapath: Datapath,

    /// Offload a connection to the kernel once user space has moved this many buffers; offloading
    /// costs more than a short connection gains; 0 means at once
    #[arg(long, value_name = "N", default_value = "64",
          allow_negative_numbers = true,
          value_parser = values::number("a number of buffers", 0..=u32::MAX))]
    pub offload_after: u32,

    /// Serve connections with this many threads [default: one per processor]
    #[arg(long, value_name = "N",
          allow_negative_numbers = true,
          value_parser = values::number("a number of threads", 1..=MAX_WORKERS))]
    pub workers: Option<u16>,

    /// Serve at most this many connections at a time; further clients wait [default: as many as the
    /// limits of file descriptors and memory allow]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = values::connections)]
    pub max_connections: Option<NonZeroUsize>,

    /// Let connections continue for this time after SIGTERM; SIGINT resets them at once
    #[arg(long, value_name = "TIME", default_value = "30",
          allow_negative_numbers = true,
          value_parser = values::seconds(0..=values::MAX_SECONDS))]
    pub grace: u32,

    /// Let connections continue for this time in a process that a reload or an upgrade has replaced;
    /// 0 means without a limit
    #[arg(long, value_name = "TIME", default_value = "0",
          allow_negative_numbers = true,
          value_parser = values::seconds(0..=values::MAX_SECONDS))]
    pub drain_timeout: u32,

    /// Resolve the servers' names again at this interval; 0 means only when all known addresses of
    /// a server have failed
    #[arg(long, value_name = "TIME", default_value = "300",
          allow_negative_numbers = true,
          value_parser = values::seconds(0..=values::MAX_SECONDS))]
    pub resolve_interval: u32,

    /// Directory of the control socket [default: /run/balance, or $XDG_RUNTIME_DIR/balance without
    /// root]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,

    /// Let the members of this group connect to the control sockets and read: show, servers,
    /// sessions, stats, status, health; only root and the owner may change [default: no group may
    /// connect]
    #[arg(long, value_name = "GROUP", value_parser = values::group)]
    pub control_group: Option<String>,

    /// Switch to this user after the start, and keep only the capabilities that the datapath needs
    #[arg(long, value_name = "NAME", value_parser = values::user)]
    pub user: Option<String>,

    /// Format of the log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Port to listen on, a number or the name of a service; with -c and -i also the name of an
    /// instance
    #[arg(value_name = "PORT", required = true)]
    pub port: String,

    /// Server as HOST[:PORT[:MAX]][,KEY=VALUE]..., with an IPv6 address in brackets; keys are name,
    /// its name in commands, and max, connections at a time; `!` ends a group; `%` ends a group in
    /// which a hash of the client's address chooses the server
    #[arg(value_name = "SERVER")]
    pub channels: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  balance 25 smtp1.example.com smtp2.example.com
      connect the clients of port 25 to the two servers in turn
  balance smtp mx1:25:100 mx2:25:100 ! backup:2525
      at most 100 connections at a time to mx1 and to mx2; the backup server takes over
      when neither takes a connection
  balance -b 192.0.2.7 -t 2 8080 [2001:db8::1]:80 www2:80
      listen on one address, give a server two seconds to answer
  balance -c show 25
      show the servers of the balance on port 25 with their connections and bytes
  balance -c 'group 1; disable 0' 25
      stop new connections to server 0 of group 1

The log goes to standard error, in the background to syslog. The environment variable BALANCE_LOG
sets its level: off, error, warn, info or debug.";

/// The datapath that moves the bytes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Datapath {
    /// The best datapath that works on this host
    Auto,
    /// A BPF program rewrites the packets; a connection that cannot be spliced uses sockmap (needs
    /// CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)
    Splice,
    /// A BPF program redirects data from socket to socket (needs the same capabilities)
    Sockmap,
    /// User space copies the bytes
    Relay,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people and for the journal
    Text,
    /// One JSON object a line
    Json,
}

/// The purpose of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode<'a> {
    /// Serve connections.
    Serve,
    /// Send a line of commands to a running instance.
    Command(&'a str),
    /// Open a shell to a running instance.
    Shell,
}

impl Args {
    /// Returns these arguments if they are consistent.
    ///
    /// # Errors
    /// [`StartError::Usage`].
    pub fn checked(self) -> Result<Self, StartError> {
        if self.mode() == Mode::Serve || self.channels.is_empty() {
            return Ok(self);
        }
        let what = "-c and -i take the port and no servers (try balance --help)";
        Err(StartError::Usage(what.to_owned()))
    }

    /// Whether a running instance with these arguments can take the others. Options that are not
    /// listed here cannot change while it runs.
    pub fn can_reload_to(&self, other: &Self) -> bool {
        let changed = Self {
            channels: other.channels.clone(),
            name: other.name.clone(),
            hash_failover: other.hash_failover,
            autodisable: other.autodisable,
            connect_timeout: other.connect_timeout,
            idle_timeout: other.idle_timeout,
            half_close_timeout: other.half_close_timeout,
            grace: other.grace,
            drain_timeout: other.drain_timeout,
            resolve_interval: other.resolve_interval,
            mmap: other.mmap,
            foreground: other.foreground,
            ..self.clone()
        };
        changed == *other
    }

    /// The purpose of this command line.
    pub fn mode(&self) -> Mode<'_> {
        match &self.command {
            Some(line) => Mode::Command(line),
            None if self.interactive => Mode::Shell,
            None => Mode::Serve,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn read(words: &str) -> Args {
        Args::try_parse_from(std::iter::once("balance").chain(words.split(' '))).unwrap()
    }

    /// Words that give this argument another value than its default, and whether the argument can
    /// change while an instance runs.
    fn example(id: &str) -> (&'static str, bool) {
        match id {
            "channels" => ("25 a", true),
            "name" => ("25 --name smtp", true),
            "hash_failover" => ("25 -H", true),
            "autodisable" => ("25 -a", true),
            "connect_timeout" => ("25 -t 7", true),
            "idle_timeout" => ("25 -T 7", true),
            "half_close_timeout" => ("25 --half-close-timeout 7", true),
            "grace" => ("25 --grace 7", true),
            "drain_timeout" => ("25 --drain-timeout 7", true),
            "resolve_interval" => ("25 --resolve-interval 7", true),
            "mmap" => ("25 -M", true),
            "foreground" => ("25 -f", true),
            "bind" => ("25 -b ::1", false),
            "ipv6" => ("25 -6", false),
            "source" => ("25 -B ::1", false),
            "dump" => ("25 -p", false),
            "debug" => ("25 -d", false),
            "command" => ("25 -c show", false),
            "interactive" => ("25 -i", false),
            "strict" => ("25 --strict", false),
            "datapath" => ("25 --datapath relay", false),
            "offload_after" => ("25 --offload-after 7", false),
            "workers" => ("25 --workers 7", false),
            "max_connections" => ("25 --max-connections 7", false),
            "run_dir" => ("25 --run-dir /", false),
            "control_group" => ("25 --control-group adm", false),
            "user" => ("25 --user nobody", false),
            "log_format" => ("25 --log-format json", false),
            "port" => ("26", false),
            new => panic!("{new}: can it change while an instance runs?"),
        }
    }

    #[test]
    fn a_running_instance_takes_only_changes_of_reloadable_options() {
        let plain = read("25");
        assert!(plain.can_reload_to(&plain));
        for argument in Args::command().get_arguments() {
            let (words, can_change) = example(argument.get_id().as_str());
            let other = read(words);
            assert_ne!(plain, other, "{words}");
            assert_eq!(plain.can_reload_to(&other), can_change, "to {words}");
            assert_eq!(other.can_reload_to(&plain), can_change, "from {words}");
            let more = read(&format!("{words} -t 8"));
            assert_eq!(plain.can_reload_to(&more), can_change, "to {words} and another");
        }
    }
}
