//! The command line of the benchmark.
//!
//! Invariant: an invalid command line is reported before any process starts.

use std::path::PathBuf;

use clap::Parser;

/// Measure balance and other proxies with the same workload in the same run.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", max_term_width = 100)]
#[command(after_help = crate::scenario::help())]
pub(crate) struct Options {
    /// What to measure: scenarios or single cases, see below [default: all]
    #[arg(value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<String>,

    /// What to compare balance with. A run always includes `direct` (no proxy) and balance on each
    /// datapath. Name datapaths to measure only these: balance-relay, balance-sockmap,
    /// balance-splice
    #[arg(
        long,
        alias = "peers",
        value_name = "PROXY,...",
        value_delimiter = ',',
        default_value = "direct,haproxy,haproxy-splice,nginx,pen"
    )]
    pub(crate) proxies: Vec<String>,

    /// Another proxy and the command that runs it in the foreground. A word with {backend} is
    /// repeated for each backend; {listen} is HOST:PORT, {host} and {port} are its parts
    #[arg(long, alias = "peer-cmd", value_name = "NAME='COMMAND {listen} {backend}'")]
    pub(crate) proxy_cmd: Vec<String>,

    /// Seconds of each measurement, after a warm-up
    #[arg(long, value_name = "N", default_value = "3",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) secs: u64,

    /// Number of measurements of each proxy; each round measures all proxies one after the other
    #[arg(long, value_name = "N", default_value = "3",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,

    /// Directory for results.json and the charts
    #[arg(long, value_name = "DIR",
          default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    pub(crate) out: PathBuf,

    /// Print what changed since the results in this file
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
    fn the_definition_of_the_options_is_valid() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }

    #[test]
    fn options_may_follow_scenarios() {
        let options = Options::parse_from(["bench", "rr", "conn", "--proxies", "nginx,pen"]);
        assert_eq!(options.scenarios, ["rr", "conn"]);
        assert_eq!(options.proxies, ["nginx", "pen"]);
        let options = Options::parse_from(["bench", "--peers", "pen"]);
        assert_eq!(options.proxies, ["pen"]);
    }
}
