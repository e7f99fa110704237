//! Short-lived connections leak nothing.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use tests::{
    Backend, Builder, Datapath, Process, connect, end_of, eventually, has_tcx, kernel_entries,
    note, on_each_datapath, reset,
};

/// Concurrent connections.
const CONCURRENT: usize = 50;
const CONNECTIONS: usize = 5000;
/// Tolerated growth of resident memory: allocators keep freed pages.
const MEMORY: u64 = 8 << 20;
/// How long the program may take to release the last connections, and idle kernel threads to exit.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(40);

fn five_thousand_connections_leave_nothing_behind(datapath: Datapath) {
    let server = Backend::echo("hello");
    let balance = Builder::new(datapath).quiet().channel(server.address()).start();
    let process = balance.process();
    let address = balance.address();

    // What is created once and kept exists after the first round. Descriptors must return to the
    // current number; memory and threads to their numbers after the first round. The first spliced
    // connection adds one descriptor: the link of the filter on loopback.
    let place = usize::from(datapath == Datapath::Splice && has_tcx());
    let descriptors = process.descriptors() + place;
    churn(address, CONNECTIONS / 10);
    settle(process, descriptors, datapath);
    let (resident, threads) = (process.resident(), process.threads());

    churn(address, CONNECTIONS);
    settle(process, descriptors, datapath);
    eventually(SETTLE_TIMEOUT, &format!("back at {threads} threads"), || {
        let now = process.threads();
        at_most(now, threads)
    });
    let grown = process.resident().saturating_sub(resident);
    note(&format!("{datapath:?}: {resident} bytes resident, {grown} more after"));
    assert!(grown <= MEMORY, "{grown} bytes more than {resident}");

    let stopped = balance.stop();
    let all = (CONNECTIONS + CONNECTIONS / 10) as u64;
    // A client that resets before the accept may not count.
    let sure = all - all / 5;
    assert!((sure..=all).contains(&stopped.connections), "{stopped:?}");
    assert_eq!(stopped.unserved, 0);
}

fn open_connections_have_two_map_entries_each_on_sockmap(datapath: Datapath) {
    let server = Backend::echo("x");
    let balance = Builder::new(datapath).channel(server.address()).start();
    let process = balance.process();
    let mut clients: Vec<_> = (0..10).map(|_| connect(balance.address())).collect();
    for client in &mut clients {
        client.read_exact(&mut [0]).expect("the greeting");
    }
    if datapath == Datapath::Sockmap {
        expect_entries(process, datapath, 20);
        clients.truncate(3);
        expect_entries(process, datapath, 6);
        clients.clear();
        expect_entries(process, datapath, 0);
    }
    drop(clients);
    balance.assert_all_on_its_datapath(10);
}

on_each_datapath!(
    five_thousand_connections_leave_nothing_behind,
    open_connections_have_two_map_entries_each_on_sockmap,
);

/// Opens and closes `count` connections in every way.
fn churn(address: SocketAddr, count: usize) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CONCURRENT {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    visit(connect(address), number);
                }
            });
        }
    });
}

fn visit(mut client: TcpStream, number: usize) {
    match number % 5 {
        // Closes without sending.
        0 => drop(client),
        1 => reset(client),
        // Resets after a transfer.
        2 => {
            transfer(&mut client);
            reset(client);
        }
        // Half-closes after a transfer.
        3 => {
            transfer(&mut client);
            client.shutdown(Shutdown::Write).expect("shutdown");
            end_of(&mut client);
        }
        // Closes after a transfer.
        _ => transfer(&mut client),
    }
}

fn transfer(client: &mut TcpStream) {
    let mut answer = [0; 105];
    client.write_all(&[b'.'; 100]).expect("writing");
    client.read_exact(&mut answer).expect("the echo");
    assert!(answer.starts_with(b"hello."));
}

fn settle(process: Process, descriptors: usize, datapath: Datapath) {
    eventually(SETTLE_TIMEOUT, &format!("back at {descriptors} descriptors"), || {
        at_most(process.descriptors(), descriptors)
    });
    if datapath != Datapath::Relay {
        expect_entries(process, datapath, 0);
    }
}

fn expect_entries(process: Process, datapath: Datapath, entries: usize) {
    eventually(SETTLE_TIMEOUT, &format!("{entries} map entries"), || {
        match kernel_entries(process.0, datapath)? {
            now if now == entries => Ok(()),
            now => Err(format!("{now}")),
        }
    });
}

fn at_most<N: PartialOrd + std::fmt::Display>(now: N, limit: N) -> Result<(), String> {
    match now <= limit {
        true => Ok(()),
        false => Err(now.to_string()),
    }
}
