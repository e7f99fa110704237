//! The status of a process: sent to its supervisor, or to the service manager ([`notify`]).
//!
//! Invariant: the status is sent at most once a second and only if it has changed. While the
//! process drains, the request for more time is sent often enough that the manager does not time
//! out.

use std::{collections::BTreeSet, future::pending, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    instances::Instances,
    protocol::{Event, InstanceStatus},
    supervision::Sender,
};
use crate::{instance::context::Context, notify};

/// Time between two updates.
const INTERVAL: Duration = Duration::from_secs(1);

/// The status that was sent last, and its receiver.
pub(crate) struct Status {
    supervisor: Option<Sender>,
    last: Option<Event>,
    last_text: String,
    next: Instant,
    /// Instances that the supervisor has removed.
    removed: BTreeSet<u64>,
}

impl Status {
    pub(crate) fn new(supervisor: Option<Sender>) -> Self {
        Self {
            supervisor,
            last: None,
            last_text: String::new(),
            next: Instant::now(),
            removed: BTreeSet::new(),
        }
    }

    pub(crate) fn set_removed(&mut self, id: u64) {
        self.removed.insert(id);
    }

    /// Forgets a removed instance, which no further request names.
    pub(crate) fn forget(&mut self, id: u64) {
        self.removed.remove(&id);
    }

    pub(crate) fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// Makes the next status due at once.
    pub(crate) fn make_due(&mut self) {
        self.next = Instant::now();
    }

    pub(crate) fn sender(&self) -> Option<Sender> {
        self.supervisor.clone()
    }

    /// Another supervisor has taken over. It gets the whole status.
    pub(crate) fn set_supervisor(&mut self, supervisor: Sender) {
        self.supervisor = Some(supervisor);
        self.last = None;
        self.make_due();
    }

    /// Sends an event to the supervisor, if there is one.
    pub(crate) fn send(&self, event: &Event) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.send(event, Vec::new());
        }
    }

    /// Stops sending to the supervisor, which has ended.
    pub(crate) fn forget_supervisor(&mut self) {
        self.supervisor = None;
    }

    /// Waits until all messages to the supervisor are written.
    pub(crate) async fn flush(self) {
        if let Some(supervisor) = self.supervisor {
            supervisor.flush(INTERVAL).await;
        }
    }

    /// Waits until the next status is due.
    pub(crate) async fn due(&self) {
        match self.supervisor.is_some() || notify::is_enabled() {
            true => sleep_until(self.next).await,
            false => pending().await,
        }
    }

    /// Sends the status if it is due and has changed.
    pub(crate) fn send_if_due(&mut self, instances: &Instances, is_stopping: bool) {
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + INTERVAL;
        if self.supervisor.is_some() {
            return self.send_all(instances);
        }
        if !notify::is_enabled() {
            return;
        }
        if is_stopping {
            notify::stopping();
        }
        let open = instances.shared.open();
        let text = match instances.iter().next() {
            _ if is_stopping => notify::draining(open),
            Some((_, context)) => line(context),
            None => return,
        };
        if text != self.last_text {
            notify::status(&text);
            self.last_text = text;
        }
    }

    /// Sends the status of all instances to the supervisor if it has changed.
    pub(crate) fn send_all(&mut self, instances: &Instances) {
        let status = |(id, context): (u64, &Arc<Context>)| InstanceStatus {
            id,
            name: context.settings.borrow().name.clone(),
            open: context.open() as u64,
            text: line(context),
        };
        let open = instances.shared.open() as u64;
        let event = Event::Status { open, instances: instances.iter().map(status).collect() };
        if self.last.as_ref() != Some(&event) {
            self.send(&event);
            self.last = Some(event);
        }
    }
}

fn line(context: &Context) -> String {
    let open = context.open();
    if context.stop.is_cancelled() {
        return notify::draining(open);
    }
    let (up, all) = {
        let inner = context.table.lock();
        let channels = inner.selector.groups().iter().flat_map(|group| &group.channels);
        channels.fold((0, 0), |(up, all), channel| (up + u32::from(channel.enabled), all + 1))
    };
    let s = if open == 1 { "" } else { "s" };
    format!("{}, {up} of {all} channels up, {open} connection{s}", context.datapath.name())
}
