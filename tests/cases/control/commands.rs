//! The control socket, and the options that came with it. Reports are exact while connections run,
//! changes take effect at once, and no input harms the program.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
        process::ExitStatusExt as _,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::Signal,
    unistd::{Pid, Uid, getsid},
};
use socket2::{Domain, SockAddr, Socket, Type};
use tests::{
    Backend, Balance, Builder, ChannelRow, ClientCounter, DaemonGuard, Datapath, End, Link, NOBODY,
    OtherUser, ReservedPort, RunDir, TIMEOUT, WHOLE_CHUNKS, ask, both_ways, connect, end_of,
    eventually, exchange, listen, note, on_each_datapath, open_for_all, reset, run, skip, visit,
};

const DATA: i32 = 65;
const SYSTEM: i32 = 71;
const CANNOT_CREATE: i32 = 73;
const NO_PERMISSION: i32 = 77;

fn connections_and_bytes_are_shown_while_they_run_and_after(datapath: Datapath) {
    let dir = RunDir::new();
    let link = link(&dir, Builder::new(datapath));
    let address = link.balance.address();
    let (client, server) = link.pair();
    both_ways(&client, &server, (1_000_000, 3_000_000), WHOLE_CHUNKS);
    await_row(&dir, address, |row| counts(row) == (1, 1, 1_000_001, 3_000_001));
    both_ways(&client, &server, (7, 0), WHOLE_CHUNKS);
    await_row(&dir, address, |row| counts(row) == (1, 1, 1_000_008, 3_000_001));
    drop((client, server));
    await_row(&dir, address, |row| counts(row) == (0, 1, 1_000_008, 3_000_001));
    link.balance.assert_all_on_its_datapath(1);
}

fn reset_zeroes_the_counters_of_a_running_connection(datapath: Datapath) {
    let dir = RunDir::new();
    let link = link(&dir, Builder::new(datapath));
    let address = link.balance.address();
    let (client, server) = link.pair();
    both_ways(&client, &server, (100_000, 300_000), WHOLE_CHUNKS);
    await_row(&dir, address, |row| counts(row) == (1, 1, 100_001, 300_001));
    assert_eq!(dir.run_ok(address, "reset 0"), "channel 0 counters reset\n");
    assert_eq!(counts(&dir.show(address)[0]), (1, 0, 0, 0));
    both_ways(&client, &server, (300, 70), WHOLE_CHUNKS);
    await_row(&dir, address, |row| counts(row) == (1, 0, 300, 70));
    assert_eq!(dir.run_ok(address, "mrtg-bytes 0 0"), "70\n300\nUNKNOWN\ngroup 0 channel 0\n");
    drop((client, server));
    await_row(&dir, address, |row| counts(row) == (0, 0, 300, 70));
    link.balance.assert_all_on_its_datapath(1);
}

fn sessions_are_listed_and_dropped_on_both_sides(datapath: Datapath) {
    let dir = RunDir::new();
    let link = link(&dir, Builder::new(datapath));
    let address = link.balance.address();
    let (mut client, mut server) = link.pair();
    let mut shown = 1;
    eventually(TIMEOUT, "the connection is listed", || {
        if datapath == Datapath::Splice && dir.carriers(address) != ["splice"] {
            // Splice takes a connection over only after some bytes. A spliced byte counts once it
            // is acknowledged, so no further byte may follow.
            exchange(&mut client, &mut server);
            shown += 1;
        }
        let expected = [
            client.local_addr().expect("getsockname").to_string(),
            "0.0".into(),
            server.peer_addr().expect("getpeername").to_string(),
            server.local_addr().expect("getsockname").to_string(),
            shown.to_string(),
            shown.to_string(),
            datapath.name().into(),
        ];
        let text = dir.run_ok(address, "sessions");
        let mut lines = text.lines().skip(1).map(|line| {
            let mut words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            words.remove(4);
            words
        });
        match (lines.next(), lines.next()) {
            (Some(words), None) if words == expected => Ok(()),
            _ => Err(text),
        }
    });
    assert_eq!(dir.run_ok(address, "drop 0"), "channel 0 dropped 1 connection\n");
    assert_eq!(end_of(&mut client), End::Reset);
    assert_eq!(end_of(&mut server), End::Reset);
    await_row(&dir, address, |row| row.current == 0);
    assert_eq!(dir.run_ok(address, "drop 0"), "channel 0 dropped 0 connections\n");
    assert_eq!(dir.run_ok(address, "sessions").lines().count(), 1);
    // The channel is still enabled.
    let (client, server) = link.pair();
    both_ways(&client, &server, (1000, 1000), WHOLE_CHUNKS);
    drop((client, server));
    link.balance.assert_all_on_its_datapath(2);
}

