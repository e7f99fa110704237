//! More clients than resources allow: open connections are served, new clients wait, and the
//! program does not spin.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tempfile::NamedTempFile;
use tests::{
    Backend, Balance, Builder, ControlGroup, Datapath, End, Family, FillerEntries, KillOnDrop,
    Link, Namespace, Network, Pattern, Process, RunDir, TIMEOUT, Topology, WHOLE_CHUNKS, both_ways,
    connect, end_of, eventually, exchange, finish, kernel_entries, kernel_works, note,
    on_each_datapath, receive_exactly, run, send, skip,
};

fn with_few_descriptors_some_clients_wait(datapath: Datapath) {
    let (server, dir) = (Backend::echo("x"), RunDir::new());
    let balance = dir
        .use_in(Builder::new(datapath))
        .quiet()
        .option(&["--workers", "2"])
        .descriptors(160)
        .channel(server.address())
        .start();
    let mut open = [served(connect(balance.address()))];
    settle(&dir, &balance, datapath, &mut open);
    let mut waiting = overload(&balance, &server, datapath);
    expect_service_under_pressure(&open, &server);

    // Each client that closes frees a permit for a waiting one.
    let last = waiting.pop().expect("some clients");
    drop(waiting);
    let [open] = open;
    recover(&balance, vec![open, served(last)]);
    balance.stop();
}

