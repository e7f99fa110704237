//! A lane: an address for clients whose connections all come to the same two backends, so that
//! both ends of a scenario are known to belong together whatever they say.
//!
//! The program chooses the channel by a hash of the client's address; which lane that is, is found
//! by trying. Invariants: the scenarios of a lane come one after the other, and the next one begins when
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
    backend_listener::{BackendListener, on, set_buffers},
    peer,
};
use crate::{Namespace, TIMEOUT};

/// How long a scenario may take. All its pauses together are a small part of it.
const SCENARIO_TIMEOUT: Duration = TIMEOUT;

/// Between two looks at whether nobody comes any more.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Clients' ports: each scenario has another one, so that it is found in the program's log.
const PORTS: std::ops::Range<u16> = 10_000..60_000;

/// A lane.
#[derive(Debug)]
pub(super) struct Lane {
    /// The backend of the first group, and that of the second.
    pub(super) listeners: [BackendListener; 2],
    pub(super) client: Client,
}

/// Where clients of a lane come from.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
}

/// What the scenarios of all lanes have in common.
pub(super) struct Context<'r> {
    /// Where the program listens.
    pub(super) listen_address: SocketAddr,
    /// The clients' host, if it is not ours.
    pub(super) clients: Option<&'r Namespace>,
    /// The backends'.
    pub(super) backends: Option<&'r Namespace>,
    /// Tells whether nothing comes of a client that has left: neither the kernel nor the program has its
    /// connection any more. A reset may be on its way when the program accepts the client.
    pub(super) is_over: &'r (dyn Fn(&Lane, SocketAddr) -> bool + Sync),
}

/// A scenario that is over.
#[derive(Debug)]
pub(super) struct ScenarioResult {
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
    pub(super) fn connect(&mut self, context: &Context, buffers: Option<u32>) -> TcpStream {
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
            // Baseline the connect: the window scale is settled there.
            set_buffers(&socket, buffers);
            socket
                .connect_timeout(&context.listen_address.into(), TIMEOUT)
                .unwrap_or_else(|error| panic!("connecting to the program: {error}"));
            TcpStream::from(socket)
        };
        on(context.clients, connect)
    }
}

impl Lane {
    /// Lets a scenario take place.
    pub(super) fn run_scenario(&mut self, plan: &Plan, context: &Context) -> ScenarioResult {
        let open = match plan.reception {
            Reception::Served | Reception::DiesBeforeAccept => [true, true],
            Reception::Failover => [false, true],
            Reception::AllDown => [false, false],
        };
        for (listener, open) in self.listeners.iter_mut().zip(open) {
            if open {
                listener.open(plan.backend.buffers, context.backends);
            } else {
                listener.close();
            }
        }
        let stream = self.client.connect(context, plan.client.buffers);
        let address = stream.local_addr().expect("getsockname");
        let start = Instant::now();
        let deadline = start + SCENARIO_TIMEOUT;
        let payloads = [plan.client_payload(), plan.backend_payload()];
        thread::scope(|scope| {
            let client = scope.spawn(move || {
                peer::play(stream, &plan.client, payloads[0], payloads[1], deadline)
            });
            let mut waiting = Waiting {
                running: Some(client),
                address,
                client: Record::default(),
                deadline,
                context,
            };
            let mut backends = Vec::new();
            while let Some(stream) = self.receive(plan, backends.len(), &mut waiting) {
                let record = peer::play(stream, &plan.backend, payloads[1], payloads[0], deadline);
                // One that breaks before the program has found out that its connect was
                // successful is passed over.
                let is_early = record.left.is_some() && record.received == 0;
                backends.push(record);
                if !is_early {
                    break;
                }
            }
            ScenarioResult {
                address,
                client: waiting.into_client(),
                backends,
                time: start.elapsed(),
            }
        })
    }

    /// The backend's end of the connection, if it is to come and does; so many have come before.
    fn receive(
        &mut self,
        plan: &Plan,
        before: usize,
        waiting: &mut Waiting<'_>,
    ) -> Option<TcpStream> {
        let (mut listener, mut dies) = match plan.reception {
            Reception::AllDown => return None,
            Reception::Served => (before, false),
            Reception::Failover => (before + 1, false),
            Reception::DiesBeforeAccept => (before, before == 0),
        };
        let mut first = before == 0;
        loop {
            // In this order: what has arrived by then counts.
            let is_last = waiting.is_over(self, first);
            let called = self.listeners.get(listener)?;
            if dies && called.is_called(POLL_INTERVAL) {
                self.listeners[listener].close();
                // If that was soon enough, the connect has failed.
                (listener, dies, first) = (1, false, false);
            } else if !dies && let Some(stream) = called.accept(POLL_INTERVAL) {
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
    context: &'s Context<'s>,
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
            _ => (self.context.is_over)(lane, self.address),
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