fn a_drain_waits_for_open_connections_and_admits_no_new_one(datapath: Datapath) {
    let dir = RunDir::new();
    let (a, b) = (Backend::echo("A"), Backend::greeter("B"));
    let builder = Builder::new(datapath).channel(a.address()).channel(b.address());
    let balance = dir.use_in(builder).start();
    let address = balance.address();
    let mut open = connect(address);
    assert_eq!(byte(&mut open), b'A');
    let mut command = dir.command(address, "drain 0 30");
    let drain = thread::spawn(move || run(command.arg("--strict"), 2 * TIMEOUT));
    await_row(&dir, address, |row| !row.enabled);
    for _ in 0..8 {
        assert_eq!(ask(address).expect("an answer"), "B");
    }
    open.write_all(b"x").expect("the connection is open");
    assert_eq!(byte(&mut open), b'x');
    assert!(!drain.is_finished());
    assert_eq!(a.accepted(), 1);
    drop(open);
    let outcome = drain.join().expect("the drain");
    assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout, "channel 0 drained\n");
    let row = &dir.show(address)[0];
    assert_eq!((row.enabled, row.current), (false, 0), "{row:?}");
}

fn an_idle_connection_times_out_and_a_busy_one_does_not(datapath: Datapath) {
    let dir = RunDir::new();
    let link = link(&dir, Builder::new(datapath).option(&["-T", "1"]));
    let busy = link.pair();
    for round in 0..2 {
        let (mut idle, mut server) = link.pair();
        // Each timeout of this read is a pause in the busy connection's traffic.
        idle.set_read_timeout(Some(Duration::from_millis(250))).expect("SO_RCVTIMEO");
        let start = Instant::now();
        loop {
            match idle.read(&mut [0]) {
                Ok(0) => break,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // Bytes in either direction keep a connection alive.
                    let bytes = if round == 0 { (1, 0) } else { (0, 1) };
                    both_ways(&busy.0, &busy.1, bytes, WHOLE_CHUNKS);
                }
                other => panic!("{other:?}"),
            }
            assert!(start.elapsed() < TIMEOUT, "the idle connection is still open");
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(900), "{took:?}");
        assert!(took <= Duration::from_secs(3), "{took:?}");
        end_of(&mut server);
    }
    both_ways(&busy.0, &busy.1, (100_000, 100_000), WHOLE_CHUNKS);
    drop(busy);
    link.balance.assert_all_on_its_datapath(3);
}

fn a_half_closed_idle_connection_times_out(datapath: Datapath) {
    let (dir, begun) = (RunDir::new(), Instant::now());
    let link = link(&dir, Builder::new(datapath).option(&["--half-close-timeout", "1"]));
    let whole = link.pair();
    for first in [0, 1] {
        let (client, server) = link.pair();
        let (mut ended, mut silent) = if first == 0 { (client, server) } else { (server, client) };
        ended.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut silent), End::Clean);
        // Bytes in the other direction keep it alive, with a pause between two bytes.
        for _ in 0..10 {
            ended.set_read_timeout(Some(Duration::from_millis(250))).expect("SO_RCVTIMEO");
            let paused = ended.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(paused, Err(ErrorKind::WouldBlock));
            ended.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
            silent.write_all(b"x").expect("the way back is open");
            assert_eq!(byte(&mut ended), b'x');
        }
        let start = Instant::now();
        assert_eq!(end_of(&mut ended), End::Clean);
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(900), "{took:?}");
        assert!(took <= Duration::from_secs(3), "{took:?}");
    }
    // Neither side has ended this connection.
    both_ways(&whole.0, &whole.1, (1000, 1000), WHOLE_CHUNKS);
    drop(whole);
    link.balance.assert_all_on_its_datapath(3);
    let events = link.balance.events();
    let logged = "half-closed connection timed out";
    let logged: Vec<_> = events.iter().filter(|event| event.message == logged).collect();
    if begun.elapsed() < Duration::from_secs(10) {
        assert_eq!(logged.len(), 1, "one of two within ten seconds is logged: {logged:?}");
    }
    let logged = logged[0];
    let first = &link.balance.sessions(3)[0];
    let shown = ["client", "server"].map(|key| logged.text(key));
    assert_eq!(shown, [first.client.to_string(), first.backend.to_string()]);
    let shown = ["sent", "rcvd", "seconds", "suppressed"].map(|key| logged.number(key));
    assert_eq!(shown, [first.sent, first.rcvd, 1, 0]);
}

fn the_server_sees_the_source_address(datapath: Datapath) {
    let dir = RunDir::new();
    let link = link(&dir, Builder::new(datapath).option(&["-B", "127.0.0.9"]));
    for _ in 0..3 {
        let (client, server) = link.pair();
        let source = server.peer_addr().expect("getpeername");
        assert_eq!(source.ip(), Ipv4Addr::new(127, 0, 0, 9));
        both_ways(&client, &server, (1000, 1000), WHOLE_CHUNKS);
    }
    link.balance.assert_all_on_its_datapath(3);
}

