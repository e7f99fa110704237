//! The methods by which a group picks a channel.
//!
//! Invariant: a new group uses round robin.

use serde::{Deserialize, Serialize};

/// The method by which a group picks a channel for a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Channels in turn (`!`).
    #[default]
    RoundRobin,
    /// By a hash of the client's address (`%`).
    Hash,
}
