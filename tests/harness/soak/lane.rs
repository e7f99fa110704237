//! A lane: an address for clients whose connections all come to the same two backends, so that
//! both ends of a life are known to belong together whatever they say.
//!
//! The program chooses the channel by a hash of the client's address; which lane that is, is found
//! by trying. Invariants: the lives of a lane come one after the other, and the next one begins when
//! the program has let go of the one before; its ports are the lane's all along.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{
    Ending, Plan, Reception, Record,
    backend_listener::{Door, on, set_buffers},
    peer,
};
use crate::{Namespace, PATIENCE};

/// How long a life may take. All its pauses together are a small part of it.
const LIFETIME: Duration = PATIENCE;

/// Between two looks at whether nobody comes any more.
const LOOK: Duration = Duration::from_millis(50);

/// Clients' ports: each life has another one, so that it is found in the program's log.
const PORTS: std::ops::Range<u16> = 10_000..60_000;

/// A lane.
#[derive(Debug)]
pub(super) struct Lane {
    /// The backend of the first group, and that of the second.
    pub(super) doors: [Door; 2],
    pub(super) client: Client,
}

/// Where clients of a lane come from.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
}

/// What the lives of all lanes have in common.
pub(super) struct Around<'r> {
    /// Where the program listens.
    pub(super) entrance: SocketAddr,
    /// The clients' host, if it is not ours.
    pub(super) clients: Option<&'r Namespace>,
    /// The backends'.
    pub(super) backends: Option<&'r Namespace>,
    /// Tells whether nothing comes of a client that has left: neither the kernel nor the program has its
    /// connection any more. A reset may be on its way when the program accepts the client.
    pub(super) is_over: &'r (dyn Fn(&Lane, SocketAddr) -> bool + Sync),
}

/// A life that is over.
#[derive(Debug)]
pub(super) struct Lived {
    pub(super) address: SocketAddr,
    pub(super) client: Record,
    /// By whom it was accepted, in turn.
    pub(super) backends: Vec<Record>,
    /// How long it was, from the connect.
    pub(super) time: Duration,
}

impl Client {
    pub(super) fn new(ip: IpAddr) -> Self {
        Self { ip, port: PORTS.start }
    }

    /// Connects from the next port.
    pub(super) fn connect(&mut self, around: &Around, buffers: Option<u32>) -> TcpStream {
        let connect = || {
            let socket = loop {
                let here = SocketAddr::new(self.ip, self.port);
                self.port = if self.port + 1 < PORTS.end { self.port + 1 } else { PORTS.start };
                let socket = Socket::new(Domain::for_address(here), Type::STREAM, None);
                let socket = socket.expect("socket");
                socket.set_reuse_address(true).expect("SO_REUSEADDR");
                match socket.bind(&here.into()) {
                    Ok(()) => break socket,
                    Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                    Err(error) => panic!("binding {here}: {error}"),
                }
            };
            // Before the connect: the window scale is settled there.
            set_buffers(&socket, buffers);
            socket
                .connect_timeout(&around.entrance.into(), PATIENCE)
                .unwrap_or_else(|error| panic!("connecting to the program: {error}"));
            TcpStream::from(socket)
        };
        on(around.clients, connect)
    }
}

impl Lane {
    /// Lets a life take place.
    pub(super) fn live(&mut self, plan: &Plan, around: &Around) -> Lived {
        let open = match plan.reception {
            Reception::Served | Reception::DiesInQueue => [true, true],
            Reception::Spare => [false, true],
            Reception::Nobody => [false, false],
        };
        for (door, open) in self.doors.iter_mut().zip(open) {
            if open {
                door.open(plan.backend.buffers, around.backends);
            } else {
                door.close();
            }
        }
        let stream = self.client.connect(around, plan.client.buffers);
        let address = stream.local_addr().expect("getsockname");
        let start = Instant::now();
        let deadline = start + LIFETIME;
        let voices = [plan.client_voice(), plan.backend_voice()];
        thread::scope(|scope| {
            let client = scope
                .spawn(move || peer::play(stream, &plan.client, voices[0], voices[1], deadline));
            let mut waiting = Waiting {
                running: Some(client),
                address,
                client: Record::default(),
                deadline,
                around,
            };
            let mut backends = Vec::new();
            while let Some(stream) = self.receive(plan, backends.len(), &mut waiting) {
                let record = peer::play(stream, &plan.backend, voices[1], voices[0], deadline);
                // One that breaks before the program has found out that its connect was
                // successful is passed over.
                let is_early = record.left.is_some() && record.heard == 0;
                backends.push(record);
                if !is_early {
                    break;
                }
            }
            Lived { address, client: waiting.into_client(), backends, time: start.elapsed() }
        })
    }

    /// The backend's end of the connection, if it is to come and does; so many have come before.
    fn receive(
        &mut self,
        plan: &Plan,
        before: usize,
        waiting: &mut Waiting<'_>,
    ) -> Option<TcpStream> {
        let (mut door, mut dies) = match plan.reception {
            Reception::Nobody => return None,
            Reception::Served => (before, false),
            Reception::Spare => (before + 1, false),
            Reception::DiesInQueue => (before, before == 0),
        };
        let mut first = before == 0;
        loop {
            // In this order: what has arrived by then counts.
            let is_last = waiting.is_over(self, first);
            let called = self.doors.get(door)?;
            if dies && called.is_called(LOOK) {
                self.doors[door].close();
                // If that was soon enough, the connect has failed.
                (door, dies, first) = (1, false, false);
            } else if !dies && let Some(stream) = called.accept(LOOK) {
                return Some(stream);
            }
            if is_last {
                return None;
            }
        }
    }
}

/// What a lane knows while it waits for a connection to come to a backend.
struct Waiting<'s> {
    running: Option<ScopedJoinHandle<'s, Record>>,
    address: SocketAddr,
    client: Record,
    deadline: Instant,
    around: &'s Around<'s>,
}

impl Waiting<'_> {
    /// Whether nothing comes any more that has not come by now. `first` if nobody has come yet whom
    /// a client that closes in an orderly way would be brought to.
    fn is_over(&mut self, lane: &Lane, first: bool) -> bool {
        if Instant::now() >= self.deadline {
            return true;
        }
        if self.running.as_ref().is_some_and(|client| !client.is_finished()) {
            return false;
        }
        match self.client() {
            // It has been told that nothing comes.
            Record { end: Some(_), .. } => true,
            Record { left: Some(Ending::Close), .. } if first => false,
            _ => (self.around.is_over)(lane, self.address),
        }
    }

    /// The client's record, once it is over.
    fn client(&mut self) -> &Record {
        if let Some(client) = self.running.take() {
            self.client = client.join().expect("the client");
        }
        &self.client
    }

    fn into_client(mut self) -> Record {
        self.client().clone()
    }
}