fn no_server_ever_has_more_connections_than_its_maximum(datapath: Datapath) {
    const CLIENTS: usize = 60;
    const EACH: usize = 50;
    const MAX: usize = 5;

    let dir = RunDir::new();
    let servers = [(); 3].map(|()| ClientCounter::server());
    let mut builder = Builder::new(datapath).quiet();
    for (server, _) in &servers {
        builder = builder.operand(&format!("{}:{MAX}", server.address()));
    }
    let balance = dir.use_in(builder).start();
    let address = balance.address();
    let served: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| (0..EACH).filter(|_| visit(address, || ())).count()))
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    let rows = dir.show_at_rest(address);
    let total: u64 = rows.iter().map(|row| row.total).sum();
    let accepted: usize = servers.iter().map(|(server, _)| server.accepted()).sum();
    assert_eq!(accepted, served);
    assert_eq!(usize::try_from(total).expect("few"), served, "{rows:?}");
    for (row, (_, counter)) in rows.iter().zip(&servers) {
        let most = counter.most();
        assert!((1..=MAX).contains(&most), "{most} at a time: {rows:?}");
        // One byte each way.
        assert_eq!((row.sent, row.rcvd), (row.total, row.total), "{rows:?}");
    }
    let stopped = balance.stop();
    let all = (CLIENTS * EACH) as u64;
    assert_eq!((stopped.connections, stopped.unserved), (all, all - total));
}

on_each_datapath!(
    connections_and_bytes_are_shown_while_they_run_and_after,
    reset_zeroes_the_counters_of_a_running_connection,
    sessions_are_listed_and_dropped_on_both_sides,
    a_drain_waits_for_open_connections_and_admits_no_new_one,
    an_idle_connection_times_out_and_a_busy_one_does_not,
    a_half_closed_idle_connection_times_out,
    the_server_sees_the_source_address,
    no_server_ever_has_more_connections_than_its_maximum,
);

#[test]
fn a_drain_that_times_out_prints_how_many_are_left() {
    let dir = RunDir::new();
    let link = link(&dir, Builder::auto());
    let (client, server) = link.pair();
    let start = Instant::now();
    let outcome = run(dir.command(link.balance.address(), "drain 0 1").arg("--strict"), TIMEOUT);
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert_eq!(outcome.stdout, "channel 0 disabled, 1 connection left\n");
    both_ways(&client, &server, (1000, 1000), WHOLE_CHUNKS);
}

#[test]
fn waiting_drains_block_no_other_command() {
    // More than the number of clients served at a time.
    const DRAINS: usize = 70;
    const DRAIN: &[u8] =
        b"{\"version\":1,\"command\":{\"drain\":{\"id\":{\"group\":0,\"channel\":0},\"seconds\":null}}}\n";

    let dir = RunDir::new();
    let link = link(&dir, Builder::auto());
    let (address, process) = (link.balance.address(), link.balance.process());
    let (client, server) = link.pair();
    let socket = dir.file(address, "sock");
    let before = process.descriptors();
    let drains = || -> Vec<UnixStream> {
        let asked = (0..DRAINS).map(|_| {
            let mut stream = UnixStream::connect(&socket).expect("connecting to the socket");
            stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
            stream.write_all(DRAIN).expect("the request");
            stream
        });
        asked.collect()
    };
    // Requests whose clients close are dropped, with their descriptors.
    let given_up = drains();
    assert!(!dir.show(address)[0].enabled);
    drop(given_up);
    eventually(TIMEOUT, "no drain waits", || match process.descriptors() {
        now if now <= before => Ok(()),
        now => Err(format!("{now} descriptors, {before} before")),
    });
    let waiting = drains();
    assert_eq!(dir.show(address)[0].current, 1);
    both_ways(&client, &server, (1000, 1000), WHOLE_CHUNKS);
    drop((client, server));
    for stream in waiting {
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).expect("the reply");
        assert_eq!(reply, "{\"connections\":0}\n");
    }
}

#[test]
fn disable_and_enable_take_effect_at_once() {
    let (dir, balance, _servers) = greeters();
    let address = balance.address();
    assert_eq!(dir.run_ok(address, "disable 1"), "channel 1 disabled\n");
    assert_eq!(answers(address, 4), "AAAA");
    assert_eq!(dir.run_ok(address, "disable 1"), "channel 1 already disabled\n");
    assert_eq!(dir.run_ok(address, "disable 0"), "channel 0 disabled\n");
    assert_eq!(answers(address, 1), "");
    assert_eq!(dir.run_ok(address, "enable 1"), "channel 1 enabled\n");
    assert_eq!(answers(address, 4), "BBBB");
    assert_eq!(
        dir.run_ok(address, "enable 0; enable 0.1"),
        "channel 0 enabled\nchannel 0.1 already enabled\n"
    );
    assert_eq!(sorted(&answers(address, 4)), "AABB");
}

