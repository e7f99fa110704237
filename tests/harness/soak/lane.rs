//! A lane: a client address whose connections all reach the same two backends, so that both ends of
//! a scenario are known to belong together whatever bytes they carry.
//!
//! The program chooses the channel by a hash of the client's address. [`Run`](super::Run) finds the
//! lane of an address by a trial connection.
//!
//! Invariants: a lane runs one scenario at a time, and starts the next when the program has
//! released the last. The ports belong to the lane for the whole run.

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

/// Deadline of a scenario. The sum of its pauses is much shorter.
const SCENARIO_TIMEOUT: Duration = TIMEOUT;

/// Interval between checks whether a connection can still arrive.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Client ports. Each scenario uses another port, which identifies it in the program's log.
const PORTS: std::ops::Range<u16> = 10_000..60_000;

/// A lane.
#[derive(Debug)]
pub(super) struct Lane {
    /// The backends of the first and of the second group.
    pub(super) listeners: [BackendListener; 2],
    pub(super) client: Client,
}

/// The client address of a lane.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
}

/// What all lanes share.
pub(super) struct Context<'r> {
    /// The address that the program listens on.
    pub(super) listen_address: SocketAddr,
    /// Namespace of the clients, if not the thread's own.
    pub(super) clients: Option<&'r Namespace>,
    /// Namespace of the backends, if not the thread's own.
    pub(super) backends: Option<&'r Namespace>,
    /// Whether the connection of a closed client can no longer reach a backend: neither the kernel
    /// nor the program has it any more. A reset may still be in flight when the program accepts the
    /// client.
    pub(super) is_over: &'r (dyn Fn(&Lane, SocketAddr) -> bool + Sync),
}

/// A finished scenario.
#[derive(Debug)]
pub(super) struct ScenarioResult {
    pub(super) address: SocketAddr,
    pub(super) client: Record,
    /// The backends that accepted the client, in order.
    pub(super) backends: Vec<Record>,
    /// Duration from the connect.
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
            // Set before the connect, which negotiates the window scale.
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
    /// Runs a scenario to its end.
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
                // The program passes over a backend that resets before the program knows that the
                // connect succeeded.
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

    /// Accepts the backend's end of the connection, if the plan has one and it arrives. `before`
    /// backends have accepted this client already.
    fn receive(
        &mut self,
        plan: &Plan,
        before: usize,
        waiting: &mut Waiting<'_>,
    ) -> Option<TcpStream> {
        let (mut index, mut dies) = match plan.reception {
            Reception::AllDown => return None,
            Reception::Served => (before, false),
            Reception::Failover => (before + 1, false),
            Reception::DiesBeforeAccept => (before, before == 0),
        };
        let mut first = before == 0;
        loop {
            // Checked before the accept, so that a connection that has already arrived counts.
            let is_last = waiting.is_over(self, first);
            let listener = self.listeners.get(index)?;
            if dies && listener.wait_for_connection(POLL_INTERVAL) {
                self.listeners[index].close();
                // If the close came early enough, the connect has failed.
                (index, dies, first) = (1, false, false);
            } else if !dies && let Some(stream) = listener.accept(POLL_INTERVAL) {
                return Some(stream);
            }
            if is_last {
                return None;
            }
        }
    }
}

/// The state while a lane waits for a connection to reach a backend.
struct Waiting<'s> {
    running: Option<ScopedJoinHandle<'s, Record>>,
    address: SocketAddr,
    client: Record,
    deadline: Instant,
    context: &'s Context<'s>,
}

impl Waiting<'_> {
    /// Whether no further connection can arrive. `first` until a backend has accepted the client: a
    /// client that closes without a reset still reaches a backend.
    fn is_over(&mut self, lane: &Lane, first: bool) -> bool {
        if Instant::now() >= self.deadline {
            return true;
        }
        if self.running.as_ref().is_some_and(|client| !client.is_finished()) {
            return false;
        }
        match self.client() {
            // The end of the client's stream shows that no backend follows.
            Record { end: Some(_), .. } => true,
            Record { left: Some(Ending::Close), .. } if first => false,
            _ => (self.context.is_over)(lane, self.address),
        }
    }

    /// Waits for the client to finish; returns its record.
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
