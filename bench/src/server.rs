//! The server process: listens and serves until it is killed.
//!
//! Invariant: one thread serves. The only other thread reports the byte counters.

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

/// Length of the listen queue.
const BACKLOG: i32 = 4096;

/// Runs the server with its JSON configuration. Never returns without an error.
pub(crate) fn run(config: &str) -> Result<()> {
    let config: ServerConfig =
        serde_json::from_str(config).context("cannot read the server's configuration")?;
    let listener = listen(config.address, config.resets)
        .with_context(|| format!("server cannot listen on {}", config.address))?;
    let counters =
        ByteCounters::start(&config.counters).context("cannot listen for counter requests")?;
    send_report(&ServerReady)?;
    match config.service {
        Service::Bulk(direction) => bulk::serve(listener, direction, &counters),
        service => requests::serve(listener, service),
    }
}

fn listen(address: SocketAddr, resets: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted connections inherit these options, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    if resets {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into()))
}
