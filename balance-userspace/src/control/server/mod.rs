//! The serving side of a control socket: reads requests, hands each command to a [`Handler`],
//! writes replies.
//!
//! Invariants: a client may do what [`rights`] says, by the user that the kernel reports. A client
//! that is silent, endless or sends garbage holds a permit for a moment and costs nothing else.

pub(crate) mod client_limiter;
pub(crate) mod configure;
mod handler;
mod rights;

use std::{
    io,
    os::unix::net::UnixListener as StdListener,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tracing::warn;

use self::{
    client_limiter::{ClientLimiter, ClientLimits, ClientPermit},
    rights::{AccessRule, Rights},
};
use super::protocol::{
    ControlCommand, ControlReply as _, Handshake, Preamble, REQUEST_LIMIT, Request, SocketReply,
    VERSION,
};
use crate::{error::one_line, sys, throttle::Throttle};

/// The longest time a client may take to send a request or to read its reply. Silent clients keep
/// others out for no longer than this, so it is short.
const IO_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after an accept failed on a resource shortage.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Limits the log lines that refused clients cause.
static REFUSALS: Throttle = Throttle::new(Duration::from_secs(10));

/// Carries out the commands that arrive on a control socket.
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    /// The commands.
    type Command: ControlCommand;

    /// Carries out a command. A command that waits releases the permit meanwhile.
    fn handle(
        &self,
        permit: &mut ClientPermit,
        command: Self::Command,
    ) -> impl Future<Output = <Self::Command as ControlCommand>::Reply> + Send;

    /// The name of the instance (`--name`).
    fn name(&self) -> Option<String> {
        None
    }

    /// Whether the socket has a group whose members may read (`--control-group`).
    fn has_readers(&self) -> bool;

    /// Waits until the socket is to be closed.
    fn stopped(&self) -> impl Future<Output = ()> + Send;
}

/// Serves the socket until [`Handler::stopped`] completes.
///
/// # Errors
/// When the socket cannot be registered with the reactor.
pub(crate) async fn serve(
    listener: StdListener,
    handler: impl Handler,
    limits: ClientLimits,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let limiter = ClientLimiter::new(limits);
    let rule = AccessRule { owner: sys::effective_user(), has_readers: handler.has_readers() };
    let mut spare = None;
    loop {
        let permit = match spare.take() {
            Some(permit) => permit,
            None => limiter.acquire().await,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, most likely. The workers log that.
                    sleep(ACCEPT_RETRY_PAUSE).await;
                    continue;
                }
            },
            () = handler.stopped() => return Ok(()),
        };
        // The client is gone if the kernel reports no user.
        let Ok(user) = stream.peer_cred().map(|peer| peer.uid()) else { continue };
        let permit = if rule.rights(user) == Rights::Change {
            permit
        } else {
            spare = Some(permit);
            let Some(permit) = limiter.try_acquire_reading() else {
                refuse(&stream);
                continue;
            };
            permit
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            // A client that breaks off needs no handling.
            let _ = serve_client(stream, &handler, permit, rule, user).await;
        });
    }
}

/// Tells a client that too many others are served.
fn refuse(stream: &UnixStream) {
    let reply = SocketReply::Refused("too many clients, try again".to_owned());
    let mut line = serde_json::to_vec(&reply).unwrap_or_default();
    line.push(b'\n');
    // A new socket has room.
    let _ = stream.try_write(&line);
}

/// Serves the requests of one client until the client ends.
async fn serve_client<H: Handler>(
    stream: UnixStream,
    handler: &H,
    mut permit: ClientPermit,
    rule: AccessRule,
    user: u32,
) -> io::Result<()> {
    let rights = rule.rights(user);
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut lines).take(REQUEST_LIMIT as u64);
        let read = timeout(IO_TIMEOUT, limited.read_until(b'\n', &mut line)).await??;
        if read == 0 {
            return Ok(());
        }
        let request = if rights == Rights::Nothing {
            Err(denied(rule, user))
        } else if line.last() != Some(&b'\n') {
            let reason = "the request is too long or was cut off";
            Err(SocketReply::Refused(reason.to_owned()))
        } else {
            match read_request::<H::Command>(&line) {
                Ok(Incoming::Command(command)) if !rights.allow(&command) => {
                    Err(denied(rule, user))
                }
                request => request,
            }
        };
        // A command may wait for long; free the memory before.
        drop(line);
        let (mut reply, is_refusal) = match request {
            Ok(Incoming::Hello) => (serde_json::to_vec(&hello(handler.name()))?, false),
            Ok(Incoming::Command(command)) => tokio::select! {
                reply = handler.handle(&mut permit, command) => {
                    (serde_json::to_vec(&reply)?, reply.is_refusal())
                }
                // The client no longer waits for the end of its drain.
                () = closed(&mut lines) => return Ok(()),
            },
            // A client that may read may read on.
            Err(refusal @ SocketReply::Denied { may_read, .. }) => {
                (serde_json::to_vec(&refusal)?, !may_read)
            }
            Err(refusal) => (serde_json::to_vec(&refusal)?, true),
        };
        reply.push(b'\n');
        timeout(IO_TIMEOUT, write.write_all(&reply)).await??;
        if is_refusal {
            return Ok(());
        }
    }
}

