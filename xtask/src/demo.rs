//! `demo`: balance at work, for somebody who has just cloned it: round robin, failover and the
//! next group, on this machine alone.
//!
//! Invariant: what is printed has happened; whatever happens otherwise than announced ends the
//! demo with an error.

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

/// See balance at work: three servers, one of them a stand-in.
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
    // The clients say little: the kernel is to take over at once.
    command.args(["-f", "--offload-after", "0", &port.to_string()]);
    command.args([a.address.to_string(), b.address.to_string()]);
    command.args(["!", &c.address.to_string()]);

    println!("\nThree servers, A, B and C, are up on this machine. Now balance starts:\n");
    println!("    {}\n", exec::line(&command));
    println!(
        "It listens on port {port}. A and B are its first group; C, behind the `!`, is the next,"
    );
    println!("for when nobody in the first answers. Lines with a bar are balance's own log:\n");
    let balance = Balance::start(&mut command, root)?;
    let ready = balance.says("ready")?;

    println!("\nAll servers are up: A and B take turns.\n");
    visit_all(port, "ABABAB")?;
    a.stop()?;
    println!("\nServer A has stopped: B answers everybody.\n");
    visit_all(port, "BBB")?;
    b.stop()?;
    println!("\nServer B has stopped as well: C stands in.\n");
    visit_all(port, "CCC")?;

    println!("\nbalance is asked to end (SIGTERM), and gives its totals:\n");
    balance.stop()?;
    println!("\nThe servers counted:\n");
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
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("there is no free port")?;
    Ok(listener.local_addr()?.port())
}

/// One client after the other, each to be answered by the server named.
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
    let mut hears = |expected: String| {
        let mut heard = String::new();
        lines.read_line(&mut heard).context("no answer")?;
        ensure!(heard == expected, "heard {heard:?} instead of {expected:?}");
        Ok(heard)
    };
    let greeting = hears(server::greeting(server))?;
    let question = "hello from a client\r\n";
    stream.write_all(question.as_bytes()).context("cannot send")?;
    let answer = hears(server::answer(server, question.len()))?;
    println!("    client -> {server}    {}, {}", greeting.trim_end(), answer.trim_end());
    Ok(())
}

/// Explains who moved the bytes, from the line that told that balance is ready.
fn datapath(ready: &str) -> Result<String> {
    let datapath = ready.split_whitespace().find_map(|word| word.strip_prefix("datapath="));
    Ok(match datapath {
        Some("splice") => "The datapath was `splice`: a connection that goes on is carried by its peers' own packets, which balance rewrites; these short ones were relayed.".into(),
        Some("sockmap") => "The datapath was `sockmap`: the bytes went from socket to socket inside the kernel.".into(),
        Some("relay") => "The datapath was `relay`: the bytes went through balance itself, and its log says why at\n\
                          `ready`. As root, on a kernel that can, they stay inside the kernel."
            .into(),
        _ => bail!("balance does not tell which datapath it uses: {ready}"),
    })
}
