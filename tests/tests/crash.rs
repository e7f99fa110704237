//! The program is killed under load: its peers see that, nothing of it is left, and another one can take
//! its place at once.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tests::{
    Backend, Builder, Datapath, InKernel, PATIENCE, ReservedPort, RunDir, connect, eventually,
    is_listening, note, on_each_datapath,
};

/// Connections that are in the middle of something.
const BUSY: usize = 12;

/// How long a client waits before it says something again. A spliced connection of which nobody is left
/// is broken when a peer next says something (README, Limits).
const WAIT: Duration = Duration::from_millis(200);

/// Sends and reads all the time, until the connection ends; true if it broke.
fn talk_until_it_ends(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(WAIT)).expect("SO_RCVTIMEO");
    let mut bytes = [7; 8000];
    loop {
        let spoken = stream.write_all(&bytes).and_then(|()| stream.read_exact(&mut bytes));
        match spoken.map_err(|error| error.kind()) {
            Ok(()) | Err(ErrorKind::WouldBlock) => {}
            Err(kind) => {
                return [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&kind);
            }
        }
    }
}

fn killed_under_load_it_leaves_nothing_and_its_place_is_free(datapath: Datapath) {
    let (server, port, dir) = (Backend::echo("A"), ReservedPort::new(), RunDir::new());
    let start = || {
        let builder = dir.given_to(Builder::new(datapath)).listen(port.address());
        builder.channel(server.address()).start()
    };
    let mut balance = start();
    let clients: Vec<_> = (0..BUSY)
        .map(|_| {
            let mut client = connect(port.address());
            client.read_exact(&mut [0]).expect("the server's name");
            thread::spawn(move || talk_until_it_ends(client))
        })
        .collect();
    eventually(PATIENCE, "all are carried by the datapath", || {
        let sessions = dir.say(port.address(), "sessions");
        let on_it = sessions.lines().filter(|line| line.ends_with(datapath.name())).count();
        if on_it == BUSY { Ok(()) } else { Err(sessions) }
    });
    let in_kernel = InKernel::of(balance.process().0);
    assert_eq!(in_kernel.left(), in_kernel);
    assert_eq!(in_kernel == InKernel::default(), datapath == Datapath::Relay);

    balance.signal(Signal::SIGKILL);
    balance.wait(PATIENCE);
    // Whatever is still being told to the peers of the first, and whoever still listens: the kernel
    // takes rings down by themselves, a moment after the process that had them (io_uring/io_uring.c,
    // io_ring_exit_work).
    let still = if is_listening(port.port()) { "still" } else { "no longer" };
    let begun = Instant::now();
    let second = start();
    let took = begun.elapsed();
    note(&format!("{datapath:?}: the first {still} listened; the second was ready in {took:?}"));
    assert_eq!(ask_name(port.address()), "A");
    for client in clients {
        assert!(client.join().expect("the client"), "a clean end of a broken connection");
    }
    eventually(PATIENCE, "nothing of it is left in the kernel", || match in_kernel.left() {
        none if none == InKernel::default() => Ok(()),
        some => Err(format!("{some:?}")),
    });
    second.stop();
    let left = fs::read_dir(dir.path()).expect("the run directory").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".lock")), "{left:?}");
}

fn ask_name(address: std::net::SocketAddr) -> String {
    let mut name = [0];
    connect(address).read_exact(&mut name).expect("the server's name");
    String::from_utf8_lossy(&name).into_owned()
}

on_each_datapath!(killed_under_load_it_leaves_nothing_and_its_place_is_free);
