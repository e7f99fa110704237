//! A hundred reloads under load: no connection is dropped, no connect refused, on the control socket neither, and
//! who comes after a reload meets the servers that the file has by then.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use tests::{Backend, End, ReservedPort, Service, SetOnDrop, connect, end_of, note};

/// Reloads, each with another file.
const RELOADS: usize = 100;

/// Clients that come and go all along.
const VISITORS: usize = 4;

/// Connections that stand all along.
const STANDING: usize = 24;

/// The servers of each file in turn, and what stands between.
const SETS: [&[&str]; 6] =
    [&["A", "B"], &["B", "C"], &["C"], &["A", "!", "B"], &["C", "A", "B"], &["B", "%", "A"]];

/// Options of each file in turn: some for a process that runs, others for another one.
const OPTIONS: [&str; 5] = ["", "-t 2", "-T 3600 -a", "--workers 1 -H", "--workers 3"];

/// Connects, and returns the name of the server.
fn arrive(address: SocketAddr) -> (TcpStream, String) {
    let mut stream = connect(address);
    let mut name = [0];
    stream.read_exact(&mut name).expect("the server's name");
    (stream, char::from(name[0]).to_string())
}

fn talk(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("to the server");
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).expect("from the server");
    assert_eq!(back, text);
}

#[test]
fn a_hundred_reloads_drop_nothing_and_refuse_nobody() {
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
    let mut standing: Vec<_> = (0..STANDING).map(|_| arrive(port.address()).0).collect();
    let socket = format!("balance.{}.127.0.0.1.sock", port.port());
    let socket = service.run_dir().join(socket);
    let (over, visits) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..VISITORS {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let (mut stream, _) = arrive(port.address());
                    talk(&mut stream, &[7; 3000]);
                    stream.shutdown(Shutdown::Write).expect("shutdown");
                    assert_eq!(end_of(&mut stream), End::Clean);
                    let mut control = UnixStream::connect(&socket).expect("the control socket");
                    // A process that leaves at this moment may not answer any more.
                    let asked = control.write_all(b"{\"version\":1,\"command\":\"stats\"}\n");
                    let _ = asked.and_then(|()| control.read(&mut [0; 4096]));
                    visits.fetch_add(1, Relaxed);
                }
            });
        }
        let _over = SetOnDrop(&over);
        for i in 1..=RELOADS {
            service.write(&text(i));
            let said = service.run_ok(&["reload"]);
            assert!(said.ends_with("balance is reloaded\n"), "{said}");
            assert!(said.contains(": changed\n") || said.contains(": replaced\n"), "{said}");
            for _ in 0..3 {
                let (_, name) = arrive(port.address());
                assert!(SETS[i % SETS.len()].contains(&&*name), "{name} after {}", text(i));
            }
            let len = standing.len();
            talk(&mut standing[i % len], b"still here");
        }
    });
    for mut stream in standing {
        talk(&mut stream, b"to the end");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(end_of(&mut stream), End::Clean);
    }
    note(&format!("{RELOADS} reloads, {} visits meanwhile", visits.load(Relaxed)));
    // Those that were replaced have left, with their last connection.
    service.status_when("one process is left", |rows| rows.len() == 1);
    service.run_ok(&["stop"]);
}