#[test]
fn a_disabled_channel_keeps_its_connections() {
    let dir = RunDir::new();
    let link = link(&dir, Builder::auto());
    let (client, server) = link.pair();
    dir.run_ok(link.balance.address(), "disable 0; maxc 0 1; hash; rr; reset 0");
    both_ways(&client, &server, (100_000, 100_000), WHOLE_CHUNKS);
    assert_eq!(ask(link.balance.address()).expect("an orderly close"), "");
}

#[test]
fn a_maximum_takes_effect_at_once() {
    let dir = RunDir::new();
    let servers = ["A", "B"].map(Backend::echo);
    let [a, b] = servers.each_ref().map(Backend::address);
    let balance = dir.use_in(Builder::auto().channel(a).channel(b)).start();
    let address = balance.address();
    assert_eq!(
        dir.run_ok(address, "maxc 0 1; maxc 1 2"),
        "maxc of channel 0 changed to 1\nmaxc of channel 1 changed to 2\n"
    );
    let mut open = Vec::new();
    let mut names = String::new();
    for _ in 0..3 {
        let mut client = connect(address);
        names.push(char::from(byte(&mut client)));
        open.push(client);
    }
    assert_eq!(sorted(&names), "ABB");
    assert_eq!(ask(address).expect("an orderly close"), "");
    dir.run_ok(address, "maxc 0 0");
    for _ in 0..5 {
        let mut client = connect(address);
        assert_eq!(byte(&mut client), b'A');
        open.push(client);
    }
    let rows = dir.show(address);
    assert_eq!(rows.iter().map(|row| (row.current, row.max)).collect::<Vec<_>>(), [(6, 0), (2, 2)]);
}

#[test]
fn created_and_reassigned_channels_take_connections_when_enabled() {
    let (dir, balance, _servers) = greeters();
    let address = balance.address();
    let [c, d] = ["C", "D"].map(Backend::greeter);
    let port = c.address().port();
    assert_eq!(dir.run_ok(address, &format!("create 127.0.0.1 {port}")), "channel created\n");
    let row = dir.show(address).pop().expect("three rows");
    assert_eq!((row.channel, row.enabled, row.address), (2, false, c.address()));
    assert_eq!(sorted(&answers(address, 4)), "AABB");
    dir.run_ok(address, "enable 2; disable 0; disable 1");
    assert_eq!(answers(address, 3), "CCC");
    let port = d.address().port();
    let text = dir.run_ok(address, &format!("assign 1 localhost {port}; disable 2; enable 1"));
    assert!(text.starts_with("channel reassigned\n"), "{text}");
    assert_eq!(answers(address, 3), "DDD");
    dir.run_ok(address, "create [::1] 99; assign 0 [::1] 98");
    let rows = dir.show(address);
    let addresses = [rows[0].address, rows[3].address];
    assert_eq!(addresses, [98, 99].map(|port| (Ipv6Addr::LOCALHOST, port).into()));
}

#[test]
fn an_assigned_channel_forgets_its_old_name() {
    let dir = RunDir::new();
    let [a, b] = ["A", "B"].map(Backend::greeter);
    let port = a.address().port();
    let builder = Builder::auto().option(&["--resolve-interval", "1"]);
    let balance = dir.use_in(builder.operand(&format!("localhost:{port}"))).start();
    let address = balance.address();
    assert_eq!(answers(address, 1), "A");
    let assign = format!("disable 0; assign 0 127.0.0.1 {}; enable 0", b.address().port());
    dir.run_ok(address, &assign);
    // One refresh of names fits into this time.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(answers(address, 1), "B");
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(dir.show(address)[0].address, b.address());
}

#[test]
fn an_option_without_effect_is_logged_once() {
    let balance = Builder::auto().option(&["-M"]).operand("127.0.0.1:9").start();
    balance.wait_for("ready");
    let shown = |event: &tests::Event| event.message.starts_with("-M has no effect");
    assert_eq!(balance.events().iter().filter(|event| shown(event)).count(), 1);
    balance.stop();
}

#[test]
fn a_run_directory_that_others_can_write_to_is_refused() {
    let dir = RunDir::new();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).expect("chmod");
    let (mut command, ..) = dir.use_in(Builder::auto().quiet().operand("127.0.0.1:9")).command();
    let outcome = run(&mut command, TIMEOUT);
    assert_eq!(outcome.status.code(), Some(CANNOT_CREATE), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains("other users can write to it"), "{outcome:?}");
    let mode = fs::metadata(dir.path()).expect("the directory").permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
}

#[test]
fn hash_and_rr_take_effect_at_once() {
    let (dir, balance, _servers) = greeters();
    let address = balance.address();
    assert_eq!(dir.run_ok(address, "hash"), "group 0 set to hash\n");
    let hashed = answers(address, 6);
    assert!(["AAAAAA", "BBBBBB"].contains(&hashed.as_str()), "{hashed}");
    assert!(dir.show(address).iter().all(|row| row.method == "Hash"));
    assert_eq!(dir.run_ok(address, "rr"), "group 0 set to round robin\n");
    assert_eq!(sorted(&answers(address, 6)), "AAABBB");
}

