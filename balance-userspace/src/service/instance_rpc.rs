//! Sends new arguments to running instances over their control sockets.
//!
//! Invariant: all requests run concurrently, so an instance that does not reply delays no other.

use std::collections::HashMap;

use tokio::task::{JoinSet, spawn_blocking};

use super::conf::InstanceName;
use crate::control::{
    client::rpc::{ClientError, ControlClient},
    protocol::{InstanceCommand, InstanceReply},
    run_dir::{Paths, RunDirError},
};

/// An instance, its paths, and its new arguments.
type ConfigureRequest = (InstanceName, Result<Paths, RunDirError>, Vec<String>);

/// Sends all requests, and returns the reply of each instance.
pub(super) async fn configure_all(
    requests: Vec<ConfigureRequest>,
) -> HashMap<InstanceName, Result<InstanceReply, String>> {
    let mut asked = JoinSet::new();
    for (name, paths, words) in requests {
        asked.spawn(async move {
            let reply = ask(paths, InstanceCommand::Configure { words }).await;
            (name, reply)
        });
    }
    asked.join_all().await.into_iter().collect()
}

async fn ask(
    paths: Result<Paths, RunDirError>,
    command: InstanceCommand,
) -> Result<InstanceReply, String> {
    let ask = move || ControlClient::connect(&paths?.socket)?.ask(command);
    match spawn_blocking(ask).await {
        Ok(reply) => reply.map_err(|e: ClientError| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}
