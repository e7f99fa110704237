//! The worker threads of a process.
//!
//! Invariant: every worker has its ring before the first client is accepted, so a lack of rings is
//! an error of the start.

use std::{io, sync::Arc, thread};

use socket2::Socket;
use tokio::sync::{
    mpsc::{self, UnboundedSender},
    oneshot,
};

use super::worker::{self, Job};
use crate::{
    error::StartError,
    instance::context::Context,
    io::{listener, ring},
};

/// The running workers. They end when this value is dropped and every instance has ended.
pub(crate) struct Workers {
    jobs: Vec<UnboundedSender<Job>>,
}

/// An instance on the workers.
pub(crate) struct Served {
    /// Closes when no worker accepts any more.
    pub(crate) accepting: mpsc::Receiver<()>,
    /// Closes when the last session has ended.
    pub(crate) sessions: mpsc::Receiver<()>,
}

impl Workers {
    /// Spawns the workers. Each has created its ring when this returns.
    pub(crate) fn spawn(count: usize) -> Result<(Self, Vec<thread::JoinHandle<()>>), StartError> {
        let refused =
            |source| StartError::System { act: "start a worker with an io_uring", source };
        let (mut threads, mut jobs) = (Vec::new(), Vec::new());
        for i in 0..count {
            let (ring_created, ring_result) = std::sync::mpsc::channel();
            let (sender, receiver) = mpsc::unbounded_channel();
            let thread =
                thread::Builder::new().name(format!("worker-{i}")).spawn(
                    move || match ring::runtime() {
                        Ok(runtime) => {
                            let _ = ring_created.send(Ok(()));
                            runtime.block_on(worker::run(receiver));
                        }
                        Err(e) => drop(ring_created.send(Err(e))),
                    },
                );
            threads.push(thread.map_err(refused)?);
            jobs.push(sender);
            ring_result
                .recv()
                .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
                .map_err(refused)?;
        }
        Ok((Self { jobs }, threads))
    }

    /// Serves an instance on all workers.
    ///
    /// # Errors
    /// When the kernel has no descriptor or memory. No worker accepts for the instance then.
    pub(crate) async fn serve(
        &self,
        listeners: Vec<Socket>,
        context: &Arc<Context>,
    ) -> io::Result<Served> {
        let (is_accepting, accepting) = mpsc::channel(1);
        let (has_sessions, sessions) = mpsc::channel(1);
        let shares = listener::distribute(listeners, self.jobs.len())?;
        let mut results = Vec::new();
        for (worker, listeners) in self.jobs.iter().zip(shares) {
            let (started, result) = oneshot::channel();
            let _ = worker.send(Job::Serve {
                listeners,
                context: Arc::clone(context),
                started,
                is_accepting: is_accepting.clone(),
                has_sessions: has_sessions.clone(),
            });
            results.push(result);
        }
        for result in results {
            let result = result.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
            if result.is_err() {
                context.stop.cancel();
                context.abort.cancel();
                return result.map(|()| unreachable!("the result is an error"));
            }
        }
        Ok(Served { accepting, sessions })
    }

    /// Waits until every worker has replied. A worker that hangs does not reply.
    pub(crate) async fn ping(&self) {
        let replies: Vec<_> = self
            .jobs
            .iter()
            .map(|worker| {
                let (reply, answer) = oneshot::channel();
                let _ = worker.send(Job::Ping(reply));
                answer
            })
            .collect();
        for reply in replies {
            let _ = reply.await;
        }
    }
}