/// The reply to a command that the client may not give.
fn denied(AccessRule { owner, has_readers }: AccessRule, user: u32) -> SocketReply {
    if let Some(suppressed) = REFUSALS.pass(Instant::now()) {
        warn!(user, suppressed, "control client refused");
    }
    SocketReply::Denied { owner, may_read: has_readers }
}

fn hello(name: Option<String>) -> SocketReply {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    SocketReply::Hello { pid: std::process::id(), version, name }
}

/// A request that can be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<C> {
    /// [`Handshake::Hello`], which needs no handler.
    Hello,
    /// A command for the handler.
    Command(C),
}

/// Reads a request. The version comes first: the command of another version may be unreadable here.
///
/// # Errors
/// The reply to a request of another version, or to one that cannot be read.
pub(crate) fn read_request<C: DeserializeOwned>(line: &[u8]) -> Result<Incoming<C>, SocketReply> {
    // The error quotes the request, which may hold control characters.
    let unreadable = |e: serde_json::Error| {
        SocketReply::Refused(one_line(&format!("the request cannot be read: {e}")))
    };
    let Preamble { version } = serde_json::from_slice(line).map_err(unreadable)?;
    if version != VERSION {
        return Err(SocketReply::Mismatch { version: VERSION });
    }
    if let Ok(Request { command: Handshake::Hello, .. }) = serde_json::from_slice(line) {
        return Ok(Incoming::Hello);
    }
    let request = serde_json::from_slice(line).map_err(unreadable)?;
    let Request { command, .. } = request;
    Ok(Incoming::Command(command))
}

/// Waits until the client has closed its side.
async fn closed(lines: &mut (impl tokio::io::AsyncBufRead + Unpin)) {
    // A request that the client sends ahead stays in the buffer until the command is done.
    if lines.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty()) {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{InstanceCommand, SupervisorCommand};

    type Read = Result<Incoming<InstanceCommand>, SocketReply>;

    #[test]
    fn a_request_of_another_version_is_answered_by_ours() {
        for version in ["0", "2", "4294967295"] {
            for command in ["\"show\"", "{\"weight\":{\"id\":[0,1]}}", "7", "null"] {
                let line = format!("{{\"version\":{version},\"command\":{command},\"more\":[]}}\n");
                let read: Read = read_request(line.as_bytes());
                assert_eq!(read, Err(SocketReply::Mismatch { version: VERSION }), "{line}");
            }
        }
        let line = format!("{{\"version\":{VERSION},\"command\":\"show\"}}");
        assert_eq!(read_request(line.as_bytes()), Ok(Incoming::Command(InstanceCommand::Show)));
        let hello = format!("{{\"version\":{VERSION},\"command\":\"hello\"}}");
        let read: Read = read_request(hello.as_bytes());
        assert_eq!(read, Ok(Incoming::Hello));
    }

    #[test]
    fn a_request_without_a_version_or_with_an_unknown_command_is_refused() {
        let unknown = format!("{{\"version\":{VERSION},\"command\":\"weight\"}}");
        for line in ["", "{}", "show", "{\"version\":\"1\"}", "{\"version\":-1}", &unknown] {
            let read: Read = read_request(line.as_bytes());
            assert!(matches!(read, Err(SocketReply::Refused(_))), "{line}: {read:?}");
        }
        let line = format!("{{\"version\":{VERSION},\"command\":\"\\u001b[2J\\n\"}}");
        let read: Read = read_request(line.as_bytes());
        let Err(SocketReply::Refused(reason)) = read else { panic!("{line}") };
        assert!(!reason.contains(char::is_control), "{reason:?}");
    }

    #[test]
    fn a_supervisor_refuses_commands_of_instances_and_the_reverse() {
        let request = |command| format!("{{\"version\":{VERSION},\"command\":\"{command}\"}}");
        let read: Read = read_request(request("instances").as_bytes());
        assert!(matches!(read, Err(SocketReply::Refused(_))), "{read:?}");
        let read = read_request::<SupervisorCommand>(request("kill").as_bytes());
        assert!(matches!(read, Err(SocketReply::Refused(_))), "{read:?}");
    }
}
