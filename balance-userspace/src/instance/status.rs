//! How the instance is, in one line, for whoever waits for it ([`notify`]).
//!
//! Invariant: told at most once a second and only when it has changed; while it drains, often
//! enough that the time it needs is not taken for a hang.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{instance::context::Context, notify};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Tells for ever.
pub(crate) async fn watch(context: &Arc<Context>) {
    if !notify::is_awaited() {
        return;
    }
    let mut told = String::new();
    loop {
        let (text, open) = (line(context), context.open());
        if text != told {
            notify::status(&text, open);
            told = text;
        }
        tokio::select! {
            () = sleep(LOOK) => {}
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
