//! The command line of the harness.
//!
//! Invariant: what the user typed wrong is told before anything is started.

use std::path::PathBuf;

use clap::Parser;

/// Measure balance beside its peers, on the same work in the same run.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", max_term_width = 100)]
#[command(after_help = crate::scenario::help())]
pub(crate) struct Options {
    /// What to measure: scenarios (see below) or single cases of them [default: all]
    #[arg(value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<String>,

    /// Beside what to measure; `direct` (no peer at all) and balance on each of its datapaths
    /// are always there, unless single datapaths are named: balance-relay, balance-sockmap,
    /// balance-splice
    #[arg(
        long,
        value_name = "PEER,...",
        value_delimiter = ',',
        default_value = "direct,haproxy,haproxy-splice,nginx,pen"
    )]
    pub(crate) peers: Vec<String>,

    /// Another peer and how to run it in the foreground; a word with {backend} is repeated for
    /// each backend, {listen} is HOST:PORT, {host} and {port} its parts
    #[arg(long, value_name = "NAME='COMMAND {listen} {backend}'")]
    pub(crate) peer_cmd: Vec<String>,

    /// Seconds of each measurement, after a warm-up
    #[arg(long, value_name = "N", default_value = "3",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) secs: u64,

    /// How often each peer is measured; the peers take turns
    #[arg(long, value_name = "N", default_value = "3",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,

    /// Where results.json and the charts go
    #[arg(long, value_name = "DIR",
          default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    pub(crate) out: PathBuf,

    /// Tell what changed since the results in this file
    #[arg(long, value_name = "OLD.json")]
    pub(crate) compare: Option<PathBuf>,

    /// Connections of the scenario idle
    #[arg(long, value_name = "N", default_value = "4000",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) idle_connections: u32,

    /// The balance to measure
    #[arg(long, value_name = "FILE", overrides_with = "balance",
          default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/balance"))]
    pub(crate) balance: PathBuf,

    /// Only print the Debian packages that are needed and not installed
    #[arg(long, hide = true)]
    pub(crate) missing_packages: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }

    #[test]
    fn options_may_follow_scenarios() {
        let options = Options::parse_from(["bench", "rr", "conn", "--peers", "nginx,pen"]);
        assert_eq!(options.scenarios, ["rr", "conn"]);
        assert_eq!(options.peers, ["nginx", "pen"]);
    }
}
