//! The status line that the instance sends to its service manager or supervisor ([`notify`]).
//!
//! Invariant: the status is sent at most once a second and only if it has changed. While the
//! instance drains, the request for more time is sent often enough that the manager does not time
//! out.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{instance::context::Context, notify};

/// Time between two updates.
const INTERVAL: Duration = Duration::from_secs(1);

/// Sends the status whenever it changes. Returns at once if no process waits for it.
pub(crate) async fn watch(context: &Arc<Context>) {
    if !notify::is_enabled() {
        return;
    }
    let mut sent = String::new();
    loop {
        let (text, open) = (line(context), context.open());
        if text != sent {
            notify::status(&text, open);
            sent = text;
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = context.stop.cancelled(), if !context.stop.is_cancelled() => {}
        }
        if context.stop.is_cancelled() {
            notify::stopping();
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
