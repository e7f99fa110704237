//! Plays the script of one side on a real socket and records what the side did and saw.
//!
//! Invariants: there is one thread, which sleeps until the socket is ready or an action is due.
//! Only the first error of a broken connection counts, because the kernel reports an error once. At
//! the deadline the side gives up.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::fd::AsFd as _,
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use socket2::SockRef;

use super::{
    Act, Break, Ending, Moment, PayloadChecker, PayloadGenerator, Record, Script, StreamEnd,
};
use crate::reset;

/// Bytes of one read.
const CHUNK: usize = 128 << 10;

/// Plays `script` on a stream: sends `own` and expects `other`.
pub(super) fn play(
    stream: TcpStream,
    script: &Script,
    own: PayloadGenerator,
    other: PayloadGenerator,
    deadline: Instant,
) -> Record {
    stream.set_nonblocking(true).expect("O_NONBLOCK");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    SockRef::from(&stream).set_out_of_band_inline(true).expect("SO_OOBINLINE");
    let peer = Player {
        script,
        own,
        start: Instant::now(),
        deadline,
        checker: PayloadChecker::new(other),
        act: 0,
        sent_in_act: 0,
        paused_until: None,
        rest: 0,
        not_reading_until: None,
        buffer: vec![0; CHUNK],
        record: Record::default(),
    };
    peer.run(stream)
}

struct Player<'s> {
    script: &'s Script,
    own: PayloadGenerator,
    start: Instant,
    deadline: Instant,
    checker: PayloadChecker,
    /// The current act, and how many of its bytes are sent.
    act: usize,
    sent_in_act: u64,
    paused_until: Option<Instant>,
    /// The next or current read pause.
    rest: usize,
    not_reading_until: Option<Instant>,
    buffer: Vec<u8>,
    record: Record,
}

/// What a half of the side needs next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The socket must become ready.
    Move,
    /// Nothing until then.
    Until(Instant),
    /// Progress of the other half.
    Wait,
    /// Nothing: the half is finished.
    Over,
}

