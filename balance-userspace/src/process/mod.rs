//! One process: its workers, and what its instances share.
//!
//! Invariant: an instance ends without an effect on the other instances. A process without a
//! supervisor ends with its last instance.

pub(crate) mod connection_limits;
pub(crate) mod instances;
pub(crate) mod lifecycle;
pub mod protocol;
mod requests;
pub mod start;
mod status;
pub mod supervision;
mod takeover;
mod worker;
mod workers;
