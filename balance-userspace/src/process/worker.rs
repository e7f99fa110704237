//! A worker: one thread with one io_uring, its listeners and the sessions accepted there, of all
//! instances.
//!
//! Invariants: a session never blocks the thread. On a resource shortage the worker pauses before
//! the next accept and serves the open connections; it logs the shortage at most once in an
//! interval.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::Socket;
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{Sender, UnboundedReceiver},
        oneshot,
    },
    time::sleep,
};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::{
    datapath::{AbortHandle, BufferPool},
    instance::{context::Context, session, shortage::BACK_OFF},
    io::{accept::Listener, stream::Stream},
    throttle::Throttle,
};

static SHORTAGE: Throttle = Throttle::new(Duration::from_secs(10));
static CONNECTION_LIMIT: Throttle = Throttle::new(Duration::from_secs(10));
static MEMORY: Throttle = Throttle::new(Duration::from_secs(10));

/// A task for a worker.
pub(crate) enum Job {
    /// Serve the clients of these listeners for an instance.
    Serve {
        listeners: Vec<Socket>,
        context: Arc<Context>,
        /// Receives `Ok` if the worker serves.
        started: oneshot::Sender<io::Result<()>>,
        /// Dropped when the worker no longer accepts for the instance.
        is_accepting: Sender<()>,
        /// Dropped when the instance has no session on this worker any more.
        has_sessions: Sender<()>,
    },
    /// Reply at once.
    Ping(oneshot::Sender<()>),
}

/// Serves instances until the sender of the jobs is dropped and every instance has ended.
pub(crate) async fn run(mut jobs: UnboundedReceiver<Job>) {
    let pool = BufferPool::default();
    let instances = TaskTracker::new();
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Serve { listeners, context, started, is_accepting, has_sessions } => {
                let listeners = listeners.into_iter().map(|it| Listener::new(it).map(Rc::new));
                match listeners.collect() {
                    Ok(listeners) => {
                        let pool = pool.clone();
                        instances.spawn_local(async move {
                            serve(listeners, context, pool, is_accepting).await;
                            drop(has_sessions);
                        });
                        let _ = started.send(Ok(()));
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            }
            // The sender may be gone.
            Job::Ping(reply) => drop(reply.send(())),
        }
    }
    instances.close();
    instances.wait().await;
}

/// Accepts and serves until the instance stops accepting and all its sessions have ended or were
/// aborted. `is_accepting` is dropped together with the listeners.
async fn serve(
    listeners: Vec<Rc<Listener>>,
    context: Arc<Context>,
    pool: BufferPool,
    is_accepting: Sender<()>,
) {
    let sessions = TaskTracker::new();
    let accepting = TaskTracker::new();
    for listener in &listeners {
        for _ in 0..context.shared.accepts {
            let acceptor = Acceptor {
                listener: Rc::clone(listener),
                context: Arc::clone(&context),
                pool: pool.clone(),
                sessions: sessions.clone(),
            };
            accepting.spawn_local(acceptor.run());
        }
    }
    accepting.close();
    context.stop.cancelled().await;
    // The listeners are closed but not shut down, because another process may share them. That
    // process accepts later clients; without another process the kernel refuses them.
    for listener in &listeners {
        listener.stop().await;
    }
    accepting.wait().await;
    drop((listeners, is_accepting));
    sessions.close();
    sessions.wait().await;
}

/// A permit of the instance, and one of the process.
type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

struct Acceptor {
    listener: Rc<Listener>,
    context: Arc<Context>,
    pool: BufferPool,
    sessions: TaskTracker,
}

impl Acceptor {
    async fn run(self) {
        while !self.context.stop.is_cancelled() {
            if self.context.shared.shortage.has_waiters() {
                sleep(BACK_OFF).await;
                continue;
            }
            match self.listener.accept().await {
                Ok(socket) => self.admit(socket).await,
                Err(_) if self.context.stop.is_cancelled() => break,
                // An instance that is being replaced is served twice, from the same listener. When
                // the old one stops, the accepts of both are cancelled.
                Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => {}
                // The client disconnected before its accept.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    if let Some(suppressed) = SHORTAGE.pass(Instant::now()) {
                        warn!(error = %e, suppressed, "cannot accept, retrying");
                    }
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// Starts a session once a permit and memory are available.
    async fn admit(&self, socket: OwnedFd) {
        let client = Stream::new(socket);
        if let Some(options) = &self.context.accepted_options
            && let Err(error) = options.apply(&client)
        {
            debug!(%error, "client disconnected before it was served");
            return;
        }
        let Ok(address) = client.peer() else { return log_disconnected() };
        // Checked before the client takes a permit, which may be the last.
        if self.context.connector.loops.is_own(&client, address) || !self.wait_for_memory().await {
            return;
        }
        if let Some(permits) = self.try_acquire() {
            return self.start(client, address, permits);
        }
        if let Some(suppressed) = CONNECTION_LIMIT.pass(Instant::now()) {
            warn!(
                limit = self.context.max_connections,
                suppressed, "connection limit reached, new clients wait"
            );
        }
        tokio::select! {
            permits = self.acquire() => {
                if client.peer().is_err() {
                    return log_disconnected();
                }
                self.start(client, address, permits);
            }
            () = self.context.abort.cancelled() => {}
        }
    }

    fn try_acquire(&self) -> Option<Permits> {
        let own = Arc::clone(&self.context.permits).try_acquire_owned().ok()?;
        let shared = Arc::clone(&self.context.shared.permits).try_acquire_owned().ok()?;
        Some((own, shared))
    }

    /// Waits for the permit of the instance first, so that its clients take no permit of other
    /// instances meanwhile.
    async fn acquire(&self) -> Permits {
        let acquire = async |permits: &Arc<Semaphore>| {
            Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed")
        };
        (acquire(&self.context.permits).await, acquire(&self.context.shared.permits).await)
    }

    /// Waits until there is memory for one more connection; false if the instance aborts first.
    /// With no open connection no memory can be freed, so the client is admitted.
    async fn wait_for_memory(&self) -> bool {
        while self.context.shared.open() > 0
            && !self.context.shared.memory.has_memory(Instant::now())
        {
            if let Some(suppressed) = MEMORY.pass(Instant::now()) {
                warn!(suppressed, "control group memory nearly exhausted, new clients wait");
            }
            tokio::select! {
                () = sleep(BACK_OFF) => {}
                () = self.context.abort.cancelled() => return false,
            }
        }
        true
    }

    fn start(&self, client: Rc<Stream>, address: SocketAddr, permits: Permits) {
        let open_client = self.context.totals.accepted();
        // Entered before the task runs, so that `show` lists every accepted client.
        let first = self.context.table.first(address, AbortHandle::child_of(&self.context.abort));
        let (context, pool) = (Arc::clone(&self.context), self.pool.clone());
        self.sessions.spawn_local(async move {
            open_client.end(session::serve(&context, &pool, client, address, first).await);
            drop(permits);
        });
    }
}

fn log_disconnected() {
    debug!("client disconnected before it was served");
}
