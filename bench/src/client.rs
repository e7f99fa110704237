//! The client process: generates the load, counts and reports.
//!
//! Invariant: one thread generates the load, and measuring starts when the whole load is up.

mod bulk;
mod connection;
mod connections;
mod plan;
mod window;

use anyhow::{Context as _, Result};

use crate::messages::{ClientConfig, Load};

/// Runs the client with its JSON configuration. A client that holds connections never returns.
pub(crate) fn run(config: &str) -> Result<()> {
    let config: ClientConfig =
        serde_json::from_str(config).context("cannot read the client's configuration")?;
    match config.load {
        Load::Bulk { streams, direction } => bulk::run(&config, streams, direction),
        Load::Stall { receivers } => bulk::stall(&config, receivers),
        _ => connections::run(&config, &plan::Plan::of(&config.load)),
    }
}
