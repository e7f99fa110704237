//! A hundred reloads under load: no connection is dropped, no connect is refused, not even on the
//! control socket, and every client after a reload gets a server of the new file.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use tests::{Backend, End, ReservedPort, Service, SetOnDrop, connect, end_of, note};

/// Number of reloads, each with another file.
const RELOADS: usize = 100;

/// Clients that connect and close repeatedly during the test.
const CLIENTS: usize = 4;

/// Connections that stay open during the test.
const OPEN: usize = 24;

/// The servers of each file in turn, with separators.
const SETS: [&[&str]; 6] =
    [&["A", "B"], &["B", "C"], &["C"], &["A", "!", "B"], &["C", "A", "B"], &["B", "%", "A"]];

/// The options of each file in turn. Some are taken by the running process, others need a new
/// process.
const OPTIONS: [&str; 5] = ["", "-t 2", "-T 3600 -a", "--workers 1 -H", "--workers 3"];

/// Connects; returns the name of the server as well.
fn connect_named(address: SocketAddr) -> (TcpStream, String) {
    let mut stream = connect(address);
    let mut name = [0];
    stream.read_exact(&mut name).expect("the server's name");
    (stream, char::from(name[0]).to_string())
}

fn echo(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("to the server");
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).expect("from the server");
    assert_eq!(back, text);
}

#[test]
fn a_hundred_reloads_drop_and_refuse_no_connection() {
    let servers = ["A", "B", "C"].map(|name| (name, Backend::echo(name)));
    let port = ReservedPort::new();
    let text = |i: usize| {
        let words = SETS[i % SETS.len()].iter().map(|word| {
            let server = servers.iter().find(|(name, _)| name == word);
            server.map_or_else(|| (*word).to_owned(), |(_, server)| server.address().to_string())
        });
        let words: Vec<_> = words.collect();
        let options = OPTIONS[i % OPTIONS.len()];
        format!("{options} -b 127.0.0.1 {} {}\n", port.port(), words.join(" "))
    };
    let service = Service::new(&text(0));
    service.run_ok(&["start"]);
    let mut standing: Vec<_> = (0..OPEN).map(|_| connect_named(port.address()).0).collect();
    let socket = format!("balance.{}.127.0.0.1.sock", port.port());
    let socket = service.run_dir().join(socket);
    let (over, visits) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let (mut stream, _) = connect_named(port.address());
                    echo(&mut stream, &[7; 3000]);
                    stream.shutdown(Shutdown::Write).expect("shutdown");
                    assert_eq!(end_of(&mut stream), End::Clean);
                    let mut control = UnixStream::connect(&socket).expect("the control socket");
                    // A process that is exiting may not answer.
                    let asked = control.write_all(b"{\"version\":1,\"command\":\"stats\"}\n");
                    let _ = asked.and_then(|()| control.read(&mut [0; 4096]));
                    visits.fetch_add(1, Relaxed);
                }
            });
        }
        let _over = SetOnDrop(&over);
        for i in 1..=RELOADS {
            service.write(&text(i));
            let output = service.run_ok(&["reload"]);
            assert!(output.ends_with("balance is reloaded\n"), "{output}");
            assert!(output.contains(": changed\n") || output.contains(": replaced\n"), "{output}");
            for _ in 0..3 {
                let (_, name) = connect_named(port.address());
                assert!(SETS[i % SETS.len()].contains(&&*name), "{name} after {}", text(i));
            }
            let len = standing.len();
            echo(&mut standing[i % len], b"still here");
        }
    });
    for mut stream in standing {
        echo(&mut stream, b"to the end");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut stream), End::Clean);
    }
    note(&format!("{RELOADS} reloads, {} visits meanwhile", visits.load(Relaxed)));
    // The replaced processes have exited with their last connection.
    service.status_when("one process remains", |rows| rows.len() == 1);
    service.run_ok(&["stop"]);
}
