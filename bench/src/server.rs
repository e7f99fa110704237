//! The server process: listens, serves as its job says until it is killed.
//!
//! Invariant: one thread serves; the only other one answers questions about bytes.

mod bulk;
mod byte_counters;
mod requests;
mod responder;
mod smtp;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

use self::byte_counters::ByteCounters;
use crate::messages::{ServerConfig, ServerReady, Service, send_report};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Does the job, which has no end.
pub(crate) fn run(job: &str) -> Result<()> {
    let job: ServerConfig = serde_json::from_str(job).context("cannot read the server's job")?;
    let listener = listen(job.address, job.resets)
        .with_context(|| format!("server cannot listen on {}", job.address))?;
    let counters =
        ByteCounters::start(&job.counters).context("cannot listen for counter requests")?;
    send_report(&ServerReady)?;
    match job.service {
        Service::Bulk(direction) => bulk::serve(listener, direction, &counters),
        service => requests::serve(listener, service),
    }
}

fn listen(address: SocketAddr, resets: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted connections inherit these, which saves a call for each.
    socket.set_tcp_nodelay(true)?;
    if resets {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into()))
}
