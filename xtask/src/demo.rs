//! `demo`: shows balance at work on a fresh clone: round robin, failover and the next group. The
//! demo uses only this machine.
//!
//! Invariant: the demo prints only what has happened. Any unexpected result ends the demo with an
//! error.

mod balance;
mod server;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{balance::Balance, server::Server};
use crate::{build, exec, root::Root};

/// Time after which a connect, a read or a log line counts as failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// See balance at work with three servers, one of them in a second group.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Runs the task.
pub(crate) fn run(Options {}: &Options) -> Result<()> {
    let started = Instant::now();
    let program = build::quick_program()?;
    eprintln!("balance is built after {} s", started.elapsed().as_secs());

    let [mut a, mut b, c] = [Server::start('A')?, Server::start('B')?, Server::start('C')?];
    let port = free_port()?;
    let root = Root::find_silently();
    let mut command = root.command(program);
    // The clients send little data, so the kernel takes over at once.
    command.args(["-f", "--offload-after", "0", &port.to_string()]);
    command.args([a.address.to_string(), b.address.to_string()]);
    command.args(["!", &c.address.to_string()]);

    println!("\nThree servers, A, B and C, listen on this machine. Now balance starts:\n");
    println!("    {}\n", exec::line(&command));
    println!(
        "balance listens on port {port}. A and B are the first group. C, after the `!`, is the second group,"
    );
    println!(
        "which is used when the first group fails. Lines with a bar are the log of balance:\n"
    );
    let balance = Balance::start(&mut command, root)?;
    let ready = balance.wait_for("ready")?;

    println!("\nAll servers are up: A and B are used in turn.\n");
    visit_all(port, "ABABAB")?;
    a.stop()?;
    println!("\nServer A has stopped: B answers all clients.\n");
    visit_all(port, "BBB")?;
    b.stop()?;
    println!("\nServer B has stopped as well: C of the second group answers.\n");
    visit_all(port, "CCC")?;

    println!("\nbalance gets SIGTERM, stops and logs its totals:\n");
    balance.stop()?;
    println!("\nThe servers have counted:\n");
    for server in [a, b, c] {
        println!(
            "    server {}: {} clients, {} bytes",
            server.name,
            server.clients(),
            server.bytes()
        );
    }
    println!("\n{}", datapath(&ready)?);
    Ok(())
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// Connects one client after the other. Each client must reach the server with the given name.
fn visit_all(port: u16, servers: &str) -> Result<()> {
    for server in servers.chars() {
        visit(port, server).with_context(|| format!("a client expected server {server}"))?;
    }
    Ok(())
}

fn visit(port: u16, server: char) -> Result<()> {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).context("cannot connect")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut receive = |expected: String| {
        let mut received = String::new();
        lines.read_line(&mut received).context("no answer")?;
        ensure!(received == expected, "received {received:?} instead of {expected:?}");
        Ok(received)
    };
    let greeting = receive(server::greeting(server))?;
    let question = "hello from a client\r\n";
    stream.write_all(question.as_bytes()).context("cannot send")?;
    let answer = receive(server::answer(server, question.len()))?;
    println!("    client -> {server}    {}, {}", greeting.trim_end(), answer.trim_end());
    Ok(())
}

/// Explains the datapath that the "ready" log line names.
fn datapath(ready: &str) -> Result<&'static str> {
    let datapath = ready.split_whitespace().find_map(|word| word.strip_prefix("datapath="));
    Ok(match datapath {
        Some("splice") => {
            "The datapath was `splice`: the kernel rewrites packets of one TCP connection into packets\n\
             of the other. These connections were too short for that and were relayed."
        }
        Some("sockmap") => {
            "The datapath was `sockmap`: the bytes went from socket to socket inside the kernel."
        }
        Some("relay") => {
            "The datapath was `relay`: the bytes went through user space. The log says why at `ready`.\n\
             As root, on a suitable kernel, the bytes stay inside the kernel."
        }
        _ => bail!("the log line names no datapath: {ready}"),
    })
}
