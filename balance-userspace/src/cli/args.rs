//! The command line of an instance: options by clap, operands by [`operand`](crate::cli::operand).
//!
//! Invariant: nothing is looked up or opened here.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Parser, ValueEnum, builder::NonEmptyStringValueParser};

use crate::error::StartError;

/// Upper bound of worker threads: one io_uring and at least one listener each.
const MAX_WORKERS: i64 = 1024;

/// TCP load balancer and failover proxy: hands connections to the servers that work, in turn,
/// and moves their bytes inside the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "balance", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(args_override_self = true)]
#[command(override_usage = "balance [OPTIONS] PORT [SERVER | ! | %]...\n       \
    balance [-b HOST] -c COMMAND PORT\n       balance [-b HOST] -i PORT\n       \
    balance VERB [--config FILE]")]
pub struct Args {
    /// Address to listen on, a name or a literal [default: all, IPv4 and IPv6]
    #[arg(short = 'b', long = "bind", value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    pub bind: Option<String>,

    /// Listen on IPv6 (and, on all addresses, on IPv4 too)
    #[arg(short = '6', long = "ipv6")]
    pub ipv6: bool,

    /// Source address of connections to servers
    #[arg(short = 'B', long = "source", value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    pub source: Option<String>,

    /// Stay in the foreground
    #[arg(short = 'f', long = "foreground")]
    pub foreground: bool,

    /// Longest time for a connect to one server, in seconds
    #[arg(short = 't', long = "connect-timeout", value_name = "SECONDS", default_value = "5",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub connect_timeout: u32,

    /// Close connections on which no byte moves for so many seconds [default: never]
    #[arg(short = 'T', long = "idle-timeout", value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub idle_timeout: Option<u32>,

    /// Close connections that one side has ended and on which no byte moves for so many seconds;
    /// 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "3600",
          value_parser = clap::value_parser!(u32).range(0..=31_536_000))]
    pub half_close_timeout: u32,

    /// Disable a server when a connect to it fails, until it is enabled by hand
    #[arg(short = 'a', long = "autodisable")]
    pub autodisable: bool,

    /// In a hash group, let the next server stand in for one that is not usable
    #[arg(short = 'H', long = "hash-failover")]
    pub hash_failover: bool,

    /// Accepted for the classic's sake, without effect
    #[arg(short = 'M', long = "mmap")]
    pub mmap: bool,

    /// Show all bytes on standard output, as they pass (forces the relay; with -f only, as there is
    /// no output in the background)
    #[arg(short = 'p', long = "packetdump")]
    pub dump: bool,

    /// Log more: every session and failed connect, and the kernel program's own messages
    #[arg(short = 'd', long = "debug")]
    pub debug: bool,

    /// Give one command, or several as `A; B`, to the balance that runs on PORT; `help` for a list
    #[arg(short = 'c', long = "command", value_name = "COMMAND")]
    pub command: Option<String>,

    /// Open a shell to the balance that runs on PORT
    #[arg(short = 'i', long = "interactive")]
    pub interactive: bool,

    /// With -c: exit with 1 when the command fails
    #[arg(long)]
    pub strict: bool,

    /// What moves the bytes of established connections
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Datapath::Auto)]
    pub datapath: Datapath,

    /// Buffers that user space moves before the kernel takes a connection over, because that
    /// costs more than a short connection gains; 0 for at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub offload_after: u32,

    /// Threads that serve connections [default: one per processor]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=MAX_WORKERS))]
    pub workers: Option<u16>,

    /// Connections served at a time; more wait [default: what the limits of file descriptors and
    /// memory allow]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<NonZeroUsize>,

    /// On SIGTERM, how long connections may go on, in seconds; SIGINT ends them at once
    #[arg(long, value_name = "SECONDS", default_value = "30",
          value_parser = clap::value_parser!(u32).range(0..=31_536_000))]
    pub grace: u32,

    /// Resolve the servers' names again so often, in seconds; 0 for only when a server's known
    /// addresses have all failed
    #[arg(long, value_name = "SECONDS", default_value = "300",
          value_parser = clap::value_parser!(u32).range(0..=31_536_000))]
    pub resolve_interval: u32,

    /// Where the control socket is [default: /run/balance, or $XDG_RUNTIME_DIR/balance without
    /// root]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,

    /// Become this user once it listens and the datapath is there, and keep only the capabilities
    /// that the datapath goes on to need
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Port to listen on: a number or the name of a service
    #[arg(value_name = "PORT", required = true)]
    pub port: String,

    /// Servers, HOST[:PORT[:MAXCONNECTIONS]], IPv6 as [HOST]; `!` ends a group, `%` ends a
    /// group chosen by a hash of the client's address
    #[arg(value_name = "SERVER")]
    pub channels: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  balance 25 smtp1.example.com smtp2.example.com
      connections to port 25 go to the two servers in turn
  balance smtp mx1:25:100 mx2:25:100 ! backup:2525
      at most 100 at a time to each of the first two; the next group stands in when
      neither takes a connection
  balance -b 192.0.2.7 -t 2 8080 [2001:db8::1]:80 www2:80
      listen on one address, give a server two seconds to answer
  balance -c show 25
      the servers of the balance on port 25, their connections and bytes
  balance -c 'group 1; disable 0' 25
      server 0 of group 1 gets no new connections

The log goes to standard error, and to syslog in the background. BALANCE_LOG=LEVEL (off, error,
warn, info, debug) says how much is logged.";

/// What moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Datapath {
    /// The best that works here
    Auto,
    /// By the peers themselves, whose packets a BPF program rewrites; a connection that cannot
    /// take that goes to the next (needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)
    Splice,
    /// In the kernel, by another BPF program (needs the same)
    Sockmap,
    /// In user space
    Relay,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people, and for the journal
    Text,
    /// One JSON object a line
    Json,
}

/// What a command line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode<'a> {
    /// Serve.
    Serve,
    /// Give one command to a running balance.
    Command(&'a str),
    /// Talk to a running balance.
    Shell,
}

impl Args {
    /// The same, if its parts go together.
    ///
    /// # Errors
    /// [`StartError::Usage`].
    pub fn checked(self) -> Result<Self, StartError> {
        if self.mode() == Mode::Serve || self.channels.is_empty() {
            return Ok(self);
        }
        let what = "-c and -i take the port and nothing else (try balance --help)";
        Err(StartError::Usage(what.to_owned()))
    }

    /// Whether an instance with these arguments can take the other ones while it runs. An option
    /// that is not named here cannot change.
    pub fn can_reload_to(&self, other: &Self) -> bool {
        let changed = Self {
            channels: other.channels.clone(),
            hash_failover: other.hash_failover,
            autodisable: other.autodisable,
            connect_timeout: other.connect_timeout,
            idle_timeout: other.idle_timeout,
            half_close_timeout: other.half_close_timeout,
            grace: other.grace,
            resolve_interval: other.resolve_interval,
            mmap: other.mmap,
            foreground: other.foreground,
            ..self.clone()
        };
        changed == *other
    }

    /// What is to be done on this command line.
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

    /// Words that give this argument another value than it has by default, and whether it can
    /// change while an instance runs.
    fn example(id: &str) -> (&'static str, bool) {
        match id {
            "channels" => ("25 a", true),
            "hash_failover" => ("25 -H", true),
            "autodisable" => ("25 -a", true),
            "connect_timeout" => ("25 -t 7", true),
            "idle_timeout" => ("25 -T 7", true),
            "half_close_timeout" => ("25 --half-close-timeout 7", true),
            "grace" => ("25 --grace 7", true),
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