#[test]
fn a_line_can_select_another_group() {
    let (dir, balance, _servers) = greeters();
    let address = balance.address();
    let c = Backend::greeter("C");
    let port = c.address().port();
    dir.run_ok(address, &format!("group 1; create 127.0.0.1 {port}; enable 0; maxc 0 7; hash"));
    assert_eq!(sorted(&answers(address, 4)), "AABB");
    let row = dir.show(address).pop().expect("three rows");
    assert_eq!((row.group, row.channel, row.max, row.method.as_str()), (1, 0, 7, "Hash"));
    dir.run_ok(address, "disable 0; disable 1");
    assert_eq!(answers(address, 3), "CCC");
    dir.run_ok(address, "disable 1.0; group 1; enable 0.1");
    assert_eq!(answers(address, 3), "BBB");
}

#[test]
fn a_failed_command_changes_nothing_and_only_strict_exits_with_an_error() {
    let (dir, balance, servers) = greeters();
    let address = balance.address();
    assert_eq!(sorted(&answers(address, 4)), "AABB");
    let before = eventually(TIMEOUT, "all connections have ended", || {
        let rows = dir.show(address);
        if rows.iter().all(|row| row.current == 0) { Ok(rows) } else { Err(format!("{rows:?}")) }
    });
    let taken = format!("assign 1 127.0.0.1 {}", servers[0].address().port());
    for (line, says) in [
        ("nonsense", "syntax error"),
        ("kil", "syntax error"),
        ("disable", "syntax error"),
        ("disable 2", "no such channel 2"),
        ("disable -1", "no such channel -1"),
        ("disable 1.0", "no such channel 1.0"),
        ("enable 99999999999999999999", "no such channel"),
        ("disable 0.x", "no such channel 0.x"),
        ("disable 0.1.0", "no such channel 0.1.0"),
        ("disable x", "no such channel x"),
        ("disable 127.0.0.1", "no such channel 127.0.0.1"),
        ("enable 1x", "no such channel 1x"),
        ("maxc 0.1x 7", "unknown channel"),
        ("maxc 0 7x", "syntax error"),
        ("mrtg-bytes x", "unknown channel"),
        ("disable 0 1", "syntax error"),
        ("show x", "syntax error"),
        ("reset 2", "no such channel 2"),
        ("drop 2", "no such channel 2"),
        ("drop x", "no such channel x"),
        ("drain 2 1", "no such channel 2"),
        ("drain 0 x", "syntax error"),
        ("drain 0 -1", "syntax error"),
        ("maxc 2 1", "unknown channel"),
        ("maxc 0 -1", "value out of range"),
        ("maxc 0", "syntax error"),
        ("maxc 0 99999999999", "value out of range"),
        (&taken, "channel must be disabled to assign new address"),
        ("assign 2 127.0.0.1 25", "unknown channel"),
        ("create 127.0.0.1", "syntax error"),
        ("create 127.0.0.1 nosuchservice", "invalid address"),
        ("create 127.0.0.1 65536", "invalid address"),
        ("create nosuchhost.invalid 25", "invalid address"),
        ("group 32", "value out of range"),
        ("group 32; disable 0", "value out of range"),
        ("group -1; disable 0", "value out of range"),
        ("reset 9; disable 0", "no such channel 9"),
        ("mrtg-bytes 0 9", "unknown channel"),
    ] {
        let outcome = dir.run(address, line);
        assert_eq!(outcome.status.code(), Some(0), "{line}: {outcome:?}");
        assert!(outcome.stdout.starts_with(says), "{line}: {outcome:?}");
        assert_eq!(outcome.stdout.lines().count(), 1, "{line}: {outcome:?}");
        let strict = run(dir.command(address, line).arg("--strict"), TIMEOUT);
        assert_eq!(strict.status.code(), Some(1), "{line}: {strict:?}");
        assert_eq!(strict.stdout, outcome.stdout, "{line}");
        assert_eq!(dir.show(address), before, "{line}");
    }
    assert_eq!(sorted(&answers(address, 4)), "AABB");
}

#[test]
fn the_json_table_equals_the_text_table() {
    let (dir, balance, _servers) = greeters();
    let address = balance.address();
    dir.run_ok(address, "disable 1; maxc 1 3");
    let json: serde_json::Value =
        serde_json::from_str(&dir.run_ok(address, "show --json")).expect("JSON");
    let channels = json["channels"].as_array().expect("a list");
    let rows = dir.show(address);
    assert_eq!(channels.len(), rows.len());
    for (json, row) in channels.iter().zip(&rows) {
        assert_eq!(json["enabled"], row.enabled);
        assert_eq!(json["max"], row.max);
        assert_eq!(json["port"], row.address.port());
    }
}

