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
pub(crate) fn run(job: &str) -> Result<()> {
    let job: ClientConfig =
        serde_json::from_str(job).context("cannot read the client's configuration")?;
    match job.load {
        Load::Bulk { streams, direction } => bulk::run(&job, streams, direction),
        Load::Stall { receivers } => bulk::stall(&job, receivers),
        _ => connections::run(&job, &plan::Plan::of(&job.load)),
    }
}
