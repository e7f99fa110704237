//! A control socket: requests in, replies out, whoever answers them.
//!
//! Invariants: only root and the owner of the process are heard; a client that is silent, endless
//! or talks nonsense costs a seat for a moment and nothing else.

pub(crate) mod client_limiter;
mod configure;
mod handler;

use std::{io, os::unix::net::UnixListener as StdListener, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tracing::warn;

use super::{
    protocol::{Command, LINE, Preamble, Reply, Request, VERSION},
    server::client_limiter::{Limits, Seat, Seats},
};
use crate::{error::one_line, sys};

/// How long a client may take to send a line or to read its reply. Short, so that silent clients
/// cannot keep others out for longer than these wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pause after an accept failed for want of something.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Who carries out what is asked on a control socket.
pub(crate) trait Answer: Clone + Send + Sync + 'static {
    /// Carries out a command. One that waits leaves its seat meanwhile.
    fn answer(&self, seat: &mut Seat, command: Command) -> impl Future<Output = Reply> + Send;

    /// Waits until nobody is to be answered any more.
    fn stopped(&self) -> impl Future<Output = ()> + Send;
}

/// Serves the socket until it is to stop.
///
/// # Errors
/// When the socket cannot be waited for.
pub(crate) async fn serve(
    listener: StdListener,
    answers: impl Answer,
    limits: Limits,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let seats = Seats::new(limits);
    loop {
        let seat = seats.take().await;
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, most likely: the workers say so.
                    sleep(BACK_OFF).await;
                    continue;
                }
            },
            () = answers.stopped() => return Ok(()),
        };
        let answers = answers.clone();
        tokio::spawn(async move {
            // A client that breaks off is no concern of ours.
            let _ = converse(stream, &answers, seat).await;
        });
    }
}

/// One client's requests, to its end.
async fn converse(stream: UnixStream, answers: &impl Answer, mut seat: Seat) -> io::Result<()> {
    let user = stream.peer_cred()?.uid();
    let heard = user == 0 || user == sys::effective_user();
    if !heard {
        warn!(user, "control client refused");
    }
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut lines).take(LINE as u64);
        let read = timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
        if read == 0 {
            return Ok(());
        }
        let request = if !heard {
            Err(Reply::Refused("only root and the owner of balance may control it".to_owned()))
        } else if line.last() != Some(&b'\n') {
            Err(Reply::Refused("the request is too long or was cut off".to_owned()))
        } else {
            read_request(&line)
        };
        // Not kept for as long as a command may wait.
        drop(line);
        let reply = match request {
            Ok(Command::Hello) => hello(),
            Ok(command) => tokio::select! {
                reply = answers.answer(&mut seat, command) => reply,
                // Nobody waits for the end of its drain any more.
                () = gone(&mut lines) => return Ok(()),
            },
            Err(reply) => reply,
        };
        let refused = matches!(reply, Reply::Refused(_) | Reply::Mismatch { .. });
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        timeout(PATIENCE, write.write_all(&text)).await??;
        if refused {
            return Ok(());
        }
    }
}

fn hello() -> Reply {
    Reply::Hello { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// What a line asks for. Its version is looked at first: another version may well ask for
/// something that cannot be read here.
pub(crate) fn read_request(line: &[u8]) -> Result<Command, Reply> {
    // What was sent is in it.
    let unreadable = |e: serde_json::Error| {
        Reply::Refused(one_line(&format!("the request cannot be read: {e}")))
    };
    let Preamble { version } = serde_json::from_slice(line).map_err(unreadable)?;
    if version != VERSION {
        return Err(Reply::Mismatch { version: VERSION });
    }
    serde_json::from_slice(line).map(|Request { command, .. }| command).map_err(unreadable)
}

/// Waits until the client has closed its side.
async fn gone(lines: &mut (impl tokio::io::AsyncBufRead + Unpin)) {
    // A request sent ahead is read when its turn comes.
    if lines.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty()) {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_told_ours_whatever_it_asks_for() {
        for version in ["0", "2", "4294967295"] {
            for command in ["\"show\"", "{\"weight\":{\"id\":[0,1]}}", "7", "null"] {
                let line = format!("{{\"version\":{version},\"command\":{command},\"more\":[]}}\n");
                let reply = read_request(line.as_bytes()).unwrap_err();
                assert_eq!(reply, Reply::Mismatch { version: VERSION }, "{line}");
            }
        }
        let line = format!("{{\"version\":{VERSION},\"command\":\"show\"}}");
        assert_eq!(read_request(line.as_bytes()), Ok(Command::Show));
    }

    #[test]
    fn what_has_no_version_or_an_unknown_command_of_ours_is_refused() {
        let unknown = format!("{{\"version\":{VERSION},\"command\":\"weight\"}}");
        for line in ["", "{}", "show", "{\"version\":\"1\"}", "{\"version\":-1}", &unknown] {
            let reply = read_request(line.as_bytes()).unwrap_err();
            assert!(matches!(reply, Reply::Refused(_)), "{line}: {reply:?}");
        }
        let line = format!("{{\"version\":{VERSION},\"command\":\"\\u001b[2J\\n\"}}");
        let Err(Reply::Refused(why)) = read_request(line.as_bytes()) else { panic!("{line}") };
        assert!(!why.contains(char::is_control), "{why:?}");
    }
}