#[test]
fn the_statistics_show_the_listener_and_open_connections() {
    let dir = RunDir::new();
    let link = link(&dir, Builder::auto());
    let address = link.balance.address();
    let stats = || dir.ask(address, &serde_json::json!("stats"))["stats"].take();
    assert_eq!(stats()["address"], address.to_string());
    assert_eq!(stats()["open"], 0);
    let open = [link.pair(), link.pair()];
    assert_eq!(stats()["open"], 2);
    drop(open);
    eventually(TIMEOUT, "none is open", || match stats() {
        stats if stats["open"] == 0 => Ok(()),
        stats => Err(stats.to_string()),
    });
}

/// Each accepted client is in exactly one of the sums.
fn accepted_clients_are_the_sum_of_all_results(datapath: Datapath) {
    let (dir, server, full) = (RunDir::new(), Backend::echo("x"), Backend::echo("y"));
    let builder = dir.use_in(Builder::new(datapath)).channel(server.address());
    let balance = builder.operand(&format!("{}:4", full.address())).start();
    let address = balance.address();
    let stats = || dir.ask(address, &serde_json::json!("stats"))["stats"].take();
    let sums = |stats: &serde_json::Value| {
        ["open", "clean", "broken", "unserved", "left"]
            .map(|name| stats[name].as_u64().expect("a number"))
    };
    let client = |number: usize| {
        let mut client = connect(address);
        // The program may or may not serve a client that leaves at once.
        if number % 7 == 6 || client.read_exact(&mut [0]).is_err() {
            return;
        }
        client.write_all(b"bytes").expect("writing");
        client.read_exact(&mut [0; 5]).expect("the echo");
        match number % 3 {
            0 => reset(client),
            1 => drop(client),
            _ => {
                client.shutdown(Shutdown::Write).expect("shutdown");
                assert_eq!(end_of(&mut client), End::Clean);
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    for number in 0..40 {
                        client(number);
                    }
                })
            })
            .collect();
        let disabled = [[false, false], [true, false], [true, true]];
        for turn in 0.. {
            for (channel, disabled) in disabled[turn % 3].into_iter().enumerate() {
                let verb = if disabled { "disable" } else { "enable" };
                dir.run(address, &format!("{verb} {channel}"));
            }
            let stats = stats();
            assert_eq!(stats["accepted"], sums(&stats).iter().sum::<u64>(), "{stats}");
            if threads.iter().all(|thread| thread.is_finished()) {
                break;
            }
        }
    });
    let last = eventually(TIMEOUT, "none is open", || match stats() {
        stats if stats["open"] == 0 => Ok(stats),
        stats => Err(stats.to_string()),
    });
    let [_, clean, broken, unserved, left] = sums(&last);
    note(&format!("{datapath:?}: {last}"));
    assert!(clean > 0 && broken > 0 && unserved > 0, "{last}");
    let text = dir.run_ok(address, "stats");
    for line in ["accepted", "open", "ended in order", "broken", "unserved", "left before served"] {
        assert!(text.contains(&format!("\n{line}  ")), "{line}: {text}");
    }
    let stopped = balance.stop();
    assert_eq!(stopped.connections, clean + broken + unserved + left);
}

on_each_datapath!(accepted_clients_are_the_sum_of_all_results);

#[test]
fn the_background_serves_as_a_daemon_until_it_is_killed() {
    let dir = RunDir::new();
    let server = Backend::greeter("A");
    let builder = dir.use_in(Builder::auto().background().channel(server.address()));
    let (mut command, _port, address) = builder.command();
    let _guard = DaemonGuard(&dir);
    // Reads both outputs to their end, which comes only when the daemon has closed them.
    let outcome = run(&mut command, TIMEOUT);
    assert_eq!(ask(address).expect("it serves as soon as its parent has exited"), "A");
    assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout, "");

    let [socket, pid_file] = ["sock", "pid"].map(|kind| dir.file(address, kind));
    let text = fs::read_to_string(&pid_file).expect("a pid file");
    let pid: i32 = text.trim_end().parse().expect("a number");
    assert_eq!(text, format!("{pid}\n"));
    assert_eq!(dir.processes(), [pid]);
    assert_eq!(getsid(Some(Pid::from_raw(pid))), Ok(Pid::from_raw(pid)));
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).expect("a link of /proc");
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(fd), Path::new("/dev/null"), "{fd}");
    }
    assert_eq!(link("cwd"), Path::new("/"));

    assert_eq!(dir.run_ok(address, "kill"), "shutdown complete, exiting.\n");
    eventually(TIMEOUT, "the daemon ends", || match dir.processes() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?} run")),
    });
    assert!(!socket.exists());
    assert!(!pid_file.exists());
    let outcome = dir.run(address, "show");
    assert_eq!(outcome.status.code(), Some(69), "{outcome:?}");
}

