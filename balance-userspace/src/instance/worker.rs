//! A worker: one thread with one io_uring, its listeners and the sessions accepted there.
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

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc::Sender},
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

/// Accepts and serves until the context stops accepting and all sessions have ended or were
/// aborted. `is_accepting` is dropped together with the listeners.
pub(crate) async fn run(
    listeners: Vec<Rc<Listener>>,
    context: Arc<Context>,
    is_accepting: Sender<()>,
) {
    let pool = BufferPool::default();
    let sessions = TaskTracker::new();
    let accepting = TaskTracker::new();
    for listener in &listeners {
        for _ in 0..context.accepts {
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

struct Acceptor {
    listener: Rc<Listener>,
    context: Arc<Context>,
    pool: BufferPool,
    sessions: TaskTracker,
}

impl Acceptor {
    async fn run(self) {
        while !self.context.stop.is_cancelled() {
            if self.context.shortage.has_waiters() {
                sleep(BACK_OFF).await;
                continue;
            }
            match self.listener.accept().await {
                Ok(socket) => self.admit(socket).await,
                Err(_) if self.context.stop.is_cancelled() => break,
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
        let permits = Arc::clone(&self.context.permits);
        if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            return self.start(client, address, permit);
        }
        if let Some(suppressed) = CONNECTION_LIMIT.pass(Instant::now()) {
            warn!(
                limit = self.context.max_connections,
                suppressed, "connection limit reached, new clients wait"
            );
        }
        tokio::select! {
            permit = permits.acquire_owned() => {
                if client.peer().is_err() {
                    return log_disconnected();
                }
                self.start(client, address, permit.expect("the semaphore is never closed"));
            }
            () = self.context.abort.cancelled() => {}
        }
    }

    /// Waits until there is memory for one more connection; false if the instance aborts first.
    /// With no open connection no memory can be freed, so the client is admitted.
    async fn wait_for_memory(&self) -> bool {
        while self.context.open() > 0 && !self.context.memory.has_memory(Instant::now()) {
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

    fn start(&self, client: Rc<Stream>, address: SocketAddr, permit: OwnedSemaphorePermit) {
        let open_client = self.context.totals.accepted();
        // Entered before the task runs, so that `show` lists every accepted client.
        let first = self.context.table.first(address, AbortHandle::child_of(&self.context.abort));
        let (context, pool) = (Arc::clone(&self.context), self.pool.clone());
        self.sessions.spawn_local(async move {
            open_client.end(session::serve(&context, &pool, client, address, first).await);
            drop(permit);
        });
    }
}

fn log_disconnected() {
    debug!("client disconnected before it was served");
}