impl Player<'_> {
    fn run(mut self, stream: TcpStream) -> Record {
        loop {
            let now = Instant::now();
            if let Some(ending) = self.breaks(now) {
                // Closing a socket with unread bytes makes the kernel send a RST.
                let is_unread = matches!(stream.peek(&mut [0]), Ok(1..));
                self.record.left = Some(if is_unread { Ending::Reset } else { ending });
                if ending == Ending::Reset {
                    reset(stream);
                }
                break;
            }
            let speak = self.speak(now, &stream);
            let listen = self.listen(now);
            if speak == Next::Over && listen == Next::Over {
                break;
            }
            if now >= self.deadline {
                self.record.stuck = Some(self.place());
                break;
            }
            let found = self.wait(&stream, now, speak, listen);
            if listen == Next::Move && found.intersects(READABLE) {
                self.read(&stream);
            } else if listen == Next::Wait && found.intersects(BROKEN) {
                // The side has stopped reading for good, and no act waits for further bytes.
                self.rest = self.script.read_pauses.len();
            }
            if speak == Next::Move && found.intersects(WRITABLE) {
                self.write(&stream);
            }
        }
        self.record.received = self.checker.received();
        self.record.wrong_at = self.checker.wrong_at();
        self.record
    }

    /// How the side has to break off now, if it has to.
    fn breaks(&self, now: Instant) -> Option<Ending> {
        let Break { ending, moment, within } = self.script.breaks?;
        let reached = match moment {
            Moment::Sent(bytes) => self.record.sent >= bytes,
            Moment::Received(bytes) => self.checker.received() >= bytes,
            Moment::SentEnd => self.record.finished,
            Moment::ReceivedEnd => self.record.end.is_some(),
            Moment::Time => false,
        };
        (reached || now >= self.start + within).then_some(ending)
    }

    /// Advances to the act that has something to do.
    fn speak(&mut self, now: Instant, stream: &TcpStream) -> Next {
        if self.record.finished || self.is_broken() {
            return Next::Over;
        }
        if let Some(until) = self.paused_until {
            if now < until {
                return Next::Until(until);
            }
            self.paused_until = None;
        }
        while let Some(act) = self.script.acts.get(self.act) {
            let is_over = self.record.end.is_some();
            match *act {
                Act::Send { bytes, .. } if self.sent_in_act < bytes => return Next::Move,
                Act::Urgent if self.sent_in_act == 0 => return Next::Move,
                Act::AwaitBytes(bytes) if self.checker.received() < bytes && !is_over => {
                    return Next::Wait;
                }
                Act::AwaitEnd if !is_over => return Next::Wait,
                Act::Pause(long) if self.sent_in_act == 0 => {
                    // Each pause is taken once.
                    self.sent_in_act = 1;
                    self.paused_until = Some(now + long);
                    return Next::Until(now + long);
                }
                _ => (self.act, self.sent_in_act) = (self.act + 1, 0),
            }
        }
        match stream.shutdown(Shutdown::Write) {
            Ok(()) => self.record.finished = true,
            Err(_) => self.broke(StreamEnd::Reset, stream),
        }
        Next::Over
    }

    fn listen(&mut self, now: Instant) -> Next {
        if self.record.end.is_some() {
            return Next::Over;
        }
        while let Some(rest) = self.script.read_pauses.get(self.rest)
            && self.checker.received() >= rest.after
        {
            let Some(long) = rest.long else { return Next::Wait };
            let until = *self.not_reading_until.get_or_insert(now + long);
            if now < until {
                return Next::Until(until);
            }
            self.not_reading_until = None;
            self.rest += 1;
        }
        Next::Move
    }

    /// Waits until the socket is ready for one of the halves, or until the next action is due.
    fn wait(&self, stream: &TcpStream, now: Instant, speak: Next, listen: Next) -> PollFlags {
        let mut until = self.deadline;
        if let Some(Break { within, .. }) = self.script.breaks {
            until = until.min(self.start + within);
        }
        for wish in [speak, listen] {
            if let Next::Until(then) = wish {
                until = until.min(then);
            }
        }
        let long = until.saturating_duration_since(now);
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, listen == Next::Move);
        flags.set(PollFlags::POLLOUT, speak == Next::Move);
        flags.set(ENDED, listen == Next::Wait);
        // poll would report a broken connection at once, again and again, so no poll happens
        // without flags.
        if flags.is_empty() {
            thread::sleep(long);
            return flags;
        }
        let mut streams = [PollFd::new(stream.as_fd(), flags)];
        // An interrupted wait returns no events.
        let _ = ppoll(&mut streams, Some(TimeSpec::from_duration(long)), None);
        // `None` if a flag is unknown to nix (ENDED). Then try everything.
        streams[0].revents().unwrap_or(PollFlags::all())
    }

    fn read(&mut self, mut stream: &TcpStream) {
        // Not beyond the offset of the next read pause.
        let rest = self.script.read_pauses.get(self.rest);
        let room = rest.map_or(u64::MAX, |rest| rest.after - self.checker.received());
        let room = room.min(CHUNK as u64) as usize;
        match stream.read(&mut self.buffer[..room]) {
            Ok(0) => self.record.end = Some(StreamEnd::Clean),
            Ok(read) => self.checker.take(&self.buffer[..read]),
            Err(error) if is_passing(&error) => {}
            Err(error) => self.record.end = Some(StreamEnd::of(&error)),
        }
    }

    fn write(&mut self, mut stream: &TcpStream) {
        let (result, gap) = match self.script.acts[self.act] {
            Act::Send { bytes, write, gap } => {
                let len = (bytes - self.sent_in_act).min(u64::from(write)) as usize;
                let mut words = vec![0; len];
                self.own.fill(self.record.sent, &mut words);
                (stream.write(&words), gap)
            }
            Act::Urgent => {
                let mut word = [0];
                self.own.fill(self.record.sent, &mut word);
                (SockRef::from(stream).send_out_of_band(&word), Duration::ZERO)
            }
            other => unreachable!("{other:?} sends nothing"),
        };
        match result {
            Ok(written) => {
                self.record.sent += written as u64;
                self.sent_in_act += written as u64;
                if !gap.is_zero() {
                    self.paused_until = Some(Instant::now() + gap);
                }
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => self.broke(StreamEnd::of(&error), stream),
        }
    }

    /// Records that the connection is broken, after reading what has already arrived.
    fn broke(&mut self, how: StreamEnd, mut stream: &TcpStream) {
        if self.record.end.is_none() {
            while let Ok(read @ 1..) = stream.read(&mut self.buffer) {
                self.checker.take(&self.buffer[..read]);
            }
            self.record.end = Some(how);
        }
        self.act = usize::MAX;
    }

    /// Whether the side can no longer send.
    fn is_broken(&self) -> bool {
        self.act == usize::MAX || !matches!(self.record.end, None | Some(StreamEnd::Clean))
    }

    fn place(&self) -> String {
        let act = self.script.acts.get(self.act);
        format!("at act {} ({act:?}, {} done)", self.act, self.sent_in_act)
    }
}

/// The other side has ended its direction, and all its bytes have arrived.
const ENDED: PollFlags = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
const BROKEN: PollFlags = PollFlags::POLLERR.union(PollFlags::POLLHUP);
const READABLE: PollFlags = PollFlags::POLLIN.union(BROKEN);
const WRITABLE: PollFlags = PollFlags::POLLOUT.union(BROKEN);

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
