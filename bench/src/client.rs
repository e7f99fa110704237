//! The client process: puts its load on a peer, counts, and answers.
//!
//! Invariant: one thread makes the load, and nothing is measured before all of it is there.

mod bulk;
mod connection;
mod connections;
mod plan;
mod window;

use anyhow::{Context as _, Result};

use crate::messages::{ClientConfig, Load};

/// Does the job; one that holds connections has no end.
pub(crate) fn run(job: &str) -> Result<()> {
    let job: ClientConfig = serde_json::from_str(job).context("cannot read the client's job")?;
    match job.load {
        Load::Bulk { streams, direction } => bulk::run(&job, streams, direction),
        Load::Stall { receivers } => bulk::stall(&job, receivers),
        _ => connections::run(&job, &plan::Plan::of(&job.load)),
    }
}