#[test]
fn a_failed_background_start_leaves_no_daemon() {
    let dir = RunDir::new();
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into());
    let taken = listener.local_addr().expect("getsockname");
    let background = || dir.use_in(Builder::auto().background());
    for (builder, code, naming) in [
        (background().listen(taken).operand("127.0.0.1:9"), SYSTEM, taken.to_string()),
        (background().operand("nosuchhost.invalid:9"), DATA, "nosuchhost.invalid".into()),
    ] {
        let _guard = DaemonGuard(&dir);
        let (mut command, _port, address) = builder.command();
        let outcome = run(&mut command, TIMEOUT);
        assert_eq!(dir.processes(), [0; 0], "{outcome:?}");
        assert_eq!(outcome.status.code(), Some(code), "{outcome:?}");
        assert_eq!(outcome.status.signal(), None);
        assert_eq!(outcome.stdout, "");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stderr.contains(&naming), "{outcome:?}");
        assert!(!dir.file(address, "sock").exists());
        assert!(!dir.file(address, "pid").exists());
    }
}

#[test]
fn a_source_address_that_is_not_ours_is_an_error() {
    let dir = RunDir::new();
    // From a block for documentation (RFC 5737).
    let builder = Builder::auto().quiet().option(&["-B", "192.0.2.1"]).operand("127.0.0.1:9");
    let (mut command, _port, _) = dir.use_in(builder).command();
    let outcome = run(&mut command, TIMEOUT);
    assert_eq!(outcome.status.code(), Some(SYSTEM), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains("192.0.2.1"), "{outcome:?}");
}

#[test]
fn the_socket_survives_garbage() {
    let (dir, balance, _servers) = greeters();
    let address = balance.address();
    let socket = dir.file(address, "sock");
    let mut random = fastrand::Rng::with_seed(11);
    for len in [1, 100, 10_000, 500_000] {
        let mut bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
        bytes.push(b'\n');
        let answer = send_raw(&socket, &bytes);
        assert!(answer.is_empty() || answer.contains("refused"), "{answer}");
        assert_eq!(dir.show(address).len(), 2);
    }
    let answer = send_raw(&socket, &vec![b'x'; 2 << 20]);
    assert!(answer.is_empty() || answer.contains("refused"), "{answer}");
    assert_eq!(dir.show(address).len(), 2);
    for version in ["0", "2", "4294967295"] {
        let request = format!("{{\"version\":{version},\"command\":\"kill\"}}\n");
        let answer = send_raw(&socket, request.as_bytes());
        assert_eq!(answer, "{\"mismatch\":{\"version\":1}}\n");
        assert_eq!(dir.show(address).len(), 2);
    }
    let answer = send_raw(&socket, b"{\"version\":1,\"command\":\"sho");
    assert!(answer.contains("refused"), "{answer}");
    assert_eq!(sorted(&answers(address, 4)), "AABB");
}

#[test]
fn silent_clients_block_no_other_client() {
    let (dir, balance, _servers) = greeters();
    let address = balance.address();
    let path = SockAddr::unix(dir.file(address, "sock")).expect("a short path");
    let silent = |count| -> Vec<Socket> {
        let connected = (0..count).map(|_| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
            socket.set_write_timeout(Some(TIMEOUT)).expect("SO_SNDTIMEO");
            socket.connect(&path).expect("connecting to the socket");
            socket
        });
        connected.collect()
    };
    let some = silent(50);
    assert_eq!(dir.show(address).len(), 2);
    // More clients than are served at a time. Connections to the port are not affected.
    let many = silent(130);
    assert_eq!(sorted(&answers(address, 4)), "AABB");
    drop((some, many));
    assert_eq!(dir.show(address).len(), 2);
}