fn without_descriptors_open_connections_are_served(datapath: Datapath) {
    let (server, dir) = (Backend::echo("x"), RunDir::new());
    let balance = dir
        .use_in(Builder::new(datapath))
        .quiet()
        .option(&["--workers", "2"])
        .channel(server.address())
        .start();
    let mut open = [served(connect(balance.address()))];
    settle(&dir, &balance, datapath, &mut open);
    // Lowered at run time, so the program's own limit is too high.
    let limit = balance.process().descriptors() + 20;
    balance.process().limit_descriptors(limit);
    let mut waiting = overload(&balance, &server, datapath);
    expect_service_under_pressure(&open, &server);
    let turned_away = waiting.iter_mut().filter_map(is_closed).count();
    assert_eq!(turned_away, 0, "clients were closed because no descriptor was free");
    drop(waiting);
    // Clients that have already closed are still in the accept queue.
    eventually(TIMEOUT, "a new client is served", || {
        match connect(balance.address()).read(&mut [0]) {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    settle(&dir, &balance, datapath, &mut open);
    drop(open);
    balance.stop();
}

/// Bytes each way on each open connection under pressure.
const BULK: u64 = 8 << 20;

/// Asserts that open connections are served while some clients wait.
fn expect_service_under_pressure(open: &[TcpStream], server: &Backend) {
    echo_bulk(open);
    assert!(server.accepted() < CLIENTS, "no client waits");
}

fn clients_above_the_limit_wait(datapath: Datapath) {
    let server = Backend::echo("x");
    let balance = Builder::new(datapath)
        .option(&["--max-connections", "2"])
        .channel(server.address())
        .start();
    let first = served(connect(balance.address()));
    let mut second = served(connect(balance.address()));
    let mut third = connect(balance.address());
    expect_wait(&mut third);
    echo(&mut second);
    drop(first);
    let mut third = served(third);
    let mut fourth = connect(balance.address());
    expect_wait(&mut fourth);
    echo(&mut second);
    echo(&mut third);
    drop((second, third));
    drop(served(fourth));
    assert_eq!(balance.stop().connections, 4);
}

/// Map entries kept for late packets of other hosts are evicted. Entries of open connections are
/// not.
fn a_full_map_takes_the_next_connection_once_one_has_ended(datapath: Datapath) {
    let Some(network) = Network::new(Topology::Apart, Family::V4) else { return };
    let link = Link::across(network, Builder::new(datapath).option(&["--max-connections", "2"]));
    let (mut client, mut server) = link.settled_pair();
    for _ in 0..10 {
        let pair = link.settled_pair();
        exchange(&mut client, &mut server);
        end(pair);
    }
    exchange(&mut client, &mut server);
    drop((client, server));
    link.balance.assert_all_handed_over(11);
    assert_eq!(link.balance.stop().broken, 0);
}

mod a_full_map_leaves_new_connections_to_the_next_datapath {
    use super::{Datapath, kernel_works, uses_the_next_datapath};

    #[test]
    fn on_sockmap() {
        if kernel_works() {
            uses_the_next_datapath(Datapath::Sockmap, "relay", "is relayed");
        }
    }

    #[test]
    fn on_splice() {
        if kernel_works() {
            uses_the_next_datapath(Datapath::Splice, "sockmap", "is not spliced");
        }
    }
}

/// Commands are answered for every descriptor limit and any number of clients.
fn at_the_connection_limit_commands_are_answered(datapath: Datapath) {
    for limit in [64, 128, 256, 512, 1024] {
        let (server, dir) = (Backend::echo("x"), RunDir::new());
        let builder = dir.use_in(Builder::new(datapath)).quiet().option(&["--workers", "2"]);
        let balance = builder.descriptors(limit).channel(server.address()).start();
        let clients: Vec<_> = (0..limit / 2 + 20).map(|_| connect(balance.address())).collect();
        balance.wait_for("connection limit reached, new clients wait");
        let mut served: Vec<_> = clients.into_iter().filter_map(greeted).collect();
        served.iter_mut().for_each(echo);
        let stats = || dir.ask(balance.address(), &serde_json::json!("stats"))["stats"].take();
        assert_eq!(dir.show(balance.address()).len(), 1, "{limit}");
        let open = stats()["open"].as_u64().expect("a number");
        note(&format!("{datapath:?}: {open} connections with {limit} descriptors"));
        assert!(open >= 1 && open >= (limit / 2).saturating_sub(100), "{limit}: {open}");
        // A waiting `drain` has its own descriptor.
        let mut waiting = dir.command(balance.address(), "drain 0");
        let mut waiting = KillOnDrop(waiting.stdout(Stdio::null()).spawn().expect("a drain"));
        eventually(TIMEOUT, "the channel is disabled", || {
            match dir.show(balance.address())[0].enabled {
                false => Ok(()),
                true => Err("enabled".to_owned()),
            }
        });
        dir.run_ok(balance.address(), "enable 0");
        served.iter_mut().for_each(echo);
        let log = balance.log();
        assert!(!log.iter().any(|line| line.contains("os error 24")), "{limit}: {log:#?}");
        drop(served);
        finish(&mut waiting.0, TIMEOUT, "the drain");
        balance.stop();
    }
}

/// The client, if the echo server has greeted it by now or greets it soon.
fn greeted(mut client: TcpStream) -> Option<TcpStream> {
    client.set_read_timeout(Some(Duration::from_millis(20))).expect("SO_RCVTIMEO");
    client.read_exact(&mut [0]).ok()?;
    client.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    Some(client)
}

/// Bytes each way in one check of a connection.
const SOME: u64 = 1 << 20;

/// A connection needs two entries in the map in which its datapath is looked up. First there is
/// room for none, then for one.
fn uses_the_next_datapath(datapath: Datapath, next: &str, is_wait_message: &str) {
    let dir = RunDir::new();
    let builder = dir.use_in(Builder::new(datapath)).option(&["--max-connections", "8"]);
    let link = Link::with(builder, (Ipv4Addr::LOCALHOST, 0).into());
    let process = link.balance.process().0;
    let carriers = || dir.carriers(link.balance.address());
    let (client, server) = link.settled_pair();
    let mut filler = FillerEntries::fill(process, datapath).expect("the datapath's map");
    assert_eq!(filler.count(), 2 * 8 - 2, "filler entries, with two entries of a connection");
    for _ in 0..2 {
        let other = link.settled_pair();
        both_ways(&client, &server, (SOME, SOME), WHOLE_CHUNKS);
        both_ways(&other.0, &other.1, (SOME, SOME), WHOLE_CHUNKS);
        let mut names = carriers();
        names.sort();
        let mut expected = [datapath.name(), next];
        expected.sort_unstable();
        assert_eq!(names, expected);
        end(other);
        filler.take_one_out();
    }
    link.balance.wait_for(&format!("BPF map insert failed, connection {is_wait_message}"));
    drop(filler);
    let other = link.settled_pair();
    both_ways(&other.0, &other.1, (SOME, SOME), WHOLE_CHUNKS);
    assert_eq!(carriers(), [datapath.name(); 2]);
    end(other);
    both_ways(&client, &server, (SOME, SOME), WHOLE_CHUNKS);
    end((client, server));
    let sessions = link.balance.sessions(4);
    let names: Vec<_> = sessions.iter().map(|session| session.datapath.as_str()).collect();
    assert_eq!(names, [next, next, datapath.name(), datapath.name()]);
    assert!(sessions[2..].iter().all(|session| session.offloaded > 0), "{sessions:?}");
    assert_eq!(kernel_entries(process, datapath), Ok(0));
    let stopped = link.balance.stop();
    assert_eq!((stopped.connections, stopped.broken), (4, 0));
}

/// Ends a connection cleanly, the server first.
fn end((mut client, mut server): (TcpStream, TcpStream)) {
    server.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(end_of(&mut client), End::Clean);
    drop(client);
    assert_eq!(end_of(&mut server), End::Clean);
}

/// Number of local ports in a network with few.
const PORTS: u16 = 12;

fn without_a_local_port_a_client_waits_and_the_channel_stays_enabled(datapath: Datapath) {
    out_of_ports(datapath, Ipv4Addr::LOCALHOST.into(), &[]);
}

fn without_a_local_port_over_ipv6_a_client_waits(datapath: Datapath) {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return skip("no IPv6 here");
    }
    out_of_ports(datapath, Ipv6Addr::LOCALHOST.into(), &[]);
}

fn without_a_local_port_of_the_source_address_a_client_waits(datapath: Datapath) {
    // The kernel would not choose this address by itself.
    out_of_ports(datapath, Ipv4Addr::LOCALHOST.into(), &["-B", "127.0.0.2"]);
}

fn out_of_ports(datapath: Datapath, ip: IpAddr, options: &[&str]) {
    let host = match Namespace::new() {
        Ok(host) => host,
        Err(error) => return skip(&format!("no network of its own: {error}")),
    };
    let server = host.enter(|| Backend::echo_at((ip, 0).into(), "x"));
    host.enter(|| {
        let dir = RunDir::new();
        let builder = dir.use_in(Builder::new(datapath)).option(&["-a", "-t", "60"]);
        let listen = (ip, 30000).into();
        let balance = builder.option(options).listen(listen).channel(server.address()).start();
        // Set after the server and the self-test have taken their ports.
        host.set("ipv4/ip_local_port_range", &format!("20000 {}", 20000 + PORTS - 1));
        let client = |i: u16| client_from(ip, 40000 + i, listen);
        let mut open: Vec<_> = (0..PORTS).map(|i| served(client(i))).collect();
        settle(&dir, &balance, datapath, &mut open);
        let mut waiting = client(PORTS);
        balance.wait_for("cannot connect, retrying");
        let rows = dir.show(listen);
        assert!(rows[0].enabled && rows[0].current == u64::from(PORTS) + 1, "{rows:?}");
        echo_bulk(&open);
        drop(open.pop());
        let mut byte = [0];
        waiting.read_exact(&mut byte).expect("served once a port is free");
        open.push(waiting);
        settle(&dir, &balance, datapath, &mut open);
        drop(open);
        balance.stop();
    });
}

/// Another process holds every local port with connections to one server. Each port still reaches
/// another server.
fn with_all_local_ports_taken_the_program_starts_and_serves(datapath: Datapath) {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let host = match Namespace::new() {
            Ok(host) => host,
            Err(error) => return skip(&format!("no network of its own: {error}")),
        };
        host.set("ipv4/ip_local_port_range", "46000 46031");
        host.enter(|| {
            let bind = |port| TcpListener::bind((ip, port)).expect("a port outside of the range");
            let elsewhere = bind(9);
            let to = elsewhere.local_addr().expect("getsockname");
            let taken: Vec<_> = iter::from_fn(|| TcpStream::connect(to).ok()).collect();
            assert_eq!(taken.len(), 32);
            TcpListener::bind((ip, 0)).expect_err("no port is left to choose from");
            let server = bind(7);
            let address = server.local_addr().expect("getsockname");
            let options = ["-B", &ip.to_string()];
            let builder = Builder::new(datapath).option(&options).listen((ip, 25).into());
            let balance = builder.channel(address).start();
            let client = connect(balance.address());
            let (served, from) = server.accept().expect("a connection");
            assert_eq!(from.ip(), ip);
            both_ways(&client, &served, (1 << 20, 1 << 20), WHOLE_CHUNKS);
        });
    }
}

fn without_a_local_port_to_one_server_a_client_goes_to_the_next(datapath: Datapath) {
    let host = match Namespace::new() {
        Ok(host) => host,
        Err(error) => return skip(&format!("no network of its own: {error}")),
    };
    let ip = Ipv4Addr::LOCALHOST.into();
    let server = |name| host.enter(|| Backend::echo_at((ip, 0).into(), name));
    let [first, companion, last] = ["1", "2", "3"].map(server);
    host.enter(|| {
        let dir = RunDir::new();
        let listen = (ip, 30000).into();
        let balance = dir
            .use_in(Builder::new(datapath))
            .option(&["-a", "-t", "60", "-B", "127.0.0.2"])
            .listen(listen)
            .channel(first.address())
            .operand(&format!("{}:1", companion.address()))
            .operand("!")
            .channel(last.address())
            .start();
        host.set("ipv4/ip_local_port_range", &format!("20000 {}", 20000 + PORTS - 1));
        let mut ports = 40000..;
        let mut client = || client_from(ip, ports.next().expect("a port"), listen);
        let begun = Instant::now();
        let mut open = Vec::new();
        for _ in 0..2 * PORTS + 1 {
            let mut client = client();
            let mut name = [0];
            client.read_exact(&mut name).expect("served");
            open.push((name[0], client));
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        for (name, count) in [(b'1', PORTS), (b'2', 1), (b'3', PORTS)] {
            let served = open.iter().filter(|(server, _)| *server == name).count();
            assert_eq!(served, usize::from(count), "server {}", char::from(name));
        }
        // Only now must a client wait, for a port towards either server.
        for server in [b'3', b'1'] {
            let mut waiting = client();
            balance.wait_for("cannot connect, retrying");
            let i = open.iter().position(|(name, _)| *name == server).expect("a connection");
            drop(open.swap_remove(i));
            let mut name = [0];
            waiting.read_exact(&mut name).expect("served once a port is free");
            assert_eq!(name[0], server);
            open.push((server, waiting));
        }
        let rows = dir.show(listen);
        let totals: Vec<_> = rows.iter().map(|row| (row.enabled, row.current)).collect();
        let few = u64::from(PORTS);
        assert_eq!(totals, [(true, few), (true, 1), (true, few)], "{rows:?}");
        drop(open);
        balance.stop();
    });
}

/// A client on a port outside of the small range.
fn client_from(ip: IpAddr, port: u16, listen: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&SocketAddr::from((ip, port)).into()).expect("bind");
    socket.connect(&listen.into()).expect("connect");
    socket.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    TcpStream::from(socket)
}

/// Memory limit of the program and its companion process.
const MEMORY_LIMIT: u64 = 64 << 20;

/// Memory in use when it is nearly exhausted.
const MEMORY_USED: u64 = 58 << 20;

/// Connections that transfer data when memory is nearly exhausted.
const MOVING: usize = 4;

fn short_of_memory_open_connections_are_served(datapath: Datapath) {
    let group = match ControlGroup::new(MEMORY_LIMIT) {
        Ok(group) => group,
        Err(error) => return skip(&format!("no control group with a limit of memory: {error}")),
    };
    let (server, dir) = (Backend::echo("x"), RunDir::new());
    let builder = dir.use_in(Builder::new(datapath)).quiet().control_group(&group);
    let balance = builder.channel(server.address()).start();
    let mut open: Vec<_> = (0..20).map(|_| served(connect(balance.address()))).collect();
    settle(&dir, &balance, datapath, &mut open);
    let used = group.used();
    note(&format!("{datapath:?}: {used} bytes used by {} connections", open.len()));
    let companion = hold(&group, MEMORY_USED - used);
    let mut waiting = connect(balance.address());
    balance.wait_for("control group memory nearly exhausted, new clients wait");
    let mut more: Vec<_> = (0..CLIENTS).map(|_| connect(balance.address())).collect();
    echo_bulk(&open[..MOVING]);
    settle(&dir, &balance, datapath, &mut open);
    expect_wait(&mut waiting);
    note(&format!("{datapath:?}: {} bytes used in the end", group.used()));
    drop(companion);
    // Nothing triggers this but the freed memory.
    for client in iter::once(&mut waiting).chain(&mut more) {
        client.read_exact(&mut [0]).expect("served once memory is free");
    }
    open.iter_mut().for_each(echo);
    drop((open, waiting, more));
    assert_eq!(balance.stop().connections, 21 + CLIENTS as u64);
    assert_eq!(group.kills(), 0);
}

/// Clients that do not fit the memory of a control group wait, and the OOM killer kills no process.
#[test]
fn clients_that_do_not_fit_the_memory_wait() {
    const MEMORY: u64 = 20 << 20;
    let group = match ControlGroup::new(MEMORY) {
        Ok(group) => group,
        Err(error) => return skip(&format!("no control group with a limit of memory: {error}")),
    };
    let server = Backend::echo("x");
    let builder = Builder::new(Datapath::Relay).quiet().control_group(&group);
    let balance = builder.channel(server.address()).start();
    let mut crowd: Vec<_> = (0..3000).map(|_| connect(balance.address())).collect();
    let is_wait_message = |message: &str| message.ends_with("new clients wait");
    eventually(TIMEOUT, "the program logs that clients wait", || {
        let messages: Vec<_> = balance.events().into_iter().map(|e| e.message).collect();
        if messages.iter().any(|message| is_wait_message(message)) {
            Ok(())
        } else {
            Err(messages.join("; "))
        }
    });
    assert!(server.accepted() < crowd.len(), "no client had to wait");
    let mut last = crowd.pop().expect("a crowd");
    let first = &mut crowd[0];
    first.read_exact(&mut [0]).expect("the greeting of the first");
    echo(first);
    drop(crowd);
    last.read_exact(&mut [0]).expect("the greeting of the last");
    echo(&mut last);
    drop(last);
    assert_eq!(group.kills(), 0);
    balance.stop();
}

/// Charges `bytes` of memory to a control group while the file exists: a file in shared memory
/// counts for the group that wrote it.
fn hold(group: &ControlGroup, bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new_in("/dev/shm").expect("a file in memory");
    let mut command = Command::new("sh");
    command.args(["-e", "-c", r#"echo $$ > "$1"; head -c "$2" /dev/zero > "$3""#, "sh"]);
    command.arg(group.processes()).arg(bytes.to_string()).arg(file.path());
    let outcome = run(&mut command, TIMEOUT);
    assert!(outcome.status.success(), "{command:?}: {outcome:?}");
    file
}

on_each_datapath!(
    at_the_connection_limit_commands_are_answered,
    with_few_descriptors_some_clients_wait,
    without_descriptors_open_connections_are_served,
    clients_above_the_limit_wait,
    a_full_map_takes_the_next_connection_once_one_has_ended,
    without_a_local_port_a_client_waits_and_the_channel_stays_enabled,
    without_a_local_port_over_ipv6_a_client_waits,
    without_a_local_port_of_the_source_address_a_client_waits,
    with_all_local_ports_taken_the_program_starts_and_serves,
    without_a_local_port_to_one_server_a_client_goes_to_the_next,
    short_of_memory_open_connections_are_served,
);

/// Clients that connect at the same time: more than the program can serve.
const CLIENTS: usize = 200;

/// Connects the clients and asserts that the program uses little CPU time and logs little. Returns
/// the clients, some of them served.
fn overload(balance: &Balance, server: &Backend, datapath: Datapath) -> Vec<TcpStream> {
    let before = balance.log().len();
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(balance.address())).collect();
    eventually(Duration::from_secs(20), "the program logs the limit", || {
        match balance.log().len() {
            lines if lines > before => Ok(()),
            lines => Err(format!("{lines} lines, {} served", server.accepted())),
        }
    });
    let (interval, used) = busy(balance.process(), Duration::from_secs(2));
    let share = used.as_secs_f64() / interval.as_secs_f64();
    note(&format!(
        "{datapath:?}: {} of {CLIENTS} served, {share:.2} of a processor used",
        server.accepted()
    ));
    assert!(share < 0.5, "{share:.2} of a processor used while clients wait");
    assert!(server.accepted() < CLIENTS, "no client had to wait");
    let lines = balance.log().split_off(before);
    assert!(lines.len() < 10, "{lines:#?}");
    clients
}

/// Asserts that open connections are served, and new clients as well.
fn recover(balance: &Balance, mut open: Vec<TcpStream>) {
    for client in &mut open {
        echo(client);
    }
    echo(&mut served(connect(balance.address())));
    for client in &mut open {
        echo(client);
    }
}

/// Waits until the echo server has greeted the client.
fn served(mut client: TcpStream) -> TcpStream {
    client.read_exact(&mut [0]).expect("the greeting");
    client
}

/// Uses the clients' connections until each runs on the datapath, and no other connection exists.
fn settle(dir: &RunDir, balance: &Balance, datapath: Datapath, clients: &mut [TcpStream]) {
    eventually(TIMEOUT, "all are carried by the datapath", || {
        clients.iter_mut().for_each(echo);
        let carriers = dir.carriers(balance.address());
        let expected = vec![datapath.name(); clients.len()];
        if carriers == expected { Ok(()) } else { Err(carriers.join(" ")) }
    });
}

/// Sends much data on all clients at once and asserts that the echo is unchanged.
fn echo_bulk(clients: &[TcpStream]) {
    thread::scope(|scope| {
        let pattern = || Pattern::new(BULK, BULK);
        let running: Vec<_> = clients
            .iter()
            .map(|client| {
                (
                    scope.spawn(move || {
                        send(client, pattern(), WHOLE_CHUNKS, |_| {}).expect("sending")
                    }),
                    scope.spawn(move || receive_exactly(client, BULK).expect("receiving")),
                )
            })
            .collect();
        for (sent, received) in running {
            let sent = sent.join().expect("the sender");
            assert_eq!(received.join().expect("the receiver"), sent);
        }
    });
}

fn echo(client: &mut TcpStream) {
    let mut answer = [0; 4];
    client.write_all(b"ping").expect("writing");
    client.read_exact(&mut answer).expect("the echo");
    assert_eq!(&answer, b"ping");
}

/// `Some` if the client was closed, `None` if it is served or waits.
fn is_closed(client: &mut TcpStream) -> Option<()> {
    client.set_nonblocking(true).expect("O_NONBLOCK");
    matches!(client.read(&mut [0]), Ok(0)).then_some(())
}

/// Asserts that a client is neither served nor closed for a while.
fn expect_wait(client: &mut TcpStream) {
    let patience = client.read_timeout().expect("a timeout");
    let moment = Some(Duration::from_millis(500));
    client.set_read_timeout(moment).expect("SO_RCVTIMEO");
    match client.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        other => panic!("a client above the limit got {other:?}"),
    }
    client.set_read_timeout(patience).expect("SO_RCVTIMEO");
}

/// CPU time that a process uses in about `interval`, and the exact interval.
fn busy(process: Process, interval: Duration) -> (Duration, Duration) {
    let (start, before) = (Instant::now(), process.processor_time());
    thread::sleep(interval);
    (start.elapsed(), process.processor_time() - before)
}
