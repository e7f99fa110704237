//! Sockets: how they are opened, accepted, connected and waited for, on io_uring.
//!
//! Invariant: nothing here knows of channels, datapaths or commands.

pub(crate) mod accept;
pub(crate) mod connect;
pub mod inherited;
pub(crate) mod listener;
pub(crate) mod loops;
pub(crate) mod ready;
pub mod resolve;
pub(crate) mod ring;
pub(crate) mod stream;
