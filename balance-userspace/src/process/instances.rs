//! The instances of a process.
//!
//! Invariant: an instance is in the list from its first accept until its last session has ended.

use std::{collections::BTreeMap, io, sync::Arc};

use socket2::Socket;
use tokio::{
    select,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tracing::error;

use super::workers::{Served, Workers};
use crate::{
    control::{self, instance_files::ControlEndpoint},
    instance::{context::Context, dns_refresh, idle, shared::Shared},
    selection::Differences,
};

/// What happens to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstanceEvent {
    /// No worker accepts for the instance, and its control socket is closed.
    Released(u64),
    /// Its last session has ended.
    Ended(u64),
}

/// The instances, and the workers that serve them.
pub(crate) struct Instances {
    pub(crate) shared: Arc<Shared>,
    workers: Option<Arc<Workers>>,
    running: BTreeMap<u64, Arc<Context>>,
    events: UnboundedReceiver<InstanceEvent>,
    sender: UnboundedSender<InstanceEvent>,
}

impl Instances {
    pub(crate) fn new(shared: Arc<Shared>, workers: Workers) -> Self {
        let (sender, events) = unbounded_channel();
        let workers = Some(Arc::new(workers));
        Self { shared, workers, running: BTreeMap::new(), events, sender }
    }

    /// Serves an instance.
    ///
    /// # Errors
    /// When the kernel has no descriptor or memory, or when the process stops.
    pub(crate) async fn serve(
        &mut self,
        id: u64,
        listeners: Vec<Socket>,
        context: Arc<Context>,
        endpoint: Option<ControlEndpoint>,
    ) -> io::Result<()> {
        let workers = self.workers.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let served = workers.serve(listeners, &context).await?;
        tokio::spawn(run(id, Arc::clone(&context), endpoint, served, self.sender.clone()));
        self.running.insert(id, context);
        Ok(())
    }

    /// The instances by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Context>)> {
        self.running.iter().map(|(&id, context)| (id, context))
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Arc<Context>> {
        self.running.get(&id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The differences of each instance that differs from its arguments.
    pub(crate) fn differences(&self) -> Vec<(u64, Differences)> {
        let all =
            self.iter().map(|(id, context)| (id, context.table.lock().selector.differences()));
        all.filter(|(_, differences)| !differences.is_empty()).collect()
    }

    /// Whether every instance has stopped accepting, or is about to.
    pub(crate) fn all_stop(&self) -> bool {
        self.running.values().all(|context| context.stop.is_cancelled())
    }

    /// Stops accepting for all instances. No further instance can be served.
    pub(crate) fn stop(&mut self) {
        self.running.values().for_each(|context| context.stop.cancel());
        // The workers end with their last session.
        self.workers = None;
    }

    /// The workers, unless the process stops.
    pub(crate) fn workers(&self) -> Option<Arc<Workers>> {
        self.workers.clone()
    }

    /// Waits for the next event.
    pub(crate) async fn next(&mut self) -> InstanceEvent {
        let event = self.events.recv().await.expect("a sender is held here");
        if let InstanceEvent::Ended(id) = event {
            self.running.remove(&id);
        }
        event
    }
}

/// The duties of the main thread for an instance, until its last session has ended.
async fn run(
    id: u64,
    context: Arc<Context>,
    endpoint: Option<ControlEndpoint>,
    served: Served,
    events: UnboundedSender<InstanceEvent>,
) {
    let Served { accepting, mut sessions } = served;
    let control =
        tokio::spawn(serve_control(id, Arc::clone(&context), endpoint, accepting, events.clone()));
    let duties = async {
        let idle = idle::watch(&context.table, context.settings.subscribe());
        let settings = context.settings.subscribe();
        let names = dns_refresh::watch(&context.table, settings, &context.re_resolve);
        tokio::join!(idle, names)
    };
    select! {
        // The channel carries no messages.
        _ = sessions.recv() => {}
        _ = async { duties.await; std::future::pending::<()>().await } => {}
    }
    let _ = control.await;
    let _ = events.send(InstanceEvent::Ended(id));
}

/// Serves the control socket. Removes its names once no worker accepts and the listeners are
/// closed: another process may then bind the addresses and claim the names.
async fn serve_control(
    id: u64,
    context: Arc<Context>,
    mut endpoint: Option<ControlEndpoint>,
    mut accepting: tokio::sync::mpsc::Receiver<()>,
    events: UnboundedSender<InstanceEvent>,
) {
    if let Some(listener) = endpoint.as_mut().and_then(ControlEndpoint::take_listener) {
        let limits = context.shared.control_clients;
        if let Err(error) = control::server::serve(listener, Arc::clone(&context), limits).await {
            error!(%error, "cannot serve the control socket");
        }
    }
    // The channel carries no messages. It closes when the last worker stops accepting.
    let _ = accepting.recv().await;
    drop(endpoint);
    let _ = events.send(InstanceEvent::Released(id));
}
