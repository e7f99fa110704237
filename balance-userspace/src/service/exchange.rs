//! What the supervisor says to its instances, on their control sockets.
//!
//! Invariant: whoever asks is not held up by one that does not answer for longer than a client is.

use tokio::task::spawn_blocking;

use crate::control::{
    client::{Client, ClientError},
    master,
    protocol::{Command, Reply},
    rundir::{Paths, RunDirError},
};

/// Asks, and waits for the reply; otherwise why there is none.
pub(super) async fn ask(
    paths: Result<Paths, RunDirError>,
    command: Command,
) -> Result<Reply, String> {
    let ask = move || Client::connect(&paths?.socket)?.ask(command);
    match spawn_blocking(ask).await {
        Ok(reply) => reply.map_err(|e: ClientError| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// Has an instance accept no more and end when its connections have ended. True when it has let go of
/// its names.
pub(super) async fn kill(paths: Result<Paths, RunDirError>) -> bool {
    let kill = move || paths.is_ok_and(master::kill);
    spawn_blocking(kill).await.unwrap_or(false)
}