#[test]
fn a_second_instance_does_not_touch_the_first_ones_socket() {
    let (dir, balance, _servers) = greeters();
    let address = balance.address();
    let pid = fs::read_to_string(dir.file(address, "pid")).expect("a pid file");
    for builder in [Builder::auto(), Builder::auto().background()] {
        let builder = builder.quiet().listen(address).operand("127.0.0.1:9");
        let (mut command, ..) = dir.use_in(builder).command();
        let outcome = run(&mut command, TIMEOUT);
        assert_eq!(outcome.status.code(), Some(SYSTEM), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert_eq!(dir.show(address).len(), 2);
    }
    assert_eq!(fs::read_to_string(dir.file(address, "pid")).expect("a pid file"), pid);
    assert_eq!(sorted(&answers(address, 4)), "AABB");
}

/// The address is free in the other network namespace, so only the lock shows that an instance
/// runs.
#[test]
fn an_instance_of_another_network_does_not_touch_the_first_ones_socket() {
    if !Uid::effective().is_root() {
        return skip("a network of its own needs root");
    }
    let (dir, balance, _servers) = greeters();
    let address = balance.address();
    let state = || {
        let socket = fs::metadata(dir.file(address, "sock")).expect("a socket");
        (socket.ino(), fs::read_to_string(dir.file(address, "pid")).expect("a pid file"))
    };
    let before = state();
    let builder = Builder::auto()
        .quiet()
        .wrapped_by(["unshare", "--net", "sh", "-e", "-c"])
        .wrapped_by([r#"ip link set lo up; exec "$@""#, "sh"])
        .listen(address)
        .operand("127.0.0.1:9");
    let (mut command, ..) = dir.use_in(builder).command();
    let outcome = run(&mut command, TIMEOUT);
    let shown = "balance: another balance runs here (it holds ";
    assert!(outcome.stderr.starts_with(shown), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert_eq!(outcome.status.code(), Some(CANNOT_CREATE), "{outcome:?}");
    assert_eq!(state(), before);
    assert_eq!(dir.show(address).len(), 2);
    assert_eq!(sorted(&answers(address, 4)), "AABB");
}

#[test]
fn after_a_kill_the_next_instance_replaces_the_stale_socket() {
    let dir = RunDir::new();
    let port = ReservedPort::new();
    let address = port.address();
    let server = Backend::greeter("A");
    let builder = || dir.use_in(Builder::auto().listen(address).channel(server.address()));
    let mut first = builder().start();
    assert_eq!(answers(address, 2), "AA");
    first.signal(Signal::SIGKILL);
    assert_eq!(first.wait(TIMEOUT).signal(), Some(9));
    assert!(dir.file(address, "sock").exists());
    let outcome = dir.run(address, "show");
    assert_eq!(outcome.status.code(), Some(69), "{outcome:?}");
    let second = builder().start();
    assert_eq!(counts(&dir.show(address)[0]), (0, 0, 0, 0));
    let pid = fs::read_to_string(dir.file(address, "pid")).expect("a pid file");
    assert_eq!(pid, format!("{}\n", second.process().0));
    assert_eq!(answers(address, 2), "AA");
}

#[test]
fn another_user_cannot_control_the_program() {
    let Some(nobody) = OtherUser::new(NOBODY, &[]) else { return };
    let (dir, balance, _servers) = greeters();
    let address = balance.address();
    open_for_all(dir.path());
    let before = dir.show(address);
    let socket = dir.file(address, "sock");
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    // The second mode would let the user connect.
    for (mode, may) in [(0o600, "connect to "), (0o666, "use the running balance\n")] {
        fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).expect("chmod");
        for line in ["show", "disable 0", "kill"] {
            let outcome = nobody.run(&dir.command(address, line));
            assert_eq!(outcome.status.code(), Some(NO_PERMISSION), "{line}: {outcome:?}");
            assert_eq!(outcome.stdout, "", "{line}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{line}: {outcome:?}");
            let why = format!("balance: permission denied: only root may {may}");
            assert!(outcome.stderr.starts_with(&why), "{line}: {outcome:?}");
            assert_eq!(dir.show(address), before, "{line}");
        }
    }
}

/// A program whose only backend is the test.
fn link(dir: &RunDir, builder: Builder) -> Link {
    Link::with(dir.use_in(builder), (Ipv4Addr::LOCALHOST, 0).into())
}

/// A program with two servers that send their names, A and B.
fn greeters() -> (RunDir, Balance, [Backend; 2]) {
    let dir = RunDir::new();
    let servers = ["A", "B"].map(Backend::greeter);
    let [a, b] = servers.each_ref().map(Backend::address);
    let balance = dir.use_in(Builder::auto().channel(a).channel(b)).start();
    (dir, balance, servers)
}

/// The answers to `count` clients, one after the other.
fn answers(address: SocketAddr, count: usize) -> String {
    (0..count).map(|_| ask(address).expect("an orderly close")).collect()
}

fn sorted(text: &str) -> String {
    let mut chars: Vec<_> = text.chars().collect();
    chars.sort_unstable();
    chars.into_iter().collect()
}

/// Open connections, all connections, bytes from clients, bytes to clients.
fn counts(row: &ChannelRow) -> (u64, u64, u64, u64) {
    (row.current, row.total, row.sent, row.rcvd)
}

/// Waits until the row of the first channel is as wanted.
fn await_row(dir: &RunDir, address: SocketAddr, wanted: impl Fn(&ChannelRow) -> bool) {
    eventually(TIMEOUT, "channel 0 has the expected row", || {
        let row = dir.show(address).swap_remove(0);
        if wanted(&row) { Ok(()) } else { Err(format!("{row:?}")) }
    });
}

fn byte(stream: &mut TcpStream) -> u8 {
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("a byte");
    byte[0]
}

/// Sends bytes to a control socket, ends the direction, and returns the reply.
fn send_raw(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).expect("connecting to the socket");
    stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
    stream.set_write_timeout(Some(TIMEOUT)).expect("SO_SNDTIMEO");
    if let Err(error) = stream.write_all(bytes) {
        assert!(is_reset(error.kind()), "writing: {error}");
    }
    // The program may already have closed the socket.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(is_reset(error.kind()), "reading: {error}");
    }
    String::from_utf8(answer).expect("JSON")
}

fn is_reset(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
