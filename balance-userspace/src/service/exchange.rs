//! What the supervisor says to its instances, on their control sockets.
//!
//! Invariants: all at once, so that one that does not answer holds up no other; an instance that has been
//! told to leave has let go of its names and of its listeners when that is said of it.

use std::collections::HashMap;

use tokio::task::{JoinSet, spawn_blocking};

use super::conf::Name;
use crate::control::{
    client::{Client, ClientError},
    master,
    protocol::{Command, Reply},
    rundir::{Paths, RunDirError},
};

/// An instance, where it is, and the arguments that it is to take, or nothing if it is to leave.
type Order = (Name, Result<Paths, RunDirError>, Option<Vec<String>>);

/// Tells all of them, and returns what came of it.
pub(super) async fn all(orders: Vec<Order>) -> HashMap<Name, Result<Reply, String>> {
    let mut asked = JoinSet::new();
    for (name, paths, words) in orders {
        asked.spawn(async move {
            let reply = match words {
                Some(words) => ask(paths, Command::Configure { words }).await,
                None => kill(paths).await,
            };
            (name, reply)
        });
    }
    asked.join_all().await.into_iter().collect()
}

async fn ask(paths: Result<Paths, RunDirError>, command: Command) -> Result<Reply, String> {
    let ask = move || Client::connect(&paths?.socket)?.ask(command);
    match spawn_blocking(ask).await {
        Ok(reply) => reply.map_err(|e: ClientError| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// Has an instance accept no more and end when its connections have ended.
pub(super) async fn kill(paths: Result<Paths, RunDirError>) -> Result<Reply, String> {
    let kill = move || paths.is_ok_and(master::kill);
    match spawn_blocking(kill).await {
        Ok(true) => Ok(Reply::Done),
        Ok(false) => Err("it does not leave".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}
