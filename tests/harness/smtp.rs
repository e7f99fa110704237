//! Mail: Postfix's test server, and a client that knows which command failed.
//!
//! Invariant: dropping a [`Sink`] kills its process.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use crate::{ReservedPort, TIMEOUT, connect, eventually, is_listening, skip};

/// True where Postfix's test tools are installed. Otherwise prints the reason and returns false;
/// the test returns then.
pub fn postfix_tools() -> bool {
    let missing: Vec<_> = [Sink::PROGRAM, Client::PROGRAM]
        .into_iter()
        .filter(|program| !Path::new(program).exists())
        .collect();
    if missing.is_empty() {
        return true;
    }
    skip(&format!("{} missing: run cargo xtask test", missing.join(", ")));
    false
}

/// What a sink has received so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkCount {
    /// Finished sessions.
    pub sessions: u64,
    /// Messages.
    pub messages: u64,
}

/// A running `smtp-sink`; killed when dropped.
#[derive(Debug)]
pub struct Sink {
    port: ReservedPort,
    child: Child,
    count: Arc<Mutex<SinkCount>>,
}

impl Sink {
    const PROGRAM: &str = "/usr/sbin/smtp-sink";

    /// Starts a sink that greets with `name`.
    pub fn start(name: &str) -> Self {
        let port = ReservedPort::new();
        let mut command = Command::new(Self::PROGRAM);
        if nix::unistd::Uid::effective().is_root() {
            command.args(["-u", "nobody"]);
        }
        let mut child = command
            .args(["-c", "-h", name, "-m", "1000"])
            .args([&port.address().to_string(), "1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting smtp-sink");
        let count = Arc::new(Mutex::new(SinkCount::default()));
        let shared = count.clone();
        let stdout = child.stdout.take().expect("piped");
        thread::spawn(move || {
            // smtp-sink overwrites one line repeatedly.
            for line in BufReader::new(stdout).split(b'\r') {
                let Ok(line) = line else { break };
                if let Some(seen) = parse_count(&String::from_utf8_lossy(&line)) {
                    *shared.lock().expect("no panic while locked") = seen;
                }
            }
        });
        let sink = Self { port, child, count };
        eventually(TIMEOUT, "smtp-sink listens", || match is_listening(sink.port.port()) {
            true => Ok(()),
            false => Err("not yet".into()),
        });
        sink
    }

    /// The address that the sink listens on.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The count so far.
    pub fn count(&self) -> SinkCount {
        *self.count.lock().expect("no panic while locked")
    }

    /// Waits until `sessions` have ended; returns the count.
    pub fn count_after(&self, sessions: u64) -> SinkCount {
        eventually(TIMEOUT, &format!("{sessions} sessions end"), || match self.count() {
            count if count.sessions >= sessions => Ok(count),
            count => Err(format!("{count:?}")),
        })
    }

    /// Kills the sink like a crash; later connects are refused.
    pub fn kill(&mut self) {
        self.child.kill().expect("killing smtp-sink");
        self.child.wait().expect("waiting for smtp-sink");
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Both fail harmlessly when the sink was already killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Parses `sess=1 quit=1 mesg=1`.
fn parse_count(line: &str) -> Option<SinkCount> {
    let mut numbers = line.split_whitespace().map(|word| {
        let (_, number) = word.split_once('=')?;
        number.parse().ok()
    });
    let sessions = numbers.next()??;
    let messages = numbers.nth(1)??;
    Some(SinkCount { sessions, messages })
}

/// An SMTP session, one command at a time.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    /// The client's address, as the program's log shows it.
    pub address: SocketAddr,
}

impl Client {
    /// Postfix's own client.
    pub const PROGRAM: &str = "/usr/sbin/smtp-source";

    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = connect(address);
        Self { address: stream.local_addr().expect("getsockname"), stream: BufReader::new(stream) }
    }

    /// Reads the greeting and sends HELO; returns the server's name.
    ///
    /// # Errors
    /// When the connection breaks or the server refuses.
    pub fn greeting(&mut self) -> io::Result<String> {
        let line = self.reply()?;
        let name = line.split_whitespace().nth(1).unwrap_or_default();
        self.say("HELO client.test")?;
        Ok(name.into())
    }

    /// Delivers a message.
    ///
    /// # Errors
    /// When the connection breaks or the server refuses.
    pub fn deliver(&mut self, body: &str) -> io::Result<()> {
        self.say("MAIL FROM:<a@client.test>")?;
        self.say("RCPT TO:<b@server.test>")?;
        self.say("DATA")?;
        self.say(&format!("Subject: test\r\n\r\n{body}\r\n."))
    }

    /// Ends the session and waits until the server closes.
    ///
    /// # Errors
    /// When the connection breaks or the server sends more than its reply.
    pub fn quit(mut self) -> io::Result<()> {
        self.say("QUIT")?;
        match self.stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("the server talks on after QUIT")),
        }
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{text}\r\n").as_bytes())?;
        self.reply().map(drop)
    }

    /// Reads a reply; an error unless its code is 2xx or 3xx.
    fn reply(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match line.as_bytes() {
            [b'2' | b'3', _, _, b' ', ..] => Ok(line),
            _ => Err(io::Error::other(format!("unexpected reply {line:?}"))),
        }
    }
}
