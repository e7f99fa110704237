//! Sockets: bind, listen, accept, connect, and wait on io_uring or epoll.
//!
//! Invariant: apart from [`resolve`], which turns the operands of the command line into addresses,
//! no file here knows channels, datapaths or commands.

pub(crate) mod accept;
pub(crate) mod connect;
pub(crate) mod epoll;
pub mod inherited;
pub(crate) mod listener;
pub(crate) mod loops;
pub(crate) mod ready;
pub mod resolve;
pub(crate) mod ring;
pub(crate) mod stream;
